"""What cannot be read says what it is, and what to do."""

import gzip
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.storage import CodebookReader, EmbeddingReader, UtteranceReader


def test_what_is_no_h5_is_told_with_the_script_that_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}"))
    words = f"{path}: cannot be opened as h5 (it is none); correct the path, or make the file anew"
    for kind, script in (
        (EmbeddingReader, " with save_embedding.sh"),
        (CodebookReader, " with save_codebook.sh --save_codebook"),
        (UtteranceReader, ""),
    ):
        with pytest.raises(DataError, match=f"{re.escape(words + script)}$"):
            kind(path)


def test_bytes_hdf5_cannot_read_are_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "packed.h5"
    values = np.random.default_rng(0).random((1000, 8))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values, compression="gzip", chunks=(1000, 8))
        place = file["a"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 100 : place + 200] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"packed\.h5\[a\]: damaged"):
        UtteranceReader(path)["a"]
