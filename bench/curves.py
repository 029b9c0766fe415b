"""The plot of `distil.py`: word error rate against steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAMES = {"labels": "text alone", "codes": "+ product codes"}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One line for each run, one color for each student; steps grow by factors.

    rows: runs of `distil.py`, those with `curve`: [(step, WER on both tests together in percent)].
    """
    students = list(dict.fromkeys(row["student"] for row in rows))
    figure, panel = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in rows:
        steps, rates = zip(*row["curve"], strict=True)
        number = students.index(row["student"])
        name = NAMES.get(row["student"], f"+ {row['student']}")
        panel.plot(steps, rates, ".-", color=f"C{number}", label=name)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set(xlabel="steps", ylabel="word error rate, %, both tests together")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3, which="both")
    handles = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    panel.legend(handles.values(), handles.keys())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
