"""The keys of a file in one block of bytes, and tables that find a key by its hash."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from io import BytesIO
from itertools import islice

import numpy as np

SEPARATOR = "\n"  # no key of ours has one
BLOCK = 10_000  # keys that are Python objects at a time


class HashTable:
    """Numbers by key, 12 bytes each: a binary search among hashes.

    A dict of strings takes ten times as much, and every look-up in it writes to the memory that
    forked processes could share.
    """

    def __init__(self, hashes: np.ndarray, numbers: np.ndarray) -> None:
        """hashes: (num_keys,) int64, of `hashes_of`; numbers: (num_keys,), of the same keys."""
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._numbers = hashes[order], numbers[order]
        self._hash_at = self._hashes.data  # single ones in half the time

    def candidates(self, key: str) -> list[int]:
        """The numbers of all keys with this one's hash: as a rule one, or none."""
        hashed = hash(_bytes_of(key))
        first = last = int(self._hashes.searchsorted(hashed))
        while last < len(self._hash_at) and self._hash_at[last] == hashed:
            last += 1
        return self._numbers[first:last].tolist()


class Keys(Collection[str]):
    """Keys in their order, and the row of each."""

    def __init__(self, joined: bytes) -> None:
        """joined: the keys in UTF-8 with "\\n" between them; empty: no keys."""
        self.joined = joined
        starts = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord(SEPARATOR))
        starts += 1
        # Row r is joined[starts[r] : starts[r + 1] - 1].
        last = [len(joined) + 1] if joined else []
        self._starts = np.concatenate([[0], starts, last]).astype(np.int64, copy=False)

    @classmethod
    def of(cls, keys: Iterable[str]) -> Keys:
        """Keys without "\\n", none of them empty."""
        joined, remaining = BytesIO(), iter(keys)
        while block := list(islice(remaining, BLOCK)):
            joined.write((SEPARATOR if joined.tell() else "").encode())
            joined.write(SEPARATOR.join(block).encode())
        return cls(joined.getvalue())

    def row(self, key: str) -> int:
        """The place of a key, from 0.

        Raises:
            KeyError: no such key.
        """
        wanted = _bytes_of(key)
        for row in self._table.candidates(key):
            start, stop = self._starts[row : row + 2].tolist()
            if self.joined[start : stop - 1] == wanted:
                return row
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str) and self.row(key) >= 0
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            block = self.joined[self._starts[start] : self._starts[stop] - 1]
            yield from block.decode().split(SEPARATOR)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @cached_property
    def _table(self) -> HashTable:
        """Made at the first look-up: a merge that only writes needs none."""
        return HashTable(hashes_of(self), np.arange(len(self), dtype=np.uint32))


def table_of(collections: Sequence[Collection[str]]) -> HashTable:
    """Which of them a key is in, the first one first."""
    numbers = np.repeat(
        np.arange(len(collections), dtype=np.uint32), [len(each) for each in collections]
    )
    hashes = [np.zeros(0, np.int64), *map(hashes_of, collections)]
    return HashTable(np.concatenate(hashes), numbers)


def hashes_of(keys: Collection[str]) -> np.ndarray:
    """(num_keys,) int64; the same in this process and those forked from it only."""
    return np.fromiter((hash(_bytes_of(key)) for key in keys), np.int64, len(keys))


def _bytes_of(key: str) -> bytes:
    """In UTF-8; what that does not have, such as "\\udcd6", becomes bytes that no file has."""
    return key.encode("utf-8", "surrogatepass")
