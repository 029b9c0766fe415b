"""k2distil merge: the finished parts of a run that ended before its merge -> the h5."""

from __future__ import annotations

import logging
from pathlib import Path

from k2distil.config import MergeConfig
from k2distil.errors import DataError
from k2distil.leases import Leases
from k2distil.pipeline.extraction.earlier import Earlier
from k2distil.pipeline.extraction.outcome import finish_output, outcome_of
from k2distil.pipeline.run.summary import Summary
from k2distil.storage import (
    complete_output,
    find_unmerged,
    output_lease,
    refuse_foreign,
    remove_parts,
)

logger = logging.getLogger(__name__)


def merge(config: MergeConfig) -> Summary:
    """Merge what is there, without loading a teacher.

    Raises:
        DataError: there is nothing to merge, parts are missing or damaged, or the disk is full.
    """
    with Leases(config.lease_seconds) as leases, leases.held(output_lease(config.save_path)):
        return _merge(config.save_path)


def _merge(save_path: Path) -> Summary:
    left = find_unmerged(save_path)
    refuse_foreign(save_path)
    if left is None and not save_path.exists():
        raise DataError(f"{save_path}: no parts of it to merge; correct --save_path")
    if left is None or left.is_merged():
        complete_output(save_path)
        remove_parts(save_path)
        return outcome_of(save_path, "merged already")
    parts = left.parts
    parts.refuse_missing()
    earlier = Earlier.of(save_path, parts.fingerprint, left.earlier) if left.onto else None
    logger.info("%s: merging", save_path)
    return finish_output(parts, left.keys, left.attributes, earlier)
