"""How a product quantizer's training starts: the rotation it begins with, and the first entries.

Where a training ends depends on the rotation it starts from. Principal axes, those of most variance
in the first slice, are a good start for the states of a teacher, and bad where a few dimensions
have most of the variance, since these share one codebook then; a random rotation spreads them. So
both are tried for some rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from k2distil.quantizer.model import ProductQuantizer
from k2distil.quantizer.search.slices import pad_axes
from k2distil.quantizer.training.seeding import seed_entries
from k2distil.quantizer.training.statistics import CodeSums
from k2distil.quantizer.training.updates import update_product

ROUNDS = 6  # which tell starts apart; of 144 that a training has
PIECE = 4096  # frames summed at a time


def best_start(
    frames: Tensor,
    sizes: Sequence[int],
    codebook_size: int,
    num_rotations: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Try both starts on frames and take the one that leaves less error.

    Args:
        frames: (M, D) float32, centred and scaled; sizes: the dimensions of each of N slices;
            num_rotations: as in `update_product`.

    Returns:
        table (N, K, D), rotation (D, D), its rows the axes of slice after slice.
    """
    dim = frames.shape[1]
    random = frames.new_empty(dim, dim).normal_(generator=generator)
    found = []
    for rotation in (_principal_axes(frames), torch.linalg.qr(random)[0]):
        table = torch.stack(
            [
                seed_entries(frames @ axes.T, codebook_size, generator) @ axes
                for axes in rotation.split(list(sizes))
            ]
        )
        for _ in range(ROUNDS):
            sums = _sums(frames, table, rotation, sizes)
            table, rotation = update_product(sums, table, rotation, sizes, num_rotations)
        found.append((float(sums.errors.sum()), table, rotation))
    _, table, rotation = min(found, key=lambda start: start[0])
    return table, rotation


def _principal_axes(frames: Tensor) -> Tensor:
    """(M, D) -> (D, D), a row each, most variance first."""
    products = frames.new_zeros(frames.shape[1], frames.shape[1], dtype=torch.float64)
    for piece in frames.split(PIECE):
        products += piece.double().T @ piece.double()
    return torch.linalg.eigh(products)[1].T.flip(0).float()


def _sums(frames: Tensor, table: Tensor, rotation: Tensor, sizes: Sequence[int]) -> CodeSums:
    nothing, one = table.new_zeros(table.shape[2]), table.new_ones(())
    quantizer = ProductQuantizer(table, nothing, one, pad_axes(rotation.split(list(sizes))))
    sums = CodeSums.zeros(table, with_pairs=False, dtype=torch.float32)
    for piece in frames.split(PIECE):
        codes = quantizer.encode(piece)
        errors = quantizer.residuals(piece, codes).square().sum(1)
        sums.add(piece, codes, errors, table.shape[1])
    return sums
