"""What is in an h5 of codes or embeddings, as figures; for people, as text or on a page."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from k2distil.errors import DataError
from k2distil.quantizer.model import MAX_CODEBOOK_SIZE
from k2distil.storage import UtteranceReader

MAX_VALUES = 200_000_000  # numbers read for the statistics; of a larger file a sample


@dataclass(frozen=True)
class Contents:
    """An open file, or several by one name.

    Attributes:
        lengths: key -> frames of every utterance.
        first: the array of the first utterance, (num_frames, width).
    """

    path: Path
    reader: UtteranceReader
    lengths: Mapping[str, int]
    first: np.ndarray

    @classmethod
    def of(cls, path: Path) -> Contents:
        """Open it.

        Raises:
            DataError: it is damaged, empty, or holds arrays of another kind.
        """
        reader = UtteranceReader(path)
        if not reader:
            raise DataError(f"{path}: no utterances in it")
        try:
            lengths = {key: reader.num_frames(key) for key in reader}
        except KeyError as error:
            raise DataError(
                f"{path}: damaged, it names {error} and does not find it; copy it again, or remove "
                "it and make it anew"
            ) from error
        first = reader[next(iter(lengths))]
        if first.ndim != 2 or first.shape[1] == 0:
            raise DataError(f"{path}: expected arrays (num_frames, width), found {first.shape}")
        return cls(path, reader, lengths, first)

    @property
    def is_codes(self) -> bool:
        """Else embeddings."""
        return self.first.dtype.kind in "iu"

    @property
    def frame_shift(self) -> float:
        """Seconds; 0: not known, or no number of seconds."""
        found = self.reader.meta.get("frame_shift")
        return found if isinstance(found, float) and 0 < found < math.inf else 0.0

    @property
    def codebook_size(self) -> int:
        """K; 0: not known."""
        found = self.reader.meta.get("codebook_size")
        return found if isinstance(found, int) else 0

    def facts(self) -> dict[str, Any]:
        """How much there is, by name."""
        num_frames, width = sum(self.lengths.values()), self.first.shape[1]
        facts: dict[str, Any] = {
            "utterances": len(self.lengths),
            "frames": num_frames,
            "array of an utterance": f"(num_frames, {width}) {self.first.dtype}",
            "bytes": sum(each.path.stat().st_size for each in self.reader.files),
        }
        if len(self.reader.files) > 1:
            names = [each.path.name for each in self.reader.files]
            facts["files"] = f"{len(names):,}: {names[0]} to {names[-1]}"
        if hours := num_frames * self.frame_shift / 3600:
            facts["hours"] = f"{hours:,.2f}"
            facts["bytes per hour"] = round(num_frames * self.first[:1].nbytes / hours)
        return facts

    @cached_property
    def sample_step(self) -> int:
        """The statistics are of one utterance in so many."""
        num_values = sum(self.lengths.values()) * self.first.shape[1]
        return max(1, -(-num_values // MAX_VALUES))

    def count_codes(self) -> list[np.ndarray]:
        """How often each entry comes: (K,) per codebook; K is the largest code + 1 if not known.

        Raises:
            DataError: codes out of range, or arrays of another width.
        """
        size, width = self.codebook_size or MAX_CODEBOOK_SIZE, self.first.shape[1]
        counts = np.zeros((width, size), np.int64)
        for codes in self._sample():
            if codes.ndim != 2 or codes.shape[1] != width:
                raise DataError(f"{self.path}: arrays of another width; see k2distil verify")
            if codes.size and not 0 <= codes.min() <= codes.max() < size:
                raise DataError(f"{self.path}: codes out of range; see k2distil verify")
            for own, column in zip(counts, codes.T, strict=True):
                found = np.bincount(column)
                own[: len(found)] += found
        if not self.codebook_size:
            counts = counts[:, : 1 + counts.any(axis=0).nonzero()[0].max(initial=-1)]
        return list(counts)

    def moments(self) -> dict[str, str]:
        """Mean, deviation and largest absolute value of all numbers."""
        count, total, squares, largest = 0, 0.0, 0.0, 0.0
        for values in self._sample():
            wide = values.astype(np.float64)
            count += wide.size
            total += float(wide.sum())
            squares += float(np.square(wide).sum())
            largest = max(largest, float(np.abs(wide).max(initial=0.0)))
        mean = total / max(1, count)
        deviation = max(0.0, squares / max(1, count) - mean**2) ** 0.5
        facts = {"mean": mean, "standard deviation": deviation, "largest absolute value": largest}
        return {name: f"{value:.4g}" for name, value in facts.items()}

    def _sample(self) -> Iterator[np.ndarray]:
        keys = itertools.islice(self.lengths, 0, None, self.sample_step)
        return (self.reader[key] for key in keys)


def usage(counts: np.ndarray) -> float:
    """The perplexity as a share of all K entries: 1 is all equally often; counts: (K,)."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(shares * np.log(shares)).sum())) / max(1, len(counts))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes for people: without what is said elsewhere; JSON and lists made short."""
    told = {"fingerprint", "files"}
    return {name: _short(value) for name, value in values.items() if name not in told}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return " ".join(str(_short(each)) for each in value)
    if isinstance(value, str) and value.startswith("{"):
        try:
            return ", ".join(f"{name} {each}" for name, each in json.loads(value).items())
        except ValueError:
            return value
    return value
