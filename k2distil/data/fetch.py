"""Files by URL, copied to the disk once: over HTTP, without a shell, going on after a break."""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import BinaryIO

from k2distil.atomic import make_folder, replacing
from k2distil.errors import DataError
from k2distil.leases import LEASE_SECONDS, Leases

logger = logging.getLogger(__name__)

URL_SCHEMES = ("http://", "https://")
MAX_ATTEMPTS = 6  # in a row that bring nothing new
FIRST_WAIT = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = 60.0  # seconds without a byte
LEASE = ".lease"  # in the cache
CHUNK = 1 << 20  # bytes in memory at a time
RANGE_REFUSED = 416
PASSING = {408, 425, 429, 500, 502, 503, 504, RANGE_REFUSED}  # statuses worth another attempt
NAME = re.compile(r"[\w.-]{1,80}$", re.ASCII)  # the end of a URL's path that a file may have


class _BrokenError(Exception):
    """The connection gave out; another attempt may do better."""


def fetch(url: str, cache_dir: Path) -> Path:
    """Copy a file into `cache_dir`, unless it is there already; -> its path.

    A broken connection is taken up again where it broke, if the server serves ranges and the file
    is still the same, else from the start. What is in the cache is taken without asking the server;
    one process fetches at a time, and the others take what it brought.

    Raises:
        DataError: the server refuses it, does not say its length, or brings nothing new in six
            attempts in a row; or the disk is full.
    """
    name = NAME.search(urllib.parse.urlsplit(url).path)
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = cache_dir / f"{digest}-{name[0] if name else 'file'}"
    if path.exists():
        return path
    make_folder(cache_dir, "--cache_dir")
    with Leases(LEASE_SECONDS) as leases, leases.held(cache_dir / LEASE):  # all want the same files
        if path.exists():
            return path
        started = time.monotonic()
        with replacing(path) as temporary, temporary.open("wb") as file:
            _fill(url, file)
            num_bytes = file.tell()
        seconds = time.monotonic() - started
    logger.info("%s: %.1f MB in %.1f s, kept as %s", url, num_bytes / 1e6, seconds, path)
    return path


def _fill(url: str, file: BinaryIO) -> None:
    """Receive all of a file, in as many attempts as bring something new."""
    version: dict[str, str] = {}  # of what was received so far, for the server to compare
    attempts, most = 0, 0  # most: the bytes there ever were
    while True:
        try:
            total = _receive(url, file, version)
            if file.tell() == total:
                return
            reason = f"the connection ended after {file.tell():,} of {total:,} bytes"
        except _BrokenError as error:
            reason = str(error)
        attempts, most = (0, file.tell()) if file.tell() > most else (attempts, most)
        attempts += 1
        if attempts >= MAX_ATTEMPTS:
            raise DataError(
                f"{url}: {reason}; given up after {attempts} attempts without progress, "
                "run the same command again"
            )
        wait = FIRST_WAIT * 2 ** (attempts - 1)
        logger.warning("%s: %s; trying again in %g s", url, reason, wait)
        time.sleep(wait)


def _receive(url: str, file: BinaryIO, version: dict[str, str]) -> int:
    """Append what is missing until the connection ends; -> the bytes the whole file has."""
    headers = {"Accept-Encoding": "identity"}
    if file.tell():
        headers |= {"Range": f"bytes={file.tell()}-", **version}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in PASSING:
            raise DataError(
                f"{url}: {error.code} {error.reason}; correct the URL or remove it from the list"
            ) from error
        if error.code == RANGE_REFUSED:
            _start_over(file, version)
        raise _BrokenError(f"{error.code} {error.reason}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise DataError(f"{url}: not a URL ({error}); correct it") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_words(error)) from error
    with response:
        total = _begin(url, response, file, version)
        while file.tell() < total:
            try:
                data = response.read(min(CHUNK, total - file.tell()))
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(_words(error)) from error
            if not data:
                break
            file.write(data)
    return total


def _begin(
    url: str, response: http.client.HTTPResponse, file: BinaryIO, version: dict[str, str]
) -> int:
    """Place `file` where the answer starts, and note its version; -> the bytes of the whole."""
    length = response.headers.get("Content-Length", "")
    if not length.isdigit():
        raise DataError(f"{url}: the server does not say its length; copy it to a local disk")
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # all of it, asked for or not
        _start_over(file, version)
        tag, changed = response.headers.get("ETag", ""), response.headers.get("Last-Modified")
        if tag.startswith('"') or changed:  # a weak tag does not speak for every byte
            version["If-Range"] = tag if tag.startswith('"') else str(changed)
        return int(length)
    first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if first is None or int(first[1]) != file.tell():
        _start_over(file, version)
        raise _BrokenError("the server sent another range than asked for")
    return file.tell() + int(length)


def _start_over(file: BinaryIO, version: dict[str, str]) -> None:
    file.seek(0)
    file.truncate()
    version.clear()


def _words(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__
