"""The arrays of several outputs as one mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from k2distil.storage.array_file import ArrayFile
from k2distil.storage.reader import UtteranceReader


class JoinedReader(Mapping[str, np.ndarray]):
    """Several readers as one: of a key that more than one has, the first one's array.

    Safe to fork and to pickle, as they are.
    """

    def __init__(self, readers: Sequence[UtteranceReader]) -> None:
        self.readers = tuple(readers)
        self.names = ", ".join(str(each.path) for each in readers)  # for messages

    def __getitem__(self, key: str) -> np.ndarray:
        """See `UtteranceReader`."""
        return self._reader_of(key)[key]

    def __contains__(self, key: object) -> bool:
        """Whether any has such a key; nothing is read."""
        return any(key in each for each in self.readers)

    def __iter__(self) -> Iterator[str]:
        """Every key once, reader by reader."""
        for number, reader in enumerate(self.readers):
            for key in reader:
                if not any(key in earlier for earlier in self.readers[:number]):
                    yield key

    def __len__(self) -> int:
        """The number of different keys; each is looked up."""
        return sum(1 for _ in self)

    def num_frames(self, key: str) -> int:
        """The length of an array, without reading it.

        Raises:
            KeyError: no such key.
        """
        return self._reader_of(key).num_frames(key)

    def file_of(self, key: str) -> ArrayFile:
        """The file that the array of a key is read from.

        Raises:
            KeyError: no such key.
        """
        return self._reader_of(key).file_of(key)

    def _reader_of(self, key: str) -> UtteranceReader:
        for reader in self.readers:
            if key in reader:
                return reader
        raise KeyError(key)
