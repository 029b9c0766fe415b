"""Searches of a CUDA device by kernels (kernels.py), where there is Triton to make them.

A search takes (B, D) float16, bfloat16 or float32 frames as they come, and gives codes (B, N) int32
and `is_bad`, () int32: not 0 where a value was not finite or beyond float16, then no code counts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

Search = Callable[[Tensor], tuple[Tensor, Tensor]]

# Of the frames and scores of one call: 32,768 frames of 2,048 scores take 256 MiB.
CHUNK_VALUES = 2**26
OLDEST = (8, 0)  # compute capability: Ampere


def has_kernels(device: torch.device) -> bool:
    """Whether searches by kernels work there."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    is_new = torch.cuda.get_device_capability(device) >= OLDEST
    return is_new and importlib.util.find_spec("triton") is not None


def product_search(
    axes: Tensor, entries: Tensor, bias: Tensor, mean: Tensor, scale: Tensor
) -> Search:
    """As ProductQuantizer does; axes: (N, d, D), entries: (N, d, K), along these, bias: (N, K)."""
    from k2distil.quantizer.kernels import MAX_FLOAT16, Nearest, SplitLinear

    weight = axes.flatten(0, 1).T
    nothing = weight.new_zeros(weight.shape[1])
    project = SplitLinear(weight, nothing, mean, scale, largest=MAX_FLOAT16)
    nearest = Nearest(entries, bias)

    def search(frames: Tensor) -> tuple[Tensor, Tensor]:
        projected, is_bad = project(frames)
        return nearest(projected), is_bad

    return search


def additive_search(
    table: Tensor,
    bias: Tensor,
    mean: Tensor,
    scale: Tensor,
    interactions: Tensor,
    beam: int,
    num_sweeps: int,
) -> Search | None:
    """As AdditiveQuantizer does; None: not of these sizes."""
    from k2distil.quantizer import kernels

    num_codebooks, codebook_size = bias.shape
    if not kernels.can_search(num_codebooks, codebook_size, beam):
        return None
    entries = table.flatten(0, 1).T, bias.flatten()
    scores = kernels.SplitLinear(*entries, mean, scale, largest=kernels.MAX_FLOAT32)

    def search(frames: Tensor) -> tuple[Tensor, Tensor]:
        unary, is_bad = scores(frames)
        unary = unary.view(-1, num_codebooks, codebook_size)
        return kernels.beam_search(unary, interactions, beam, num_sweeps), is_bad

    return search
