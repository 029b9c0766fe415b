"""Codes in WeNet's data pipeline: `codes` by key in a sample, padded in a batch.

WeNet's main maps functions of one sample (`dataset.map(AddCodes(...))`); its releases up to 3.0
chain generators (`Processor(dataset, add_codes, ...)`). Samples and batches are its own dicts, as
in wenet/dataset/processor.py: `key` and `feat` of a sample, `keys` of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from k2distil.distil import IGNORE_INDEX
from k2distil.errors import ConfigError, DataError
from k2distil.storage import CodebookReader, join_codes

Sample = dict[str, Any]
Readable = CodebookReader | str | os.PathLike  # codes, or where they are
MISSING_CODES = ("error", "ignore")


class AddCodes:
    """Give a sample its `codes`, (num_frames, num_codebooks) as stored: a byte each up to K = 256.

    Safe to fork and to pickle: every worker reads the file for itself.
    """

    def __init__(
        self,
        codes: Readable | Sequence[Readable],
        num_codebooks: int | None = None,
        missing_codes: str = "error",
    ) -> None:
        """Open the file, or the files.

        Args:
            codes: the h5 of save_codebook.sh, or a reader of it; or several, of one quantizer: of
                a key in more than one the first one's codes count.
            num_codebooks: N that the student is built for; None: what a file says.
            missing_codes: what a key without codes is: an error, or ("ignore") a sample of no
                codes, which the codebook loss passes over.

        Raises:
            ConfigError: another missing_codes, no file, or codes of different quantizers.
            DataError: no such h5, or it does not say its number of codebooks.
        """
        if missing_codes not in MISSING_CODES:
            raise ConfigError(
                f"missing_codes {missing_codes!r}: expected {' or '.join(MISSING_CODES)}"
            )
        several = [codes] if isinstance(codes, Readable) else codes
        readers = [
            each if isinstance(each, CodebookReader) else CodebookReader(each) for each in several
        ]
        if not readers:
            raise ConfigError("no file of codes; give the h5 of save_codebook.sh")
        self.reader = join_codes(readers)
        told = (reader.meta.get("num_codebooks") for reader in readers)
        found = next((each for each in (num_codebooks, *told) if each is not None), None)
        if found is None:
            raise DataError(f"{self.reader.names}: no num_codebooks in it; give num_codebooks")
        self.num_codebooks = found
        self.missing_codes = missing_codes

    def __call__(self, sample: Sample) -> Sample:
        """The same sample with `codes`.

        Raises:
            DataError: the key has no codes, or codes of another number of codebooks.
        """
        key = sample["key"]
        codes = self.reader.get(key)
        if codes is None:
            if self.missing_codes == "error":
                raise DataError(
                    f"{self.reader.names}[{key}]: no codes; make them with save_codebook.sh "
                    '--save_codebook, or give missing_codes="ignore" to train it without'
                )
            codes = np.empty((0, self.num_codebooks), np.uint8)
        if codes.ndim != 2 or codes.shape[1] != self.num_codebooks:
            raise DataError(
                f"{self.reader.reader_of(key).path}[{key}]: {codes.shape}, expected (num_frames, "
                f"{self.num_codebooks}); give num_codebooks as in the file"
            )
        sample["codes"] = codes
        return sample


def add_codes(
    data: Iterable[Sample],
    codes: Readable | Sequence[Readable],
    num_codebooks: int | None = None,
    missing_codes: str = "error",
) -> Iterator[Sample]:
    """`AddCodes` as a generator over samples; a path is opened where the iteration starts.

    Raises:
        ConfigError, DataError: see `AddCodes`.
    """
    yield from map(AddCodes(codes, num_codebooks, missing_codes), data)


def pad_codes(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Codes of several samples, at the teacher's rate: the student's lengths are not known yet.

    Returns:
        (B, T, N) int16 up to K = 32768, else int32, -100 beyond the lengths; (B,) int64 lengths.
    """
    codes = [sample["codes"] for sample in samples]
    num_codes = [len(each) for each in codes]
    dtype = np.result_type(np.int16, *codes)  # a byte has no -100
    padded = np.full((len(codes), max(num_codes), codes[0].shape[1]), IGNORE_INDEX, dtype)
    for row, each in zip(padded, codes, strict=True):
        row[: len(each)] = each
    return torch.from_numpy(padded), torch.tensor(num_codes)


def add_padded_codes(batch: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """Give a batch of WeNet's `padding` the `codes` and `codes_lengths` of its samples.

    Args:
        batch: with `keys` in its own order.
        samples: those it was made of, with `codes`.

    Returns:
        The same batch.
    """
    by_key = {sample["key"]: sample for sample in samples}
    batch["codes"], batch["codes_lengths"] = pad_codes([by_key[key] for key in batch["keys"]])
    return batch
