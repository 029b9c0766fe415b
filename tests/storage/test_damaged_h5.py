"""An h5 with single bits changed, whatever they are of: an error by name, never a traceback."""

import random
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.interop.wenet import add_codes
from k2distil.storage import CodebookReader
from k2distil.storage.offsets import index_path
from k2distil.storage.output import complete_output
from tests.storage.arrays import make_h5, some_arrays


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """Without its index, as when the h5 alone is copied."""
    path = make_h5(tmp_path / "codes.h5", some_arrays(20))
    index_path(path).unlink(missing_ok=True)
    return path


@pytest.mark.skipif(
    h5py.version.hdf5_version_tuple < (2, 0, 0), reason="of some bits that changed HDF5 1 crashes"
)
def test_a_changed_bit_is_read_past_or_named(codes: Path) -> None:
    content = codes.read_bytes()
    rng = random.Random(0)
    faults = []
    for number in range(400):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path = codes.with_name(f"{number}.h5")  # HDF5 knows those that are open by name
        path.write_bytes(damaged)
        try:
            reader = CodebookReader(path)
            for key in reader:
                reader[key]
                reader.num_frames(key)
            complete_output(path)
        except DataError as error:
            faults.append((path, str(error)))
        path.unlink()
    assert len(faults) > 10
    assert all(str(path) in words for path, words in faults)


def test_codes_that_cannot_be_read_do_not_count_as_absent(codes: Path) -> None:
    content = codes.read_bytes()
    places = [at for at in range(len(content)) if content.startswith(b"OHDR", at)]
    found = set()
    for at in places:  # each an object: the root or an array
        damaged = bytearray(content)
        damaged[at] ^= 1
        path = codes.with_name(f"{at}.h5")
        path.write_bytes(damaged)
        try:
            reader = CodebookReader(path)
        except DataError:
            found.add("root")
            continue
        broken = [key for key in some_arrays(20) if not _is_readable(reader, key)]
        assert len(broken) == 1
        assert broken[0] in reader
        with pytest.raises(DataError, match="damaged"):
            add_codes([{"key": broken[0]}], path, missing_codes="ignore").__next__()
        found |= set(broken)
    assert found == {"root", *some_arrays(20)}


def _is_readable(reader: CodebookReader, key: str) -> bool:
    try:
        return isinstance(reader[key], np.ndarray)
    except DataError:
        return False
