"""Utterances that cannot be trained on are found before the first step, not in the middle."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from k2distil.batch import SAMPLE_RATE, Utterance
from k2distil.data import PackedUtterances, audio_seconds
from k2distil.distil import check_lengths
from k2distil.distil.student import Student
from k2distil.distil.vocabulary import normalize, parts_chinese
from k2distil.errors import DataError
from k2distil.pipeline.distil_checked import Checked
from k2distil.pipeline.distil_data import Codes
from k2distil.pipeline.durations import durations

logger = logging.getLogger(__name__)

UNKNOWN_SHOWN = 20  # characters of a test
MISSING_SHOWN = 1000  # of what a student shall learn: they are to be added to its vocabulary
UNFIT_SHOWN = 10  # utterances
LEAST_INPUTS = 2  # frames of features, or samples


def check_utterances(
    utterances: PackedUtterances, student: Student, codes: Codes | None, text_fits: bool = True
) -> Checked:
    """Look at every header, text and number of codes before any of it is used.

    Utterances that have neither text nor codes are not kept: they are of no use.

    Args:
        utterances: of a list.
        student: what they are for.
        codes: of the teacher; None: none are used.
        text_fits: text must be one that the student can learn; for a test any will do.
    """

    def has_codes(utterance: Utterance) -> bool:
        return codes is not None and utterance.key in codes.reader

    of_use = [
        row for row, each in enumerate(utterances) if each.text is not None or has_codes(each)
    ]
    read, read_seconds, kept, seconds, labelled = [], [], [], [], []
    unreadable: list[dict[str, str]] = []
    unfit: list[dict[str, str]] = []
    unknown: list[str] = []  # characters, of one text each
    num_parted = 0  # texts
    found = durations(utterances.at(of_use), audio_seconds, "check")
    for row, (each, length) in zip(of_use, found, strict=True):
        if isinstance(length, DataError):
            unreadable.append(_row(each, str(length)))
        else:
            read.append(row)
            read_seconds.append(length)
    num_inputs = student.num_inputs(torch.tensor([round(s * SAMPLE_RATE) for s in read_seconds]))
    least_frames = student.least_frames if text_fits else 1
    sizes = zip(num_inputs.tolist(), student.num_frames(num_inputs).tolist(), strict=True)
    for row, length, (inputs, frames) in zip(read, read_seconds, sizes, strict=True):
        each = utterances[row]
        fault = _fault_of_audio(length, inputs, frames, least_frames)
        if each.text is not None and text_fits and fault is None:
            fault = _fault_of_text(each.text, length, frames, student)
        if each.text is not None and (fault is not None or not text_fits):
            unknown += filter(None, [_unknown(each.text, student.encode_text(each.text), student)])
        if fault is None and codes is not None and has_codes(each):
            fault = _fault_of_codes(each.key, frames, codes)
        if fault is not None:
            unfit.append(_row(each, fault))
            continue
        num_parted += text_fits and each.text is not None and parts_chinese(each.text)
        kept.append(row)
        seconds.append(length)
        labelled.append(each.text is not None)
    _tell_characters(unknown, num_parted, len(read), text_fits)
    if num_idle := len(utterances) - len(of_use):
        logger.info("%d utterances have neither text nor codes and are not used", num_idle)
    return Checked(
        np.array(kept, np.int64),
        np.array(seconds, np.float64),
        np.array(labelled, bool),
        unreadable,
        unfit,
    )


def _tell_characters(
    unknown: Sequence[str], num_parted: int, num_texts: int, text_fits: bool
) -> None:
    """What a whole list says, where one utterance would not: `unknown` has a text's characters."""
    characters = "".join(sorted(set("".join(unknown))))
    if unknown and text_fits:
        logger.warning(
            "%d texts have characters that are not in the vocabulary, %d different ones: %s",
            *(len(unknown), len(characters), characters[:MISSING_SHOWN]),
        )
    elif unknown:
        logger.warning(
            "%d of %d texts have characters that the student does not know, which count as errors "
            "(%s): write them as those it was trained on, in the same case",
            *(len(unknown), num_texts, characters[:UNKNOWN_SHOWN]),
        )
    if num_parted:
        logger.warning(
            "%d texts have blanks between Chinese characters, which the student learns to write: "
            "remove them from the list, unless it shall",
            num_parted,
        )


def _row(utterance: Utterance, reason: str) -> dict[str, str]:
    return {"key": utterance.key, "wav": utterance.wav, "reason": reason}


def _fault_of_audio(
    seconds: float, num_inputs: int, num_frames: int, least_frames: int
) -> str | None:
    """Features of a single frame have no deviation to be scaled by."""
    if num_inputs >= LEAST_INPUTS and num_frames >= max(1, least_frames):
        return None
    is_masked = 0 < num_frames < least_frames
    masks = f", fewer than its mask_time_length of {least_frames}" if is_masked else ""
    return (
        f"{seconds:.3f} s are too short for the student: {num_inputs} inputs, {num_frames} "
        f"frames{masks}; remove it from the list"
    )


def _unknown(text: str, ids: Sequence[int | None], student: Student) -> str:
    """Characters that the tokenizer does not know; None among the ids: nor has it an <unk>."""
    if student.tokenizer.unk_token_id not in ids and None not in ids:
        return ""
    unknown = sorted(set(normalize(text)) - student.tokenizer.get_vocab().keys() - {" "})
    return "".join(unknown) or student.tokenizer.unk_token


def _fault_of_text(text: str, seconds: float, num_frames: int, student: Student) -> str | None:
    if not normalize(text):
        return 'its "txt" is empty; write the text, or remove "txt" to train it by codes alone'
    ids = student.encode_text(text)
    boundary = getattr(student.tokenizer, "word_delimiter_token", None)
    if boundary and boundary in text:
        return f"{boundary!r} stands for the blank between words; leave it out of the text"
    if student.tokenizer.pad_token_id in ids:
        return f"{student.tokenizer.pad_token!r} is CTC's blank; leave it out of the text"
    outputs = student.model.config.vocab_size
    if beyond := [each for each in ids if each is not None and each >= outputs]:
        token = student.tokenizer.convert_ids_to_tokens(beyond[0])
        return f"{token!r} is token {beyond[0]}, but the student has {outputs}; change the text"
    if unknown := _unknown(text, ids, student):
        return (
            f"characters {unknown!r} are not in the vocabulary; add them to it, or change the text"
        )
    repeats = sum(first == second for first, second in pairwise(ids))  # a blank between them
    if len(ids) + repeats > num_frames:
        return (
            f"{len(ids)} tokens ({repeats} repeated) need {len(ids) + repeats} frames or more, "
            f"the audio ({seconds:.2f} s) gives {num_frames}; correct text or segment, or "
            "subsample less"
        )
    return None


def _fault_of_codes(key: str, num_frames: int, codes: Codes) -> str | None:
    lengths = (codes.reader.num_frames(key), num_frames)
    try:
        check_lengths(*lengths, codes.frames_ratio, codes.offset, key)
    except DataError as error:
        return str(error).removeprefix(f"{key}: ")
    return None


def refuse_unfit(names: str, unfit: Sequence[Mapping[str, str]]) -> None:
    """Say what does not fit, all at once.

    Raises:
        DataError: there is any.
    """
    if unfit:
        lines = [f"  {row['key']} ({row['wav']}): {row['reason']}" for row in unfit[:UNFIT_SHOWN]]
        if len(unfit) > UNFIT_SHOWN:
            lines.append(f"  and {len(unfit) - UNFIT_SHOWN} more")
        raise DataError(
            f"{names}: {len(unfit)} utterances whose text or codes do not fit; correct them, or "
            "leave them out with --bad_utterances skip:\n" + "\n".join(lines)
        )
