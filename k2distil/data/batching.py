"""Audio of similar length in one batch, so that little of it is padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from k2distil.batch import SAMPLE_RATE, AudioBatch
from k2distil.errors import ConfigError


def batch_by_seconds(
    audio: Sequence[tuple[str, Tensor]], batch_seconds: float, least_seconds: float = 0.0
) -> Iterator[AudioBatch]:
    """Batch audio, longest first, so that running out of memory shows at once.

    Args:
        audio: (key, (num_samples,) float32 at 16 kHz) pairs in any order.
        batch_seconds: the most a batch may hold, padding included (B x longest). An utterance
            that is longer goes alone.
        least_seconds: what a shorter utterance counts as, for teachers that pad it to so much.

    Raises:
        ConfigError: batch_seconds is not above zero, or infinite.
    """
    if not 0 < batch_seconds < math.inf:
        raise ConfigError(f"--batch_seconds {batch_seconds}: expected a finite number above 0")
    max_samples = int(batch_seconds * SAMPLE_RATE)
    by_length = sorted(audio, key=lambda pair: len(pair[1]), reverse=True)
    first = 0
    while first < len(by_length):
        longest = max(1, len(by_length[first][1]), int(least_seconds * SAMPLE_RATE))
        last = first + max(1, max_samples // longest)
        yield _pad(by_length[first:last])
        first = last


def _pad(audio: Sequence[tuple[str, Tensor]]) -> AudioBatch:
    # By numpy, which keeps to one thread: this runs beside a teacher that has the cores.
    lengths = [len(samples) for _, samples in audio]
    padded = np.zeros((len(audio), max(lengths)), np.float32)
    for row, (_, samples) in zip(padded, audio, strict=True):
        row[: len(samples)] = samples.numpy()
    samples = torch.from_numpy(padded)
    if torch.cuda.is_initialized():  # the copy to the device then waits for nobody
        samples = samples.pin_memory()
    return AudioBatch([key for key, _ in audio], samples, torch.tensor(lengths))
