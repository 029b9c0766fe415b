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
from types import TracebackType
from typing import Any

from torch.utils.data import DataLoader, Dataset

PATIENCE_STEP = 5.0  # seconds between looks at workers that give nothing, and at the caller


class Loader(DataLoader):
    """A DataLoader for datasets that make batches themselves, or none; the caller alone ends it.

    A SIGTERM that all processes get, from a scheduler or `timeout`, is for the caller to act on: a
    student's training saves first, and needs its workers for the step it is in.
    """

    def __init__(self, dataset: Dataset, **options: Any) -> None:
        super().__init__(dataset, collate_fn=_as_it_is, worker_init_fn=_start_worker, **options)

    def __iter__(self) -> Any:
        """Workers are born with SIGTERM blocked: they cannot end before they know how to."""
        with _blocked(signal.SIGTERM):
            return super().__iter__()


def worker_remedy(error: Exception) -> str | None:
    """What the user can do about an error of torch's loader; None where it is a bug."""
    if "shared memory" in str(error):
        return (
            "decoding stopped: /dev/shm is full. Run the command again with a smaller "
            "--num_workers, or give the container more (docker run --shm-size=1g)"
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
    if sys.platform != "darwin":
        # Also where the loader was made again by others, as to go on with a training.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    sys.excepthook = _log_unless_caller_is_gone


def _end_with_caller() -> None:
    """End when the caller has ended, or says so; any other SIGTERM is not for workers.

    torch's workers look too, but not while they decode, nor for one that died as they started.
    They compare with the parent that they had when they came to look.
    """
    caller = multiprocessing.parent_process()
    assert caller is not None
    while os.getppid() == caller.pid:
        if sys.platform == "darwin":  # which has no such wait
            time.sleep(PATIENCE_STEP)
        else:
            told = signal.sigtimedwait({signal.SIGTERM}, PATIENCE_STEP)
            if told is not None and told.si_pid == caller.pid:
                os._exit(0)
    os._exit(1)


def _log_unless_caller_is_gone(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """For the thread that hands shared memory over: a connection reset is the caller's end."""
    if not isinstance(error, ConnectionError):
        sys.__excepthook__(kind, error, traceback)
