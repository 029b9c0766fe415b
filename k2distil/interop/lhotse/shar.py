"""Shards of lhotse's, with audio, features and codes in them."""

from __future__ import annotations

import importlib
import logging
import shutil
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from k2distil.atomic import make_folder, reason_of_disk
from k2distil.errors import DataError
from k2distil.storage import CodebookReader

logger = logging.getLogger(__name__)

SHARD_CUTS = 1000  # lhotse's default


def write_shar(cuts_path: Path, folder: Path, field: str, reader: CodebookReader) -> None:
    """Shards of everything that the cuts have, in one folder that is whole or not there."""
    from lhotse import CutSet

    cuts = CutSet.from_file(cuts_path)
    packing = "lilcom" if _has_lilcom() else "numpy"
    fields: dict[str, str] = {}
    for cut in cuts:
        fields |= _fields_of(cut, packing)
    if fields.get("features") == "numpy":
        logger.info("--shar %s: no lilcom here, features are packed as numpy's arrays", folder)
    folder = folder.resolve()  # of "." there is no name
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary, "--shar")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of custom fields that stay as they are
            here = CutSet.from_cuts(_here(cuts, field, reader))
            here.to_shar(temporary, fields, shard_size=SHARD_CUTS)
    except Exception as error:  # each of lhotse's audio backends has its own
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and (reason := reason_of_disk(error)) is not None:
            raise DataError(f"--shar {folder}: {reason}") from error
        if isinstance(error, ImportError):
            what = error.name or f"a package ({_short(error)})"
            raise DataError(
                f"--shar {folder}: lhotse needs {what} for these cuts; pip install it, and run the "
                "same command again"
            ) from error
        raise DataError(
            f"--shar {folder}: lhotse cannot write the shards ({_short(error)}); see to the audio "
            "and run the same command again, or leave --shar out"
        ) from error
    if folder.exists():
        folder.rmdir()
    temporary.rename(folder)


def _short(error: Exception) -> str:
    """What fits a line or two of an error of lhotse's, which may hold whole cuts."""
    return textwrap.shorten(str(error) or type(error).__name__, 300)


def _has_lilcom() -> bool:
    """Whether there is what lhotse packs features with, in about a third of their bytes."""
    try:
        importlib.import_module("lilcom")
    except ImportError:  # there is none for this Python, or it cannot be loaded
        return False
    return True


def _fields_of(cut: Any, packing: str) -> dict[str, str]:
    """What to pack, and how: all, since the cuts of a Shar start at 0 and fit nothing outside."""
    from lhotse import Recording
    from lhotse.array import Array, TemporalArray

    fields = {"recording": "flac"} if cut.has_recording else {}
    if cut.has_features:
        fields["features"] = packing
    for name, value in cut.custom.items():
        if isinstance(value, Array | TemporalArray):
            fields[name] = "numpy"
        elif isinstance(value, Recording):
            fields[name] = "flac"
    return fields


def _here(cuts: Iterable[Any], field: str, reader: CodebookReader) -> Iterator[Any]:
    """Cuts whose codes are looked for where they are now, not where --path_prefix says."""
    from lhotse.utils import fastcopy

    for cut in cuts:
        codes = cut.custom[field]
        path = reader.file_of(codes.array.storage_key).path
        array = fastcopy(codes.array, storage_path=str(path))
        yield cut.with_custom(field, fastcopy(codes, array=array))
