"""A grouped convolution over time whose kernel is long, by Fourier transforms: for CPUs.

HuBERT's positional convolution sees 128 frames, 48 or 64 channels at a time. Block by block of time
(overlap and save), its sum over 128 products becomes one product per frequency.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FourierConvolution(nn.Module):
    """What a Conv1d of stride 1 with padding on both sides computes."""

    spectrum: Tensor

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.kernel, self.padding = conv.kernel_size[0], int(conv.padding[0])
        self.groups = conv.groups
        self.size = 2 * self.kernel  # of a block, of which the last half comes out right
        spectrum = torch.fft.rfft(conv.weight.detach().flip(2), self.size)
        spectrum = spectrum.unflatten(0, (self.groups, -1)).permute(0, 3, 2, 1)
        self.register_buffer("spectrum", spectrum.contiguous())  # (groups, frequencies, in, out)
        self.bias = conv.bias

    def forward(self, signal: Tensor) -> Tensor:
        """(B, channels, T) float32 -> (B, channels, T')."""
        batch, _, length = signal.shape
        length += 2 * self.padding - self.kernel + 1
        step = self.size - self.kernel + 1
        num_blocks = -(-length // step)
        behind = (num_blocks - 1) * step + self.size - signal.shape[2] - self.padding
        blocks = F.pad(signal, (self.padding, behind)).unfold(2, self.size, step)
        seen = torch.fft.rfft(blocks).unflatten(1, (self.groups, -1))
        # (B, groups, in, blocks, frequencies) -> (groups, frequencies, B * blocks, in)
        product = seen.permute(1, 4, 0, 3, 2).flatten(2, 3) @ self.spectrum
        product = product.unflatten(2, (batch, num_blocks)).permute(2, 0, 4, 3, 1)
        result = torch.fft.irfft(product, self.size)[..., self.kernel - 1 :]
        result = result.flatten(3).flatten(1, 2)[..., :length]
        return result if self.bias is None else result + self.bias[:, None]
