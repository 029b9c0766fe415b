"""An output as a whole, whether it is one h5 or several and their list."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from k2distil.errors import DataError
from k2distil.storage.file_list import (
    SHARD_HOURS,
    fault_of,
    files_of,
    note_replaced,
    remove_files,
)
from k2distil.storage.fingerprint import refuse_other_settings
from k2distil.storage.merge import checksum, content_digest, merge_parts
from k2distil.storage.merge_files import merge_into_files
from k2distil.storage.offsets import find_offsets, read_offsets, write_offsets
from k2distil.storage.reader import UtteranceReader
from k2distil.storage.utterance_h5 import attributes_of, naming_damage, open_h5
from k2distil.storage.written import Written, WrittenArrays


def write_output(
    path: Path,
    folder: Path,
    written: Mapping[str, Written],
    keys: Sequence[str],
    attributes: Mapping[str, Any],
    *,
    onto: bool,
    at_last: Callable[[], None],
) -> None:
    """Make one h5 of all parts, or several where the attributes have shard_hours.

    Where there are several, a retry (`onto`) adds files and leaves the others alone: they are too
    large to be copied for a few utterances.

    Args:
        path: of the output.
        folder: of its parts.
        written: what the parts hold, by key.
        keys: the order of the h5, or of each of several.
        attributes: of the root.
        onto: keep what is there already.
        at_last: called before anything gets its name; what it raises leaves all as it was.

    Raises:
        DamagedPartError: a part is not what its report says.
        DataError: a key is there already, the disk is full, or see `merge_into_files`.
    """
    if SHARD_HOURS in attributes:
        merge_into_files(path, folder, written, keys, attributes, onto=onto, at_last=at_last)
        return
    if onto:
        everything = _written_before(path, written)
        for key, each in written.items():
            everything.add(key, each)
        written = everything
    before = files_of(path) if path.exists() else []
    note_replaced(folder, before)
    merge_parts(path, written, keys, attributes, at_last)
    remove_files(path, before)


def output_lease(path: Path) -> Path:
    """Held by the process that decides what is to be done, or merges."""
    return path.with_name(f"{path.name}.lease")


def check_finished(path: Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuse an output of other settings, and complete this one; see `complete_output`.

    Utterances that failed may be missing in it.

    Raises:
        DataError: it was made with other settings, or by something else, or one of its files is
            missing.
    """
    refuse_other_settings(
        path, json.loads(attributes_of(path).get("fingerprint", "{}")), fingerprint
    )
    complete_output(path)


def refuse_foreign(path: Path) -> None:
    """Refuse to replace what is no output of ours.

    Raises:
        DataError: it is not.
    """
    if not path.exists():
        return
    try:
        is_ours = "fingerprint" in attributes_of(path)
    except DataError as error:
        raise DataError(f"{error} (never replaced: it does not say who made it)") from error
    if not is_ours:
        raise DataError(f"{path}: not made by k2distil; give another --save_path")


def complete_output(path: Path) -> None:
    """Make indexes that are missing: a run was killed after its merge.

    Raises:
        DataError: a file that it lists is missing or another one.
    """
    listed = files_of(path)
    for each in listed:
        if fault := fault_of(path, each):
            raise DataError(fault)
    for file in [path.with_name(each.name) for each in listed] or [path]:
        _make_index(file)


def _make_index(path: Path) -> None:
    digest = str(attributes_of(path).get("content_digest", ""))
    if read_offsets(path, digest) is None:
        with open_h5(path) as file, naming_damage(path):
            offsets = find_offsets(file, file)
        if offsets is not None:
            write_offsets(path, offsets, digest)


def _written_before(path: Path, new: Mapping[str, Written]) -> WrittenArrays:
    """What an h5 holds, as the reports of its parts said it.

    Raises:
        DataError: it is not what was written, or has one of the new keys.
    """
    found, reader = WrittenArrays(), UtteranceReader(path)
    for key, values in reader.items():
        if key in new:
            raise DataError(f"{path}: has {key} already, and {new[key].part} too; use --force")
        found.add(key, Written(path, len(values), checksum(values)))
    if content_digest(found, found) != reader.meta["content_digest"]:
        raise DataError(
            f"{path}: damaged, its arrays are not those that were written: put a copy in its place "
            "and run the same command again, or start over with --force"
        )
    return found
