"""A student's batches: audio, text and codes, read as they are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from k2distil.batch import SAMPLE_RATE, Utterance, rejection
from k2distil.data import load_audio
from k2distil.distil import IGNORE_INDEX, align_codes
from k2distil.distil.model import Batch, Part
from k2distil.distil.student import Student
from k2distil.errors import DataError
from k2distil.storage import JoinedReader

SILENCE = Utterance("", "")  # no list has an empty key
MAX_FAILED = 10  # utterances in a row


@dataclass(frozen=True)
class Codes:
    """A teacher's codes and how they lie beside the student's frames.

    reader: key -> (T, N) integers; frames_ratio: teacher frames per student frame.
    """

    reader: JoinedReader
    num_codebooks: int
    codebook_size: int
    frame_shift: float  # seconds
    frames_ratio: int
    offset: int = 0


class DistilDataset(Dataset):
    """Batches by lists of indexes, one for each part; audio and codes are read when asked for.

    Args:
        utterances: all that there are.
        student: what they are for.
        codes: of the teacher; None: none are used.
        channel: of the audio, where the list names none.
        decode_timeout: seconds that a command may take.
        for_training: some utterances in a row without audio are an error. A test goes on.
        labelled: (U,) bool, whether the text of each is used; None: of all that have any.
        strict: codes of other audio are an error; else they are left out.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        student: Student,
        codes: Codes | None,
        channel: int = 0,
        decode_timeout: float = math.inf,
        for_training: bool = True,
        labelled: np.ndarray | None = None,
        strict: bool = True,
    ) -> None:
        self.utterances, self.student = utterances, student
        self.codes, self.channel, self.decode_timeout = codes, channel, decode_timeout
        self.for_training, self.labelled, self.strict = for_training, labelled, strict
        self._failed_in_a_row: set[str] = set()  # keys, of this process

    def __len__(self) -> int:
        """The number of utterances."""
        return len(self.utterances)

    def __getitems__(self, parts: list[list[int]]) -> Batch:
        """One batch. What cannot be decoded is left out; where that is all of it, silence is left.

        Raises:
            DataError: codes of other audio where `strict`, or `MAX_FAILED` utterances in a row
                without audio.
        """
        return {"parts": [self._part(indexes) for indexes in parts]}

    def _part(self, indexes: list[int]) -> Part:
        audio, kept, failed = [], [], []
        for each in map(self._utterance, indexes):
            try:
                audio.append(load_audio(each, self.channel, self.decode_timeout))
                kept.append(each)
            except DataError as error:
                failed.append(rejection(each, str(error)))
        self._failed_in_a_row |= {row["key"] for row in failed}
        if kept:
            self._failed_in_a_row.clear()
        num_failed = len(self._failed_in_a_row)
        if self.for_training and num_failed >= min(MAX_FAILED, len(self.utterances)):
            raise DataError(
                f"{num_failed} utterances in a row without audio: {failed[0]['reason']}"
            )
        if not kept:
            audio, kept = [np.zeros(SAMPLE_RATE, np.float32)], [SILENCE]
        inputs, num_inputs = self.student.features(audio)
        num_frames = self.student.num_frames(num_inputs)
        labels = [torch.tensor(self._labels(each)) for each in kept]
        codes = [self._codes(each, int(n)) for each, n in zip(kept, num_frames, strict=True)]
        return {
            "keys": [each.key for each in kept],
            "failed": failed,
            "inputs": inputs,
            "num_inputs": num_inputs,
            "num_frames": num_frames,
            "labels": _pad(labels),
            "codes": _pad(codes).int(),
        }

    def _utterance(self, index: int) -> Utterance:
        """Without a text that is not used."""
        found = self.utterances[index]
        is_used = self.labelled is None or self.labelled[index]
        return found if is_used else replace(found, text=None)

    def _labels(self, utterance: Utterance) -> list[int]:
        """Of a training; the texts of a test may have what the student has no token for."""
        if utterance.text is None or not self.for_training:
            return [IGNORE_INDEX]
        return self.student.encode_text(utterance.text) or [IGNORE_INDEX]

    def _codes(self, utterance: Utterance, num_frames: int) -> Tensor:
        """(num_frames, N * ratio) int64."""
        if self.codes is None:
            return torch.full((num_frames, 1), IGNORE_INDEX)
        width = self.codes.num_codebooks * self.codes.frames_ratio
        none = torch.full((num_frames, width), IGNORE_INDEX)
        if utterance.key not in self.codes.reader:
            return none
        found = self.codes.reader[utterance.key]
        if found.shape[1:] != (self.codes.num_codebooks,):
            raise DataError(
                f"{self._place(utterance)}: {found.shape}, expected (num_frames, "
                f"{self.codes.num_codebooks}); make its codes anew"
            )
        if len(found) and found.max() >= self.codes.codebook_size:
            raise DataError(
                f"{self._place(utterance)}: a code of {found.max()}, but codebooks of "
                f"{self.codes.codebook_size}; give the right --codebook_size or make the file anew"
            )
        if found.dtype.kind == "i" and ((found < 0) & (found != IGNORE_INDEX)).any():
            raise DataError(
                f"{self._place(utterance)}: a code of {found.min()}; expected 0 and more, or "
                f"{IGNORE_INDEX} where there is none; make the file anew"
            )
        alignment = (self.codes.frames_ratio, self.codes.offset, utterance.key)
        try:
            return align_codes(found, num_frames, *alignment)
        except DataError:
            if self.strict:
                raise
            return none

    def _place(self, utterance: Utterance) -> str:
        """Of its codes, for messages."""
        assert self.codes is not None
        return f"{self.codes.reader.file_of(utterance.key).path}[{utterance.key}]"


def _pad(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX)
