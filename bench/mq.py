"""multi_quantization, the package of icefall's recipe, as a quantizer that the benchmarks judge.

It comes with `pip install -e '.[bench]'`. Its schedule is 10,000 iterations of 600 frames with
codebooks of 16 entries, then 10,000 with pairs of them joined to 256.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from k2distil.quantizer import FrameReservoir

ITERATIONS = 10_000  # of each phase, the package's default
BATCH_FRAMES = 600  # what its authors tuned it with
TIMED = 12  # iterations of each phase that tell how many fit into the time
ENCODE_FRAMES = {"cpu": 32, "cuda": 1024}  # at once; on a CPU 32 is fastest, 0.2 MB and more each
MAX_CODEBOOKS = 32


class MultiQuantization:
    """The package's quantizer, with the 5 refinements it encodes with by default."""

    def __init__(self, quantizer: Any) -> None:
        self.quantizer = quantizer.requires_grad_(False)
        self.num_codebooks, self.codebook_size = quantizer.num_codebooks, quantizer.codebook_size

    def encode(self, frames: Tensor) -> Tensor:
        """(B, D) -> (B, N) int64, in parts."""
        parts = frames.float().split(ENCODE_FRAMES[frames.device.type])
        return torch.cat([self.quantizer.encode(part, as_bytes=False) for part in parts])

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) -> (B, D) float32."""
        return self.quantizer.decode(codes.long())


@dataclass(frozen=True)
class Training:
    """iterations: of both phases; seconds: what they took, without the trial that timed them."""

    quantizer: MultiQuantization
    iterations: int
    seconds: float
    time_limited: bool


def train_mq(
    frames: FrameReservoir,
    num_codebooks: int,
    seed: int,
    seconds: float,
    device: str = "cpu",
    clock: Callable[[], float] = time.process_time,
) -> Training:
    """Its own schedule to the end; both phases are shortened alike where the time is too short."""
    from multi_quantization import QuantizerTrainer as PackageTrainer

    def train(iterations: int) -> tuple[Any, list[float]]:
        """`iterations` in either phase; also the seconds of each."""
        torch.manual_seed(seed)
        random.seed(seed)
        sizes = (frames.dim, num_codebooks, torch.device(device))
        trainer, taken = PackageTrainer(*sizes, iterations, iterations), []
        while not trainer.done():
            started = clock()
            trainer.step(frames.batch(len(taken), BATCH_FRAMES).to(device))
            taken.append(clock() - started)
        return trainer.get_quantizer(), taken

    _, taken = train(TIMED)
    # The first iteration of 200, and the one between the phases, do more than the others.
    pair = statistics.mean(taken[1:TIMED]) + statistics.mean(taken[TIMED + 1 :])
    fitting = max(TIMED, int((seconds - sum(taken)) / pair))
    quantizer, taken = train(min(fitting, ITERATIONS))
    return Training(MultiQuantization(quantizer), len(taken), sum(taken), fitting < ITERATIONS)
