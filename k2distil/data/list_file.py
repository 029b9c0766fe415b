"""The lines of a list, numbered; and what is wrong with them, told all at once."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from k2distil.errors import DataError

Lines = Iterator[tuple[int, str]]  # line number from 1, text without blanks at its ends

MAX_REPORTED = 10  # bad lines spelled out in the error

_SURROGATE = re.compile("[\\udc80-\\udcff]")  # in the place of a byte that is not UTF-8


def lines_of(path: Path) -> Lines:
    """The lines that are not empty; a name that ends in .gz is unpacked.

    Raises:
        DataError: the file cannot be read, is cut, or is not UTF-8 text.
    """
    try:
        with path.open("rb") as raw:
            for number, line in enumerate(_text_of(raw, path, "strict"), start=1):
                if stripped := line.strip():
                    yield number, stripped
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: line {_first_in_another_encoding(path)}: not UTF-8 text; convert it with "
            "iconv -f GB18030 -t UTF-8, or -f with the encoding it has (GB18030 has GBK in it)"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); copy it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check --train_data") from error


def _text_of(raw: BinaryIO, path: Path, errors: str) -> io.TextIOWrapper:
    packed = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
    return io.TextIOWrapper(packed, "utf-8-sig", errors)  # no byte order mark gets into a key


def _first_in_another_encoding(path: Path) -> int:
    """The number of the first line that is not UTF-8, of a file that is not."""
    with path.open("rb") as raw:
        lines = enumerate(_text_of(raw, path, "surrogateescape"), start=1)
        return next(number for number, line in lines if _SURROGATE.search(line))


def describe_problems(path: Path, problems: Sequence[str]) -> str:
    """All bad entries of a list are counted, and the first ten spelled out."""
    more = len(problems) - MAX_REPORTED
    return (
        f"{path}: {len(problems)} bad entries; correct or remove them:\n  "
        + "\n  ".join(problems[:MAX_REPORTED])
        + (f"\n  and {more} more" if more > 0 else "")
    )
