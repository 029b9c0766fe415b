"""Audio lists -> utterances, with every bad line reported before any model is loaded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from k2distil.batch import Utterance
from k2distil.data.raw_list import read_raw_lines
from k2distil.data.shard_list import read_shard_lines
from k2distil.errors import ConfigError, DataError

Lines = Iterator[tuple[int, str]]  # line number from 1, text without blanks at its ends
# A reader yields (line number, utterance), or (line number, what is wrong and what helps).
Reader = Callable[[Lines, Path], Iterator[tuple[int, Utterance | str]]]

READERS: dict[str, Reader] = {"raw": read_raw_lines, "shard": read_shard_lines}
MAX_REPORTED = 10  # bad lines spelled out in the error


def read_list(path: Path, data_type: str = "auto") -> list[Utterance]:
    """Read an audio list; of the audio itself nothing is opened but the headers of tars.

    Args:
        path: UTF-8 text; empty lines are skipped.
        data_type: raw: a JSON object per line (key, wav, and where wanted txt, start, end in
            seconds). shard: the path of a tar per line. auto: told by the first line.
            Relative paths are looked for beside the list, then in the working directory.

    Returns:
        The utterances in the list's order.

    Raises:
        ConfigError: an unknown data_type.
        DataError: no such list, an empty list, or bad lines: all of them are counted and the first
            ten spelled out with their line numbers. Bad are broken JSON, a missing field, times
            that are no segment, a tar that cannot be read, a key that h5 or a table cannot hold
            (empty, ".", with "/" or unprintable characters) or that came before.
    """
    if data_type != "auto" and data_type not in READERS:
        raise ConfigError(f"--data_type {data_type}: expected auto, {', '.join(READERS)}")
    if data_type == "auto":
        data_type = _guess_type(path)
    utterances: list[Utterance] = []
    line_of_key: dict[str, int] = {}
    problems: list[str] = []
    for number, utterance in READERS[data_type](_lines(path), path.parent):
        if isinstance(utterance, str):
            problems.append(f"line {number}: {utterance}")
        elif (fault := fault_of_key(utterance.key)) is not None:
            problems.append(f"line {number}: key {utterance.key!r} {fault}")
        elif (first := line_of_key.get(utterance.key)) is not None:
            problems.append(
                f"line {number}: key {utterance.key!r} is on line {first} too; keys must be unique"
            )
        else:
            line_of_key[utterance.key] = number
            utterances.append(utterance)
    if problems:
        more = len(problems) - MAX_REPORTED
        raise DataError(
            f"{path}: {len(problems)} bad entries; correct or remove them:\n  "
            + "\n  ".join(problems[:MAX_REPORTED])
            + (f"\n  and {more} more" if more > 0 else "")
        )
    if not utterances:
        raise DataError(f"{path}: no utterances in it; expected one entry per line")
    return utterances


def fault_of_key(key: str) -> str | None:
    """What keeps a key from being the name of an h5 dataset and a cell of a table; None: nothing.

    >>> fault_of_key("utt.1 a"), fault_of_key("a/b")
    (None, 'has a "/", which makes a group in h5; use another separator')
    """
    if not key or key == ".":
        return "cannot name a dataset; give it a name"
    if "/" in key:
        return 'has a "/", which makes a group in h5; use another separator'
    if not key.isprintable():
        return "has unprintable characters; remove them"
    return None


def sample_utterances(
    utterances: list[Utterance], num: int | None, how: str = "random", seed: int = 0
) -> list[Utterance]:
    """Exactly `num` utterances in the list's order; all of them where num is None or more.

    Args:
        how: random: a sample without replacement, the same for the same seed; first: the head.

    Raises:
        ConfigError: num below 1, or another `how`.
    """
    if how not in {"random", "first"}:
        raise ConfigError(f"--num_audio_from {how}: expected random or first")
    if num is None or num >= len(utterances):
        return utterances
    if num < 1:
        raise ConfigError(f"--num_audio {num}: expected at least 1")
    if how == "first":
        return utterances[:num]
    chosen = random.Random(seed).sample(range(len(utterances)), num)
    return [utterances[index] for index in sorted(chosen)]


def _lines(path: Path) -> Lines:
    try:
        with path.open(encoding="utf-8-sig") as file:  # a byte order mark is no part of a key
            for number, line in enumerate(file, start=1):
                if stripped := line.strip():
                    yield number, stripped
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check --train_data") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); check --train_data") from error


def _guess_type(path: Path) -> str:
    _, line = next(_lines(path), (0, "{"))  # an empty list fails later, as empty
    if line.startswith("{"):
        return "raw"
    if ".tar" in line or line.endswith(".tgz"):
        return "shard"
    raise DataError(
        f"{path}: its first line is neither JSON nor the path of a tar: {line[:80]!r}; "
        f"give --data_type ({', '.join(READERS)}) or correct the list"
    )
