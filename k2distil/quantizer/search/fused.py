"""Searches of a CUDA device by kernels (kernels.py), where there is Triton to make them."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from k2distil.quantizer.model import Quantizer

logger = logging.getLogger(__name__)

CHUNK_VALUES = 2**26  # float32 that stand at once: 256 MiB
OLDEST = (8, 0)  # compute capability: Ampere
CHECKED, TOLERANCE = 64, 0.01  # frames; of their squared error, which float16 changes by 1e-4


@dataclass(frozen=True)
class Search:
    """A search by kernels.

    run: (B, D) float16, bfloat16 or float32 frames as they come -> codes (B, N) int32 and is_bad,
        (B,) bool: of frames that are not finite or beyond float16, whose codes do not count.
    values_per_frame: how many float32 of a frame stand at once.
    """

    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    values_per_frame: int


class KernelCache:
    """The search of a quantizer as it is now: made anew where its tensors or settings changed.

    A copy and a pickle of it are empty.
    """

    def __init__(self) -> None:
        self._made_of: object = None
        self._search: Search | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """As new."""
        return KernelCache, ()

    def of(self, quantizer: Quantizer) -> Search | None:
        """What its `kernel_search` gives."""
        tensors = tuple(
            (each.device, each.data_ptr(), 0 if each.is_inference() else each._version)
            for each in quantizer.entries().values()
        )
        made_of = (tensors, tuple(quantizer.settings.items()))
        if made_of != self._made_of:
            self._search, self._made_of = quantizer.kernel_search(), made_of
        return self._search


# In this process: where they failed, and what was found right, a device and a type of quantizer.
_given_up: set[torch.device] = set()
_checked: set[tuple[torch.device, str]] = set()


def has_kernels(device: torch.device) -> bool:
    """Whether searches by kernels work there, as far as is known."""
    return device.type == "cuda" and device not in _given_up and _takes_kernels(device)


@cache
def _takes_kernels(device: torch.device) -> bool:
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < OLDEST:
        return False
    return importlib.util.find_spec("triton") is not None


def give_up(device: torch.device, error: Exception) -> None:
    """Use none there from now on, after an error; as without a C compiler, which Triton needs."""
    _given_up.add(device)
    logger.warning(
        "no kernels for quantizers on %s (%s: %s): torch's operations take their place, in several "
        "times the time; Triton needs a C compiler and Python's headers",
        *(device, type(error).__name__, str(error).partition("\n")[0]),
    )
    logger.debug("kernels failed", exc_info=error)


def check_once(quantizer: Quantizer, rows: Tensor, codes: Tensor) -> None:
    """Compare the first frames of a process with torch's: a compiler can be wrong on some GPU.

    Raises:
        RuntimeError: the codes lose more of the frames.
    """
    kind = (codes.device, quantizer.type)
    if kind in _checked or not len(rows):
        return
    rows = rows[:CHECKED].to(codes.device)
    exact, _ = quantizer.encode_by_torch(rows)
    whole = float(quantizer.normalise(rows).double().square().sum())  # an offset is no part of it
    ours, theirs = (
        float(quantizer.residuals(rows, each).double().square().sum())
        for each in (codes[:CHECKED], exact)
    )
    if not ours <= theirs * (1 + TOLERANCE) + TOLERANCE**2 * whole:
        raise RuntimeError(f"kernels lose {ours:.4g} of frames of which torch's lose {theirs:.4g}")
    _checked.add(kind)


def product_search(
    axes: Tensor, entries: Tensor, bias: Tensor, mean: Tensor, scale: Tensor
) -> Search:
    """As ProductQuantizer does; axes: (N, d, D), entries: (N, d, K), along these, bias: (N, K)."""
    from k2distil.quantizer.search.kernels import MAX_FLOAT16, Nearest, SplitLinear

    weight = axes.flatten(0, 1).T
    nothing = weight.new_zeros(weight.shape[1])
    project = SplitLinear(weight, nothing, mean, scale, MAX_FLOAT16)
    nearest = Nearest(entries, bias)

    def run(frames: Tensor) -> tuple[Tensor, Tensor]:
        projected, is_bad = project(frames)
        return nearest(projected), is_bad

    return Search(run, max(weight.shape))


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
    from k2distil.quantizer.search import kernels

    num_codebooks, codebook_size = bias.shape
    if not kernels.can_search(num_codebooks, codebook_size, beam):
        return None
    weight = table.flatten(0, 1).T
    scores = kernels.SplitLinear(weight, bias.flatten(), mean, scale, kernels.MAX_FLOAT32)

    def run(frames: Tensor) -> tuple[Tensor, Tensor]:
        unary, is_bad = scores(frames)
        unary = unary.view(-1, num_codebooks, codebook_size)
        return kernels.beam_search(unary, interactions, beam, num_sweeps), is_bad

    return Search(run, max(weight.shape))
