"""Draw what codes cost and bring: held-out error against how hard they are to predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from coders import ADDITIVE, MULTI_QUANTIZATION, PRODUCT, WIDE

PANEL = 3.6  # inches
STYLES = {  # colour: whose; shape: which
    PRODUCT: ("tab:blue", "o"),
    ADDITIVE: ("tab:blue", "s"),
    WIDE: ("tab:blue", "D"),
    MULTI_QUANTIZATION: ("tab:red", "*"),
    "faiss PQ": ("tab:gray", "o"),
    "faiss OPQ+PQ": ("tab:gray", "h"),
    "faiss residual, beam 1": ("tab:olive", "v"),
    "faiss residual, beam 5": ("tab:olive", "^"),
    "faiss residual, beam 16": ("tab:olive", "<"),
    "faiss local search": ("tab:green", "P"),
    "faiss product residual": ("tab:purple", "X"),
}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel for each data (down) and number of codebooks (across), one point for each method.

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
