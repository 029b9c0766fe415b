"""Utterances that have no values: <save_path>.failed.tsv and .dropped.tsv."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from k2distil.atomic import write_text
from k2distil.batch import Rejection
from k2distil.errors import DataError, counted
from k2distil.pipeline.run.summary import beside

logger = logging.getLogger(__name__)

FAILURES_SHOWN = 20


class FailureLog:
    """Tells of the first failures of a run as they come: a wrong path may be that of all."""

    def __init__(self) -> None:
        self._num_told = 0

    def tell(self, rows: Iterable[Rejection]) -> None:
        """Log them, up to `FAILURES_SHOWN` in all."""
        for row in rows:
            self._num_told += 1
            if self._num_told <= FAILURES_SHOWN:
                logger.warning("failed: %s", row["reason"])
            if self._num_told == FAILURES_SHOWN + 1:
                logger.warning("failed: more; all of them are listed at the end")


def write_rejections(
    save_path: Path, failed: Sequence[Rejection], dropped: Sequence[Rejection]
) -> None:
    """Write <save_path>.failed.tsv and .dropped.tsv; without rows, remove that of an earlier run.

    Args:
        save_path: the output.
        failed: what could not be done.
        dropped: what a setting left out.
    """
    for name, rows in [("failed", failed), ("dropped", dropped)]:
        path = beside(save_path, f"{name}.tsv")
        if not rows:
            path.unlink(missing_ok=True)
            continue
        text = io.StringIO()
        writer = csv.DictWriter(
            text, list(Rejection.__annotations__), dialect="excel-tab", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
        logger.warning("%s %s: %s", counted(len(rows), "utterance"), name, path)


def read_rejections(save_path: Path, name: str) -> list[Rejection]:
    """The rows of <save_path>.<name>.tsv; none where there is no such file.

    Raises:
        DataError: it is not as it was written.
    """
    path = beside(save_path, f"{name}.tsv")
    try:
        rows = csv.DictReader(
            io.StringIO(path.read_text(encoding="utf-8-sig")), dialect="excel-tab"
        )
        return [Rejection(key=row["key"], wav=row["wav"], reason=row["reason"]) for row in rows]
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, KeyError) as error:
        raise DataError(
            f"{path}: not as it was written, perhaps saved by another program; remove it and run "
            "the command again that made the output"
        ) from error
