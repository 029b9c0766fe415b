"""What a check found comes back from its file, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.pipeline.student.checked import Checked


@pytest.fixture
def checked() -> Checked:
    return Checked(
        np.array([0, 2, 2**40]),
        np.array([1 / 3, 2.0, 1e-3]),
        np.array([True, False, True]),
        np.array([False, False, True]),
        [{"key": "甲", "wav": "b \udcff.wav", "reason": "no audio"}],
        [],
        [{"key": "乙", "wav": "c.wav", "reason": "long"}],
    )


def test_it_comes_back_as_it_was(checked: Checked, tmp_path: Path) -> None:
    checked.save(tmp_path / "checked.npz")
    found = Checked.load(tmp_path / "checked.npz")
    for name in ("rows", "seconds", "labelled", "coded"):
        expected, values = getattr(checked, name), getattr(found, name)
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected)
    assert (found.unreadable, found.unfit) == (checked.unreadable, [])
    assert found.too_long == checked.too_long


def test_what_is_not_whole_is_not_taken(checked: Checked, tmp_path: Path) -> None:
    path = tmp_path / "checked.npz"
    assert Checked.load(path) is None
    checked.save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert Checked.load(path) is None
    place = whole.index(checked.seconds.tobytes())
    path.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
    assert Checked.load(path) is None
    np.savez(path, rows=checked.rows)
    assert Checked.load(path) is None


def test_a_folder_that_is_gone_is_told(checked: Checked, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        checked.save(tmp_path / "gone" / "checked.npz")
