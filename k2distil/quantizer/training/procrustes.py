"""The rotation that turns one set of vectors best onto another: a polar factor.

For entries y chosen for frames x, the rotation R with the least sum of |R x - y|^2 is the
orthogonal factor of M = sum y x^T (Schonemann, "A generalized solution of the orthogonal
Procrustes problem", Psychometrika 1966).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ITERATIONS = 60  # in each a singular value grows by 1.5, until it is near 1
TIE = 1e-6  # of the greatest singular value, at least: what the present rotation counts for
ORTHONORMAL = 1e-5  # the greatest error of an inner product of rows, in float32


def nearest_rotation(matrix: Tensor, present: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T; both (D, D) float32 -> (D, D), orthonormal.

    On a GPU a decomposition takes many times longer than the matrix products of `by_products`.
    """
    rotation = by_products(matrix, present) if matrix.is_cuda else None
    if rotation is None:
        left, _, right = torch.linalg.svd(matrix)
        rotation = left @ right
    return rotation


def by_products(matrix: Tensor, present: Tensor) -> Tensor | None:
    """The same by X <- X (3 - X^T X) / 2, which draws all singular values to 1 (Newton, Schulz).

    Higham, "Functions of Matrices", SIAM 2008, chapter 8. The present rotation counts a little, so
    that it stays in directions of which the matrix says nothing. None: a value stays near 0.
    """
    tied = matrix + TIE * _at_least_norm(matrix) * present
    rotation = tied / _at_least_norm(tied)
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for _ in range(MAX_ITERATIONS):
        products = rotation.T @ rotation
        if (products - identity).abs().max() < ORTHONORMAL:
            return rotation
        rotation = 1.5 * rotation - 0.5 * rotation @ products
    return None


def _at_least_norm(matrix: Tensor) -> Tensor:
    """A bound of the greatest singular value that is never below it."""
    return (
        torch.linalg.matrix_norm(matrix, 1) * torch.linalg.matrix_norm(matrix, torch.inf)
    ).sqrt()
