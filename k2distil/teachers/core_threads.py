"""Independent work on all cores of a CPU: a thread each, instead of all cores on each operation.

An operation on a few seconds of audio is too small to be divided: on two cores this is a fifth
faster (docs/performance.md), and the same bits come out on any number of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")


def on_all_cores(work: Callable[[Item], object], items: Sequence[Item]) -> None:
    """Call `work` on each, on as many threads as torch may use; they share these among them.

    Raises:
        Exception: what `work` raised on the first item on which it did.
    """
    num_threads = torch.get_num_threads()
    at_once = min(num_threads, len(items))
    if at_once <= 1:
        for item in items:
            work(item)
        return

    def on_its_share(item: Item) -> None:
        torch.set_num_threads(num_threads // at_once)  # of this thread's operations
        work(item)

    try:
        for _ in _pool(num_threads).map(on_its_share, items):
            pass
    finally:
        torch.set_num_threads(num_threads)  # of threads to come too


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, "k2distil-core")
