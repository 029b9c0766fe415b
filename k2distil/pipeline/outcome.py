"""What a run of extraction says at its end, and leaves beside its output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2distil.errors import DataError
from k2distil.pipeline.earlier import ENTRIES, Earlier
from k2distil.pipeline.provenance import ENTRIES_MODULUS
from k2distil.pipeline.summary import (
    Summary,
    beside,
    read_summary,
    write_rejections,
    write_summary,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What stands beside an output, and what of it is among its root attributes."""

    save_path: Path
    figures: dict[str, Any]
    failed: list[dict[str, str]]  # rows of failed.tsv
    dropped: list[dict[str, str]]  # rows of dropped.tsv
    attributes: dict[str, Any]

    def write_around(
        self, merge: Callable[[dict[str, Any]], None], earlier: Earlier | None
    ) -> Summary:
        """Write it, and merge the parts.

        Before the first merge, which may be killed. Behind one onto an earlier output, whose
        rejections and figures a second try starts from.

        Args:
            merge: given the attributes.
            earlier: what is merged onto; None: nothing.
        """
        if earlier is None:
            summary = self._write()
            merge(self.attributes)
            return summary
        if not earlier.is_same:  # what another list had dropped is not to be taken for this one's
            write_rejections(self.save_path, [], [])
        merge(self.attributes)
        return self._write()

    def _write(self) -> Summary:
        write_rejections(self.save_path, self.failed, self.dropped)
        return write_summary(self.save_path, self.figures, len(self.failed))


def summarise(
    save_path: Path,
    reports: Iterable[dict[str, Any]],
    fingerprint: dict[str, Any],
    earlier: Earlier | None,
) -> Outcome:
    """What is to stand beside the output.

    Args:
        save_path: of the output.
        reports: of all its parts.
        fingerprint: of the output.
        earlier: what they are added to; None: they are all.

    Raises:
        DataError: some are missing; another process may have merged and removed them.
    """
    failed: list[dict[str, str]] = []
    dropped: list[dict[str, str]] = []
    audio_seconds = wall_seconds = 0.0
    num_written = num_frames = 0
    entries: list[int | None] = []  # None: made by an older k2distil, which did not say
    for report in reports:  # one at a time: together they are as large as the list
        failed += report["failed"]
        dropped += report["dropped"]
        audio_seconds += report["audio_seconds"]
        wall_seconds += report["wall_seconds"]
        num_written += len(report["written"])
        num_frames += sum(count for count, _ in report["written"].values())
        entries.append(report.get(ENTRIES))
    if earlier is not None:  # a run that tried again what had failed
        dropped = [*earlier.dropped, *dropped]
        audio_seconds += earlier.figures.get("audio_seconds", 0.0)
        wall_seconds += earlier.figures.get("wall_seconds", 0.0)
        num_written += len(earlier.written)
        num_frames += earlier.num_frames
        entries.append(earlier.entries)
    found, wanted = num_written + len(failed) + len(dropped), fingerprint["utterances"]
    if found != wanted:
        raise DataError(
            f"{save_path}: its parts tell of {found} utterances, not {wanted}; run the same "
            "command again"
        )
    figures = {
        "written": num_written,
        "failed": len(failed),
        "dropped": len(dropped),
        "audio_seconds": audio_seconds,
        "wall_seconds": wall_seconds,
        "times_real_time": audio_seconds / wall_seconds if wall_seconds else 0.0,
        "frames": num_frames,
        "dim": fingerprint["dim"],
        "fingerprint": fingerprint,
    }
    known = [each for each in entries if each is not None]
    text = f"{sum(known) % ENTRIES_MODULUS:032x}"
    attributes = {ENTRIES: text} if len(known) == len(entries) else {}
    return Outcome(save_path, figures, failed, dropped, attributes)


def complete_already(save_path: Path) -> Summary:
    """Of a run that found nothing to do."""
    logger.info("%s: complete already", save_path)
    return Summary(save_path, 0, _shown(save_path))


def made_by_others(save_path: Path) -> Summary:
    """Of a process that helped, when another one merged."""
    logger.info("%s: merged by another process", save_path)
    figures = _shown(save_path)
    return Summary(save_path, figures.get("failed", 0), figures)


def _shown(save_path: Path) -> dict[str, Any]:
    figures = read_summary(save_path)
    if figures:
        log_outcome(save_path, figures)
    return figures


def log_outcome(save_path: Path, figures: dict[str, Any]) -> None:
    """How many, how fast, and what failed."""
    logger.info(
        "%s: %.2f hours in %.1f s, %.0f x real time",
        *(save_path, figures["audio_seconds"] / 3600, figures["wall_seconds"]),
        figures["times_real_time"],
    )
    dropped = f", {figures['dropped']} dropped" if figures["dropped"] else ""
    failed = f", {figures['failed']} failed" if figures["failed"] else ""
    where = f": {beside(save_path, 'failed.tsv')}" if failed else ""
    logger.info("%d written%s%s%s", figures["written"], dropped, failed, where)
