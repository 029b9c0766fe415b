"""k2distil inspect: what is in a file of codes, embeddings or a quantizer, as text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from k2distil.config import InspectConfig
from k2distil.pipeline.outputs.contents import Contents, plain, usage
from k2distil.pipeline.outputs.open_output import open_output
from k2distil.pipeline.run.summary import Summary
from k2distil.quantizer import Quantizer, quantizer_file

NUM_SHOWN = 3  # utterances
EXPECTED = "codes, embeddings or a quantizer; students are shown by k2distil report"


def inspect(config: InspectConfig) -> Summary:
    """Attributes, size and statistics of a file.

    Raises:
        DataError: there is no such file, it is damaged, or it is empty.
        CheckpointError: it is neither h5 nor a quantizer.
    """
    found = open_output(config.path, EXPECTED)
    if isinstance(found, Contents):
        return Summary(report=_describe_h5(found))
    return Summary(report=_describe_quantizer(quantizer_file(config.path), found))


def _describe_quantizer(path: Path, quantizer: Quantizer) -> str:
    facts = {
        "type": quantizer.type,
        "id": quantizer.id,
        "codebooks": quantizer.num_codebooks,
        "entries a codebook": quantizer.codebook_size,
        "dimension": quantizer.dim,
        "correction": "no" if quantizer.correction is None else "yes, of decoded frames",
        "bytes": path.stat().st_size,
    }
    return _sections(
        str(path),
        _aligned({**facts, **quantizer.settings}),
        _aligned(plain(quantizer.provenance)),
        _aligned(plain(quantizer.figures)),
    )


def _describe_h5(contents: Contents) -> str:
    statistics = _usage(contents) if contents.is_codes else _aligned(contents.moments())
    step = contents.sample_step
    what = "all utterances" if step == 1 else f"one utterance in {step}"
    shift = contents.frame_shift
    rows = [["utterance", "frames", "seconds"][: 3 if shift else 2]]
    rows += [
        [key, f"{num:,}", f"{num * shift:.2f}"][: len(rows[0])]
        for key, num in itertools.islice(contents.lengths.items(), NUM_SHOWN)
    ]
    return _sections(
        str(contents.path),
        _aligned(plain(contents.reader.meta)),
        _aligned(contents.facts()),
        f"of {what}:\n{statistics}",
        _table(rows),
    )


def _usage(contents: Contents) -> str:
    """Perplexity / K and unused entries per codebook."""
    rows = [["codebook", "perplexity / K", "unused entries"]]
    for number, counts in enumerate(contents.count_codes()):
        rows.append([str(number), f"{usage(counts):.3f}", str((counts == 0).sum())])
    return _table(rows)


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
