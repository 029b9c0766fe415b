"""Part files -> several h5, none of more than so many hours, and the h5 that lists them.

The files are made in the folder of the parts, get their names when all of them are whole, and the
list comes last. A merge that was killed goes on after the last file it had finished.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2distil.atomic import make_folder
from k2distil.errors import DataError
from k2distil.storage.file_list import (
    SHARD_HOURS,
    ListedFile,
    fault_of,
    files_of,
    numbered,
    remove_files,
    write_list,
)
from k2distil.storage.merge import content_digest, merge_parts, refuse_without_room
from k2distil.storage.offsets import index_path
from k2distil.storage.reader import UtteranceReader
from k2distil.storage.utterance_h5 import attributes_of
from k2distil.storage.written import Written


@dataclass(frozen=True)
class _Planned:
    """A file to be made."""

    listed: ListedFile
    keys: list[str]
    made: Path  # where it is made
    final: Path  # where it goes

    def is_done(self, fingerprint: str) -> bool:
        """Whether an earlier merge made it; it may have its name already."""
        return any(
            path.exists()
            and index_path(path).exists()
            and _is_one_of(path, fingerprint)
            and attributes_of(path).get("content_digest") == self.listed.content_digest
            for path in (self.made, self.final)
        )


def merge_into_files(
    path: Path,
    folder: Path,
    written: Mapping[str, Written],
    keys: Sequence[str],
    attributes: Mapping[str, Any],
    *,
    onto: bool,
    at_last: Callable[[], None],
) -> None:
    """Copy the arrays of all parts into numbered files beside `path`, and list these in it.

    Args:
        path: of the output.
        folder: of the parts, on the same disk.
        written: by key; the arrays share dtype and width.
        keys: the order; keys that were not written are passed over.
        attributes: of every root, with shard_hours, frame_shift and fingerprint; digests are added.
        onto: keep the files that are there, and add others.
        at_last: called when all files are made; what it raises keeps them from their names.

    Raises:
        DamagedPartError: a part is not what its report says.
        DataError: the disk is full, arrays differ in dtype or width, a key is there already, or a
            file of something else has a name that is needed.
    """
    before = files_of(path) if path.exists() else []
    kept = before if onto else []
    keys = [key for key in keys if key in written]
    if onto:
        _refuse_twice(path, keys)
    plan = _plan(path, folder / "merged", written, keys, attributes, first=len(kept))
    for each in plan:
        _refuse_in_the_way(path, each.final, before, attributes["fingerprint"])
    make_folder(folder / "merged")
    done = [each for each in plan if each.is_done(attributes["fingerprint"])]
    num_done = sum(each.made.stat().st_size for each in done if each.made.exists())
    refuse_without_room(path, {written[key].part for key in keys}, num_done)
    for each in plan:
        if each not in done:
            merge_parts(each.made, written, each.keys, attributes)
    at_last()
    if not onto:
        names = {each.listed.name for each in plan}
        remove_files(path, [each for each in before if each.name not in names])
    for each in plan:
        if each.made.exists():
            os.replace(index_path(each.made), index_path(each.final))
            os.replace(each.made, each.final)
    files = [*kept, *(each.listed for each in plan)]
    index_path(path).unlink(missing_ok=True)
    write_list(path, files, {**attributes, "content_digest": digest_of_files(files)})


def digest_of_files(files: Sequence[ListedFile]) -> str:
    """The content_digest of an output in several files."""
    lines = "".join(f"{each.content_digest}\n" for each in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _plan(
    path: Path,
    folder: Path,
    written: Mapping[str, Written],
    keys: Sequence[str],
    attributes: Mapping[str, Any],
    first: int,
) -> list[_Planned]:
    most = attributes[SHARD_HOURS] * 3600 / attributes["frame_shift"]
    plan = []
    for number, own in enumerate(_cut(keys, written, most), start=first):
        final = numbered(path, number)
        num_frames = sum(written[key].num_frames for key in own)
        listed = ListedFile(final.name, len(own), num_frames, content_digest(own, written))
        plan.append(_Planned(listed, own, folder / final.name, final))
    return plan


def _cut(keys: Sequence[str], written: Mapping[str, Written], most: float) -> Iterator[list[str]]:
    """Runs of keys of at most so many frames; a longer utterance is alone."""
    own: list[str] = []
    num_frames = 0
    for key in keys:
        more = written[key].num_frames
        if own and num_frames + more > most:
            yield own
            own, num_frames = [], 0
        own.append(key)
        num_frames += more
    if own:
        yield own


def _refuse_twice(path: Path, keys: Sequence[str]) -> None:
    reader = UtteranceReader(path)
    for key in keys:
        if key in reader:
            raise DataError(f"{reader.file_of(key).path}: has {key} already; use --force")


def _refuse_in_the_way(
    path: Path, final: Path, before: Sequence[ListedFile], fingerprint: str
) -> None:
    """Only files of this output may be replaced: those it lists, and those of a killed merge."""
    if not final.exists() or _is_one_of(final, fingerprint):
        return
    for each in before:
        if each.name == final.name and fault_of(path, each) is None:
            return
    raise DataError(
        f"{final}: in the way, and not of {path}; move it and run the same command again"
    )


def _is_one_of(path: Path, fingerprint: str) -> bool:
    try:
        return attributes_of(path).get("fingerprint") == fingerprint
    except DataError:
        return False
