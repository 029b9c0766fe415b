"""Whisper's log-mel spectrogram, of each utterance by itself.

Radford et al. 2022 (arXiv 2212.04356), section 2.2; the numbers equal openai-whisper's and WeNet's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from k2distil.batch import SAMPLE_RATE
from k2distil.teachers.lengths import valid_positions
from k2distil.torchaudio_guard import hide_broken_torchaudio

N_FFT = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
MIN_SAMPLES = N_FFT // 2 + 1  # half a window is reflected at either end
DYNAMIC_RANGE = 8.0  # log10 units kept below an utterance's loudest point


def mel_filters(num_mels: int) -> Tensor:
    """Slaney's triangular filters up to 8 kHz: (num_mels, N_FFT // 2 + 1) float32.

    Equal to librosa's, which openai-whisper and WeNet use, in every bit: librosa rounds to float32
    before it scales each filter to unit area, and again after. transformers rounds once, which is
    2e-9 here and 3e-5 behind the last layer of the real Whisper tiny.en.
    """
    hide_broken_torchaudio()
    from transformers.audio_utils import mel_filter_bank

    triangles, scaled = (
        mel_filter_bank(
            num_frequency_bins=N_FFT // 2 + 1,
            num_mel_filters=num_mels,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE / 2,
            sampling_rate=SAMPLE_RATE,
            norm=norm,
            mel_scale="slaney",
        )
        for norm in (None, "slaney")
    )
    tiny = np.finfo(np.float64).tiny  # with very many filters some are empty
    scale = scaled.max(axis=0) / np.maximum(triangles.max(axis=0), tiny)
    filters = triangles.astype(np.float32) * scale
    return torch.from_numpy(filters.T.astype(np.float32).copy())


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
    log = (filters @ power).clamp(min=1e-10).log10()
    valid = valid_positions(num_frames, log.shape[-1], log.device)[:, None, :]
    peak = log.masked_fill(~valid, -torch.inf).amax(dim=(1, 2), keepdim=True)
    log = (torch.maximum(log, peak - DYNAMIC_RANGE) + 4.0) / 4.0
    return log.masked_fill(~valid, 0.0)  # what the encoder's convolution pads with
