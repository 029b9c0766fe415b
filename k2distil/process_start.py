"""Which process has a number: numbers are used again, a number and a start are not."""

from __future__ import annotations

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


def namespace() -> str:
    """Whose process numbers these are: each container has its own; "0": of no Linux."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"
