"""What every benchmark says of itself, and how it shows and keeps its rows."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from k2distil import __version__

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "faiss-cpu", "multi_quantization")


def environment() -> dict[str, Any]:
    """Where and with what a row was measured."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": _cpu_name(),
        "threads": torch.get_num_threads(),
        "versions": {"k2distil": __version__, "python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
    }


def show(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> None:
    """Print a Markdown table; columns: key of a row -> format. What a row lacks stays empty."""
    cells = [list(columns)] + [
        [format(row[name], form) if name in row else "" for name, form in columns.items()]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("| " + " | ".join(padded) + " |")


def save(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Append one JSON line per row to results/<name>.jsonl."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.writelines(json.dumps({**row, **environment()}) + "\n" for row in rows)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """The model as Linux knows it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical cores" if names else platform.machine()
