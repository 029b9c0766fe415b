"""Where a codebook's entries lie in few dimensions: a slice. There a frame needs less work.

A product quantizer's entries have all D dimensions, but those of one codebook span only d, about
D / N. Frames are first projected onto the axes of all slices, then compared in each: N d (D + K)
products a frame instead of N K D, for the same scores but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Of float32 entries, scaled to a norm of 1 (short ones less): singular values below this share of
# the greatest are rounding, and the axes may leave no more of an entry.
ROUNDING = 1e-6
TINY = 1e-30
FEW = 256  # entries that are looked at first: the time grows with their cube


def saves_work(num_axes: int, codebook_size: int, dim: int) -> bool:
    """Whether slices of so many axes are worth it."""
    return num_axes * (dim + codebook_size) < codebook_size * dim


def find_axes(table: Tensor) -> Tensor | None:
    """The axes of the slices that a table's entries lie in; None: they would save nothing.

    Found on the CPU in float64, so that a table has the same axes on every device.

    Args:
        table: (N, K, D) float32.

    Returns:
        (N, d, D) float32, orthonormal in each codebook; of narrower slices the last are zeros.
    """
    codebook_size, dim = table.shape[1:]
    found = []
    for entries in table.cpu().double():
        norms = entries.norm(dim=1, keepdim=True)
        entries = entries / norms.clamp(min=max(float(norms.median()), TINY))
        axes = _span(entries[:FEW])  # as a rule enough to span a slice; the others are checked
        if len(axes) == FEW:
            axes = _span(entries[:dim])
        if not saves_work(len(axes), codebook_size, dim):
            return None
        left = entries - (entries @ axes.T) @ axes
        if left.norm(dim=1).max() > ROUNDING:
            return None
        found.append(axes)
    return pad_axes(found).to(table.device, torch.float32)


def _span(entries: Tensor) -> Tensor:
    """(M, D) -> (r, D), orthonormal axes of what they span."""
    values, vectors = torch.linalg.eigh(entries @ entries.T)
    kept = values > ROUNDING**2 * values[-1]
    return vectors[:, kept].T @ entries / values[kept].sqrt().unsqueeze(1)


def pad_axes(axes: Sequence[Tensor]) -> Tensor:
    """N times (d_n, D) -> (N, max d_n, D), filled up with zeros."""
    most = max(map(len, axes))
    return torch.stack([F.pad(each, (0, 0, 0, most - len(each))) for each in axes])


def sliced_scores(frames: Tensor, axes: Tensor, entries: Tensor, bias: Tensor) -> Tensor:
    """`additive.unary_scores`, codebook by codebook.

    Args:
        frames: (B, D); axes: (N, d, D); entries: (N, d, K), along these axes; bias: (N, K).

    Returns:
        (N, B, K).
    """
    projected = frames @ axes.flatten(0, 1).T
    projected = projected.view(len(frames), *axes.shape[:2]).transpose(0, 1)
    return torch.baddbmm(bias.unsqueeze(1), projected, entries)
