"""k2distil inspect: what is in a file of codes, embeddings or a quantizer, as text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from k2distil.config import InspectConfig
from k2distil.errors import DataError
from k2distil.pipeline.findings import Findings
from k2distil.quantizer import load_quantizer, quantizer_file
from k2distil.storage import UtteranceReader

MAX_VALUES = 200_000_000  # numbers read for the statistics; of a larger file a sample
NUM_SHOWN = 3  # utterances


def inspect_file(config: InspectConfig) -> Findings:
    """Attributes, size and statistics of a file.

    Raises:
        DataError: there is no such file, it is damaged, or it is empty.
        CheckpointError: it is neither h5 nor a quantizer.
    """
    path = quantizer_file(config.path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct --path")
    if h5py.is_hdf5(path):
        return Findings(_describe_h5(path))
    return Findings(_describe_quantizer(path))


def _describe_quantizer(path: Path) -> str:
    quantizer = load_quantizer(path)
    facts = {
        "type": quantizer.type,
        "id": quantizer.id,
        "codebooks": quantizer.num_codebooks,
        "entries a codebook": quantizer.codebook_size,
        "dimension": quantizer.dim,
        "bytes": path.stat().st_size,
    }
    return _sections(
        str(path),
        _aligned({**facts, **quantizer.settings}),
        _aligned(_plain(quantizer.provenance)),
        _aligned(_plain(quantizer.figures)),
    )


def _describe_h5(path: Path) -> str:
    reader = UtteranceReader(path)
    if not reader:
        raise DataError(f"{path}: no utterances in it")
    lengths = {key: reader.num_frames(key) for key in reader}
    first = reader[next(iter(lengths))]
    if first.ndim != 2:
        raise DataError(f"{path}: expected arrays (num_frames, width), found {first.shape}")
    num_frames = sum(lengths.values())
    facts: dict[str, Any] = {
        "utterances": len(lengths),
        "frames": num_frames,
        "array of an utterance": f"(num_frames, {first.shape[1]}) {first.dtype}",
        "bytes": sum(each.path.stat().st_size for each in reader.files),
    }
    if len(reader.files) > 1:
        names = [each.path.name for each in reader.files]
        facts["files"] = f"{len(names):,}: {names[0]} to {names[-1]}"
    frame_shift = reader.meta.get("frame_shift", 0.0)
    if hours := num_frames * frame_shift / 3600:
        facts["hours"] = f"{hours:,.2f}"
        facts["bytes per hour"] = round(num_frames * first[:1].nbytes / hours)
    read, step = _sample(reader, lengths, num_frames * first.shape[1])
    is_codes = first.dtype.kind in "iu"
    size = int(reader.meta.get("codebook_size", 0))
    statistics = _usage(path, read, size) if is_codes else _moments(read)
    what = "all utterances" if step == 1 else f"one utterance in {step}"
    rows = [["utterance", "frames", "seconds"]]
    rows += [
        [key, f"{num:,}", f"{num * frame_shift:.2f}"]
        for key, num in itertools.islice(lengths.items(), NUM_SHOWN)
    ]
    return _sections(
        str(path),
        _aligned(_plain(reader.meta)),
        _aligned(facts),
        f"of {what}:\n{statistics}",
        _table(rows),
    )


def _sample(
    reader: UtteranceReader, lengths: Mapping[str, int], num_values: int
) -> tuple[Iterator[np.ndarray], int]:
    """The arrays of every so-many-th utterance, and so many."""
    step = max(1, -(-num_values // MAX_VALUES))
    return (reader[key] for key in itertools.islice(lengths, 0, None, step)), step


def _usage(path: Path, arrays: Iterator[np.ndarray], codebook_size: int) -> str:
    """Perplexity / K and unused entries per codebook; K is the largest code + 1 if not known."""
    counts: list[np.ndarray] = []  # (entries seen,) per codebook
    for codes in arrays:
        counts = counts or [np.zeros(codebook_size, np.int64)] * codes.shape[1]
        try:
            found = [np.bincount(column, minlength=codebook_size) for column in codes.T]
        except ValueError:
            raise DataError(f"{path}: codes below 0; see k2distil verify") from None
        most = max(map(len, found), default=0)
        if len(found) != len(counts) or (codebook_size and most > codebook_size):
            raise DataError(f"{path}: codes out of range; see k2distil verify")
        counts = [_sum(one, other) for one, other in zip(counts, found, strict=True)]
    size = max(codebook_size, *(len(each) for each in counts))
    rows = [["codebook", "perplexity / K", "dead entries"]]
    for number, count in enumerate(counts):
        shares = count[count > 0] / max(1, count.sum())
        perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
        rows.append([str(number), f"{perplexity / size:.3f}", str(size - len(shares))])
    return _table(rows)


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


def _moments(arrays: Iterator[np.ndarray]) -> str:
    count, total, squares, largest = 0, 0.0, 0.0, 0.0
    for values in arrays:
        wide = values.astype(np.float64)
        count += wide.size
        total += float(wide.sum())
        squares += float(np.square(wide).sum())
        largest = max(largest, float(np.abs(wide).max(initial=0.0)))
    mean = total / max(1, count)
    deviation = max(0.0, squares / max(1, count) - mean**2) ** 0.5
    facts = {"mean": mean, "standard deviation": deviation, "largest absolute value": largest}
    return _aligned({name: f"{value:.4g}" for name, value in facts.items()})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the report says elsewhere; JSON and lists of numbers made short."""
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


def _sections(*sections: str) -> str:
    return "\n\n".join(section for section in sections if section)


def _aligned(facts: Mapping[str, Any]) -> str:
    width = max(map(len, facts), default=0)
    return "\n".join(
        f"{name:<{width}}  {value:,}" if type(value) is int else f"{name:<{width}}  {value}"
        for name, value in facts.items()
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )
