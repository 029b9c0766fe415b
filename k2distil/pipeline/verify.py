"""k2distil verify: is a file of codes or embeddings what it says, and does it cover the list?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from k2distil.batch import Utterance
from k2distil.config import VerifyConfig
from k2distil.config.options import ListOptions
from k2distil.data import audio_seconds, sample_utterances
from k2distil.errors import ConfigError, DataError, counted
from k2distil.pipeline.run.digests import warn_of_other_entries
from k2distil.pipeline.run.durations import durations
from k2distil.pipeline.run.lists import read_lists
from k2distil.pipeline.run.rejections import read_rejections
from k2distil.pipeline.run.summary import Summary, beside
from k2distil.storage import Problems, UtteranceReader, check_h5
from k2distil.yaml_file import read_yaml

logger = logging.getLogger(__name__)

TOLERANCE = 3  # frames: teachers differ in what they make of the ends


def verify(config: VerifyConfig) -> Summary:
    """Look for all that can be wrong; the report fails if anything is.

    Raises:
        ConfigError: neither or both of --codebook_path and --embedding_path.
        DataError: there is no such file, or the list is wrong.
    """
    path, kind = _file_of(config)
    utterances = None if config.train_data is None else _utterances_of(config, path)
    problems = Problems()
    content = check_h5(path, kind, problems)
    frame_shift = content.meta.get("frame_shift")
    in_list, is_whole = "", not problems.counts
    if utterances is None:
        logger.info("no --train_data: keys and lengths are not compared with a list")
    else:
        dropped = {row["key"] for row in read_rejections(path, "dropped")}
        _check_keys(path, utterances, content.num_frames, dropped, problems)
        if isinstance(frame_shift, float) and frame_shift > 0:
            _check_lengths(utterances, content.num_frames, frame_shift, problems)
        if is_whole:
            warn_of_other_entries(UtteranceReader(path), utterances)
        num_dropped = sum(each.key in dropped for each in utterances)
        in_list = f" of {len(utterances):,} in the list, {num_dropped:,} dropped"
    num_frames = sum(content.num_frames.values())
    num_there = counted(len(content.num_frames), "utterance")
    counts = f"{path}: {num_there}{in_list}, {counted(num_frames, 'frame')}"
    if isinstance(frame_shift, float):
        counts += f", {num_frames * frame_shift / 3600:.2f} hours"
    if not problems.counts:
        return Summary(report=f"{counts}: all right")
    report = "\n".join([counts, *problems.lines()])
    return Summary(sum(problems.counts.values()), report=report)


def _file_of(config: VerifyConfig) -> tuple[Path, str]:
    if config.codebook_path is not None and config.embedding_path is None:
        return config.codebook_path, "codes"
    if config.embedding_path is not None and config.codebook_path is None:
        return config.embedding_path, "embedding"
    raise ConfigError("--codebook_path, --embedding_path: give one of them, the file to look at")


def _utterances_of(config: VerifyConfig, path: Path) -> list[Utterance]:
    """Those of the list that the file was asked for: a sample, where its config.yaml says so."""
    utterances = read_lists(config.train_data, config, path, with_text=False)
    resolved = beside(path, "config.yaml")
    options = read_yaml(resolved) if resolved.exists() else {}
    if options.get("num_audio") is None:
        return utterances
    sample = sample_utterances(
        utterances,
        options["num_audio"],
        options.get("num_audio_from", "random"),
        options.get("seed", 0),
    )
    logger.info("%s: a sample of %d of %d utterances", resolved, len(sample), len(utterances))
    return sample


def _check_keys(
    path: Path,
    utterances: Sequence[Utterance],
    num_frames: dict[str, int],
    dropped: set[str],
    problems: Problems,
) -> None:
    failed = {row["key"]: row["reason"] for row in read_rejections(path, "failed")}
    listed = {each.key for each in utterances}
    for each in utterances:
        if each.key not in num_frames and each.key not in dropped:
            reason = failed.get(each.key)
            problems.add("missing", f"{each.key}: failed: {reason}" if reason else each.key)
    for key in num_frames:
        if key not in listed:
            problems.add("not in the list", key)


def _check_lengths(
    utterances: Sequence[Utterance],
    num_frames: dict[str, int],
    frame_shift: float,
    problems: Problems,
) -> None:
    """Compare the frames of every utterance with the duration that its header tells."""
    present = [each for each in utterances if each.key in num_frames]
    seconds_of = partial(audio_seconds, timeout=ListOptions.decode_timeout)
    for each, seconds in durations(present, seconds_of, "durations"):
        if isinstance(seconds, DataError):
            problems.add("audio", str(seconds))
        elif abs(num_frames[each.key] - seconds / frame_shift) > TOLERANCE:
            expected = f"about {seconds / frame_shift:.0f} for {seconds:.2f} s"
            what = f"{each.key}: {num_frames[each.key]}, expected {expected}"
            problems.add("number of frames", what)
