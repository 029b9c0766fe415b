"""Whisper's log-mel spectrogram, of each utterance by itself.

Radford et al. 2022 (arXiv 2212.04356), section 2.2; the numbers equal openai-whisper's and WeNet's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from k2distil.batch import SAMPLE_RATE
from k2distil.device import no_tf32
from k2distil.teachers.lengths import valid_positions

N_FFT = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
MIN_SAMPLES = N_FFT // 2 + 1  # half a window is reflected at either end
HERTZ_PER_MEL, KNEE_HERTZ, KNEE_MEL = 200.0 / 3.0, 1000.0, 15.0
LOG_STEP = math.log(6.4) / 27.0
DYNAMIC_RANGE = 8.0  # log10 units kept below an utterance's loudest point


def mel_filters(num_mels: int) -> Tensor:
    """Slaney's triangular filters up to 8 kHz: (num_mels, N_FFT // 2 + 1) float32.

    Equal to librosa's, which openai-whisper and WeNet use, in every bit: librosa rounds to float32
    before it scales each filter to unit area, and again after. transformers rounds once, which is
    2e-9 here and 3e-5 after the last layer of the real Whisper tiny.en. Neither is imported: that
    takes longer than all else before the first utterance.
    """
    edges = _hertz(np.linspace(0.0, _mels(SAMPLE_RATE / 2), num_mels + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    above = bins[None, :] - edges[:, None]  # (num_mels + 2, bins)
    width = np.diff(edges)[:, None]
    triangles = np.minimum(above[:-2] / width[:-1], -above[2:] / width[1:]).clip(min=0.0)
    to_unit_area = 2.0 / (edges[2:] - edges[:-2])
    filters = triangles.astype(np.float32) * to_unit_area[:, None]
    return torch.from_numpy(filters.astype(np.float32))


def _mels(hertz: float) -> float:
    """Slaney's scale: linear up to 1 kHz, which is 15 mel, and 27 mel for a factor of 6.4 beyond.

    >>> _mels(1000.0), _mels(6400.0)
    (15.0, 42.0)
    """
    if hertz < KNEE_HERTZ:
        return hertz / HERTZ_PER_MEL
    return KNEE_MEL + math.log(hertz / KNEE_HERTZ) / LOG_STEP


def _hertz(mels: np.ndarray) -> np.ndarray:
    """The inverse of `_mels`."""
    beyond = KNEE_HERTZ * np.exp(LOG_STEP * (mels - KNEE_MEL))
    return np.where(mels < KNEE_MEL, mels * HERTZ_PER_MEL, beyond)


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of so many samples; the frame centred on the end is dropped, as Whisper does."""
    return num_samples // HOP


def log_mel(samples: Tensor, lengths: Sequence[int], filters: Tensor) -> Tensor:
    """Log-mel spectrograms that do not depend on the rest of the batch.

    Args:
        samples: (B, S) float32.
        lengths: samples of each utterance, MIN_SAMPLES or more.
        filters: (num_mels, N_FFT // 2 + 1) float32, on the same device.

    Returns:
        (B, num_mels, T) float32, zeros beyond each utterance's S // 160 frames.
    """
    half = N_FFT // 2
    reflected = samples.new_zeros(len(lengths), max(lengths) + N_FFT)
    for row, audio, length in zip(reflected, samples, lengths, strict=True):
        row[: length + N_FFT] = F.pad(audio[None, :length], (half, half), mode="reflect")[0]
    window = torch.hann_window(N_FFT, device=samples.device)
    spectrum = torch.stft(reflected, N_FFT, HOP, window=window, center=False, return_complex=True)
    num_frames = [num_mel_frames(length) for length in lengths]
    power = spectrum[..., : max(num_frames)].abs() ** 2
    with no_tf32(power.device):
        log = (filters @ power).clamp(min=1e-10).log10()
    valid = valid_positions(num_frames, log.shape[-1], log.device)[:, None, :]
    peak = log.masked_fill(~valid, -torch.inf).amax(dim=(1, 2), keepdim=True)
    log = (torch.maximum(log, peak - DYNAMIC_RANGE) + 4.0) / 4.0
    return log.masked_fill(~valid, 0.0)  # what the encoder's convolution pads with
