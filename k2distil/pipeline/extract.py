"""All utterances -> one h5: part by part, so that a crash loses at most the part in work."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k2distil.atomic import locked
from k2distil.batch import Utterance
from k2distil.config import SaveCodebookConfig, SaveEmbeddingConfig
from k2distil.data import decode_ahead
from k2distil.errors import DataError
from k2distil.pipeline.embed import Embedded, EmbedOptions, ValuesOf, embed
from k2distil.pipeline.progress import Progress
from k2distil.pipeline.provenance import request
from k2distil.pipeline.summary import (
    Summary,
    beside,
    read_rejections,
    read_summary,
    versions,
    write_config,
    write_rejections,
    write_summary,
)
from k2distil.pipeline.teacher import embed_options, num_workers
from k2distil.storage import (
    PartFolder,
    UtteranceReader,
    finished,
    note_for_merge,
    refuse_foreign,
    remove_parts,
)
from k2distil.teachers import Teacher

logger = logging.getLogger(__name__)

NO_CONTENT = {"teacher"}  # attributes that do not decide the content: the digest does


def extract(
    config: SaveEmbeddingConfig | SaveCodebookConfig,
    utterances: Sequence[Utterance],
    teacher: Teacher,
    values_of: ValuesOf,
    attributes: dict[str, Any],
) -> Summary:
    """Write the values of every utterance to config.save_path; resumes where a run stopped.

    Where the output is there already, only the utterances that had failed are tried again.

    Args:
        config: what the user asked for.
        utterances: in the order of the h5.
        teacher: what embeds.
        values_of: what to keep of its embeddings.
        attributes: root attributes of the h5; a run with other ones does not resume this one.

    Raises:
        DataError: the output cannot be written, or was made with other settings.
    """
    save_path = config.save_path
    options = embed_options(config, config.wenet_yaml)
    fingerprint = {name: attributes[name] for name in attributes.keys() - NO_CONTENT}
    fingerprint |= request(config, utterances, options.limits)
    earlier = _earlier(config, fingerprint)
    todo = [each for each in utterances if earlier is None or each.key not in earlier]
    if earlier is not None and not todo:
        remove_parts(save_path)
        return _complete_already(save_path)
    parts = _open_parts(config, fingerprint, len(todo), is_retry=earlier is not None)
    attributes = {**attributes, "list": fingerprint["list"], "versions": json.dumps(versions())}
    with locked(parts.folder / "plan.json"):
        write_config(save_path, config)
        keys = [utterance.key for utterance in utterances]
        note_for_merge(parts, keys, attributes, onto=earlier is not None)
        _write_parts(config, parts, todo, teacher, values_of, options)
        # The merge removes the parts, so what they say of themselves is kept first.
        reports = list(parts.reports())
        summary = summarise(save_path, reports, fingerprint, earlier)
        if earlier is None or any(report["written"] for report in reports):
            parts.merge(keys, attributes, onto=earlier is not None)
        else:  # they failed again: the h5 stays as it is
            remove_parts(save_path)
    log_outcome(save_path, summary.figures)
    return summary


def _earlier(
    config: SaveEmbeddingConfig | SaveCodebookConfig, fingerprint: dict[str, Any]
) -> set[str] | None:
    """Keys that an earlier run wrote or dropped; None: there is no output of these settings.

    Raises:
        DataError: an output of other settings is in the way, and there is no --force.
    """
    try:
        if not finished(config.save_path, fingerprint):
            return None
    except DataError as error:
        if not config.force:
            raise
        refuse_foreign(config.save_path)
        logger.warning("to be replaced because of --force: %s", error)
        return None
    dropped = read_rejections(config.save_path, "dropped")
    return {*UtteranceReader(config.save_path), *(row["key"] for row in dropped)}


def _open_parts(
    config: SaveEmbeddingConfig | SaveCodebookConfig,
    fingerprint: dict[str, Any],
    num_utterances: int,
    is_retry: bool,
) -> PartFolder:
    """The parts to be made, some of them perhaps there already.

    Raises:
        DataError: parts of other settings are in the way, and there is no --force.
    """
    plan = (config.save_path, fingerprint, num_utterances, config.part_utterances)
    try:
        return PartFolder(*plan)
    except DataError as error:
        # What was not removed behind the merge is of no use to a retry.
        if not config.force and not is_retry:
            raise
        logger.warning("starting over: %s", error)
        remove_parts(config.save_path)
        return PartFolder(*plan)


def _write_parts(
    config: SaveEmbeddingConfig | SaveCodebookConfig,
    parts: PartFolder,
    utterances: Sequence[Utterance],
    teacher: Teacher,
    values_of: ValuesOf,
    options: EmbedOptions,
) -> None:
    """Make the parts that are missing."""
    size = config.part_utterances
    chunks = [utterances[start : start + size] for start in range(0, len(utterances), size)]
    missing = parts.missing()
    if len(missing) < len(chunks):
        num_done = len(chunks) - len(missing)
        logger.info("resuming: %d of %d parts are done", num_done, len(chunks))
    todo = [utterance for part in missing for utterance in chunks[part]]
    decoded = decode_ahead(todo, num_workers(config), config.channel)
    progress = Progress(
        parts.save_path.name, len(utterances), "utterances", len(utterances) - len(todo)
    )
    with progress, contextlib.closing(decoded):
        started = time.monotonic()
        for part in missing:
            of_part = itertools.islice(decoded, len(chunks[part]))
            embedded = embed(of_part, teacher, values_of, options)
            for rejection in embedded.failed:
                logger.warning("failed: %s", rejection.reason)
            # Writing a part counts to the next: its report is written with it.
            seconds, started = time.monotonic() - started, time.monotonic()
            parts.write(part, embedded.values, _report(embedded, seconds))
            speed = embedded.audio_seconds / seconds
            progress.advance(len(chunks[part]), f"{speed:.0f} x real time")


def _report(embedded: Embedded, wall_seconds: float) -> dict[str, Any]:
    return {
        "failed": [each.row() for each in embedded.failed],
        "dropped": [each.row() for each in embedded.dropped],
        "audio_seconds": embedded.audio_seconds,
        "wall_seconds": wall_seconds,
    }


def summarise(
    save_path: Path,
    reports: Sequence[dict[str, Any]],
    fingerprint: dict[str, Any],
    earlier: set[str] | None,
) -> Summary:
    """Write what stands beside the output.

    Args:
        save_path: of the output.
        reports: of all its parts.
        fingerprint: of the output.
        earlier: keys that an earlier run wrote or dropped; None: there was none.
    """
    failed = [row for report in reports for row in report["failed"]]
    dropped = [row for report in reports for row in report["dropped"]]
    written = {key: count for report in reports for key, count in report["written"].items()}
    audio_seconds = sum(report["audio_seconds"] for report in reports)
    wall_seconds = sum(report["wall_seconds"] for report in reports)
    num_written, num_frames = len(written), sum(count for count, _ in written.values())
    if earlier is not None:  # a run that tried again what had failed
        figures = read_summary(save_path)
        reader = UtteranceReader(save_path)
        dropped = [*read_rejections(save_path, "dropped"), *dropped]
        audio_seconds += figures.get("audio_seconds", 0.0)
        wall_seconds += figures.get("wall_seconds", 0.0)
        num_written += len(reader)
        num_frames += sum(map(reader.num_frames, reader))
    assert num_written + len(failed) + len(dropped) == fingerprint["utterances"]
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
    return write_summary(save_path, figures, len(failed))


def _complete_already(save_path: Path) -> Summary:
    figures = read_summary(save_path)
    logger.info("%s: complete already", save_path)
    if figures:
        log_outcome(save_path, figures)
    return Summary(save_path, 0, figures)


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
