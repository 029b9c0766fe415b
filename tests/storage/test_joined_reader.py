"""Several outputs as one mapping."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from k2distil.storage import CodebookReader, JoinedReader
from tests.storage.arrays import make_h5, some_arrays


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return some_arrays(12)


@pytest.fixture
def joined(tmp_path: Path, arrays: dict[str, np.ndarray]) -> JoinedReader:
    """Of the first 8 keys and the last 6; the two in both have other values in the second file."""
    keys = list(arrays)
    first = make_h5(tmp_path / "a.h5", {key: arrays[key] for key in keys[:8]})
    others = {key: 255 - arrays[key] for key in keys[6:8]}
    second = make_h5(tmp_path / "b.h5", others | {key: arrays[key] for key in keys[8:]})
    return JoinedReader([CodebookReader(first), CodebookReader(second)])


def test_it_has_every_key_once_and_the_first_array_of_each(
    joined: JoinedReader, arrays: dict[str, np.ndarray]
) -> None:
    for reader in (joined, pickle.loads(pickle.dumps(joined))):
        assert list(reader) == list(arrays)
        assert len(reader) == 12
        for key, expected in arrays.items():
            assert key in reader
            assert np.array_equal(reader[key], expected)
            assert reader.num_frames(key) == len(expected)


def test_it_says_which_file_an_array_is_of(
    joined: JoinedReader, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    files = [joined.file_of(key).path.name for key in arrays]
    assert files == ["a.h5"] * 8 + ["b.h5"] * 4
    keys = list(arrays)
    for place, found in [(0, joined.readers[:1]), (6, joined.readers), (11, joined.readers[1:])]:
        assert joined.readers_of(keys[place]) == [*found]
    assert joined.names == f"{tmp_path / 'a.h5'}, {tmp_path / 'b.h5'}"


def test_a_key_that_no_file_has_is_an_error(joined: JoinedReader) -> None:
    assert "absent" not in joined
    assert joined.get("absent") is None
    assert joined.readers_of("absent") == []
    for ask in (joined.__getitem__, joined.num_frames, joined.file_of):
        with pytest.raises(KeyError):
            ask("absent")
