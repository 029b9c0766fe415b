"""The arrays of several outputs as one mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from k2distil.storage.array_file import ArrayFile
from k2distil.storage.keys import table_of
from k2distil.storage.reader import UtteranceReader


class JoinedReader(Mapping[str, np.ndarray]):
    """Several readers as one: of a key that more than one has, the first one's array.

    Safe to fork and to pickle, as they are.
    """

    def __init__(self, readers: Sequence[UtteranceReader]) -> None:
        self.readers = tuple(readers)
        # Of the reader that a key is in; None: there is but one.
        self._numbers = None if len(self.readers) == 1 else table_of(self.readers)
        self.names = ", ".join(str(each.path) for each in readers)  # for messages

    def __getitem__(self, key: str) -> np.ndarray:
        """See `UtteranceReader`."""
        return self.reader_of(key)[key]

    def __contains__(self, key: object) -> bool:
        """Whether any has such a key; nothing is read."""
        return isinstance(key, str) and any(key in each for each in self._candidates(key))

    def __iter__(self) -> Iterator[str]:
        """Every key once, reader by reader."""
        for reader in self.readers:
            yield from (key for key in reader if self.reader_of(key) is reader)

    def __len__(self) -> int:
        """The number of different keys; each is looked up."""
        return sum(1 for _ in self)

    def num_frames(self, key: str) -> int:
        """The length of an array, without reading it.

        Raises:
            KeyError: no such key.
        """
        return self.reader_of(key).num_frames(key)

    def file_of(self, key: str) -> ArrayFile:
        """The file that the array of a key is read from.

        Raises:
            KeyError: no such key.
        """
        return self.reader_of(key).file_of(key)

    def reader_of(self, key: str) -> UtteranceReader:
        """The first reader that has a key.

        Raises:
            KeyError: none has.
        """
        if found := self.readers_of(key):
            return found[0]
        raise KeyError(key)

    def readers_of(self, key: str) -> list[UtteranceReader]:
        """All readers that have a key, in their order."""
        return [reader for reader in self._candidates(key) if key in reader]

    def __reduce__(self) -> tuple[type[JoinedReader], tuple[tuple[UtteranceReader, ...]]]:
        return type(self), (self.readers,)

    def _candidates(self, key: str) -> Sequence[UtteranceReader]:
        if self._numbers is None:
            return self.readers
        return [self.readers[number] for number in self._numbers.candidates(key)]
