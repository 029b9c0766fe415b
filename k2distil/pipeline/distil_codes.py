"""The codes a student learns: opened, compared with the options, and laid beside its frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from k2distil.batch import Utterance
from k2distil.config import TrainDistilConfig
from k2distil.distil.student import Student
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.distil_data import Codes
from k2distil.storage import CodebookReader, JoinedReader, join_codes

logger = logging.getLogger(__name__)

USUAL_SIZE = 256  # entries of a codebook, where an h5 of others does not say
USUAL_SHIFT = 0.02  # seconds between codes, where an h5 of others does not say
RATIO_TOLERANCE = 0.03  # a student without padding has a frame or two less in 100 s
NUM_SHOWN = 10
ASSUMED = {"codebook_size": "--codebook_size", "frame_shift": "--frames_ratio"}  # where not told


def open_codes(paths: Sequence[Path], config: TrainDistilConfig, student: Student) -> Codes:
    """Open the codes, and find how many of their frames a frame of the student covers.

    Args:
        paths: of outputs of save_codebook.sh; of a key in more than one the first one's count.
        config: its options for codes.
        student: what is to learn them.

    Raises:
        ConfigError: options that contradict a file, frame shifts that do not fit, outputs of
            different quantizers.
        DataError: no file of codes, or one key for two utterances.
    """
    readers = [CodebookReader(path) for path in paths]
    opened = [_codes_of(reader, config, student) for reader in readers]
    joined = join_codes(readers, [_kind_of(each) for each in opened], ASSUMED)
    return replace(opened[0], reader=joined)


def _codes_of(reader: CodebookReader, config: TrainDistilConfig, student: Student) -> Codes:
    path = reader.path
    if not len(reader):
        raise DataError(f"{path}: no utterances in it; run save_codebook.sh --save_codebook")
    first = next(iter(reader))
    array = reader[first]
    shape, dtype = array.shape, array.dtype
    if len(shape) != 2 or dtype.kind not in "iu":
        raise DataError(
            f"{path}[{first}]: expected integers (num_frames, num_codebooks), got {dtype} {shape}; "
            "give codes, not embeddings"
        )
    meta: dict[str, Any] = reader.meta
    if not meta:
        logger.warning(
            "%s: made by another tool, it does not say its sizes and frame shift: %d entries and "
            "a code every %g ms, unless --codebook_size and --frames_ratio say otherwise",
            *(path, USUAL_SIZE, 1000 * USUAL_SHIFT),
        )
    num_codebooks = int(meta.get("num_codebooks") or shape[1])
    size = int(meta.get("codebook_size") or config.codebook_size or USUAL_SIZE)
    errors = [
        f"--{name} {given}: {path} has {actual}; leave it out, or give the codes you mean"
        for name, given, actual in [
            ("num_codebooks", config.num_codebooks, num_codebooks),
            ("codebook_size", config.codebook_size, size),
        ]
        if given not in (None, actual)
    ]
    if shape[1] != num_codebooks:
        errors.append(
            f"{path}[{first}]: {shape[1]} codes a frame, {num_codebooks} by its attributes"
        )
    shift = float(meta.get("frame_shift") or _usual_shift(config, student))
    exact = student.frame_shift / shift
    ratio = max(1, round(exact))
    if abs(exact - ratio) > RATIO_TOLERANCE * ratio:
        errors.append(
            f"{path}: a code every {1000 * shift:g} ms, but the student has a frame every "
            f"{1000 * student.frame_shift:.4g} ms, which is no multiple; choose another subsampling"
        )
    elif config.frames_ratio not in (None, ratio):
        errors.append(
            f"--frames_ratio {config.frames_ratio}: it is {ratio}: {path} has a code every "
            f"{1000 * shift:g} ms, the student a frame every {1000 * student.frame_shift:.4g} ms; "
            "leave it out"
        )
    if errors:
        raise ConfigError("\n".join(errors))
    logger.info(
        "%s: %d utterances, %d codebooks of %d, %d teacher frames per student frame",
        *(path, len(reader), num_codebooks, size, ratio),
    )
    return Codes(JoinedReader([reader]), num_codebooks, size, shift, ratio, config.codebook_offset)


def _kind_of(codes: Codes) -> dict[str, Any]:
    """What the codes of one output are taken to be."""
    meta = codes.reader.readers[0].meta
    sizes = {name: getattr(codes, name) for name in ("num_codebooks", "codebook_size")}
    return {**meta, **sizes, "frame_shift": codes.frame_shift}


def _usual_shift(config: TrainDistilConfig, student: Student) -> float:
    """Seconds between the codes of a file that does not say: --frames_ratio knows."""
    ratio = config.frames_ratio
    return USUAL_SHIFT if ratio is None else student.frame_shift / ratio


def check_coverage(
    names: str, utterances: Sequence[Utterance], codes: Codes, ignore_missing: bool
) -> None:
    """Compare the keys of a list and of the codes.

    Raises:
        DataError: none of the list's keys has codes; or some have none and none may be missing.
    """
    missing = [each.key for each in utterances if each.key not in codes.reader]
    if len(missing) == len(utterances):
        raise DataError(
            f"{codes.reader.names}: has codes for none of the {len(utterances)} utterances of "
            f"{names}; its keys look like {next(iter(codes.reader))!r}, the list's like "
            f"{utterances[0].key!r}; give the codes made from this list"
        )
    if not missing:
        return
    shown = ", ".join(missing[:NUM_SHOWN]) + (", ..." if len(missing) > NUM_SHOWN else "")
    message = f"{codes.reader.names}: no codes for {len(missing)} of {len(utterances)} utterances "
    message += f"of {names}: {shown}"
    if not ignore_missing:
        raise DataError(
            f"{message}; the save_codebook.sh that made it adds them where --train_data names all "
            "lists, or --missing_codes ignore trains them on their text alone"
        )
    logger.warning("%s", message)
