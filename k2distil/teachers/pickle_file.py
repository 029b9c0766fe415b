"""Read a `.pt` or `.bin` file without running the code that a pickle may hold."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from k2distil.errors import CheckpointError

# fairseq pickles its own settings and dictionaries beside the weights, and figures as numpy has
# them. We read the settings.
SETTINGS_MODULES = ("fairseq", "argparse", "numpy", "pathlib")
PICKLES_BEFORE_STORAGES = 4  # torch's magic number, its version, the machine, the content


class Inert:
    """Stands in for a class, or a function that makes one: plain attributes, nothing is run."""

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            vars(self).update(state)


def load_pickle(path: Path) -> Any:
    """Load tensors and plain values; nothing in the file is executed.

    Raises:
        CheckpointError: not a checkpoint, or one that holds more than tensors and plain values.
    """
    is_zip = zipfile.is_zipfile(path)  # else torch before 1.6 wrote it, which cannot be mapped
    try:
        with torch.serialization.safe_globals(_stand_ins(path, is_zip)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error: ")[-1].split(". ")[0].splitlines()[0]
        raise CheckpointError(
            f"{path}: refused, as it is no checkpoint or holds more than tensors and plain values, "
            f"which could run code ({reason}); save its state_dict, and its settings as dicts of "
            "plain values, alone with torch.save"
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


def _stand_ins(path: Path, is_zip: bool) -> list[Any]:
    """An `Inert` class under the name of each settings class in the file."""
    unsafe_globals = torch.serialization.get_unsafe_globals_in_checkpoint if is_zip else _globals
    names = unsafe_globals(path)
    return [
        type(name.rpartition(".")[2], (Inert,), {"__module__": name.rpartition(".")[0]})
        for name in names
        if name.split(".")[0] in SETTINGS_MODULES
    ]


def _globals(path: Path) -> set[str]:
    """All that the pickles name which torch before 1.6 wrote in a row; nothing is executed.

    Of a file that is something else, as far as it looks like them: loading it says what is wrong.
    """
    names = set()
    with path.open("rb") as file, suppress(ValueError):
        for _ in range(PICKLES_BEFORE_STORAGES):
            for opcode, argument, _place in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
    return names
