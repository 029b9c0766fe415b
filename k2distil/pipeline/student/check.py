"""Utterances that cannot be trained on are found before the first step, not in the middle."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from k2distil.batch import SAMPLE_RATE, Rejection, Utterance, in_words, rejection
from k2distil.data import PackedUtterances, audio_seconds
from k2distil.distil.student import Student
from k2distil.errors import DataError, counted
from k2distil.pipeline.run.durations import durations
from k2distil.pipeline.student.checked import Checked
from k2distil.pipeline.student.codes import Codes
from k2distil.pipeline.student.text import TextNotes, fault_of_text

logger = logging.getLogger(__name__)

UNFIT_SHOWN = 10  # utterances
LONG = 60.0  # seconds; 120 s take 7 GB of the default student, 300 s 31 GB
USED_IN_PART = "can be used"  # of a reason
LEAST_INPUTS = 2  # frames of features, or samples


def check_utterances(
    utterances: PackedUtterances,
    student: Student,
    codes: Codes | None,
    *,
    for_training: bool = True,
    decode_timeout: float = math.inf,
    max_seconds: float | None = None,
) -> Checked:
    """Look at every header, text and number of codes before any of it is used.

    Utterances that have neither text nor codes are not kept: they are of no use. Those of which one
    fits and the other does not are kept, and among the unfit; without a text that fits they are not
    labelled.

    Args:
        utterances: of a list.
        student: what they are for.
        codes: of the teacher; None: none are used.
        for_training: text must be one that the student can learn, and codes of the same audio; in
            a test any text will do, and codes that are of other audio do not count.
        decode_timeout: seconds that a command of the list may take.
        max_seconds: longer audio is not kept.
    """

    def has_codes(utterance: Utterance) -> bool:
        return codes is not None and utterance.key in codes.reader

    of_use = [
        row for row, each in enumerate(utterances) if each.text is not None or has_codes(each)
    ]
    measured, unreadable = _measure(utterances, of_use, student, decode_timeout)
    measured, too_long = _without_long(measured, utterances, max_seconds)
    least_frames = student.least_frames if for_training else 1
    notes = TextNotes(student, for_training)
    unfit: list[Rejection] = []
    num_of_other_audio = 0  # codes in a test
    labelled, coded = (np.zeros(len(measured.rows), bool) for _ in range(2))
    for place, (row, size) in enumerate(measured):
        each = utterances[row]
        fault = _fault_of_audio(each, size, least_frames)
        faults = {} if fault else _faults(each, size, student, codes, for_training)
        if not for_training and faults.pop("codes", None) is not None:
            num_of_other_audio += 1
        fitting = [name for name, found in faults.items() if found is None]
        labelled[place], coded[place] = "text" in fitting, "codes" in fitting
        if each.text is not None:
            notes.note(each.text, "text" in fitting)
        if reasons := [found for found in (fault, *faults.values()) if found is not None]:
            reasons += [f"its {name} {USED_IN_PART}" for name in fitting]
            unfit.append(rejection(each, "; ".join(reasons)))
    notes.tell(len(measured.rows))
    if num_of_other_audio:
        logger.warning(
            "%d utterances have codes of other audio: they are tested by their text alone",
            num_of_other_audio,
        )
    if num_idle := len(utterances) - len(of_use):
        logger.info("%d utterances have neither text nor codes and are not used", num_idle)
    fits = labelled | coded
    rows, seconds = measured.rows[fits], measured.seconds[fits]
    if for_training and max_seconds is None and len(seconds) and seconds.max() > LONG:
        logger.warning(
            "%s: %.0f s of audio in one piece; a student's memory grows with its square: "
            "--max_seconds leaves longer audio out",
            *(utterances[int(rows[seconds.argmax()])].key, seconds.max()),
        )
    return Checked(rows, seconds, labelled[fits], coded[fits], unreadable, unfit, too_long)


class _Size(NamedTuple):
    """How long an utterance is to the student."""

    seconds: float
    num_inputs: int  # frames of features, or samples
    num_frames: int


@dataclass(frozen=True)
class _Measured:
    """The utterances whose header can be read: their places in the list and sizes, (U,) each."""

    rows: np.ndarray
    seconds: np.ndarray
    num_inputs: np.ndarray
    num_frames: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, _Size]]:
        columns = (self.seconds, self.num_inputs, self.num_frames)
        for row, *sizes in zip(self.rows, *columns, strict=True):
            yield int(row), _Size(float(sizes[0]), int(sizes[1]), int(sizes[2]))


def _measure(
    utterances: PackedUtterances, rows: Sequence[int], student: Student, decode_timeout: float
) -> tuple[_Measured, list[Rejection]]:
    """-> the readable ones of these rows, and rows of failed.tsv of the others."""
    read, seconds = [], []
    unreadable: list[Rejection] = []
    seconds_of = functools.partial(audio_seconds, timeout=decode_timeout)
    found = durations(utterances.at(rows), seconds_of, "check")
    for row, (each, length) in zip(rows, found, strict=True):
        if isinstance(length, DataError):
            unreadable.append(rejection(each, str(length)))
        else:
            read.append(row)
            seconds.append(length)
    inputs = student.num_inputs(torch.tensor([round(each * SAMPLE_RATE) for each in seconds]))
    frames = student.num_frames(inputs)
    columns = (np.array(read, np.int64), np.array(seconds, np.float64))
    return _Measured(*columns, inputs.numpy(), frames.numpy()), unreadable


def _without_long(
    measured: _Measured, utterances: PackedUtterances, max_seconds: float | None
) -> tuple[_Measured, list[Rejection]]:
    """-> (those of at most max_seconds, rows of dropped.tsv of the others)."""
    if max_seconds is None:
        return measured, []
    is_long = measured.seconds > max_seconds
    too_long = [
        rejection(utterances[int(row)], f"{seconds:.2f} s, more than --max_seconds")
        for row, seconds in zip(measured.rows[is_long], measured.seconds[is_long], strict=True)
    ]
    return _Measured(*(column[~is_long] for column in vars(measured).values())), too_long


def _fault_of_audio(utterance: Utterance, size: _Size, least_frames: int) -> str | None:
    """Features of a single frame have no deviation to be scaled by."""
    if size.num_inputs >= LEAST_INPUTS and size.num_frames >= least_frames:
        return None
    if size.seconds == 0 and (utterance.start is not None or utterance.end is not None):
        return "its segment is empty, or not within the audio; correct its times in the list"
    return (
        f"{size.seconds:.3f} s are too short for the student: {size.num_inputs} inputs, "
        f"{size.num_frames} frames of at least {least_frames}; remove it from the list"
    )


def _faults(
    utterance: Utterance, size: _Size, student: Student, codes: Codes | None, for_training: bool
) -> dict[str, str | None]:
    """What is wrong with each thing that there is to learn from, or to test by; None: nothing."""
    faults: dict[str, str | None] = {}
    if utterance.text is not None:
        sizes = (size.seconds, size.num_frames)
        faults["text"] = fault_of_text(utterance.text, *sizes, student) if for_training else None
    if codes is not None and utterance.key in codes.reader:
        faults["codes"] = codes.fault(utterance.key, size.num_frames)
    return faults


def refuse_unfit(names: str, unfit: Sequence[Rejection]) -> None:
    """Say what does not fit, all at once.

    Raises:
        DataError: there is any.
    """
    if unfit:
        lines = [f"  {in_words(row)}" for row in unfit[:UNFIT_SHOWN]]
        if len(unfit) > UNFIT_SHOWN:
            lines.append(f"  and {len(unfit) - UNFIT_SHOWN} more")
        raise DataError(
            f"{names}: {counted(len(unfit), 'utterance')} whose audio, text or codes do not fit; "
            "correct them, or go on with what fits of them by --bad_utterances skip:\n"
            + "\n".join(lines)
        )
