"""What went wrong in the middle of a training, in words of what helps."""

from __future__ import annotations

import errno
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k2distil.atomic import reason_of_disk
from k2distil.device import is_out_of_memory
from k2distil.errors import DataError
from k2distil.workers import unwrapped, worker_remedy

NO_ROOM = 1 << 20  # bytes


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Errors that a user can mend, in words of how.

    Raises:
        DataError: in the place of such an error.
    """
    try:
        yield
    except Exception as error:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise for a worker that died
        if (remedy := _remedy(error, path)) is None:
            raise
        raise DataError(remedy) from error


def _remedy(error: Exception, path: Path) -> str | None:
    """What the user can do about an error in the middle of training; None: it is a bug."""
    if isinstance(error, DataError):
        return unwrapped(error)
    if is_out_of_memory(error):
        return (
            "out of memory: take a smaller --batch_seconds (and more --accumulate_batches) or "
            "--chunk_frames 2000, or leave long audio out with --max_seconds; that is another "
            "training: with --force or another --save_path"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{path}: {reason_of_disk(error)}"
    if isinstance(error, RuntimeError | OSError) and (remedy := worker_remedy(error)) is not None:
        return remedy
    if shutil.disk_usage(path).free < NO_ROOM:  # torch.save does not say what went wrong
        return f"{path}: no room for a checkpoint; make room and run the same command again"
    return None
