"""A Whisper encoder of whatever format, as a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from k2distil.batch import SAMPLE_RATE
from k2distil.errors import ConfigError
from k2distil.teachers.base import Choice, resolve_layer
from k2distil.teachers.encoder_teacher import EncoderTeacher
from k2distil.teachers.lengths import all_equal
from k2distil.teachers.log_mel import (
    HOP,
    MIN_SAMPLES,
    N_FFT,
    log_mel,
    mel_filters,
    num_mel_frames,
)
from k2distil.teachers.precision import FiniteEncoder
from k2distil.teachers.tensors import digest, fill, load_float32, without_memory
from k2distil.teachers.whisper_encoder import CONV2D, WhisperDims, WhisperEncoder

MAX_SAMPLES = 30 * SAMPLE_RATE  # what Whisper was trained on
CONV2D_MIN_SAMPLES = 7 * HOP  # mel frames that leave one encoder frame


@dataclass(frozen=True)
class WhisperWeights:
    """What a format's reader gives: the shape, and the encoder's tensors."""

    dims: WhisperDims
    tensors: dict[str, Tensor]  # under the checkpoint's names
    names: Mapping[str, str]  # rules from our names to the checkpoint's


@dataclass(frozen=True)
class Padding:
    """Zeros put after the audio, which the encoder then attends to. Samples at 16 kHz."""

    extra: int = 0  # so many more
    total: int = 0  # and then up to this many

    def __str__(self) -> str:
        if self.total:
            return f"{self.total // SAMPLE_RATE}s"
        return f"{self.extra} samples" if self.extra else "none"


PADDINGS = {"none": Padding(), "30s": Padding(total=MAX_SAMPLES)}


def whisper_teacher(
    name: str, weights: WhisperWeights, padding: Padding, choice: Choice
) -> EncoderTeacher:
    """Cut the encoder after the chosen layer and put it on the device; see `build_teacher`."""
    dims = weights.dims
    with without_memory(name):
        encoder = WhisperEncoder(dims)
    tensors = fill(encoder, weights.tensors, weights.names, name)
    longest = min(MAX_SAMPLES, dims.num_positions * 2 * HOP)
    if padding.total > longest:
        raise ConfigError(
            f"--whisper_padding {padding}: {name} has {dims.num_positions} positions, "
            f"{longest / SAMPLE_RATE:g} s; use --whisper_padding none"
        )
    is_conv2d = dims.subsampling == CONV2D
    min_samples = CONV2D_MIN_SAMPLES if is_conv2d else MIN_SAMPLES
    per_frame = (4 if is_conv2d else 2) * HOP
    max_samples = longest - padding.extra
    if max_samples < max(min_samples, per_frame):  # a piece of long audio has a frame or more
        raise ConfigError(
            f"dataset_conf.log_mel_spectrogram_conf.padding of the train.yaml is {padding.extra}: "
            f"of the {longest} samples that {name} takes it leaves no frame for audio; "
            "use --whisper_padding none"
        )
    layer = resolve_layer(choice.middle_layer, dims.num_layers)
    encoder.cut_after(layer, choice.final_norm(layer, dims.num_layers))
    load_float32(encoder, tensors)
    filters = mel_filters(dims.num_mels).to(choice.device)

    def front_end(samples: Tensor, lengths: Sequence[int]) -> tuple[Tensor, list[int]]:
        padded = [max(length + padding.extra, padding.total) for length in lengths]
        samples = samples.to(choice.device, non_blocking=True)
        samples = F.pad(samples, (0, max(0, max(padded) - samples.shape[1])))
        mel_frames = [num_mel_frames(length) for length in padded]
        if not all_equal(padded):
            return log_mel(samples, padded, filters), mel_frames
        # The windows after the audio see nothing but zeros: one frame of that silence serves all.
        heard = min(padded[0], HOP * math.ceil((max(lengths) + 2 * N_FFT) / HOP))
        log = log_mel(samples, [heard] * len(lengths), filters)
        return F.pad(log, (0, mel_frames[0] - log.shape[-1]), mode="replicate"), mel_frames

    return EncoderTeacher(
        name=name,
        dim=dims.dim,
        num_layers=dims.num_layers,
        layer=layer,
        frame_shift=per_frame / SAMPLE_RATE,
        digest=digest(tensors, num_heads=dims.num_heads),
        padding=str(padding),
        min_samples=min_samples,
        max_samples=max_samples,
        num_frames=lambda num_samples: dims.num_frames(num_mel_frames(num_samples)),
        front_end=front_end,
        encoder=FiniteEncoder(encoder, choice.device, choice.dtype),
        cpu_lengths=num_mel_frames(5 * SAMPLE_RATE),
    )
