"""Read a `.pt` or `.bin` file without running the code that a pickle may hold."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from k2distil.errors import CheckpointError

# fairseq pickles its own settings and dictionaries beside the weights. We read the settings.
SETTINGS_MODULES = ("fairseq", "argparse")


class Inert:
    """Stands in for a settings class of a library that need not be installed: plain attributes."""

    def __init__(self, *args: object):
        pass


def load_pickle(path: Path) -> Any:
    """Load tensors and plain values; nothing in the file is executed.

    Raises:
        CheckpointError: not a checkpoint, or one that holds more than tensors and plain values.
    """
    is_zip = zipfile.is_zipfile(path)  # else torch before 1.6 wrote it, which cannot be mapped
    try:
        with torch.serialization.safe_globals(_stand_ins(path) if is_zip else []):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error: ")[-1].split(". ")[0].splitlines()[0]
        raise CheckpointError(
            f"{path}: refused, as it is no checkpoint or holds more than tensors and plain values, "
            f"which could run code ({reason}); save its state_dict alone with torch.save"
        ) from None
    except Exception as error:  # a damaged file: struct.error, IndexError, BadZipFile and more
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error}); copy or download it again"
        ) from None


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error to raise where the system does not let us read a file or look into a folder."""
    return CheckpointError(
        f"{path}: cannot be read ({error.strerror or error}); give yourself the permission, "
        "or check the disk"
    )


def _stand_ins(path: Path) -> list[Any]:
    """An `Inert` class under the name of each settings class in the file."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [
        type(name.rpartition(".")[2], (Inert,), {"__module__": name.rpartition(".")[0]})
        for name in names
        if name.split(".")[0] in SETTINGS_MODULES
    ]
