"""What every teacher offers, and the one meaning of `--middle_layer` for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from k2distil.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from k2distil.batch import AudioBatch, EmbeddingBatch

MIDDLE_LAYER_NORMS = ("none", "final")


@dataclass(frozen=True)
class Choice:
    """Which output of an encoder, and where and in what it is computed; see `build_teacher`."""

    middle_layer: int
    middle_layer_norm: str
    device: torch.device
    dtype: torch.dtype

    def final_norm(self, layer: int, num_layers: int) -> bool:
        """Whether the encoder's final norm follows the chosen block."""
        return layer == num_layers or self.middle_layer_norm == "final"


class Teacher(Protocol):
    """A frozen encoder that turns audio into frames; see `build_teacher`."""

    @property
    def name(self) -> str:
        """The checkpoint as the user named it."""

    @property
    def dim(self) -> int:
        """Floats per frame."""

    @property
    def num_layers(self) -> int:
        """Blocks of the whole encoder, L."""

    @property
    def layer(self) -> int:
        """The block whose output `embed` gives, 1..L; L: the encoder's final output."""

    @property
    def frame_shift(self) -> float:
        """Seconds between frames."""

    @property
    def digest(self) -> str:
        """sha256 (hex) of the whole encoder; the same for the same weights in another format."""

    @property
    def padding(self) -> str:
        """What the audio is padded by: "none", "30s", "<n> samples" (WeNet), "n/a" (HuBERT)."""

    @property
    def min_samples(self) -> int:
        """The shortest audio that gives a frame, in samples at 16 kHz."""

    @property
    def max_samples(self) -> int | None:
        """The longest audio the encoder takes, in samples at 16 kHz; None: no limit."""

    def num_frames(self, num_samples: int) -> int:
        """Frames that `embed` gives for so many samples; 0: too short."""

    def embed(self, batch: AudioBatch) -> EmbeddingBatch:
        """Compute (B, T, dim) float32 on the teacher's device, zeros beyond each utterance.

        Batching changes no result (1e-5 in float32). A NaN or infinity in the audio or in the
        checkpoint's arithmetic stays in its own utterance; the caller checks for it.

        Raises:
            DataError: an utterance is shorter than min_samples or longer than max_samples.
        """


def resolve_layer(middle_layer: int, num_layers: int) -> int:
    """The block 1..num_layers that `--middle_layer` means.

    >>> resolve_layer(-1, 12), resolve_layer(6, 12)
    (12, 6)
    """
    if middle_layer == -1:
        return num_layers
    if not 1 <= middle_layer <= num_layers:
        raise ConfigError(
            f"--middle_layer {middle_layer}: this teacher has {num_layers} layers; "
            f"give 1 to {num_layers}, or -1 for the last"
        )
    return middle_layer
