"""Worker processes of torch's DataLoader, and what their faults mean."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import ForkContext, ForkProcess
from types import FrameType, TracebackType
from typing import Any

from torch.utils.data import DataLoader, Dataset

from k2distil.errors import DataError

PATIENCE_STEP = 5.0  # seconds between looks at workers that give nothing, and at the caller


class Loader(DataLoader):
    """A DataLoader for datasets that make batches themselves, or none; the caller alone ends it.

    A SIGTERM that all processes get, from a scheduler or `timeout`, is for the caller to act on: a
    student's training saves first, and needs its workers for the step it is in.
    """

    def __init__(self, dataset: Dataset, num_workers: int, **options: Any) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
            multiprocessing_context=_Context() if num_workers else None,
            **options,
        )

    def __iter__(self) -> Any:
        """Workers are born with SIGTERM blocked: it waits until they know what to do with it."""
        with _blocked(signal.SIGTERM), _deferred(signal.SIGINT, signal.SIGTERM):
            return super().__iter__()


class _Flag:
    """torch's word to its workers to end, as a byte without a lock.

    A worker that is killed as it looks at a `multiprocessing.Event` holds its lock for ever, and
    torch waits for it to tell of the death or to end the other workers.
    """

    def __init__(self) -> None:
        self._value = multiprocessing.RawValue("b", 0)

    def is_set(self) -> bool:
        return bool(self._value.value)

    def set(self) -> None:
        self._value.value = 1


class _Process(ForkProcess):
    """A worker that torch, or Python at its exit, ends by SIGKILL if it does not end by itself.

    That needs nothing of it, however it hangs, where SIGTERM is not for it; from its start on, as
    that of the next one may fail or be interrupted.
    """

    def start(self) -> None:
        super().start()
        popen: Any = getattr(self, "_popen")  # noqa: B009
        popen.terminate = partial(_kill, popen)


def _kill(popen: Any) -> None:
    """End a worker and wait for it; torch's handler of SIGCHLD raises for one that it finds killed.

    That would be in the midst of ending the others, which then live on.
    """
    if is_main := threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    popen.kill()
    popen.wait(PATIENCE_STEP)
    if is_main:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


class _Context(ForkContext):
    """What a loader makes its workers of."""

    Process = _Process

    def Event(self) -> _Flag:  # type: ignore[override]  # noqa: N802
        return _Flag()


def shut_down(iterator: Any) -> None:
    """End a loader's workers now; without it they live as long as a traceback does.

    A Ctrl-C in the midst of `Condition.notify` leaves a waiter behind that takes the next call for
    itself, so that the thread that hands tasks over sleeps on, here with the word to end.
    """
    for tasks in iterator._index_queues:
        with tasks._notempty:
            tasks._notempty.notify_all()
    iterator._shutdown_workers()


def worker_remedy(error: Exception) -> str | None:
    """What the user can do about an error of torch's loader; None where it is a bug."""
    if "shared memory" in str(error):
        return (
            "decoding stopped: /dev/shm is full. Run the command again with a smaller "
            "--num_workers, or give the container more (docker run --shm-size=1g)"
        )
    if "Too many open files" in str(error):
        return (
            "decoding stopped: too many open files. Run the command again with a smaller "
            "--num_workers, or raise the limit (ulimit -n)"
        )
    if isinstance(error, OSError | EOFError) or "DataLoader worker (pid" in str(error):
        return (
            f"decoding stopped: {error}. Out of memory is the usual reason: run the command again "
            "with a smaller --num_workers (0 decodes without workers)"
        )
    return None


def unwrapped(error: Exception) -> str:
    """The message of an error of ours, without the traceback that torch's workers put around it."""
    return str(error).rpartition("k2distil.errors.DataError: ")[2].strip() or str(error)


@contextmanager
def mending() -> Iterator[None]:
    """Errors of torch's loader that a user can mend, in words of how.

    Raises:
        DataError: in the place of such an error.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if (remedy := worker_remedy(error)) is None:
            raise
        raise DataError(remedy) from error


@contextmanager
def _deferred(*numbers: signal.Signals) -> Iterator[None]:
    """Signals for the main thread's handlers wait until it is done with what is done here.

    What a handler raises would be lost where Python calls back in the midst of a fork.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {each: signal.getsignal(each) for each in numbers}
    for each in numbers:
        signal.signal(each, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in received:
            signal.raise_signal(number)


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _as_it_is(found: Any) -> Any:
    return found


def _start_worker(worker: int) -> None:
    """The caller alone says what became of a run: workers are quiet when it ends, and end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group
    # No SIG_IGN, which the commands of a Kaldi list would inherit.
    signal.signal(signal.SIGTERM, _pass)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_caller, daemon=True).start()
    sys.excepthook = _log_unless_caller_is_gone


def _pass(number: int, frame: FrameType | None) -> None:
    """A signal that is not for workers."""


def _end_with_caller() -> None:
    """torch's workers look too, but not while they decode, nor for one that died as they started.

    They compare with the parent that they had when they came to look.
    """
    caller = multiprocessing.parent_process()
    assert caller is not None
    while os.getppid() == caller.pid:
        time.sleep(PATIENCE_STEP)
    os._exit(1)


def _log_unless_caller_is_gone(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """For the thread that hands shared memory over: a connection reset is the caller's end."""
    if not isinstance(error, ConnectionError):
        sys.__excepthook__(kind, error, traceback)
