"""What a run of extraction says at its end, and leaves beside its output."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from k2distil.batch import Rejection
from k2distil.errors import DataError
from k2distil.pipeline.extraction.earlier import Earlier
from k2distil.pipeline.run.digests import ENTRIES, entries_as_text
from k2distil.pipeline.run.rejections import write_rejections
from k2distil.pipeline.run.summary import Summary, beside, read_summary, write_summary
from k2distil.storage import PartFolder, remove_parts

logger = logging.getLogger(__name__)


def summarise(parts: PartFolder, earlier: Earlier | None) -> Summary:
    """Write what stands beside the output.

    Args:
        parts: all of them done.
        earlier: what they are added to; None: they are all.

    Raises:
        DataError: some are missing; another process may have merged and removed them.
    """
    save_path, fingerprint = parts.save_path, parts.fingerprint
    failed: list[Rejection] = []
    dropped: list[Rejection] = []
    audio_seconds = wall_seconds = 0.0
    num_written = num_frames = 0
    entries: list[int | None] = []  # None: made by an older k2distil, which did not say
    for report in parts.reports():  # one at a time: together they are as large as the list
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
    write_rejections(save_path, failed, dropped)
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
    if len(known) == len(entries):
        figures[ENTRIES] = entries_as_text(sum(known))
    return write_summary(save_path, figures, len(failed))


def finish_output(
    parts: PartFolder, keys: Sequence[str], attributes: Mapping[str, Any], earlier: Earlier | None
) -> Summary:
    """All parts -> the output, and what stands beside it.

    Args:
        parts: all of them done.
        keys: of the whole list, in its order.
        attributes: of the root.
        earlier: what they are added to; None: they are all.

    Raises:
        DataError, DamagedPartError: see `PartFolder.merge`.
    """
    # Before the merge, which removes the parts and with them what they say of themselves.
    summary = summarise(parts, earlier)
    figures = summary.figures
    if earlier is not None and earlier.is_same and figures["written"] == len(earlier.written):
        remove_parts(parts.save_path)  # they failed again: the h5 stays as it is
    else:
        known = {name: figures[name] for name in {ENTRIES} & figures.keys()}
        parts.merge(keys, {**attributes, **known}, onto=earlier is not None)
    _log_outcome(parts.save_path, figures)
    return summary


def outcome_of(save_path: Path, what: str) -> Summary:
    """The summary of an output that is merged; `what` happened to it, for the log."""
    logger.info("%s: %s", save_path, what)
    if figures := read_summary(save_path):
        _log_outcome(save_path, figures)
    return Summary(figures.get("failed", 0), figures)


def _log_outcome(save_path: Path, figures: dict[str, Any]) -> None:
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
