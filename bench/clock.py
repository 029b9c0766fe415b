"""The seconds that benchmarks count."""

import time
from collections.abc import Callable

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
