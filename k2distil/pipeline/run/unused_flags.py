"""Flags of the command line that a command, as it was asked for, makes no use of."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from k2distil.config import RunOptions

logger = logging.getLogger(__name__)


def warn_of_unused(config: RunOptions, names: Iterable[str], reason: str) -> None:
    """Name those that were given; keys of a yaml are not meant, which may serve other commands.

    Args:
        config: of the command.
        names: of options that are not used.
        reason: why.
    """
    if given := [f"--{name}" for name in names if name in config.given]:
        logger.warning("not used: %s; %s", ", ".join(given), reason)
