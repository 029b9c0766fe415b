"""Files that are whole or not there: written under another name, flushed to disk, renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from k2distil.errors import DataError
from k2distil.process_start import is_alive, namespace

ABANDONED = 2 * 86_400  # seconds
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
_ERRNO_OF_HDF5 = re.compile(r"errno = (\d+), error message = '([^']*)'")


@contextmanager
def replacing(
    path: Path, *, tidy: bool = True, at_last: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Write a file through a temporary one in the same folder, renamed to `path` at the end.

    Other processes see the old file, or none, until the new one is whole and on disk. An error in
    the block removes the temporary file; what a killed process left of an earlier attempt goes at
    the next one, see `remove_leftovers`.

    Args:
        path: of the file.
        tidy: look for what was left, among all names of the folder; see `remove_leftovers`.
        at_last: called when all is on disk; what it raises keeps the file from its name.

    Yields:
        The path to write to.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    if tidy:
        remove_leftovers(path.parent, path.name)
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        flush(temporary)
        at_last()
        os.replace(temporary, path)
        flush(path.parent)
    except BaseException as error:
        with suppress(OSError):
            os.truncate(temporary, 0)  # HDF5 may still hold it open, and with it the room
            os.unlink(temporary)
        if not isinstance(error, DataError) and (reason := reason_of_disk(error)) is not None:
            raise DataError(f"{path}: {reason}") from error
        raise


def write_text(path: Path, text: str) -> None:
    r"""Write a small file so that it is whole or not there.

    What is not UTF-8 in a name, such as "\udcd6", becomes its escape, as in JSON.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a small file so that it is whole or not there."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def make_folder(folder: Path, flag: str = "--save_path") -> None:
    """Make a folder for output, with those above it; flag: what names it, for the message.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        raise DataError(
            f"{file}: a file, where a folder is needed; give a {flag} with another name, or in "
            "another folder"
        ) from error
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made ({error.strerror}); give a {flag} in a folder you can write "
            "to"
        ) from error


def flush(path: Path) -> None:
    """Have what is written to a file, or to a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (error.errno in _NO_FLUSH and path.is_dir()):  # some network disks flush no folder
            raise
    finally:
        os.close(descriptor)


def reason_of_disk(error: BaseException) -> str | None:
    """What the user can do about an error of the disk; None: it is another error.

    HDF5 raises RuntimeError as well as OSError, and tells errno in the text only.
    """
    number, words = getattr(error, "errno", None), getattr(error, "strerror", None)
    if found := _ERRNO_OF_HDF5.search(str(error)):
        number, words = int(found[1]), found[2]
    if number is None:
        return None
    if number in _NO_ROOM:
        return f"no room to write it ({words}); make room and run the same command again"
    return f"cannot be written ({words}); give a path in a folder you can write to"


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of a file that they wrote; None: of any.

    Of this machine at once; what others wrote when nobody has written to it for `ABANDONED`.
    """
    for path, machine, pid in _temporaries(folder, name):
        with suppress(OSError):
            is_own = machine == _machine()
            age = time.time() - path.stat().st_mtime
            if (is_own and not is_alive(pid)) or (not is_own and age > ABANDONED):
                path.unlink()


def in_work_elsewhere(path: Path) -> list[Path]:
    """What processes of other machines write, or left, of a file."""
    found = _temporaries(path.parent, path.name)
    return [each for each, machine, _ in found if machine != _machine()]


def _temporaries(folder: Path, name: str | None) -> Iterator[tuple[Path, str, int]]:
    """Files in work, their machines and processes."""
    written = ".+" if name is None else re.escape(name)
    pattern = re.compile(rf"\.{written}\.tmp\.(.+)\.(\d+)", re.DOTALL)
    for each in os.listdir(folder) if folder.is_dir() else ():
        if found := pattern.fullmatch(each):
            yield folder / each, found[1], int(found[2])


def _temporary_name(path: Path) -> str:
    return f".{path.name}.tmp.{_machine()}.{os.getpid()}"


def _machine() -> str:
    """Where process numbers mean the same: a host, since any boot, or a container on it."""
    return f"{socket.gethostname()}.{namespace()}"
