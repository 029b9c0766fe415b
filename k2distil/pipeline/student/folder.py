"""The folder of a student: begun, gone on with, complete; its best and its last state."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from k2distil.atomic import make_folder, read_json, write_json
from k2distil.distil.codebook_head import CodebookHead
from k2distil.distil.student import Student, restore_replaced
from k2distil.distil.trainer import checkpoints, last_checkpoint
from k2distil.errors import ConfigError
from k2distil.leases import held_alone
from k2distil.pipeline.run.summary import Summary, read_summary, write_summary
from k2distil.storage import describe_differences, refuse_other_settings

logger = logging.getLogger(__name__)

NAME = "train_distil"  # of summary, config and lists in the folder
METRICS_FILE = "metrics.json"  # in the folder of the best student
LEASE = ".lease"


class StudentFolder:
    """`best/` and `last/` load in transformers; `checkpoint-<step>/` are the Trainer's own.

    A context manager: from `begin` to the end of the block no other process has the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.stem = path, path / NAME
        self._marker = path / f"{NAME}.json"  # of what training the folder is
        self._held = ExitStack()
        self._replaces: Mapping[str, Any] | None = None  # by what `start` replaces what is there

    def __enter__(self) -> StudentFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def begin(
        self, fingerprint: Mapping[str, Any], force: bool, by_device: Iterable[str] = ()
    ) -> Summary | None:
        """Hold the folder, and find what is to be done; nothing is removed before `start`.

        Args:
            fingerprint: of this training.
            force: replace results of other settings.
            by_device: what the device decided of it, which does not count when all is done.

        Returns:
            The summary of a run that is complete already; None: there is something to do.

        Raises:
            ConfigError: a folder of something else.
            DataError: results of other settings and not `force`, or another run is at it.
        """
        make_folder(self.path)
        if (done := self._complete(fingerprint, by_device)) is not None:  # perhaps not ours to hold
            return done
        self._held.enter_context(held_alone(self.path / LEASE, self.path))
        if (found := read_json(self._marker)) is not None:
            restore_replaced(self.path / "best")
            restore_replaced(self.path / "last")
        elif any(not each.name.lstrip(".").startswith("lease") for each in self.path.iterdir()):
            raise ConfigError(
                f"--save_path {self.path}: not empty, and not made by train_distil.sh; give "
                "another folder"
            )
        if (done := self._complete(fingerprint, by_device)) is not None:
            return done
        if self._has_results() and not force:
            there = next((each for each in self._students() if each.is_dir()), None)
            go_on = (
                f"to train on from {there}, give it as --student_checkpoint; or " if there else ""
            )
            remedy = f"{go_on}give the same settings"
            refuse_other_settings(self.path, found or {}, fingerprint, remedy)
        self._replaces = fingerprint if describe_differences(found or {}, fingerprint) else None
        return None

    def start(self) -> None:
        """Have the folder be this training's: what one of other settings left goes."""
        if self._replaces is not None:
            self._clear()
            write_json(self._marker, self._replaces)
            self._replaces = None

    def checkpoint(self) -> Path | None:
        """Where to go on."""
        return None if self._replaces is not None else last_checkpoint(self.path)

    @property
    def checked(self) -> Path:
        """The file of what the check of the list found."""
        return self.path / f"{NAME}.checked.npz"

    def best(self) -> dict[str, Any] | None:
        """Step and figures of the best student so far; None: there is none."""
        return read_json(self.path / "best" / METRICS_FILE)

    def offer(
        self,
        student: Student,
        head: CodebookHead | None,
        test: str,
        metric: str,
        step: int,
        figures: Mapping[str, float],
    ) -> None:
        """Keep a student that is as good in `metric`, less being better, as the best so far.

        Args:
            student: as it is now.
            head: that learns the codes, to go beside it.
            test: digest of what it was tested on; the best on anything else does not count.
            metric: of figures.
            step: of the training.
            figures: of the test.
        """
        best = self.best() or {}
        is_comparable = best.get("test") == test and best["step"] != step
        rank = [metric, "cer"]  # the latter among equals, and then the one that trained longer
        if is_comparable and [figures[r] for r in rank] > [best[r] for r in rank]:
            return
        text = json.dumps({"step": step, "test": test, **figures}, indent=2) + "\n"
        student.save(self.path / "best", {**_files_of(head), METRICS_FILE: text.encode()})

    def finish(
        self,
        student: Student,
        head: CodebookHead | None,
        figures: Mapping[str, Any],
        num_failed: int,
    ) -> Summary:
        """Write the last student, its head beside it, and the summary."""
        student.save(self.path / "last", _files_of(head))
        return write_summary(self.stem, {**figures, "failed": num_failed}, num_failed)

    def _complete(self, fingerprint: Mapping[str, Any], by_device: Iterable[str]) -> Summary | None:
        """The summary of a run that came to its end; see `begin`."""
        found, figures = read_json(self._marker), read_summary(self.stem)
        if found is None or not figures or not (self.path / "last").is_dir():
            return None
        found |= {name: fingerprint[name] for name in by_device}
        if describe_differences(found, fingerprint):
            return None
        logger.info("%s: complete already", self.path)
        return Summary(int(figures.get("failed", 0)), figures)

    def _has_results(self) -> bool:
        """Whether anything would be lost: an earlier run may have ended before its first step."""
        has_student = any(each.is_dir() for each in self._students())
        return has_student or bool(checkpoints(self.path))

    def _students(self) -> list[Path]:
        return [self.path / "last", self.path / "best"]

    def _clear(self) -> None:
        for each in self.path.iterdir():
            begins = (".best.", ".last.", "checkpoint-")  # the first two: of a save that was killed
            if each.name in {"best", "last", "runs"} or each.name.startswith(begins):
                shutil.rmtree(each)
            elif each.name.startswith(NAME):
                each.unlink()


def _files_of(head: CodebookHead | None) -> dict[str, bytes]:
    return {} if head is None else head.files()
