"""The seconds that benchmarks count."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Clock = Callable[[], float]


def clock_of(device: str) -> Clock:
    """CPU seconds of this process; for CUDA seconds on the wall, of finished work."""
    if device == "cpu":
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of turns that were taken one after another."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
