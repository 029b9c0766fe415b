"""Outputs in several files, as an extraction makes them, and what must hold of them."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.storage import (
    CodebookReader,
    PartFolder,
    Problems,
    UtteranceReader,
    check_finished,
    check_h5,
    remove_parts,
)
from tests.storage.arrays import ATTRIBUTES, FINGERPRINT, in_chunks, missing, some_arrays

Arrays = dict[str, np.ndarray]
HOUR = 180_000  # frames of 0.02 s
OLD = {"old " + key: values for key, values in some_arrays(14).items()}
NEW = some_arrays(20)


def run(path: Path, arrays: Arrays, hours: float | None, keys: list[str] | None = None) -> None:
    """What an extraction does with these settings, whatever an earlier one left; --force given.

    `keys` are of the whole list; those without arrays fail.
    """
    fingerprint = FINGERPRINT if hours is None else {**FINGERPRINT, "shard_hours": hours}
    attributes = ATTRIBUTES if hours is None else {**ATTRIBUTES, "shard_hours": hours}
    keys = list(arrays) if keys is None else keys
    onto = path.exists()
    if onto:
        try:
            check_finished(path, fingerprint)
        except DataError:
            onto = False
    there = set(UtteranceReader(path)) if onto else set()
    todo = {key: values for key, values in arrays.items() if key not in there}
    if onto and not todo:
        remove_parts(path)
        return
    try:
        parts = PartFolder(path, fingerprint, len(todo), 4)
    except DataError:
        remove_parts(path)
        parts = PartFolder(path, fingerprint, len(todo), 4)
    for index, chunk in enumerate(in_chunks(todo, 4)):
        if index in missing(parts):
            parts.write(index, chunk, {})
    parts.merge(keys, attributes, onto=onto)


def shard(path: Path, arrays: Arrays, frames: int) -> None:
    run(path, arrays, frames / HOUR)


def assert_holds(path: Path, arrays: Arrays, keys: list[str] | None = None) -> None:
    reader = CodebookReader(path)
    assert list(reader) == (list(arrays) if keys is None else keys)
    assert len(reader) == len(arrays)
    for key, expected in arrays.items():
        assert key in reader
        assert np.array_equal(reader[key], expected)
        assert reader.num_frames(key) == len(expected)
        with h5py.File(reader.file_of(key).path) as file:  # as others read it
            assert np.array_equal(file[key][:], expected)
    assert "absent" not in reader
    for ask in (reader.__getitem__, reader.num_frames, reader.file_of):
        with pytest.raises(KeyError):
            ask("absent")
    problems = Problems()
    for file in (path, *(file.path for file in reader.files)):
        check_h5(file, "codes", problems)
    # The tests' attributes are few; all else is right.
    assert problems.counts.keys() <= {"attributes"}


def names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".idx.npz"))
