"""The --path of k2distil inspect and report: codes, embeddings or a quantizer."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from k2distil.errors import DataError
from k2distil.pipeline.outputs.contents import Contents
from k2distil.quantizer import Quantizer, load_quantizer, quantizer_file


def open_output(path: Path, expected: str) -> Contents | Quantizer:
    """What is in the file `path`; a folder stands for the quantizer inside.

    Args:
        path: as it was given.
        expected: what the command takes, for the error.

    Raises:
        DataError: there is no such file, it may not be read, is damaged, or empty.
        CheckpointError: it is neither h5 nor a quantizer.
    """
    file = quantizer_file(path)
    if not file.is_file():
        what = "a folder without quantizer.pt" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; --path takes {expected}")
    if not os.access(file, os.R_OK):  # h5py and torch would say other things
        raise DataError(f"{file}: no right to read it; have it changed, or copied")
    if h5py.is_hdf5(file):
        return Contents.of(file)
    return load_quantizer(file, expected=f"--path takes {expected}")
