"""Where the time of a run goes: `with stage("encoder"):` round what is to be told apart.

Without a `Profile` at work a stage costs next to nothing. On CUDA a stage is measured by events on
the device, so that nothing waits for it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Profile:
    """Sums the seconds of each stage while it is open; one at a time in a process."""

    def __init__(self) -> None:
        self.wall_seconds = 0.0
        self._host: dict[str, float] = defaultdict(float)
        self._device: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._started = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Profile:
        global _profile  # stages lie deep in code that knows of no profile
        _profile, self._started = self, time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        global _profile
        self.wall_seconds += time.perf_counter() - self._started
        _profile = None

    def seconds(self) -> dict[str, float]:
        """Each stage's, in the order in which they began; stages of several threads overlap."""
        for _, end in (pair for events in self._device.values() for pair in events):
            end.synchronize()
        on_device = {
            name: sum(start.elapsed_time(end) for start, end in events) / 1000
            for name, events in self._device.items()
        }
        return {name: self._host[name] + on_device.get(name, 0.0) for name in self._host}

    def add(self, name: str, seconds: float) -> None:
        """Count seconds to a stage."""
        with self._lock:
            self._host[name] += seconds

    @contextmanager
    def measure(self, name: str, device: torch.device | None) -> Iterator[None]:
        """Measure a stage; see `stage`."""
        import torch

        self.add(name, 0.0)
        if device is None or device.type != "cuda":
            started = time.perf_counter()
            with torch.profiler.record_function(name):
                yield
            self.add(name, time.perf_counter() - started)
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(device)
        with torch.profiler.record_function(name):
            start.record(stream)
            yield
            end.record(stream)
        self._device[name].append((start, end))


_profile: Profile | None = None


@contextmanager
def stage(name: str, device: torch.device | None = None) -> Iterator[None]:
    """Count the time of a block to a stage.

    Args:
        name: of the stage.
        device: where its work is done; None: in this thread.
    """
    if _profile is None:
        yield
    else:
        with _profile.measure(name, device):
            yield


def add_seconds(name: str, seconds: float) -> None:
    """Count seconds that were measured elsewhere, such as in another process."""
    if _profile is not None:
        _profile.add(name, seconds)
