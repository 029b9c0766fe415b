"""An output in several files: the h5 of its name holds no arrays, but lists those that do.

codes.h5          root attributes of the whole, and `files`
codes-00000.h5    a file of ours like any other, with an index
codes-00001.h5
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from k2distil.atomic import replacing, write_text
from k2distil.errors import DataError
from k2distil.storage.offsets import index_path
from k2distil.storage.utterance_h5 import attributes_of, create_h5, write_attributes

FILES = "files"  # the root attribute with the list
REPLACED = "replaced.json"  # in the folder of parts
SHARD_HOURS = "shard_hours"  # that of an output in several files: how much one holds at most


@dataclass(frozen=True)
class ListedFile:
    """One of the files of an output."""

    name: str  # it lies beside the file that lists it
    utterances: int
    frames: int
    content_digest: str


def numbered(path: Path, number: int) -> Path:
    """exp/codes.h5 -> exp/codes-00007.h5."""
    return path.with_name(f"{path.stem}-{number:05d}{path.suffix}")


def is_list(meta: Mapping[str, Any]) -> bool:
    """Whether an h5 with these root attributes lists files, instead of holding arrays."""
    return FILES in meta


def parse_list(path: Path, meta: Mapping[str, Any]) -> list[ListedFile]:
    """The files that the h5 at `path` lists; none where it holds its arrays itself.

    Args:
        meta: its root attributes.

    Raises:
        DataError: the list is damaged.
    """
    try:
        return [ListedFile(**each) for each in json.loads(meta.get(FILES, "[]"))]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: its list of files is damaged ({error}); copy it again") from error


def files_of(path: Path) -> list[ListedFile]:
    """See `parse_list`."""
    return parse_list(path, attributes_of(path))


def fault_of(path: Path, listed: ListedFile, meta: Mapping[str, Any] | None = None) -> str | None:
    """What keeps a file from being the one that `path` lists; None: nothing.

    Args:
        path: of the h5 with the list.
        listed: its entry.
        meta: root attributes of the file that is there; None: they are read.
    """
    found = path.with_name(listed.name)
    try:
        meta = attributes_of(found) if meta is None else meta
    except DataError as error:
        return f"{path} lists a file that is not there or no h5: {error}"
    if meta.get("content_digest") == listed.content_digest:
        return None
    return (
        f"{found}: not the file that {path} lists; copy all of them again, or make them anew "
        "with --force"
    )


def remove_files(path: Path, files: Iterable[ListedFile]) -> None:
    """Remove files that the h5 at `path` lists, as far as they are there and what it says."""
    for each in files:
        if fault_of(path, each) is None:
            index_path(path.with_name(each.name)).unlink(missing_ok=True)
            path.with_name(each.name).unlink()


def note_replaced(folder: Path, files: Sequence[ListedFile]) -> None:
    """Write down which files are about to be replaced, for who goes on after a kill."""
    if files:
        write_text(folder / REPLACED, json.dumps([asdict(each) for each in files]))


def remove_replaced(path: Path, folder: Path) -> None:
    """Remove what a merge that was killed had replaced: `path` does not list it any more."""
    try:
        noted = [ListedFile(**each) for each in json.loads((folder / REPLACED).read_text("utf-8"))]
        listed = {each.name for each in files_of(path)}
    except (OSError, ValueError, TypeError, DataError):  # nothing was noted, or nothing is certain
        return
    remove_files(path, [each for each in noted if each.name not in listed])


def write_list(path: Path, files: Sequence[ListedFile], attributes: Mapping[str, Any]) -> None:
    """Make the h5 that lists files, whole or not at all.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    text = json.dumps([asdict(each) for each in files])
    with replacing(path) as temporary, create_h5(temporary) as file:
        write_attributes(file, {**attributes, FILES: text})
