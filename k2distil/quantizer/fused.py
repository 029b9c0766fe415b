"""Searches of a CUDA device by kernels (kernels.py), where there is Triton to make them."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

CHUNK_VALUES = 2**26  # float32 that stand at once: 256 MiB
OLDEST = (8, 0)  # compute capability: Ampere
CHECKED, TOLERANCE = 64, 0.01  # frames; of their squared error, which float16 changes by 1e-4


@dataclass(frozen=True)
class Search:
    """A search by kernels.

    run: (B, D) float16, bfloat16 or float32 frames as they come -> codes (B, N) int32 and is_bad,
        (B,) bool: of frames that are not finite or beyond float16, whose codes do not count.
    values: how many float32 of a frame stand at once.
    """

    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    values: int


class Searched(Protocol):
    """A quantizer, as far as it is needed here."""

    type: ClassVar[str]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the search."""

    def entries(self) -> dict[str, Tensor]:
        """What decides the search beside its settings."""

    def kernel_search(self) -> Search | None:
        """Make it."""

    def encode_by_torch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> codes (B, N), and whether all frames are finite."""

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) -> (B, D)."""


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

    def of(self, quantizer: Searched) -> Search | None:
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
    if device.type != "cuda" or torch.version.hip is not None or device in _given_up:
        return False
    is_new = torch.cuda.get_device_capability(device) >= OLDEST
    return is_new and importlib.util.find_spec("triton") is not None


def give_up(device: torch.device, error: Exception) -> None:
    """Use none there from now on, after an error; as without a C compiler, which Triton needs."""
    _given_up.add(device)
    logger.warning(
        "no kernels for quantizers on %s (%s: %s): torch's operations take their place, in several "
        "times the time; Triton needs a C compiler and Python's headers",
        *(device, type(error).__name__, str(error).partition("\n")[0]),
    )
    logger.debug("kernels failed", exc_info=error)


def check_once(quantizer: Searched, rows: Tensor, codes: Tensor) -> None:
    """Compare the first frames of a process with torch's: a compiler can be wrong on some GPU.

    Raises:
        RuntimeError: the codes lose more of the frames.
    """
    kind = (codes.device, quantizer.type)
    if kind in _checked or not len(rows):
        return
    rows = rows[:CHECKED].to(codes.device)
    exact, _ = quantizer.encode_by_torch(rows)
    ours, theirs = (
        float((quantizer.decode(each) - rows).double().square().sum())
        for each in (codes[:CHECKED], exact)
    )
    if not ours <= theirs * (1 + TOLERANCE) + TOLERANCE**2 * float(rows.double().square().sum()):
        raise RuntimeError(f"kernels lose {ours:.4g} of frames of which torch's lose {theirs:.4g}")
    _checked.add(kind)


def product_search(
    axes: Tensor, entries: Tensor, bias: Tensor, mean: Tensor, scale: Tensor
) -> Search:
    """As ProductQuantizer does; axes: (N, d, D), entries: (N, d, K), along these, bias: (N, K)."""
    from k2distil.quantizer.kernels import MAX_FLOAT16, Nearest, SplitLinear

    weight = axes.flatten(0, 1).T
    nothing = weight.new_zeros(weight.shape[1])
    project = SplitLinear(weight, nothing, mean, scale, largest=MAX_FLOAT16)
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
    from k2distil.quantizer import kernels

    num_codebooks, codebook_size = bias.shape
    if not kernels.can_search(num_codebooks, codebook_size, beam):
        return None
    entries = table.flatten(0, 1).T, bias.flatten()
    scores = kernels.SplitLinear(*entries, mean, scale, largest=kernels.MAX_FLOAT32)

    def run(frames: Tensor) -> tuple[Tensor, Tensor]:
        unary, is_bad = scores(frames)
        unary = unary.view(-1, num_codebooks, codebook_size)
        return kernels.beam_search(unary, interactions, beam, num_sweeps), is_bad

    return Search(run, max(entries[0].shape))
