"""Codebooks in order of use, so that the first n of N are a quantizer of their own.

A trained codebook may hold a constant that another takes back, and comes in whatever place chance
gave it. Without changing any decoded frame, constants go to the quantizer's mean and the codebook
that matters most comes first.
"""

from __future__ import annotations

import torch
from torch import Tensor


def order_codebooks(
    table: Tensor, mean: Tensor, scale: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Centre each codebook on its mean entry, then sort by variance, greatest first.

    Both as entries are used: means and variances are weighted by `counts`. Of orthogonal codebooks
    the codes stay the same but for their order; of others the sums to choose from do.

    Args:
        table: (N, K, D); mean: (D,); scale: (); counts: (N, K), how often each entry was chosen.

    Returns:
        table (N, K, D) float32, mean (D,) float32, and order (N,) int64: the place each codebook
        had before.
    """
    weights = counts.double()
    totals = weights.sum(1, keepdim=True)
    weights = torch.where(totals > 0, weights / totals.clamp(min=1e-30), 0.0).unsqueeze(1)
    constants = (weights @ table.double()).float()  # (N, 1, D)
    centred = table - constants
    variances = (weights @ centred.double().square()).sum((1, 2))
    order = variances.argsort(descending=True, stable=True)
    moved = mean.double() + scale.double() * constants.double().sum((0, 1))
    return centred[order], moved.float(), order
