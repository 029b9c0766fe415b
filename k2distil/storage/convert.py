"""The same codes in another dtype."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from k2distil.atomic import replacing
from k2distil.errors import DataError
from k2distil.storage.file_list import FILES, SHARD_HOURS
from k2distil.storage.merge import checksum, digest_line
from k2distil.storage.reader import CodebookReader
from k2distil.storage.utterance_h5 import create_h5, write_attributes, write_dataset

# Attributes that a copy does not share.
OF_THESE_BYTES = ("content_digest", "entries", "fingerprint", FILES, SHARD_HOURS)
COPIED_FROM = "copied_from"  # what was copied; marks a copy


def write_as(reader: CodebookReader, path: Path, dtype: np.dtype, copied_from: str) -> None:
    """Copy all codes into one new h5, one utterance in memory at a time.

    Args:
        reader: of the codes.
        path: of the h5 to make; it is whole or not there.
        dtype: of integers.
        copied_from: what tells the reader's file from others.

    Raises:
        DataError: a code does not fit into dtype, or the disk is full.
    """
    bounds = np.iinfo(dtype)
    attributes = {name: each for name, each in reader.meta.items() if name not in OF_THESE_BYTES}
    attributes[COPIED_FROM] = copied_from
    digest = hashlib.sha256()
    with replacing(path) as temporary, create_h5(temporary) as file:
        write_attributes(file, attributes)
        for key, codes in reader.items():
            if codes.size and (codes.min() < bounds.min or codes.max() > bounds.max):
                raise DataError(
                    f"{reader.path}[{key}]: codes up to {codes.max()} do not fit into {dtype}; "
                    "give another --dtype"
                )
            values = codes.astype(dtype)
            write_dataset(file, key, values)
            digest.update(digest_line(key, len(values), checksum(values)))
        write_attributes(file, {"content_digest": digest.hexdigest()})
