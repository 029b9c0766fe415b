"""A torchaudio that cannot be imported must not take transformers down with it."""

from __future__ import annotations

import importlib
import logging
import sys

logger = logging.getLogger(__name__)


def hide_broken_torchaudio() -> None:
    """Make an installed torchaudio that fails to import look absent; call before transformers.

    A torchaudio built for CUDA raises OSError beside a CPU-only torch, and transformers, which
    imports torchaudio wherever it finds it, then fails too.
    """
    if "torchaudio" in sys.modules:
        return
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        if error.name == "torchaudio":
            return
        _hide(error)
    except Exception as error:  # whatever it raises, it is of no use to us
        _hide(error)


def _hide(error: Exception) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    # find_spec("torchaudio") now says None, `import torchaudio` raises ModuleNotFoundError.
    sys.modules["torchaudio"] = None  # type: ignore[assignment]
    logger.debug("torchaudio cannot be imported and is hidden: %s", error)
