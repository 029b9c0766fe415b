"""Sines to write to files, and the samples that are read back."""

from pathlib import Path

import numpy as np

from k2distil.batch import Utterance
from k2distil.data import load_audio


def tone(rate: int, seconds: float = 1.0, num_channels: int = 1) -> np.ndarray:
    """(num_frames, num_channels) float64: channel c is a sine of 200 (c + 1) Hz."""
    time = np.arange(round(rate * seconds)) / rate
    return np.stack(
        [0.5 * np.sin(2 * np.pi * 200 * (c + 1) * time) for c in range(num_channels)], axis=1
    )


def load(path: Path, **fields: float) -> np.ndarray:
    return load_audio(Utterance("utt1", str(path), **fields))
