"""failed.tsv and dropped.tsv of a training, up to date at every checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from k2distil.batch import Rejection, Utterance
from k2distil.distil.trainer import DistilTrainer
from k2distil.pipeline.run.processes import Processes
from k2distil.pipeline.run.rejections import read_rejections, write_rejections
from k2distil.pipeline.student.checked import Checked
from k2distil.pipeline.student.testing import StudentTest


class RejectedLists:
    """What cannot be used, and what could not be decoded.

    Args:
        stem: what the lists lie beside.
        train, test: what the checks of the lists found.
        processes: of the training.
    """

    def __init__(
        self, stem: Path, train: Checked, test: StudentTest | None, processes: Processes
    ) -> None:
        self.stem, self.train, self.test, self.processes = stem, train, test, processes
        self._before: list[Rejection] = []
        self._written: object = None

    def remember(self, utterances: Iterable[Utterance]) -> None:
        """Keep what the runs told that this one goes on from; utterances: to train on.

        Those of the test are not kept: it looks at all of them again.
        """
        rows = {(row["key"], row["wav"]): row for row in read_rejections(self.stem, "failed")}
        if rows:
            places = ((each.key, each.wav) for each in utterances)
            self._before = [rows[place] for place in places if place in rows]

    def write(self, trainer: DistilTrainer) -> int:
        """Gather from all processes, each of which calls this, and write; -> how many failed."""
        found = self.processes.gather(trainer.failed)
        decoded = {row["key"]: row for each in found for row in each.values()}
        failed = {row["key"]: row for row in self._before + self.train.unreadable} | decoded
        rows = [*failed.values(), *([] if self.test is None else self.test.failed)]
        if self.processes.rank == 0:
            dropped = self.train.unfit + self.train.too_long
            dropped += [] if self.test is None else self.test.unfit
            if self._written != (rows, dropped):  # else told already
                write_rejections(self.stem, rows, dropped)
                self._written = rows, dropped
        return len(rows)
