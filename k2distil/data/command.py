"""Commands in Kaldi's wav.scp: run without a shell, so that a list can start programs only."""

from __future__ import annotations

import functools
import math
import shlex
import signal
import subprocess
import tempfile
import time

from k2distil.errors import DataError

ENDED_BY_OTHERS = {-signal.SIGTERM, -signal.SIGINT}  # statuses
SHELL_WORDS = set("();<>&")  # what shlex parts from other words, and only a shell understands


def parse_command(text: str) -> list[list[str]]:
    """The programs of "a x | b y |", each with its arguments.

    Quotes and backslashes work as in a shell; `$`, `*`, `~` and backticks are plain characters.

    >>> parse_command("sph2pipe -f wav 'a b.sph' |")
    [['sph2pipe', '-f', 'wav', 'a b.sph']]

    Raises:
        DataError: quotes without an end, no program between two bars, or what needs a shell.
    """
    lexer = shlex.shlex(text.rstrip().removesuffix("|"), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    programs: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word == "|":
                programs.append([])
            elif word and set(word) <= SHELL_WORDS | {"|"}:
                raise DataError(f"{word} needs a shell, and none is used; write it without")
            else:
                programs[-1].append(word)
    except ValueError as error:
        raise DataError(f"not a command ({error})") from error
    if not all(programs):
        raise DataError("not a command: a bar without a program")
    return programs


def run_command(text: str, timeout: float = math.inf) -> bytes:
    """What the command writes to its standard output, all of it in memory.

    Its programs see an empty standard input, and paths relative to the working directory. Where a
    signal ended one, as SIGTERM to all processes does, the command is run once more.

    Args:
        text: see `parse_command`.
        timeout: seconds it may take.

    Raises:
        DataError: it cannot be started, does not end, a program of it fails, or nothing is
            written. The message ends with the last line of standard error.
    """
    found = _outcome(text, timeout)
    if isinstance(found, str):
        raise DataError(found)
    return found


@functools.lru_cache(maxsize=1)  # segments of one recording mostly follow each other
def _outcome(text: str, timeout: float) -> bytes | str:
    """What a command writes, or why there is nothing."""
    try:
        return _written_by(text, timeout)
    except DataError as error:
        return str(error)


def _written_by(text: str, timeout: float) -> bytes:
    programs = parse_command(text)
    data, statuses, complaints = _run(programs, timeout)
    if not ENDED_BY_OTHERS.isdisjoint(statuses):
        data, statuses, complaints = _run(programs, timeout)
    for program, status in zip(programs, statuses, strict=True):
        # Those that write to another may be cut short by it: SIGPIPE is no failure there.
        if status != 0 and not (status == -signal.SIGPIPE and program is not programs[-1]):
            lines = reversed(complaints.split("\n"))
            last = next((line.strip() for line in lines if line.strip()), "no message")
            raise DataError(f"{program[0]} failed with status {status}: {last}")
    if not data:
        raise DataError("the command wrote nothing; correct it or remove it from the list")
    return data


def _run(programs: list[list[str]], timeout: float) -> tuple[bytes, list[int], str]:
    """-> what the last one writes, the status of each, what all write to standard error."""
    running: list[subprocess.Popen[bytes]] = []
    deadline = time.monotonic() + timeout

    def seconds_left() -> float | None:
        return None if deadline == math.inf else deadline - time.monotonic()

    with tempfile.TemporaryFile() as complaints:
        try:
            for program in programs:
                source = running[-1].stdout if running else subprocess.DEVNULL
                running.append(
                    subprocess.Popen(
                        program, stdin=source, stdout=subprocess.PIPE, stderr=complaints
                    )
                )
                if len(running) > 1:  # or a program would never hear that its reader is gone
                    _close_output(running[-2])
            data, _ = running[-1].communicate(timeout=seconds_left())
            statuses = [process.wait(seconds_left()) for process in running]
        except OSError as error:
            raise DataError(f"{program[0]} cannot be started ({error.strerror})") from error
        except subprocess.TimeoutExpired as error:
            reason = f"the command did not end in {timeout:g} s"
            raise DataError(f"{reason}; look at it or raise --decode_timeout") from error
        finally:
            for process in running:
                process.kill()  # nothing to one that has ended
                _close_output(process)
                process.wait()
        complaints.seek(0)
        return data, statuses, complaints.read().decode(errors="replace")


def _close_output(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()
