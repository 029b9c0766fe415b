"""What the parts of an output hold, by key."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Written(NamedTuple):
    """What a part's report says of one array."""

    part: Path  # the h5 it lies in
    num_frames: int
    crc32: int  # of its bytes


class WrittenArrays(Mapping[str, Written]):
    """Many of them, in half the memory of a dict."""

    def __init__(self) -> None:
        self._row: dict[str, int] = {}
        self._parts: list[Path] = []
        self._part, self._num_frames, self._crc32 = array("I"), array("Q"), array("I")

    def add(self, key: str, each: Written) -> None:
        """Append what is of a new key; those of one part in a row."""
        if not self._parts or self._parts[-1] != each.part:
            self._parts.append(each.part)
        self._row[key] = len(self._row)
        self._part.append(len(self._parts) - 1)
        self._num_frames.append(each.num_frames)
        self._crc32.append(each.crc32)

    def __getitem__(self, key: str) -> Written:
        row = self._row[key]
        return Written(self._parts[self._part[row]], self._num_frames[row], self._crc32[row])

    def __contains__(self, key: object) -> bool:
        return key in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)
