"""Work in a thread before this one (`ahead`) and in one behind it (`behind`)."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from k2distil.stages import stage

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 10.0  # seconds for the thread to end; it is a daemon


def ahead(items: Generator[T], depth: int, waiting: str) -> Generator[T]:
    """Yield the same items, computed while the caller works on earlier ones.

    The generator runs in one thread from its first item to its end: an error in it is raised here,
    and it is closed there when this one is.

    Args:
        items: anything that may run in another thread.
        depth: how many may wait for the caller; bounds the memory.
        waiting: the stage that the caller's waiting counts to.
    """
    waiting_room: queue.Queue[T | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | _End) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting_room.put(item, timeout=0.1)
                return

    def run() -> None:
        end = _End()
        try:
            with contextlib.closing(items):
                for item in items:
                    put(item)
                    if stopped.is_set():
                        return
        except BaseException as error:  # whatever it is, the caller is to have it
            end = _End(error)
        put(end)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            with stage(waiting):
                item = waiting_room.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is None:
                return
            else:
                raise item.error
    finally:
        stopped.set()
        thread.join(PATIENCE)


@dataclass(frozen=True)
class _End:
    """No more items, perhaps because of an error."""

    error: BaseException | None = None


def behind(function: Callable[[T], R], items: Iterable[T], depth: int) -> Generator[R]:
    """Yield function(item) for each item, computed in one thread while the next items are made.

    Args:
        function: an error in it is raised here.
        items: drawn in this thread.
        depth: how many may wait for the function; bounds the memory.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(1)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while waiting and (len(waiting) > depth or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
