"""The codes a student learns: opened, compared with the options, and laid beside its frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from k2distil.batch import Utterance
from k2distil.config import TrainDistilConfig
from k2distil.distil import IGNORE_INDEX, align_codes, check_lengths
from k2distil.distil.student import Student
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.run.rejections import read_rejections
from k2distil.pipeline.run.summary import beside
from k2distil.storage import CodebookReader, JoinedReader, join_codes

logger = logging.getLogger(__name__)

USUAL_SIZE = 256  # entries of a codebook, where an h5 of others does not say
USUAL_SHIFT = 0.02  # seconds between codes, where an h5 of others does not say
RATIO_TOLERANCE = 0.03  # a student without padding has a frame or two less in 100 s
NUM_SHOWN = 10
ASSUMED = {"codebook_size": "--codebook_size", "frame_shift": "--frames_ratio"}  # where not told


@dataclass(frozen=True)
class Codes:
    """A teacher's codes and how they lie beside the student's frames.

    reader: key -> (T, N) integers; frames_ratio: teacher frames per student frame.
    """

    reader: JoinedReader
    num_codebooks: int
    codebook_size: int
    frames_ratio: int
    offset: int = 0

    def none(self, num_frames: int) -> Tensor:
        """(num_frames, N * ratio) int64, of an utterance without codes."""
        return torch.full((num_frames, self.num_codebooks * self.frames_ratio), IGNORE_INDEX)

    def aligned(self, key: str, num_frames: int) -> Tensor:
        """Those of an utterance with so many frames of the student: (num_frames, N * ratio) int64.

        Raises:
            DataError: they are not what the file was taken for, or of other audio.
        """
        found, place = self.reader[key], f"{self.reader.file_of(key).path}[{key}]"
        if found.shape[1:] != (self.num_codebooks,):
            raise DataError(
                f"{place}: {found.shape}, expected (num_frames, {self.num_codebooks}); make its "
                "codes anew"
            )
        if len(found) and found.max() >= self.codebook_size:
            raise DataError(
                f"{place}: a code of {found.max()}, but codebooks of {self.codebook_size}; give "
                "the right --codebook_size or make the file anew"
            )
        if found.dtype.kind == "i" and ((found < 0) & (found != IGNORE_INDEX)).any():
            raise DataError(
                f"{place}: a code of {found.min()}; expected 0 and more, or {IGNORE_INDEX} where "
                "there is none; make the file anew"
            )
        return align_codes(found, num_frames, self.frames_ratio, self.offset, key)

    def fault(self, key: str, num_frames: int) -> str | None:
        """Why codes cannot be of audio with so many frames of the student; None: they can."""
        lengths = (self.reader.num_frames(key), num_frames)
        try:
            check_lengths(*lengths, self.frames_ratio, self.offset, key)
        except DataError as error:
            return str(error).removeprefix(f"{key}: ")
        return None


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
    kinds = [_kind_of(each, config, student) for each in readers]
    told = [{**reader.meta, **asdict(kind)} for reader, kind in zip(readers, kinds, strict=True)]
    joined, first = join_codes(readers, told, ASSUMED), kinds[0]
    sizes = (first.num_codebooks, first.codebook_size, first.frames_ratio)
    return Codes(joined, *sizes, config.codebook_offset)


@dataclass(frozen=True)
class _Kind:
    """What the codes of one output are taken to be."""

    num_codebooks: int
    codebook_size: int
    frame_shift: float  # seconds
    frames_ratio: int


def _kind_of(reader: CodebookReader, config: TrainDistilConfig, student: Student) -> _Kind:
    path, meta = reader.path, reader.meta
    key, width = _first_of(reader)
    if not meta:
        logger.warning(
            "%s: made by another tool, it does not say its sizes and frame shift: %d entries and "
            "a code every %g ms, unless --codebook_size and --frames_ratio say otherwise",
            *(path, USUAL_SIZE, 1000 * USUAL_SHIFT),
        )
    num_codebooks = int(meta.get("num_codebooks") or width)
    size = int(meta.get("codebook_size") or config.codebook_size or USUAL_SIZE)
    errors = [
        f"--{name} {given}: {path} has {actual}; leave it out, or give the codes you mean"
        for name, given, actual in [
            ("num_codebooks", config.num_codebooks, num_codebooks),
            ("codebook_size", config.codebook_size, size),
        ]
        if given not in (None, actual)
    ]
    if width != num_codebooks:
        errors.append(f"{path}[{key}]: {width} codes a frame, {num_codebooks} by its attributes")
    shift = float(meta.get("frame_shift") or _usual_shift(config, student))
    ratio = max(1, round(student.frame_shift / shift))
    errors += _faults_of_ratio(ratio, shift, path, config, student)
    if errors:
        raise ConfigError("\n".join(errors))
    logger.info(
        "%s: %d utterances, %d codebooks of %d, %d teacher frames per student frame",
        *(path, len(reader), num_codebooks, size, ratio),
    )
    return _Kind(num_codebooks, size, shift, ratio)


def _first_of(reader: CodebookReader) -> tuple[str, int]:
    """A key, and the number of its codes per frame."""
    if not len(reader):
        raise DataError(f"{reader.path}: no utterances in it; run save_codebook.sh --save_codebook")
    key = next(iter(reader))
    array = reader[key]
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise DataError(
            f"{reader.path}[{key}]: expected integers (num_frames, num_codebooks), got "
            f"{array.dtype} {array.shape}; give codes, not embeddings"
        )
    return key, array.shape[1]


def _faults_of_ratio(
    ratio: int, shift: float, path: Path, config: TrainDistilConfig, student: Student
) -> Iterator[str]:
    """Why codes every `shift` s cannot lie `ratio` to a frame of the student."""
    frames = f"a frame every {1000 * student.frame_shift:.4g} ms"
    if abs(student.frame_shift / shift - ratio) > RATIO_TOLERANCE * ratio:
        yield (
            f"{path}: a code every {1000 * shift:g} ms, but the student has {frames}, which is no "
            "multiple; choose another subsampling"
        )
    elif config.frames_ratio not in (None, ratio):
        yield (
            f"--frames_ratio {config.frames_ratio}: it is {ratio}: {path} has a code every "
            f"{1000 * shift:g} ms, the student {frames}; leave it out"
        )


def _usual_shift(config: TrainDistilConfig, student: Student) -> float:
    """Seconds between the codes of a file that does not say: --frames_ratio knows."""
    ratio = config.frames_ratio
    return USUAL_SHIFT if ratio is None else student.frame_shift / ratio


def refuse_other_list(names: str, utterances: Sequence[Utterance], codes: Codes) -> None:
    """Refuse codes of which a list has no key at all.

    Raises:
        DataError: with a key of each.
    """
    if not any(each.key in codes.reader for each in utterances):
        raise DataError(
            f"{codes.reader.names}: has codes for none of the {len(utterances)} utterances of "
            f"{names}; its keys look like {next(iter(codes.reader))!r}, the list's like "
            f"{utterances[0].key!r}; give the codes made from this list"
        )


def check_coverage(
    names: str, utterances: Sequence[Utterance], codes: Codes, ignore_missing: bool
) -> None:
    """Compare the keys of a list and of the codes.

    Raises:
        DataError: none of the list's keys has codes; or some have none and none may be missing.
    """
    refuse_other_list(names, utterances, codes)
    missing = [each.key for each in utterances if each.key not in codes.reader]
    if not missing:
        return
    for reader in codes.reader.readers:
        if (lost := next((key for key in reader if key not in reader), None)) is not None:
            raise DataError(
                f"{reader.path}: damaged, it names {lost!r} and does not find it; copy it again, "
                "or remove it and make it anew"
            )
    shown = ", ".join(missing[:NUM_SHOWN]) + (", ..." if len(missing) > NUM_SHOWN else "")
    message = f"{codes.reader.names}: no codes for {len(missing)} of {len(utterances)} utterances "
    message += f"of {names}: {shown}"
    remedy = "the save_codebook.sh that made it adds what is new where --train_data names all lists"
    if told := _told_of(missing, codes.reader):
        message += f" ({told})"
        remedy = "remove these from the list, or put right what is said there; " + remedy
    if not ignore_missing:
        raise DataError(
            f"{message}; {remedy}, or --missing_codes ignore trains them on their text alone"
        )
    logger.warning("%s", message)


def _told_of(missing: Sequence[str], reader: JoinedReader) -> str:
    """How many of these keys are in the tables beside the codes, and in which."""
    wanted, told = set(missing), []
    for path in (each.path for each in reader.readers):
        for name in ("failed", "dropped"):
            with suppress(DataError):  # a table that another program saved
                if shared := wanted & {row["key"] for row in read_rejections(path, name)}:
                    told.append(f"{len(shared)} are in {beside(path, f'{name}.tsv')}")
    return ", ".join(told)
