"""One HTML page: headings, facts, tables, plots and remarks, put together as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

GENERATOR = '<meta name="generator" content="k2distil">'  # by which a page of ours is known
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { font-weight: 600; line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: 0.15rem 1rem 0.15rem 0; text-align: left; vertical-align: top;
         overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { font-weight: 600; border-bottom: 1px solid #ddd; }
td:first-child { color: #555; white-space: nowrap; }
figure { margin: 1.5rem 0; }
figcaption { color: #555; }
svg { max-width: 100%; height: auto; }
.warning { background: #fff3cd; border-left: 4px solid #b8860b; padding: 0.5rem 1rem; }
details { margin: 1rem 0; }
"""


class Page:
    """Add from top to bottom, then take the `html`; every text given is escaped."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._body = [f"<h1>{escape(title)}</h1>"]

    def section(self, heading: str) -> None:
        """Begin another one."""
        self._body.append(f"<h2>{escape(heading)}</h2>")

    def text(self, words: str) -> None:
        """A paragraph."""
        self._body.append(f"<p>{escape(words)}</p>")

    def warning(self, words: str) -> None:
        """A paragraph that is not overlooked."""
        self._body.append(f'<p class="warning">{escape(words)}</p>')

    def facts(self, facts: Mapping[str, Any], folded: str = "") -> None:
        """Names and values; folded: the words to click on before they show."""
        rows = "".join(_row("td", [name, _text(value)]) for name, value in facts.items())
        table = f"<table>{rows}</table>"
        if folded:
            table = f"<details><summary>{escape(folded)}</summary>{table}</details>"
        self._body.append(table)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Rows of as many cells as the head has."""
        lines = [_row("th", head), *(_row("td", list(map(_text, row))) for row in rows)]
        self._body.append(f"<table>{''.join(lines)}</table>")

    def plot(self, svg: str, caption: str) -> None:
        """svg: of `plots`."""
        words = f"<figcaption>{escape(caption)}</figcaption>"
        self._body.append(f"<figure>{svg}{words}</figure>")

    @property
    def html(self) -> str:
        """The whole page."""
        head = f'<meta charset="utf-8">{GENERATOR}<title>{escape(self._title)}</title>'
        body = "\n".join(self._body)
        return f"<!doctype html>\n<html>{head}<style>{STYLE}</style>\n{body}\n</html>\n"


def _row(cell: str, words: Sequence[str]) -> str:
    cells = "".join(f"<{cell}>{escape(each)}</{cell}>" for each in words)
    return f"<tr>{cells}</tr>"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
