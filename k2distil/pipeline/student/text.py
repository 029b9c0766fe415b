"""Texts that a student cannot learn, and what a whole list of texts should be told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

from k2distil.distil.student import Student
from k2distil.distil.vocabulary import normalize, parts_chinese
from k2distil.errors import counted

logger = logging.getLogger(__name__)

UNKNOWN_SHOWN = 20  # characters of a test
MISSING_SHOWN = 1000  # of what a student shall learn: they are to be added to its vocabulary


class TextNotes:
    """What one utterance would not say: noted text by text, told once for the whole list.

    for_training: as in `check_utterances`.
    """

    def __init__(self, student: Student, for_training: bool) -> None:
        self._student, self._for_training = student, for_training
        self._unknown: list[str] = []  # characters, of one text each
        self._num_parted = 0  # texts

    def note(self, text: str, is_kept: bool) -> None:
        """Look at one text; is_kept: its utterance can be used."""
        if not (is_kept and self._for_training):
            ids = self._student.encode_text(text)
            self._unknown += filter(None, [unknown_characters(text, ids, self._student)])
        self._num_parted += is_kept and self._for_training and parts_chinese(text)

    def tell(self, num_texts: int) -> None:
        """Warn of what was noted in so many texts."""
        num_unknown = len(self._unknown)
        characters = "".join(sorted(set("".join(self._unknown))))
        if num_unknown and self._for_training:
            logger.warning(
                "%s with characters that are not in the vocabulary, %d different ones: %s",
                *(counted(num_unknown, "text"), len(characters), characters[:MISSING_SHOWN]),
            )
        elif num_unknown:
            logger.warning(
                "%d of %d texts have characters that the student does not know, which count as "
                "errors (%s%s): write them in the case, and in the forms, of what it was trained "
                "on; those that no training text had it cannot learn",
                *(num_unknown, num_texts, " ".join(characters[:UNKNOWN_SHOWN])),
                " ..." if len(characters) > UNKNOWN_SHOWN else "",
            )
        if self._num_parted:
            logger.warning(
                "%s with spaces between Chinese characters, which the student learns to write: "
                "remove them from the list, unless it shall",
                counted(self._num_parted, "text"),
            )


def fault_of_text(text: str, seconds: float, num_frames: int, student: Student) -> str | None:
    """Why a student cannot learn a text from so much audio; None: it can."""
    if not normalize(text):
        return (
            'its text is empty; write it, or remove it (the field "txt", the line of Kaldi\'s '
            "text, the .txt in the tar) to train the utterance by codes alone"
        )
    ids = student.encode_text(text)
    boundary = getattr(student.tokenizer, "word_delimiter_token", None)
    if boundary and boundary in text:
        return f"{boundary!r} stands for the space between words; leave it out of the text"
    if student.tokenizer.pad_token_id in ids:
        return f"{student.tokenizer.pad_token!r} is CTC's blank; leave it out of the text"
    if (token := student.tokenizer.unk_token) and token in text:
        return f"{token!r} is the token of what is not known; leave it out of the text"
    outputs = student.model.config.vocab_size
    if beyond := [each for each in ids if each is not None and each >= outputs]:
        token = student.tokenizer.convert_ids_to_tokens(beyond[0])
        return f"{token!r} is token {beyond[0]}, but the student has {outputs}; change the text"
    if unknown := unknown_characters(text, ids, student):
        case = _case_of_vocabulary(unknown, student)
        remedy = f"write the text in {case} case" if case else "add them to it, or change the text"
        return f"characters {unknown!r} are not in the vocabulary; {remedy}"
    repeats = sum(first == second for first, second in pairwise(ids))  # CTC needs a blank between
    if len(ids) + repeats > num_frames:
        return (
            f"{len(ids)} tokens ({repeats} repeated) need {len(ids) + repeats} frames or more, "
            f"the audio ({seconds:.2f} s) gives {num_frames}; correct text or segment, or "
            "subsample less"
        )
    return None


def unknown_characters(text: str, ids: Sequence[int | None], student: Student) -> str:
    """Characters that the tokenizer does not know; None among the ids: nor has it an <unk>."""
    if student.tokenizer.unk_token_id not in ids and None not in ids:
        return ""
    unknown = sorted(set(normalize(text)) - student.tokenizer.get_vocab().keys() - {" "})
    return "".join(unknown) or student.tokenizer.unk_token


def _case_of_vocabulary(unknown: str, student: Student) -> str | None:
    """upper or lower, where the vocabulary has all of these characters so."""
    if unknown == student.tokenizer.unk_token:
        return None
    other = unknown.swapcase()
    if not set(other) <= student.tokenizer.get_vocab().keys():
        return None
    return "upper" if other.isupper() else "lower" if other.islower() else None
