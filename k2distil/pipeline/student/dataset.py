"""A student's batches: audio, text and codes, read as they are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from k2distil.batch import SAMPLE_RATE, Utterance, rejection
from k2distil.data import load_audio
from k2distil.distil import IGNORE_INDEX
from k2distil.distil.model import Batch, Part
from k2distil.distil.student import Student
from k2distil.errors import DataError
from k2distil.pipeline.student.codes import Codes

SILENCE = Utterance("", "")  # no list has an empty key
MAX_FAILED = 10  # utterances in a row


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
        """Tokens to learn; none of a test, whose texts may have characters without a token."""
        if utterance.text is None or not self.for_training:
            return [IGNORE_INDEX]
        return self.student.encode_text(utterance.text) or [IGNORE_INDEX]

    def _codes(self, utterance: Utterance, num_frames: int) -> Tensor:
        """(num_frames, N * ratio) int64."""
        codes, key = self.codes, utterance.key
        if codes is None:
            return torch.full((num_frames, 1), IGNORE_INDEX)
        is_used = key in codes.reader and (self.strict or codes.fault(key, num_frames) is None)
        return codes.aligned(key, num_frames) if is_used else codes.none(num_frames)


def _pad(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX)
