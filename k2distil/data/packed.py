"""Utterances in one block of bytes, which forked processes share."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter, index
from typing import overload

import numpy as np

from k2distil.batch import Utterance

_fields = attrgetter(*(each.name for each in dataclasses.fields(Utterance)))


class PackedUtterances(Sequence[Utterance]):
    """A sequence of utterances that makes each when it is asked for.

    A list of objects is copied bit by bit into every forked DataLoader worker: looking at one
    counts its references, which writes to its page.
    """

    def __init__(self, utterances: Iterable[Utterance] = ()) -> None:
        """utterances: any number, taken one at a time."""
        joined, bounds = bytearray(), array("q", [0])
        for each in utterances:
            joined += pickle.dumps(_fields(each), pickle.HIGHEST_PROTOCOL)
            bounds.append(len(joined))
        self._joined, self._starts = joined, np.array(bounds[:-1], np.int64)
        self._stops = np.array(bounds[1:], np.int64)

    def at(self, rows: Sequence[int] | np.ndarray) -> PackedUtterances:
        """Those of some places, in that order, in the same block."""
        part = copy.copy(self)
        part._starts, part._stops = self._starts[rows], self._stops[rows]
        return part

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> Utterance: ...
    @overload
    def __getitem__(self, place: slice) -> list[Utterance]: ...
    def __getitem__(self, place: int | slice) -> Utterance | list[Utterance]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        row = range(len(self))[index(place)]
        return Utterance(*pickle.loads(self._joined[self._starts[row] : self._stops[row]]))

    def __iter__(self) -> Iterator[Utterance]:
        return map(self.__getitem__, range(len(self)))
