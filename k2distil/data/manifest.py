"""Audio lists -> utterances, with every bad line reported before any model is loaded."""

from __future__ import annotations

import itertools
import json
import random
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from k2distil.batch import Utterance
from k2distil.data.fetch import URL_SCHEMES
from k2distil.data.kaldi_folder import read_kaldi_folder, utterance_file
from k2distil.data.lhotse_cuts import (
    fault_of_manifest,
    is_cut,
    is_in_shar,
    read_cuts,
    remedy_of_shar,
)
from k2distil.data.list_file import Lines, describe_problems, lines_of
from k2distil.data.raw_list import read_raw_lines
from k2distil.data.shard_list import read_shard_lines
from k2distil.errors import ConfigError, DataError

DATA_TYPES = ("raw", "shard", "kaldi", "lhotse")


@dataclass(frozen=True)
class ListAccess:
    """What reading a list may do beside opening files, and what it keeps."""

    allow_pipes: bool = False  # commands in wav.scp are run when their audio is wanted
    cache_dir: Path | None = None  # for tars given by URL; None: they are refused
    with_text: bool = True  # without, a transcript is None: a quarter of the memory


def read_list(
    paths: Path | Sequence[Path], data_type: str = "auto", access: ListAccess | None = None
) -> list[Utterance]:
    """Read audio lists; of the audio itself nothing is opened but the headers of tars.

    Args:
        paths: one or several lists, UTF-8 text; empty lines are skipped.
        data_type: of all of them. raw: a JSON object per line (key, wav, and where wanted txt,
            start, end in seconds). shard: the path or URL of a tar per line. kaldi: a folder with
            wav.scp, or that file. lhotse: cuts as JSON lines, perhaps gzipped. auto: each list by
            its name or first line. Relative paths are looked for beside the list (and beside what
            it is a link to), then in the working directory.
        access: None: no commands, no URLs, and transcripts are kept.

    Returns:
        The utterances in the lists' order.

    Raises:
        ConfigError: an unknown data_type.
        DataError: no such list, an empty list, or bad lines: all of them are counted and the first
            ten of each list spelled out with their line numbers. Bad are broken JSON, a missing
            field, times that are no segment, a tar that cannot be read, a cut that is no plain
            piece of a file, a command without allow_pipes, a key that h5 or a table cannot hold
            (empty, ".", with "/" or unprintable characters) or that came before, in whichever list.
    """
    if data_type != "auto" and data_type not in DATA_TYPES:
        raise ConfigError(f"--data_type {data_type}: expected auto, {', '.join(DATA_TYPES)}")
    access = access or ListAccess()
    utterances: list[Utterance] = []
    lines: dict[str, int] = {}  # of keys, counted through all lists
    before: dict[Path, int] = {}  # lines before each list
    num_lines = 0
    complaints = []
    for path in [paths] if isinstance(paths, Path) else paths:
        kind, lines_there = _opened(path, data_type)
        named = utterance_file(path) if kind == "kaldi" else path
        if named in before:
            raise DataError(f"{named}: given twice; give every list once")
        first = before[named] = num_lines
        num_others, problems = len(utterances), []
        for number, found in _entries(path, kind, lines_there, access):
            fault = found if isinstance(found, str) else _fault(found.key, named, lines, before)
            if fault is not None:
                problems.append(f"line {number}: {fault}")
            elif isinstance(found, Utterance):
                lines[found.key] = num_lines = first + number
                utterances.append(found if access.with_text else replace(found, text=None))
        if problems:
            complaints.append(describe_problems(named, problems))
        elif len(utterances) == num_others:
            complaints.append(f"{named}: no utterances in it; expected one entry per line")
    if complaints:
        raise DataError("\n".join(complaints))
    return utterances


def _opened(path: Path, data_type: str) -> tuple[str, Lines]:
    """The type of a list, and its lines: a pipe can be read but once."""
    if data_type != "auto":
        return data_type, lines_of(path)
    if path.is_dir():
        if (path / "wav.scp").exists():
            return "kaldi", iter(())
        if any(path.glob("recording.*.tar")):
            raise DataError(f"{path}: {remedy_of_shar(path)}")
        raise DataError(
            f"{path}: a folder without wav.scp; give the path of a list, not its folder"
        )
    if path.name == "wav.scp":
        return "kaldi", iter(())
    if _is_tar(path):
        raise DataError(f"{path}: a tar itself; write its path into a list, one a line")
    lines = lines_of(path)
    first = next(lines, None)
    if first is None:
        return "raw", lines  # fails later, as empty
    return _guess_type(path, first[1]), itertools.chain([first], lines)


def _entries(
    path: Path, kind: str, lines: Lines, access: ListAccess
) -> Iterator[tuple[int, Utterance | str]]:
    """(line number, utterance), or (line number, what is wrong and what helps)."""
    if kind == "kaldi":
        return read_kaldi_folder(path, access.allow_pipes, access.with_text)
    if kind == "lhotse":
        return read_cuts(lines, path, access.with_text)
    if kind == "shard":
        return read_shard_lines(lines, path, access.cache_dir, access.with_text)
    return read_raw_lines(lines, path)


def _fault(key: str, path: Path, lines: dict[str, int], before: dict[Path, int]) -> str | None:
    """What is wrong with a key of the list `path`, the last one so far; None: nothing."""
    if (fault := fault_of_key(key)) is not None:
        return f"key {key!r} {fault}"
    if (line := lines.get(key)) is None:
        return None
    other, first = next(each for each in reversed(before.items()) if each[1] < line)
    where = f"line {line - first}" + ("" if other == path else f" of {other}")
    return f"key {key!r} is on {where} too; keys must be unique"


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


def _is_tar(path: Path) -> bool:
    with suppress(OSError, EOFError, zlib.error):  # of what is no whole file the reader tells
        return path.is_file() and tarfile.is_tarfile(path)
    return False


def _guess_type(path: Path, line: str) -> str:
    """By the first line."""
    if line.startswith("{"):
        fields = _as_json(line)
        if (fault := fault_of_manifest(fields)) is not None:
            raise DataError(f"{path}: {fault}")
        if is_in_shar(fields):
            raise DataError(f"{path}: {remedy_of_shar(path.parent)}")
        return "lhotse" if is_cut(fields) else "raw"
    if line.startswith(("[", "- ")):
        raise DataError(
            f"{path}: one JSON array or yaml, expected a JSON object per line; of lhotse's cuts "
            f"it is made by: lhotse copy {path} cuts.jsonl.gz"
        )
    if ".tar" in line or line.endswith(".tgz") or line.startswith(URL_SCHEMES):
        return "shard"
    raise DataError(
        f"{path}: its first line is neither JSON nor the path of a tar: {line[:80]!r}; "
        f"give --data_type ({', '.join(DATA_TYPES)}) or correct the list"
    )


def _as_json(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # the reader of raw lists says what is wrong with it
