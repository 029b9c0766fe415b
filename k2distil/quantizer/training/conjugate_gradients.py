"""Least squares for many entries: a sparse symmetric system, solved without factoring it.

Conjugate gradients with a Jacobi preconditioner (Saad, "Iterative methods for sparse linear
systems", SIAM 2003, algorithm 9.1), each column of the unknowns on its own. R rows, D columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ITERATIONS = 30
TOLERANCE = 1e-4  # of the residual, relative to the right-hand side


def solve(
    pairs: Tensor,
    ridge: float,
    target: Tensor,
    start: Tensor,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Tensor:
    """Solve (pairs + ridge) X = target, beginning at `start`; deterministic on every device.

    Args:
        pairs: (R, R) sparse COO, coalesced, symmetric, no negative eigenvalues, float32.
        target, start: (R, D) float32.

    Returns:
        X: (R, D) float32, after `max_iterations` at the latest.
    """
    rows, columns = pairs.indices()
    values = pairs.values()
    counts = torch.bincount(rows, minlength=len(target))
    first = counts.cumsum(0) - counts
    on_diagonal = rows == columns
    diagonal = torch.full_like(target[:, :1], ridge)
    diagonal[rows[on_diagonal], 0] += values[on_diagonal]

    def times(vectors: Tensor) -> Tensor:
        # A sum over bags has a fixed order; sparse products on CUDA have not.
        product = F.embedding_bag(columns, vectors, first, mode="sum", per_sample_weights=values)
        return product.add_(vectors, alpha=ridge)

    solution = start.clone()
    residual = target - times(solution)
    allowed = tolerance * target.norm(dim=0)
    preconditioned = residual / diagonal
    direction = preconditioned.clone()
    size = (residual * preconditioned).sum(0)
    for _ in range(max_iterations):
        active = residual.norm(dim=0) > allowed
        if not active.any():
            break
        moved = times(direction)
        step = _ratio(size, (direction * moved).sum(0)) * active
        solution += step * direction
        residual -= step * moved
        preconditioned = residual / diagonal
        before, size = size, (residual * preconditioned).sum(0)
        direction = preconditioned + _ratio(size, before) * direction
    return solution


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """one / other, 0 where other is: a column that is solved stays."""
    return torch.where(other > 0, one / other, 0.0)
