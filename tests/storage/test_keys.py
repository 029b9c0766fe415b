"""Keys in one block of bytes find the rows that a dict would."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2distil.storage import CodebookReader
from k2distil.storage import keys as keys_module
from k2distil.storage.keys import HashTable, Keys, hashes_of
from tests.storage.arrays import make_h5, some_arrays

NAMES = st.lists(
    st.text(st.characters(exclude_categories=["C"]), min_size=1), unique=True, max_size=30
)


@given(NAMES, st.text(max_size=3))
def test_rows_and_order_are_those_of_a_list(names: list[str], other: str) -> None:
    keys = Keys.of(names)
    assert list(keys) == names
    assert len(keys) == len(names)
    assert [keys.row(name) for name in names] == list(range(len(names)))
    assert (other in keys) == (other in names)
    assert 7 not in keys


def test_an_absent_key_is_a_key_error() -> None:
    for keys in (Keys.of(["a", "bc"]), Keys.of([])):
        for absent in ("", "b", "c", "a\nbc"):
            assert absent not in keys
            with pytest.raises(KeyError):
                keys.row(absent)


def test_a_key_that_utf_8_lacks_is_absent(tmp_path: Path) -> None:
    path = make_h5(tmp_path / "codes.h5", some_arrays())
    with_index = CodebookReader(path)
    path.with_name("codes.h5.idx.npz").unlink()
    for reader in (with_index, CodebookReader(path)):
        assert "\udcd6" not in reader
        with pytest.raises(KeyError):
            reader["\udcd6"]


@pytest.mark.parametrize("num_keys", [2, 3, 4, 9, 10])
def test_blocks_do_not_show(num_keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "BLOCK", 3)
    names = [f"键{i}" for i in range(num_keys)]
    assert Keys.of(iter(names)).joined == "\n".join(names).encode()
    assert list(Keys.of(names)) == names


def test_keys_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "hash", len, raising=False)  # as bad as a hash can be
    keys = Keys.of(["ab", "cd", "e", "fg"])
    assert [keys.row(name) for name in keys] == [0, 1, 2, 3]
    assert "xy" not in keys
    table = HashTable(hashes_of(keys), np.array([5, 6, 7, 8]))
    assert table.candidates("zz") == [5, 6, 8]
