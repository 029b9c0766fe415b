"""SpecAugment (Park et al. 2019, arXiv 1904.08779), for the student only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_TIME_SHARE = 0.2  # of an utterance that one time mask may cover


@dataclass(frozen=True)
class SpecAugment:
    """Masks of random width and place; widths are the widest, in frames of 10 ms and in bins."""

    num_time_masks: int = 2
    time_mask_frames: int = 50
    num_freq_masks: int = 2
    freq_mask_bins: int = 10

    def __call__(self, features: Tensor, num_frames: Tensor) -> Tensor:
        """Mask a batch; draws from torch's own generator of the device.

        Args:
            features: (B, T, F) of zero mean.
            num_frames: (B,) without padding.

        Returns:
            (B, T, F), 0 where masked.
        """
        longest = (num_frames * MAX_TIME_SHARE).clamp(max=self.time_mask_frames)
        for _ in range(self.num_time_masks):
            masked = _spans(longest, num_frames, features.shape[1])
            features = features.masked_fill(masked[:, :, None], 0.0)
        bins = torch.full_like(num_frames, features.shape[2])
        widest = bins.clamp(max=self.freq_mask_bins)
        for _ in range(self.num_freq_masks):
            masked = _spans(widest, bins, features.shape[2])
            features = features.masked_fill(masked[:, None, :], 0.0)
        return features


def _spans(longest: Tensor, size: Tensor, width: int) -> Tensor:
    """(B,) most of a span, (B,) of what -> (B, width) bool, one span each."""
    uniform = torch.rand(2, len(size), device=size.device)
    length = (uniform[0] * (longest + 1)).floor()
    start = (uniform[1] * (size - length + 1)).floor()
    place = torch.arange(width, device=size.device)[None]
    return (place >= start[:, None]) & (place < (start + length)[:, None])
