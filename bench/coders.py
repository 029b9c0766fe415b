"""Everything `quantizer.py` compares: how each method is trained, and what it cannot do.

A method takes a FrameReservoir and gives coders by name: one, or several that share a training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import faiss
import numpy as np
import torch
from clock import Clock
from mq import MAX_CODEBOOKS, MultiQuantization, train_mq
from torch import Tensor

from k2distil.quantizer import (
    AdditiveQuantizer,
    FrameReservoir,
    QuantizerTrainer,
    finish,
)
from k2distil.quantizer.multi_quantization import from_package_state

BATCH_SIZE = 512
CODEBOOK_SIZE = 256
PRODUCT, ADDITIVE, WIDE = "product", "additive", "additive, quality search"
MULTI_QUANTIZATION = "multi_quantization"
WIDE_SEARCH = {"beam": 64, "num_sweeps": 3}
NUM_SPLITS = 2  # of the product residual quantizer


class Coder(Protocol):
    """A trained quantizer, as `k2distil.quantizer.evaluate` wants it."""

    num_codebooks: int
    codebook_size: int

    def encode(self, frames: Tensor) -> Tensor:
        """(B, D) float32 -> (B, N) integers."""

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) integers -> (B, D) float32."""


@dataclass(frozen=True)
class Task:
    """What every training is given.

    clock: seconds, see `clock_of`; held_out: (H, D), which only a correction looks at.
    """

    num_codebooks: int
    seed: int
    device: str
    mq_seconds: float
    clock: Clock
    held_out: Tensor


@dataclass(frozen=True)
class Trained:
    """A coder; notes: what else belongs in its row.

    for_figures: gives the same codes faster where that takes long, else None.
    """

    coder: Coder
    notes: dict[str, Any] = field(default_factory=dict)
    for_figures: Coder | None = None


Train = Callable[[FrameReservoir, Task], Trained]


def train_ours(quantizer_type: str) -> Train:
    """-> a method of this project."""

    def train(frames: FrameReservoir, task: Task) -> Trained:
        trainer = new_trainer(quantizer_type, frames, task.num_codebooks, task)
        run(trainer, frames, trainer.num_steps)
        return Trained(finish(trainer.quantizer, frames, task.held_out, task.seed))

    return train


def new_trainer(
    quantizer_type: str, frames: FrameReservoir, num_codebooks: int, task: Task
) -> QuantizerTrainer:
    """One of this project's."""
    sizes = (frames.dim, num_codebooks, CODEBOOK_SIZE)
    return QuantizerTrainer(quantizer_type, *sizes, seed=task.seed, device=task.device)


def run(trainer: QuantizerTrainer, frames: FrameReservoir, last_step: int) -> None:
    """Train on to `last_step`."""
    while trainer.steps_done < last_step:
        trainer.step(frames.batch(trainer.steps_done, BATCH_SIZE))


def search_wider(trained: Trained) -> Trained:
    """The same entries, with a search that takes longer."""
    quantizer = trained.coder
    assert isinstance(quantizer, AdditiveQuantizer)
    wider = AdditiveQuantizer(**quantizer.entries(), **WIDE_SEARCH)
    wider.correction = quantizer.correction
    return Trained(wider, dict(WIDE_SEARCH))


def train_multi_quantization(frames: FrameReservoir, task: Task) -> Trained:
    """Figures are of k2distil's reader of the same entries: the package takes 50 times as long."""
    sizes = (task.num_codebooks, task.seed, task.mq_seconds)
    done = train_mq(frames, *sizes, device=task.device, clock=task.clock)
    notes = {"iterations": done.iterations, "time_limited": done.time_limited}
    reader = from_package_state(done.quantizer.quantizer.state_dict(), MULTI_QUANTIZATION)
    notes["train_seconds"] = done.seconds
    return Trained(done.quantizer, notes, reader.to(task.device))


def same_codes(coder: MultiQuantization, reader: Coder, frames: Tensor) -> float:
    """Share of codes on which the package and k2distil's reader of it agree."""
    return float((coder.encode(frames) == reader.encode(frames).long()).float().mean())


class FaissCodes:
    """A trained faiss quantizer, and the rotation before it."""

    def __init__(self, quantizer: Any, num_codebooks: int, rotation: Any = None) -> None:
        self.quantizer, self.rotation = quantizer, rotation
        self.num_codebooks, self.codebook_size = num_codebooks, CODEBOOK_SIZE

    def encode(self, frames: Tensor) -> Tensor:
        """(B, D) -> (B, N) uint8."""
        rows = np.ascontiguousarray(frames.float().numpy())
        if self.rotation is not None:
            rows = self.rotation.apply(rows)
        return torch.from_numpy(self.quantizer.compute_codes(rows))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) integers -> (B, D) float32."""
        rows = self.quantizer.decode(codes.to(torch.uint8).numpy())
        return torch.from_numpy(
            rows if self.rotation is None else self.rotation.reverse_transform(rows)
        )


def train_faiss_product(frames: FrameReservoir, task: Task) -> Trained:
    """Slices of the frames as they are."""
    return Trained(FaissCodes(_product(_shuffled(frames), task), task.num_codebooks))


def train_faiss_opq(frames: FrameReservoir, task: Task) -> Trained:
    """A learnt rotation, then slices."""
    rows = _shuffled(frames)
    rotation = faiss.OPQMatrix(frames.dim, task.num_codebooks)
    rotation.max_train_points = len(rows)
    inner = faiss.ProductQuantizer(frames.dim, task.num_codebooks, 8)
    inner.cp.max_points_per_centroid = len(rows)
    rotation.pq = inner
    rotation.train(rows)
    quantizer = _product(rotation.apply(rows), task)
    return Trained(FaissCodes(quantizer, task.num_codebooks, rotation))


def train_faiss_residual(beam: int) -> Train:
    """-> each codebook codes what the ones before it left; 5 is faiss' default."""

    def train(frames: FrameReservoir, task: Task) -> Trained:
        rows = _shuffled(frames)
        quantizer = faiss.ResidualQuantizer(frames.dim, task.num_codebooks, 8)
        _lift_limits(quantizer, len(rows), task.seed)
        quantizer.max_beam_size = beam
        quantizer.train(rows)
        return Trained(FaissCodes(quantizer, task.num_codebooks))

    return train


def train_faiss_local_search(frames: FrameReservoir, task: Task) -> Trained:
    """LSQ++ as faiss has it; it trains on all points that it is given."""
    quantizer = faiss.LocalSearchQuantizer(frames.dim, task.num_codebooks, 8)
    quantizer.random_seed += task.seed
    quantizer.train(_shuffled(frames))
    return Trained(FaissCodes(quantizer, task.num_codebooks))


def train_faiss_product_residual(frames: FrameReservoir, task: Task) -> Trained:
    """A residual quantizer in each half of the dimensions."""
    rows = _shuffled(frames)
    sizes = (frames.dim, NUM_SPLITS, task.num_codebooks // NUM_SPLITS)
    quantizer = faiss.ProductResidualQuantizer(*sizes, 8)
    for part in range(NUM_SPLITS):
        inner = faiss.downcast_AdditiveQuantizer(quantizer.subquantizer(part))
        _lift_limits(inner, len(rows), task.seed)
    quantizer.train(rows)
    return Trained(FaissCodes(quantizer, task.num_codebooks))


def _shuffled(frames: FrameReservoir) -> np.ndarray:
    """All rows, in the order in which our trainer sees them."""
    return frames.batch(0, len(frames)).numpy()


def _product(rows: np.ndarray, task: Task) -> Any:
    quantizer = faiss.ProductQuantizer(rows.shape[1], task.num_codebooks, 8)
    _lift_limits(quantizer, len(rows), task.seed)
    quantizer.train(rows)
    return quantizer


def _lift_limits(quantizer: Any, num_rows: int, seed: int) -> None:
    """Of k-means: by default faiss looks at 256 points a centroid."""
    quantizer.cp.max_points_per_centroid, quantizer.cp.seed = num_rows, seed + 1


TRAIN: dict[str, Train] = {
    PRODUCT: train_ours("product"),
    ADDITIVE: train_ours("additive"),
    MULTI_QUANTIZATION: train_multi_quantization,
    "faiss PQ": train_faiss_product,
    "faiss OPQ+PQ": train_faiss_opq,
    "faiss residual, beam 1": train_faiss_residual(1),
    "faiss residual, beam 5": train_faiss_residual(5),
    "faiss residual, beam 16": train_faiss_residual(16),
    "faiss local search": train_faiss_local_search,
    "faiss product residual": train_faiss_product_residual,
}
FOLLOWS = {WIDE: (ADDITIVE, search_wider)}  # made from another method's training
METHODS = [PRODUCT, ADDITIVE, *FOLLOWS, *list(TRAIN)[2:]]


def why_not(name: str, dim: int, num_codebooks: int, device: str) -> str | None:
    """Why a method cannot do this, or None."""
    if name == MULTI_QUANTIZATION and (
        num_codebooks > MAX_CODEBOOKS or num_codebooks & (num_codebooks - 1)
    ):
        return f"it takes powers of two up to {MAX_CODEBOOKS} codebooks"
    if name.startswith("faiss") and device != "cpu":
        return "it runs on a CPU only"
    if name in ("faiss PQ", "faiss OPQ+PQ") and dim % num_codebooks:
        return f"{dim} dimensions cannot be cut into {num_codebooks} alike"
    if name == "faiss product residual" and (num_codebooks % NUM_SPLITS or dim % NUM_SPLITS):
        return f"it takes multiples of {NUM_SPLITS} codebooks and dimensions"
    return None
