"""Text for whoever reads standard output or standard error."""

import os
import sys
from typing import TextIO

from k2distil.errors import EXIT_USER_ERROR

EXIT_SIGPIPE = 141  # 128 + signal number, as shells report it of other tools


def show(text: str, file: TextIO | None = None) -> None:
    """Print to `file`, by default standard output; what its encoding lacks becomes an escape.

    Where the other end of a pipe is closed, the process ends quietly with `EXIT_SIGPIPE`; where
    nothing can be written for another reason, with `EXIT_USER_ERROR`.
    """
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # Python flushes at its end
        if isinstance(error, BrokenPipeError):
            sys.exit(EXIT_SIGPIPE)
        if file is not sys.stderr:
            show(f"error: standard output: {error.strerror}; give it room", sys.stderr)
        sys.exit(EXIT_USER_ERROR)
