"""What parts hold, kept in arrays, is what was added."""

from pathlib import Path

import pytest

from k2distil.storage.written import Written, WrittenArrays


def test_arrays_give_back_what_was_added() -> None:
    added = {
        "a": Written(Path("part-0.h5"), 0, 0),
        "b": Written(Path("part-0.h5"), 2**40, 2**32 - 1),
        "c": Written(Path("part-1.h5"), 7, 8),
        "d": Written(Path("part-0.h5"), 1, 2),
    }
    written = WrittenArrays()
    for key, each in added.items():
        written.add(key, each)
    assert dict(written) == added
    assert list(written) == list(added)
    assert "c" in written
    assert "e" not in written
    with pytest.raises(KeyError):
        written["e"]
