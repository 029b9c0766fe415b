"""The same codes in another dtype."""

import h5py
import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.storage import CodebookReader
from k2distil.storage.convert import write_as
from tests.storage.arrays import make_h5, some_arrays


def test_a_copy_has_the_same_values_keys_and_order_in_another_dtype(tmp_path):
    arrays = some_arrays()
    reader = CodebookReader(make_h5(tmp_path / "codes.h5", arrays))
    write_as(reader, tmp_path / "wide.h5", np.dtype("int16"), "digest of codes.h5")
    copy = CodebookReader(tmp_path / "wide.h5")
    assert list(copy) == list(arrays)
    for key, codes in arrays.items():
        assert copy[key].dtype == np.int16
        assert np.array_equal(copy[key], codes)
    assert copy.meta["copied_from"] == "digest of codes.h5"
    assert copy.meta["num_codebooks"] == reader.meta["num_codebooks"]
    assert copy.meta["content_digest"] != reader.meta["content_digest"]


@pytest.mark.parametrize("value", [-1, 256])
def test_codes_that_do_not_fit_leave_no_file(tmp_path, value):
    with h5py.File(tmp_path / "codes.h5", "w") as file:
        file["utt1"] = np.full((3, 2), value, np.int16)
    reader = CodebookReader(tmp_path / "codes.h5")
    with pytest.raises(DataError, match=r"codes\.h5\[utt1\]: codes up to -?\d+ do not fit into ui"):
        write_as(reader, tmp_path / "bytes.h5", np.dtype("uint8"), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["codes.h5"]
