"""Which process is at work on what: lease files, for any number of hosts on a shared file system.

A lease is a file that is made exclusively and touched by its holder every few seconds. It is taken
for abandoned when its holder is dead, which processes of the same machine know at once, or when it
has not changed for `seconds` of the observer's own time: no clocks are compared.

A lease saves work, it guards nothing. A holder that only slept may wake and go on beside its
successor, so what is done under a lease must be right when it is done twice.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from k2distil.atomic import reason_of_disk
from k2distil.errors import DataError
from k2distil.process_start import is_alive, namespace, start_of

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.2
TELL_SECONDS = 5.0  # of waiting, before a word of it
TOUCHES = 6  # of a lease, in the time after which it is taken for abandoned
_GONE = {errno.ENOENT, errno.ESTALE}  # the latter of NFS, removed by another host while it is read
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}  # of FAT and some network disks


class Leases:
    """The leases of this process; a context manager, at whose end all are given back.

    Args:
        seconds: without a sign for so long, a holder is taken for dead.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._held: dict[Path, str] = {}  # what each of our files holds
        self._seen: dict[Path, tuple[tuple[str, int], float]] = {}  # others', and since when
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._toucher: threading.Thread | None = None

    def claim(self, path: Path) -> bool:
        """Take a lease; False: another process has it, or this one does.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        with self._lock:
            if path in self._held:
                return False
            if not (self._create(path) or (self._remove_abandoned(path) and self._create(path))):
                return False
            self._seen.pop(path, None)
            if self._toucher is None:
                self._toucher = threading.Thread(target=self._touch_all, daemon=True)
                self._toucher.start()
            return True

    def release(self, path: Path) -> None:
        """Give a lease back; nothing happens where it has gone to another process."""
        with self._lock:
            if (own := self._held.pop(path, None)) is not None:
                found = _read(path)
                if found is not None and found[0] == own:
                    with suppress(OSError):
                        path.unlink()

    @contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """Wait for a lease, and hold it."""
        started, is_told = time.monotonic(), False
        while not self.claim(path):
            time.sleep(POLL_SECONDS)
            if not is_told and time.monotonic() - started > TELL_SECONDS:
                is_told, found = True, _read(path)
                logger.info("%s: waiting for %s", path, _describe(found[0] if found else ""))
        try:
            yield
        finally:
            self.release(path)

    def holder(self, paths: Iterable[Path]) -> str | None:
        """The host and process that holds one of some leases; None: all of them are abandoned.

        Takes up to `seconds`, to see which of them give a sign.
        """
        first: dict[Path, tuple[str, int]] = {}
        waiting, is_told = list(paths), False
        while waiting:
            still = []
            for path in waiting:
                signature = _read(path)
                with self._lock:
                    if signature is None or self._is_abandoned(path, signature):
                        continue
                if first.setdefault(path, signature) != signature:
                    return _describe(signature[0])
                still.append(path)
            waiting = still
            if waiting and not is_told:
                who, is_told = _describe(first[waiting[0]][0]), True
                logger.info("waiting up to %g s for a sign of %s", self.seconds, who)
            if waiting:
                time.sleep(POLL_SECONDS)
        return None

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for path in list(self._held):
            self.release(path)

    def _create(self, path: Path) -> bool:
        """Make a lease that says whose it is from the moment it is there.

        Of one that a killed process left empty nobody could say at once that its holder is dead.
        """
        if _read(path) is not None:
            return False
        own = _own_words()
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            draft.write_text(own, encoding="utf-8")
            self._held[path] = own  # from now on it is ours to remove
            _put_in_place(draft, path)
        except FileExistsError:
            del self._held[path]
            return False
        except OSError as error:
            self._held.pop(path, None)
            raise DataError(f"{path}: {reason_of_disk(error)}") from error
        finally:
            with suppress(OSError):
                draft.unlink()
        return True

    def _remove_abandoned(self, path: Path) -> bool:
        """Remove the lease of a dead process; False: it is in use, or another was faster.

        Raises:
            DataError: this user may not remove it.
        """
        signature = _read(path)
        if signature is None:  # given back in the meantime
            return True
        if not self._is_abandoned(path, signature):
            return False
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.rename(aside)
            if _read(aside) != signature:  # taken by another since it was read
                aside.rename(path)
                return False
            aside.unlink()
            return True
        except PermissionError as error:
            raise DataError(
                f"{path}: left by a process that ended, and not to be removed by this user "
                f"({error.strerror}); remove it, or have its owner do it"
            ) from error
        except OSError:  # another was faster
            return False

    def _is_abandoned(self, path: Path, signature: tuple[str, int]) -> bool:
        words = signature[0]
        if _is_of_this_machine(words) and not _is_holder_alive(words):
            return True
        first, since = self._seen.get(path, (None, 0.0))
        if first != signature:
            self._seen[path] = signature, time.monotonic()
            return False
        return time.monotonic() - since > self.seconds

    def _touch_all(self) -> None:
        while not self._closed.wait(self.seconds / TOUCHES):
            with self._lock:
                held = list(self._held)
            for path in held:
                with suppress(OSError):
                    os.utime(path)


@contextmanager
def held_alone(path: Path, output: Path, seconds: float = LEASE_SECONDS) -> Iterator[None]:
    """Hold a lease that no other process shall have meanwhile.

    Args:
        path: of the lease.
        output: that it is of.
        seconds: see `Leases`; it takes so long at the most to know of another holder.

    Raises:
        DataError: another process has it.
    """
    with Leases(seconds) as leases:
        while not leases.claim(path):
            if (holder := leases.holder([path])) is not None:
                raise DataError(f"{output}: {holder} is writing this output; wait for it to end")
        yield


def _put_in_place(draft: Path, path: Path) -> None:
    """Give a file a name that no other has, or fail; where there are no links, in two steps."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.touch(exist_ok=False)
        draft.replace(path)


def _read(path: Path) -> tuple[str, int] | None:
    """What a lease says and when it was touched last; None: there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:  # asks the server, unlike stat
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return None


def _own_words() -> str:
    pid = os.getpid()
    own = {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "start": start_of(pid)}
    return json.dumps({**own, "id": uuid.uuid4().hex})


def _parse(words: str) -> dict[str, object]:
    """The fields of a lease; none of one that was not written to its end."""
    try:
        found = json.loads(words)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _describe(words: str) -> str:
    found = _parse(words)
    return f"process {found.get('pid', '?')} on {found.get('host', '?')}"


def _is_of_this_machine(words: str) -> bool:
    return _parse(words).get("machine") == _machine()


def _is_holder_alive(words: str) -> bool:
    found = _parse(words)
    pid, start = found["pid"], found["start"]
    return isinstance(pid, int) and isinstance(start, str) and is_alive(pid, start)


def _machine() -> str:
    """Where process numbers mean the same: a host, since its boot, and the container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {namespace()}"
    except OSError:  # no Linux: its dead are found by time alone
        return uuid.uuid4().hex
