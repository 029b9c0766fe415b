"""The one teacher class: a front end, an encoder, and the figures that describe them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from k2distil.batch import SAMPLE_RATE, AudioBatch, EmbeddingBatch
from k2distil.errors import DataError
from k2distil.stages import stage
from k2distil.teachers.core_threads import on_all_cores
from k2distil.teachers.lengths import valid_positions
from k2distil.teachers.precision import FiniteEncoder

# samples (B, S) float32, samples of each -> features on the device, lengths, for the encoder
FrontEnd = Callable[[Tensor, Sequence[int]], tuple[Tensor, list[int]]]

MAX_PADDED = 1.05  # lengths with padding, to those without


@dataclass(frozen=True)
class EncoderTeacher:
    """Implements `Teacher` for every encoder type."""

    name: str
    dim: int
    num_layers: int
    layer: int
    frame_shift: float
    digest: str
    padding: str
    min_samples: int
    max_samples: int | None
    num_frames: Callable[[int], int]
    front_end: FrontEnd
    encoder: FiniteEncoder
    cpu_lengths: int  # the most that a CPU encodes at once, in what lengths count; about 5 s

    @torch.inference_mode()
    def embed(self, batch: AudioBatch) -> EmbeddingBatch:
        """See `Teacher.embed`."""
        lengths: list[int] = batch.num_samples.tolist()
        for key, length in zip(batch.keys, lengths, strict=True):
            self._require_length(key, length)
        num_frames = [self.num_frames(length) for length in lengths]
        device = self.encoder.device
        with stage("front end", device):
            features, feature_lengths = self.front_end(batch.samples, lengths)
        with stage("encoder", device):
            frames = self._encode(features, feature_lengths, num_frames)
        valid = valid_positions(num_frames, max(num_frames), frames.device)
        frames = frames.masked_fill(~valid[..., None], 0.0)
        return EmbeddingBatch(batch.keys, frames, torch.tensor(num_frames))

    def _encode(
        self, features: Tensor, lengths: Sequence[int], num_frames: Sequence[int]
    ) -> Tensor:
        """The whole batch at once; on a CPU, parts that stay in the cache, on all cores."""
        if features.device.type != "cpu":
            return self.encoder(features, lengths, num_frames)
        frames = features.new_zeros(len(lengths), max(num_frames), self.dim, dtype=torch.float32)

        @torch.inference_mode()
        def encode(part: slice) -> None:
            own, wanted = lengths[part], num_frames[part]
            frames[part, : max(wanted)] = self.encoder(features[part, ..., : max(own)], own, wanted)

        parts = _parts(lengths, self.cpu_lengths)
        parts.sort(key=lambda part: -sum(lengths[part]))  # the longest first: cores end together
        on_all_cores(encode, parts)
        return frames

    def _require_length(self, key: str, length: int) -> None:
        if length < self.min_samples:
            raise DataError(
                f"{key}: {length / SAMPLE_RATE:.4f} s of audio is too short for the teacher "
                f"{self.name}, which needs {self.min_samples / SAMPLE_RATE:.4f} s; "
                "remove it from the list"
            )
        if self.max_samples is not None and length > self.max_samples:
            raise DataError(
                f"{key}: {length / SAMPLE_RATE:.10g} s of audio is too long for the teacher "
                f"{self.name}, which takes {self.max_samples / SAMPLE_RATE:.10g} s; "
                "cut it, or use --long_audio chunk"
            )


def _parts(lengths: Sequence[int], most: int) -> list[slice]:
    """The utterances that a CPU encodes at once, on one core where there are many.

    At most `most` lengths with padding, of which little is padding: beyond some seconds a larger
    matrix is no faster, and padding costs what speech does. An utterance is never divided.
    """
    parts: list[slice] = []
    start = longest = total = 0
    for end, length in enumerate(lengths):
        longest, total = max(longest, length), total + length
        if end > start and longest * (end + 1 - start) > min(most, MAX_PADDED * total):
            parts.append(slice(start, end))
            start, longest, total = end, length, length
    return [*parts, slice(start, len(lengths))]
