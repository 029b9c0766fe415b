"""`<file>.idx.npz`: where each dataset's bytes lie, so that a reader needs no HDF5 look-up."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from k2distil.atomic import replacing
from k2distil.storage.keys import Keys
from k2distil.storage.links_made import links_made
from k2distil.storage.utterance_h5 import dataset_place, open_h5

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
NUM_COMPARED = 100  # keys; an h5 that was written anew in another order differs in the first ones


@dataclass(frozen=True)
class Offsets:
    """Rows in the order of the list; all datasets share dtype and width."""

    keys: Keys
    offset: np.ndarray  # (num_keys,) int64, bytes from the start of the h5
    num_frames: np.ndarray  # (num_keys,) int64
    dtype: np.dtype
    width: int  # of a frame

    def read(self, descriptor: int, row: int) -> np.ndarray:
        """(num_frames, width), writable, from an open h5; processes may share the descriptor.

        Raises:
            EOFError: the file ends before the array does.
        """
        values = np.empty((int(self.num_frames[row]), self.width), self.dtype)
        left = values.reshape(-1).view(np.uint8)
        place = int(self.offset[row])
        while len(left):
            num_bytes = os.preadv(descriptor, [left.data], place)  # 2 GiB at most
            if num_bytes == 0:
                raise EOFError
            left, place = left[num_bytes:], place + num_bytes
        return values


def index_path(path: Path) -> Path:
    """exp/codes.h5 -> exp/codes.h5.idx.npz."""
    return path.with_name(f"{path.name}.idx.npz")


def find_offsets(file: h5py.File, keys: Collection[str]) -> Offsets | None:
    """Look every key up; None: some dataset is not (num_frames, width), contiguous, of one dtype.

    Names with a line break in them, which no file of ours has, are not indexed either.

    Raises:
        KeyError: a key is not in the file.
    """
    offset = np.zeros(len(keys), np.int64)
    num_frames = np.zeros(len(keys), np.int64)
    kinds = set()
    for row, key in enumerate(keys):
        place = dataset_place(file, key)
        if place is None or len(place[1]) != 2:
            return None
        offset[row], num_frames[row] = place[0], place[1][0]
        kinds.add((place[2].str, place[1][1]))
    rows = Keys.of(keys)
    if len(kinds) != 1 or len(rows) != len(keys):
        return None
    dtype, width = kinds.pop()
    return Offsets(rows, offset, num_frames, np.dtype(dtype), width)


def write_offsets(path: Path, offsets: Offsets, content_digest: str) -> None:
    """Write the index of the h5 at `path`, as it is now on disk."""
    status = os.stat(path)
    with replacing(index_path(path)) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            version=INDEX_VERSION,
            keys=np.frombuffer(offsets.keys.joined, np.uint8),
            offset=offsets.offset,
            num_frames=offsets.num_frames,
            dtype=offsets.dtype.str,
            width=offsets.width,
            h5_size=status.st_size,
            h5_mtime_ns=status.st_mtime_ns,
            content_digest=content_digest,
        )


def read_offsets(path: Path, content_digest: str) -> Offsets | None:
    """The index of the h5 at `path`; None: there is none, or it is of another content.

    A copy of an h5 has another time of change. Its size and its content_digest then decide, and
    that none of its datasets was renamed, made anew or removed.

    Args:
        path: of the h5.
        content_digest: its root attribute; empty where it has none.
    """
    try:
        with np.load(index_path(path)) as index:
            status = os.stat(path)
            same_time = int(index["h5_mtime_ns"]) == status.st_mtime_ns
            if (
                int(index["version"]) == INDEX_VERSION
                and int(index["h5_size"]) == status.st_size
                and str(index["content_digest"]) == content_digest
                and (same_time or content_digest)
            ):
                offsets = Offsets(
                    Keys(index["keys"].tobytes()),
                    index["offset"],
                    index["num_frames"],
                    np.dtype(str(index["dtype"])),
                    int(index["width"]),
                )
                if same_time or _is_untouched(path, offsets):
                    return offsets
            logger.warning("%s is stale; reading %s without it", index_path(path), path)
            return None
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged (%s); reading %s without it", index_path(path), error, path)
        return None


def _is_untouched(path: Path, offsets: Offsets) -> bool:
    """Whether the datasets are those of the index, without looking each of 10 million up."""
    with open_h5(path) as file:
        if not len(offsets.keys) == len(file) == links_made(path):
            return False
        keys = list(islice(offsets.keys, NUM_COMPARED))
        try:
            found = find_offsets(file, keys)
        except KeyError:
            return False
    return (
        found is not None
        and (found.dtype, found.width) == (offsets.dtype, offsets.width)
        and np.array_equal(found.offset, offsets.offset[: len(keys)])
        and np.array_equal(found.num_frames, offsets.num_frames[: len(keys)])
    )
