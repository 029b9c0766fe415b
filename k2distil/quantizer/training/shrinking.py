"""Less noise in entries that were learnt from few frames.

An additive entry is a least-squares solution: along an axis on which the frames' residuals have a
variance r, and from m frames, it has an error of variance about r / m. N K such errors add up to a
share N K / (number of frames) of the whole error, and most axes of Gaussian frames are noise alone.
So along each principal axis of its entries a codebook is drawn in to its mean, by the share of
its variance there that is no noise: the positive-part estimator of Efron and Morris, "Stein's
estimation rule and its competitors", JASA 1973.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shrink_entries(table: Tensor, counts: Tensor, residuals: Tensor) -> Tensor:
    """Draw the entries of each codebook in where they are noise; -> the new table.

    Args:
        table: (N, K, D); counts: (N, K), the frames each entry was learnt from; an entry of none
            counts for nothing; residuals: (B, D), what the codes of some frames leave of them.
    """
    weights = (counts / counts.sum(1, keepdim=True).clamp(min=1e-9)).unsqueeze(2)
    means = (weights * table).sum(1)
    centred = [entries - mean for entries, mean in zip(table, means, strict=True)]
    spread = sum((w * one).T @ one for w, one in zip(weights, centred, strict=True))
    axes = torch.linalg.eigh(spread)[1]
    noise = (residuals @ axes).square().mean(0)  # of an entry of one frame
    shrunk = []
    for one, mean, weight, frames in zip(centred, means, weights, counts, strict=True):
        turned = one @ axes
        variance = (weight * turned.square()).sum(0)
        noise_here = noise * (frames > 0).sum() / frames.sum().clamp(min=1e-9)
        kept = torch.where(variance > 0, 1 - noise_here / variance, 1.0).clamp(min=0)
        shrunk.append(mean + (turned * kept) @ axes.T)
    return torch.stack(shrunk)
