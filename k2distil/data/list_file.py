"""The lines of a list, numbered; and what is wrong with them, told all at once."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from k2distil.errors import NOT_UTF8, DataError, counted

Lines = Iterator[tuple[int, str]]  # line number from 1, text without spaces at its ends

MAX_SECONDS = 1e9  # 30 years; a longer audio is a slip
AUDIO = ("RIFF", "fLaC", "OggS", "ID3")  # how files of audio begin
MAX_REPORTED = 10  # bad lines spelled out in the error

_SURROGATE = re.compile("[\\udc80-\\udcff]")  # in the place of a byte that is not UTF-8


def lines_of(path: Path) -> Lines:
    """The lines that are not empty; a name that ends in .gz is unpacked.

    Raises:
        DataError: the file cannot be read, is cut, or is not UTF-8 text.
    """
    try:
        with path.open("rb") as raw:
            packed = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
            # A byte order mark is no part of a key. A pipe can be read but once.
            text = io.TextIOWrapper(packed, "utf-8-sig", "surrogateescape")
            for number, line in enumerate(text, start=1):
                if not line.isascii() and _SURROGATE.search(line):
                    if line.startswith(AUDIO):
                        raise DataError(
                            f"{path}: an audio file; expected a list of them: a JSON object per "
                            'line with "key" and "wav", or another --data_type'
                        )
                    raise DataError(f"{path}: line {number}: {NOT_UTF8}")
                if stripped := line.strip():
                    yield number, stripped
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); copy it again") from error
    except OSError as error:
        several = "; several lists are separated by spaces" if "," in str(path) else ""
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); correct its path{several}"
        ) from error


def describe_problems(path: Path, problems: Sequence[str]) -> str:
    """All bad entries of a list are counted, and the first ten spelled out."""
    more = len(problems) - MAX_REPORTED
    return (
        f"{path}: {counted(len(problems), 'bad entry', 'bad entries')}; correct or remove them:\n  "
        + "\n  ".join(problems[:MAX_REPORTED])
        + (f"\n  and {more} more" if more > 0 else "")
    )
