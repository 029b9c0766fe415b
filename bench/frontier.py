"""What `quantizer.py` shows of its rows: medians over seeds, as text and as a picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from coders import ADDITIVE, MULTI_QUANTIZATION, PRODUCT, WIDE

FIGURES = {
    "over_limit": ".3f",
    "train_seconds": ",.0f",
    "frames_per_second": ",.0f",
    "peak_mb": ",.0f",
    "usage": ".2f",
    "flips_1": ".3f",
    "flips_5": ".3f",
    "probe_cross_entropy": ".2f",
    "predicted_error": ".3f",
}
PANEL = 3.6  # inches
STYLES = {  # colour: whose; shape: which
    PRODUCT: ("tab:blue", "o"),
    ADDITIVE: ("tab:blue", "s"),
    WIDE: ("tab:blue", "D"),
    "additive, half grown": ("tab:cyan", "s"),
    "additive, grown": ("tab:cyan", "D"),
    MULTI_QUANTIZATION: ("tab:red", "*"),
    "faiss PQ": ("tab:gray", "o"),
    "faiss OPQ+PQ": ("tab:gray", "h"),
    "faiss residual, beam 1": ("tab:olive", "v"),
    "faiss residual, beam 5": ("tab:olive", "^"),
    "faiss residual, beam 16": ("tab:olive", "<"),
    "faiss local search": ("tab:green", "P"),
    "faiss product residual": ("tab:purple", "X"),
}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds; of a method that did not finish with any of them, only why."""
    finished = [run for run in runs if "relative_error" in run]
    row = {key: runs[0][key] for key in ("data", "num_codebooks", "method", "backend", "threads")}
    for name in ("timed_out", "out_of_memory", "time_limited"):
        if any(run.get(name) for run in runs):
            row[name] = True
    for name in ("relative_error", "limit", *FIGURES):
        if values := [run[name] for run in finished if name in run]:
            row[name] = statistics.median(values)
    return {**row, "seeds": len(finished), "runs": list(runs)}


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A summary as text."""
    error = _why_not(row["runs"])
    if "relative_error" in row:
        errors = [run["relative_error"] for run in row["runs"] if "relative_error" in run]
        error = f"{row['relative_error']:.3f}"
        error += f" ({min(errors):.3f} to {max(errors):.3f})" if len(errors) > 1 else ""
    method = row["method"] + (" (time-limited)" if "time_limited" in row else "")
    text = {"data": row["data"], "N": str(row["num_codebooks"]), "method": method, "error": error}
    figures = {key: format(row[key], form) if key in row else "" for key, form in FIGURES.items()}
    return text | figures


def _why_not(runs: Sequence[dict[str, Any]]) -> str:
    """What ended a training before its time."""
    if late := [run["max_seconds"] for run in runs if run.get("timed_out")]:
        return f"did not finish in {max(late):,} s"
    large = [run["max_gb"] for run in runs if run.get("out_of_memory")]
    return f"took more than {max(large):g} GB" if large else ""


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Held-out error against how hard codes are to predict.

    One panel for each data (down) and number of codebooks (across), one point for each method.

    rows: summaries of `quantizer.py`; those without figures are left out.
    """
    data = list(dict.fromkeys(row["data"] for row in rows))
    sizes = sorted({row["num_codebooks"] for row in rows})
    shape = (len(data), len(sizes))
    area = (PANEL * len(sizes) + 2.6, PANEL * len(data))  # the legend is 2.6 wide
    figure, panels = plt.subplots(*shape, figsize=area, squeeze=False, layout="constrained")
    handles = {}
    for i, name in enumerate(data):
        for j, size in enumerate(sizes):
            panel = panels[i][j]
            panel.set(title=f"{name}, N = {size}", xlabel="held-out error")
            panel.set_ylabel("probe cross entropy, nats a code")
            panel.grid(alpha=0.3)
            for row in rows:
                if (row["data"], row["num_codebooks"]) != (name, size):
                    continue
                if "relative_error" not in row:
                    continue
                color, marker = STYLES[row["method"]]
                place = (row["relative_error"], row["probe_cross_entropy"])
                limited = " (time-limited)" if "time_limited" in row else ""
                handles[row["method"] + limited] = panel.scatter(
                    *place, s=70, c=color, marker=marker, edgecolors="black", linewidths=0.5
                )
                if "limit" in row:
                    line = panel.axvline(row["limit"], color="black", linestyle=":", linewidth=1)
                    handles["rate-distortion limit"] = line
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
