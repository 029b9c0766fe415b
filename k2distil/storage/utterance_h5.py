"""One dataset per key in the root of an h5: (num_frames, width), contiguous, uncompressed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5o, h5p, h5s, h5t

from k2distil.errors import DataError

METADATA_CACHE = 2**20  # bytes; HDF5's own grows to 32 MB
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}
MORE_FILES = "`ulimit -n 65536` in the shell allows more"


def create_h5(path: Path) -> h5py.File:
    """An empty h5 for many datasets, to be used in a `with`.

    The format is HDF5 1.8's: the older default slows down 13-fold past 80,000 long keys. The file
    keeps the order in which datasets are made, and is iterated in it.
    """
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_link_creation_order(h5p.CRT_ORDER_TRACKED)  # not indexed: as fast as without
    creation.set_obj_track_times(False)  # the same content gives the same bytes
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_LATEST)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    # No buffer for raw data: a full disk is then an error of the write, not of a destructor.
    access.set_sieve_buf_size(0)
    access.set_file_locking(False, True)  # some network disks have no locks
    file = h5py.File(h5f.create(os.fsencode(path), h5f.ACC_TRUNC, fcpl=creation, fapl=access))
    keep_cache_small(file)
    return file


def keep_cache_small(file: h5py.File) -> None:
    """For a single pass over many datasets, in which a larger cache saves no time."""
    cache = file.id.get_mdc_config()
    cache.set_initial_size, cache.initial_size = True, METADATA_CACHE
    cache.min_size = cache.max_size = METADATA_CACHE
    file.id.set_mdc_config(cache)


def read_h5(path: Path) -> h5py.File:
    """Open an h5 for reading, on a disk that has no locks too.

    There is nothing to lock: a file has its name when it is whole, and is never written to again.
    """
    try:
        # With a lock where there are any: HDF5 refuses a file that is open with one and without.
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return h5py.File(path, "r", locking=False)


@contextmanager
def open_h5(path: Path, made_by: str = "") -> Iterator[h5py.File]:
    """Open an h5 for reading; made_by: the script that makes such a file, for the message.

    Raises:
        DataError: it is missing, truncated, or no h5 at all.
    """
    try:
        file = read_h5(path)
    except OSError as error:
        if error.errno == errno.EACCES:
            raise DataError(f"{path}: no right to read it; have it changed, or copied") from error
        reason = str(error) if path.is_file() else "no such file"
        if path.is_dir():
            reason = "a folder"
        elif error.errno is None and path.is_file() and not h5py.is_hdf5(path):
            reason = "it is none"
        remedy = "correct the path, or make the file anew" + (made_by and f" with {made_by}")
        if error.errno == errno.EMFILE:
            remedy = f"an output in several files keeps all of them open: {MORE_FILES}"
        raise DataError(f"{path}: cannot be opened as h5 ({reason}); {remedy}") from error
    with file:
        yield file


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """What HDF5 raises where a file's own tables are damaged becomes an error that says so.

    Raises:
        DataError: in its place.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: damaged ({' '.join(str(error).split())}); copy it again, or remove it and "
            "make it anew"
        ) from error


def write_dataset(file: h5py.File, key: str, values: np.ndarray) -> None:
    """Append a dataset.

    Args:
        file: from `create_h5`.
        key: not in the file yet.
        values: (num_frames, width), any dtype of numbers.
    """
    # h5py's create_dataset does the same in twice the time.
    dataset = h5d.create(
        file.id,
        key.encode(),
        h5t.py_create(values.dtype, logical=True),
        h5s.create_simple(values.shape),
        _CONTIGUOUS,
    )
    if values.size:
        dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(values))


def copy_dataset(source: h5py.File, target: h5py.File, key: str) -> None:
    """Append a dataset of another file as it is (H5Ocopy), without reading it."""
    h5o.copy(source.id, key.encode(), target.id, key.encode())


def dataset_place(file: h5py.File, key: str) -> tuple[int, tuple[int, ...], np.dtype] | None:
    """Where the bytes of a dataset lie: offset, shape, dtype; None: not in one piece, or a group.

    The offset of a dataset without any bytes is 0.
    """
    found = h5o.open(file.id, key.encode())
    if not isinstance(found, h5d.DatasetID):
        return None
    offset, shape = found.get_offset(), found.shape
    if offset is None and 0 not in shape:  # in chunks, or never written
        return None
    return offset or 0, shape, found.dtype


def write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Set root attributes: text, numbers, booleans."""
    for name, value in attributes.items():
        file.attrs[name] = value


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes as str, int, float, bool; arrays stay arrays."""
    return {name: _as_python(value) for name, value in file.attrs.items()}


def attributes_of(path: Path) -> dict[str, Any]:
    """The root attributes of the h5 at `path`.

    Raises:
        DataError: it is missing, truncated, or no h5 at all.
    """
    with open_h5(path) as file, naming_damage(path):
        return read_attributes(file)


def _as_python(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _contiguous() -> h5p.PropDCID:
    layout = h5p.create(h5p.DATASET_CREATE)
    layout.set_layout(h5d.CONTIGUOUS)
    layout.set_fill_time(h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # the same content gives the same bytes
    return layout


_CONTIGUOUS = _contiguous()
