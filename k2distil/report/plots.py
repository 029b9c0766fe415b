"""Small plots as SVG text, by matplotlib; it has no fonts for what users may write."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.4, 2.6)  # inches
COUNTED = {"codebook", "codebooks", "frames", "step", "utterances"}  # in whole numbers
COLOURS = ("#2166ac", "#b2182b", "#4d9221", "#7b3294")


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    level: tuple[str, float] | None = None,
) -> str:
    """Lines over one axis.

    Args:
        series: name -> points.
        x, y: what the axes show.
        level: name and height of a line across.
    """
    axes, finish = _begin(x, y)
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        across, up = zip(*points, strict=True)
        axes.plot(across, up, color=colour, label=name, marker="." if len(points) < 30 else None)
    if level is not None:
        axes.axhline(level[1], color="#888888", linestyle="--", label=level[0])
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1])  # which has a margin, for lines at the top
    if len(series) > 1 or level is not None:
        axes.legend(frameon=False)
    return finish()


def bars(heights: Sequence[float], x: str, y: str) -> str:
    """One bar per place, counted from 0."""
    axes, finish = _begin(x, y)
    axes.bar(range(len(heights)), heights, color=COLOURS[0])
    axes.set_ylim(bottom=0)
    return finish()


def histogram(values: Sequence[float], x: str, y: str) -> str:
    """How often values lie where."""
    axes, finish = _begin(x, y)
    axes.hist(values, bins=min(50, max(10, len(values) // 20)), color=COLOURS[0])
    return finish()


def image(values: np.ndarray, x: str, y: str, width: float) -> str:
    """(rows, columns) of numbers as colours; width: of all columns, in the unit of x."""
    axes, finish = _begin(x, y)
    extent = (0.0, width, len(values) - 0.5, -0.5)
    shown = axes.imshow(
        values, aspect="auto", cmap="viridis", interpolation="nearest", extent=extent
    )
    axes.figure.colorbar(shown, ax=axes)
    return finish()


def _begin(x: str, y: str) -> tuple[Axes, Any]:
    """Axes to draw on, and what makes SVG of them."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    for axis, what in ((axes.xaxis, x), (axes.yaxis, y)):
        if what in COUNTED:
            axis.set_major_locator(MaxNLocator(integer=True))

    def finish() -> str:
        written = io.StringIO()
        # The same plot, the same text: no date, no random ids.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "k2distil"}):
            figure.savefig(written, format="svg", metadata={"Date": None})
        text = written.getvalue()
        return text[text.index("<svg") :]

    return axes, finish
