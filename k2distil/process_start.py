"""Which process has a number: numbers are used again, a number and a start are not."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def start_of(pid: int) -> str | None:
    """When a process was started, in ticks since the boot; None: it is dead, or this is no Linux.

    A process that ended but whose parent has not asked for it yet is dead.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = status.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def is_alive(pid: int, start: str | None = None) -> bool:
    """Whether there is a process of this number, and of this start where one is given.

    Where nothing of another user's process can be seen, its number alone counts.
    """
    if (found := start_of(pid)) is not None:
        return start in (None, found)
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH  # EPERM: it lives and is another user's
    return not Path(f"/proc/{pid}").exists()


def namespace() -> str:
    """Whose process numbers these are: each container has its own; "0": of no Linux."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"
