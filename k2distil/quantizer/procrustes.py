"""The rotation that turns one set of vectors best onto another: a polar factor.

For entries y chosen for frames x, the rotation R with the least sum of |R x - y|^2 is the
orthogonal factor of M = sum y x^T (Schonemann, "A generalized solution of the orthogonal
Procrustes problem", Psychometrika 1966).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Newton and Schulz' way: a singular value grows by 1.5 in each iteration until it is near 1.
MAX_ITERATIONS = 60
TIE = 1e-6  # of the greatest singular value, at least: what the present rotation counts for
ORTHONORMAL = 1e-5  # the greatest error of an inner product of rows, in float32


def nearest_rotation(matrix: Tensor, present: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T; both (D, D) float32 -> (D, D), orthonormal.

    On a GPU a decomposition takes many times longer than the matrix products of `newton_schulz`.
    These need some rank in every direction, so there the present rotation counts a little.
    """
    if matrix.is_cuda:
        rotation = newton_schulz(matrix + TIE * _at_least_norm(matrix) * present)
        if rotation is not None:
            return rotation
    left, _, right = torch.linalg.svd(matrix)
    return left @ right


def newton_schulz(matrix: Tensor) -> Tensor | None:
    """The same by X <- X (3 - X^T X) / 2, which draws all singular values to 1.

    Higham, "Functions of Matrices", SIAM 2008, chapter 8. None: one is too near 0.
    """
    rotation = matrix / _at_least_norm(matrix)
    identity = torch.eye(len(matrix), device=matrix.device)
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
