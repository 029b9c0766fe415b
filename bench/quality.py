"""How good codes are: ours beside faiss', on the same frames of a real teacher.

    python bench/quality.py --embedding_path exp/embedding.h5 --num_codebooks 4 8

One utterance in ten is held out, as in training; all other frames train every method (faiss'
limits on training points are lifted). docs/quantizer.md defines the figures. One row is the median
of `--seeds` trainings, which differ in seed and in the order of the frames; the JSON has them all.
CPU seconds are of all threads together.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import report
import torch
from torch import Tensor

from k2distil.pipeline.frame_source import FrameSource, fill
from k2distil.pipeline.train_quantizer import PROBE_FRAMES
from k2distil.quantizer import FrameReservoir, QuantizerTrainer, evaluate
from k2distil.storage import EmbeddingReader

BATCH_SIZE = 512
FIGURES = ("relative_error", "probe_cross_entropy", "predicted_error", "flips_5", "usage")


class FaissCodes:
    """A trained faiss quantizer, and the rotation before it, as `evaluate` wants it."""

    def __init__(self, quantizer: Any, rotation: Any = None) -> None:
        self.quantizer, self.rotation = quantizer, rotation
        self.num_codebooks, self.codebook_size = quantizer.M, 256

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


def train_ours(quantizer_type: str) -> Callable[..., Any]:
    """-> a function that trains on a reservoir."""

    def train(frames: FrameReservoir, num_codebooks: int, seed: int) -> Any:
        trainer = QuantizerTrainer(quantizer_type, frames.dim, num_codebooks, 256, seed=seed)
        while not trainer.done:
            trainer.step(frames.batch(trainer.steps_done, BATCH_SIZE))
        return trainer.quantizer

    return train


def train_faiss_product(frames: FrameReservoir, num_codebooks: int, seed: int) -> FaissCodes:
    """Slices of the frames as they are."""
    return FaissCodes(_product(_shuffled(frames), num_codebooks, seed))


def train_faiss_opq(frames: FrameReservoir, num_codebooks: int, seed: int) -> FaissCodes:
    """A learnt rotation, then slices."""
    rows = _shuffled(frames)
    rotation = faiss.OPQMatrix(frames.dim, num_codebooks)
    rotation.max_train_points = len(rows)
    inner = faiss.ProductQuantizer(frames.dim, num_codebooks, 8)
    inner.cp.max_points_per_centroid = len(rows)
    rotation.pq = inner
    rotation.train(rows)
    return FaissCodes(_product(rotation.apply(rows), num_codebooks, seed), rotation)


def train_faiss_residual(frames: FrameReservoir, num_codebooks: int, seed: int) -> FaissCodes:
    """Each codebook codes what the ones before it left; beam of 5, faiss' default."""
    rows = _shuffled(frames)
    quantizer = faiss.ResidualQuantizer(frames.dim, num_codebooks, 8)
    quantizer.cp.max_points_per_centroid, quantizer.cp.seed = len(rows), seed + 1
    quantizer.train(rows)
    return FaissCodes(quantizer)


METHODS: dict[str, Callable[..., Any]] = {
    "k2distil product": train_ours("product"),
    "k2distil additive": train_ours("additive"),
    "faiss PQ": train_faiss_product,
    "faiss OPQ+PQ": train_faiss_opq,
    "faiss residual": train_faiss_residual,
}


def measure(name: str, path: Path, num_codebooks: int, num_seeds: int) -> dict[str, Any]:
    """Train and evaluate one method with every seed."""
    runs = []
    for seed in range(num_seeds):
        reader = EmbeddingReader(path)
        dim = reader[next(iter(reader))].shape[1]
        source = FrameSource(
            {"dim": dim}, {}, len(reader), lambda r=reader: map(torch.from_numpy, r.values())
        )
        training, held_out = fill(source, 500_000, seed, lambda: None)
        started = time.process_time()
        quantizer = METHODS[name](training, num_codebooks, seed)
        seconds = time.process_time() - started
        probed = training.batch(0, min(PROBE_FRAMES, len(training)))
        figures = evaluate(quantizer, probed, held_out.frames, seed).as_dict()
        runs.append({"train_cpu_seconds": seconds, **figures})
    numbers = [key for key, value in runs[0].items() if not isinstance(value, list)]
    medians = {key: statistics.median(run[key] for run in runs) for key in numbers}
    shape = {"dim": dim, "num_codebooks": num_codebooks, "codebook_size": 256}
    return {"method": name, **shape, "frames": len(training), **medians, "runs": runs}


def _shuffled(frames: FrameReservoir) -> np.ndarray:
    """All rows, in the order in which our trainer sees them."""
    return frames.batch(0, len(frames)).numpy()


def _product(rows: np.ndarray, num_codebooks: int, seed: int) -> Any:
    quantizer = faiss.ProductQuantizer(rows.shape[1], num_codebooks, 8)
    quantizer.cp.max_points_per_centroid, quantizer.cp.seed = len(rows), seed + 1
    quantizer.train(rows)
    return quantizer


def main() -> None:
    """Print a table for each number of codebooks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embedding_path", type=Path, required=True, help="of save_embedding.sh")
    parser.add_argument("--num_codebooks", type=int, nargs="+", default=[8])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="trainings per row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="append to results/quality.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    rows = []
    for num_codebooks in options.num_codebooks:
        for name in options.methods:
            rows.append(measure(name, options.embedding_path, num_codebooks, options.seeds))
            if options.save:
                report.save(rows[-1:], "quality")
            print(f"done: {name}, N = {num_codebooks}", flush=True)
    columns = dict.fromkeys(FIGURES, ".3f")
    report.show(rows, {"method": "", "num_codebooks": "", **columns, "train_cpu_seconds": ".1f"})


if __name__ == "__main__":
    main()
