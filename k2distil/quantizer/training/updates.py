"""How new entries follow from the sums of a round (statistics.CodeSums), for each type.

N codebooks of K entries, D dimensions, R = N * K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from k2distil.quantizer.training.conjugate_gradients import solve
from k2distil.quantizer.training.procrustes import nearest_rotation
from k2distil.quantizer.training.statistics import CodeSums

RIDGE = 10.0  # frames' worth of weight that ties each additive entry to its place


def update_product(
    sums: CodeSums, table: Tensor, rotation: Tensor, sizes: Sequence[int], num_rotations: int
) -> tuple[Tensor, Tensor]:
    """Alternate the best rotation for given entries (Procrustes) and the best entries for it.

    Both follow from the sums alone: sum x y^T, with y the entries chosen for x, is the sum over
    entries of (sum of frames that chose it) times (the entry).

    Args:
        table: (N, K, D); rotation: (D, D), its rows the axes of slice after slice; sizes: the
            dimensions of each slice; num_rotations: 0 keeps the rotation.

    Returns:
        table, rotation.
    """
    frames = sums.sums.view_as(table)
    counts = sums.counts.view(*table.shape[:2], 1)
    entries = _slice_means(frames, counts, table, rotation, sizes)
    for _ in range(num_rotations):
        cross = torch.cat([one.T @ frames[n] for n, one in enumerate(entries)])
        rotation = nearest_rotation(cross, rotation)
        entries = _slice_means(frames, counts, table, rotation, sizes)
    axes = rotation.split(list(sizes))
    return torch.stack([one @ axes[n] for n, one in enumerate(entries)]), rotation


def _slice_means(
    frames: Tensor, counts: Tensor, table: Tensor, rotation: Tensor, sizes: Sequence[int]
) -> list[Tensor]:
    """The mean of the frames that chose each entry, in its slice's axes: N times (K, size)."""
    means = torch.where(counts > 0, frames / counts.clamp(min=1e-9), table)
    return [means[n] @ axes.T for n, axes in enumerate(rotation.split(list(sizes)))]


def update_additive(sums: CodeSums, table: Tensor) -> Tensor:
    """The entries with the least squared error for the codes seen, tied to the present ones.

    Solves (B^T B + ridge) C = B^T X + ridge * C_now, B the one-hot codes; -> (N, K, D). Sparse
    pairs are not factored: conjugate gradients from the present entries come near enough.
    """
    if sums.pairs.is_sparse:
        now = table.flatten(0, 1)
        return solve(sums.pairs, RIDGE, sums.sums + RIDGE * now, now).view_as(table)
    system = sums.pairs.double()
    system.diagonal().add_(RIDGE)
    target = sums.sums.double() + RIDGE * table.flatten(0, 1)
    factor = torch.linalg.cholesky(system)
    return torch.cholesky_solve(target, factor).float().view_as(table)
