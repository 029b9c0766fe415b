"""Part files -> one h5 in the order of the list, checked byte for byte before it gets its name."""

from __future__ import annotations

import hashlib
import logging
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from k2distil.atomic import in_work_elsewhere, reason_of_disk, replacing
from k2distil.errors import DataError
from k2distil.storage.offsets import Offsets, find_offsets, index_path, write_offsets
from k2distil.storage.utterance_h5 import (
    copy_dataset,
    create_h5,
    keep_cache_small,
    open_h5,
    write_attributes,
)
from k2distil.storage.written import Written

logger = logging.getLogger(__name__)


class DamagedPartError(DataError):
    """A part does not hold what was written to it."""

    def __init__(self, part: Path, reason: str) -> None:
        super().__init__(
            f"{part}: damaged ({reason}); run the same command again to redo this part"
        )
        self.part = part


def merge_parts(
    path: Path,
    written: Mapping[str, Written],
    keys: Sequence[str],
    attributes: Mapping[str, Any],
    at_last: Callable[[], None] = lambda: None,
) -> None:
    """Copy the arrays of all parts into one h5 and write its index.

    Nothing is at `path` before every array has been read back and has the checksum it had when it
    was computed. Streams: the memory does not grow with the arrays.

    Args:
        path: of the h5 to make.
        written: by key; the arrays share dtype and width.
        keys: the order; keys that were not written are passed over.
        attributes: of the root; `content_digest` is added.
        at_last: see `replacing`.

    Raises:
        DamagedPartError: a part is not what its report says.
        DataError: the disk is full, or arrays differ in dtype or width.
    """
    keys = [key for key in keys if key in written]
    refuse_without_room(path, {written[key].part for key in keys})
    digest = content_digest(keys, written)
    for each in in_work_elsewhere(path):
        logger.warning(
            "%s: left by a merge of another machine; remove it, if that is not at work", each
        )
    with replacing(path, at_last=at_last) as temporary:
        with create_h5(temporary) as target:
            write_attributes(target, {**attributes, "content_digest": digest})
            for part, part_keys in groupby(keys, key=lambda key: written[key].part):
                _copy_part(part, part_keys, target)
        with open_h5(temporary) as merged:
            keep_cache_small(merged)
            offsets = find_offsets(merged, keys)
        if keys and offsets is None:
            raise DataError(f"{path}: arrays differ in dtype or width; start over with --force")
        if offsets is not None:
            _verify(temporary, offsets, written)
    index_path(path).unlink(missing_ok=True)
    if offsets is not None:
        write_offsets(path, offsets, digest)


def checksum(values: np.ndarray) -> int:
    """CRC-32 of the bytes of an array, as they lie in the h5."""
    return zlib.crc32(np.ascontiguousarray(values).data)


def digest_line(key: str, num_frames: int, crc32: int) -> bytes:
    """What one array adds to the content_digest."""
    return f"{key}\0{num_frames}\0{crc32}\n".encode()


def content_digest(keys: Iterable[str], written: Mapping[str, Written]) -> str:
    """The same for the same arrays in the same order."""
    digest = hashlib.sha256()
    for key in keys:
        digest.update(digest_line(key, written[key].num_frames, written[key].crc32))
    return digest.hexdigest()


def refuse_without_room(path: Path, parts: Iterable[Path], done: int = 0) -> None:
    """Parts and merged file exist side by side: better to hear it before the copying.

    Args:
        path: of what they become.
        parts: all of them.
        done: bytes that an earlier merge has copied already.

    Raises:
        DataError: the disk has less.
    """
    needed = sum(part.stat().st_size for part in parts if part.exists()) - done
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise DataError(
            f"{path}: merging its parts needs {needed:,} bytes, {free:,} are free; "
            "make room and run the same command again"
        )


def _copy_part(part: Path, keys: Iterable[str], target: h5py.File) -> None:
    with open_h5(part) as source:
        for key in keys:
            try:
                copy_dataset(source, target, key)
            except (KeyError, RuntimeError, OSError, ValueError) as error:
                if reason_of_disk(error) is not None:
                    raise
                raise DamagedPartError(part, f"{key}: {error}") from error


def _verify(path: Path, offsets: Offsets, written: Mapping[str, Written]) -> None:
    with path.open("rb", buffering=0) as file:
        for row, key in enumerate(offsets.keys):
            expected = written[key]
            values = offsets.read(file.fileno(), row)
            if len(values) != expected.num_frames or checksum(values) != expected.crc32:
                raise DamagedPartError(expected.part, f"{key} is not what was written")
