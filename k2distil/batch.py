"""The values that flow between the parts. B utterances, T frames, S samples at 16 kHz."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE = 16_000  # Hz, of all audio past k2distil.data


@dataclass(frozen=True, slots=True)
class Utterance:
    """One entry of an audio list; nothing is read from `wav` yet."""

    key: str  # unique in a list; the h5 dataset name
    wav: str  # path of the audio file, or of the tar it lies in; or a command, see is_command
    start: float | None = None  # seconds; None: from the beginning
    end: float | None = None  # seconds; None: to the end
    text: str | None = None  # transcript, where the list has one
    tar_offset: int | None = None  # byte where the audio file starts in the tar `wav`; None: no tar
    tar_size: int | None = None  # bytes of the audio file in the tar
    tar_url: str | None = None  # where the tar `wav` was fetched from; None: it was not
    channel: int | None = None  # of the audio, 0: the first; None: the list does not say
    is_command: bool = False  # `wav` is "program arguments |", whose standard output is the audio

    def about(self, reason: str) -> str:
        """What there is to say of it, for a message."""
        return f"{self.wav}: utterance {self.key}: {reason}"


class Rejection(TypedDict):
    """An utterance without values; a row of failed.tsv or dropped.tsv."""

    key: str
    wav: str
    reason: str


def rejection(utterance: Utterance, reason: str) -> Rejection:
    """The utterance, and why it has no values."""
    return {"key": utterance.key, "wav": utterance.wav, "reason": reason}


def in_words(row: Rejection) -> str:
    """Why an utterance has no values, with its key and wav, once."""
    is_named = row["reason"].startswith(row["wav"])
    return row["reason"] if is_named else f"{row['key']} ({row['wav']}): {row['reason']}"


@dataclass(frozen=True)
class AudioBatch:
    """Audio of several utterances.

    samples: (B, max_samples) float32, about -1 to 1, 16 kHz, zeros beyond num_samples: (B,) int64.
    """

    keys: list[str]
    samples: Tensor
    num_samples: Tensor

    @property
    def seconds(self) -> float:
        """Seconds of the longest utterance."""
        return self.samples.shape[1] / SAMPLE_RATE

    def halves(self) -> tuple[AudioBatch, AudioBatch]:
        """Two batches of fewer utterances, each as long as its longest."""
        middle = len(self.keys) // 2
        return self._rows(slice(0, middle)), self._rows(slice(middle, None))

    def _rows(self, rows: slice) -> AudioBatch:
        num_samples = self.num_samples[rows]
        samples = self.samples[rows, : int(num_samples.max())]
        return AudioBatch(self.keys[rows], samples, num_samples)


@dataclass(frozen=True)
class EmbeddingBatch:
    """Frames of several utterances.

    embedding: (B, T, dim), zeros beyond num_frames: (B,) int64.
    """

    keys: list[str]
    embedding: Tensor
    num_frames: Tensor

    def unpadded(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (key, frames), with frames: (num_frames, dim)."""
        for key, frames, num_frames in zip(
            self.keys, self.embedding, self.num_frames.tolist(), strict=True
        ):
            yield key, frames[:num_frames]
