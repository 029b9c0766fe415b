"""Kaldi's data folder: wav.scp, and where wanted segments and text beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from k2distil.batch import Utterance
from k2distil.data.command import parse_command
from k2distil.data.list_file import MAX_SECONDS, describe_problems, lines_of
from k2distil.data.relative_path import path_resolver
from k2distil.errors import DataError

ARCHIVE = re.compile(r"\.ark:\d+$")
TO_THE_END = -1.0  # as the end of a segment

T = TypeVar("T")
Audio = tuple[str, bool]  # a path, or a command and True


def utterance_file(path: Path) -> Path:
    """The file with a line per utterance: segments where there is one, else wav.scp.

    Args:
        path: of the folder, or of the wav.scp in it.
    """
    segments = (path if path.is_dir() else path.parent) / "segments"
    return segments if segments.exists() else _wav_scp(path)


def read_kaldi_folder(
    path: Path, allow_pipes: bool, with_text: bool = True
) -> Iterator[tuple[int, Utterance | str]]:
    """Yield (line number in `utterance_file`, utterance or what is wrong and what helps).

    A line of wav.scp is "recording path" or "recording command |"; of segments "utterance
    recording start end", in seconds, and perhaps a channel; of text "utterance transcript".

    Args:
        path: of the folder, or of the wav.scp in it.
        allow_pipes: commands are no fault; they run when the audio is wanted, not here.
        with_text: else `text` is not read.

    Raises:
        DataError: a file cannot be read; or lines of text are wrong, or lines of wav.scp where
            there are segments, with all of them counted.
    """
    scp = _wav_scp(path)
    text_path = scp.with_name("text")
    texts = _table(text_path, str.strip) if with_text and text_path.exists() else {}
    resolve = path_resolver(scp)

    def audio_of(entry: str) -> Audio:
        return _audio(entry, resolve, allow_pipes)

    by_line = utterance_file(path)
    recordings = {} if by_line == scp else _table(scp, audio_of)
    for number, line in lines_of(by_line):
        try:
            if by_line == scp:
                key, entry = _split(line)
                wav, is_command = audio_of(entry)
                found = Utterance(key, wav, text=texts.get(key), is_command=is_command)
            else:
                found = _segment(line, recordings, texts)
        except DataError as error:
            yield number, str(error)
        else:
            yield number, found


def _wav_scp(path: Path) -> Path:
    return path / "wav.scp" if path.is_dir() else path


def _split(line: str) -> tuple[str, str]:
    key, *rest = line.split(maxsplit=1)
    return key, rest[0] if rest else ""


def _table(path: Path, value_of: Callable[[str], T]) -> dict[str, T]:
    """The values of "key value" lines."""
    table: dict[str, T] = {}
    problems = []
    for number, line in lines_of(path):
        key, rest = _split(line)
        if key in table:
            problems.append(f"line {number}: {key!r} is there before; keys must be unique")
            continue
        try:
            table[key] = value_of(rest)
        except DataError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise DataError(describe_problems(path, problems))
    return table


def _audio(entry: str, resolve: Callable[[str], str], allow_pipes: bool) -> Audio:
    if not entry or "\0" in entry:
        raise DataError('expected "key path", got no path')
    if entry.endswith("|"):
        parse_command(entry)  # what it refuses shall be heard of now
        if not allow_pipes:
            raise DataError(f"{entry} is a command; --allow_pipes runs it, if you trust the list")
        return entry, True
    if entry.startswith("|") or ARCHIVE.search(entry):
        raise DataError(f"{entry}: no audio file; write the audio to files (Kaldi's wav-copy)")
    return resolve(entry), False


def _segment(line: str, recordings: Mapping[str, Audio], texts: Mapping[str, str]) -> Utterance:
    key, *fields = line.split()
    if len(fields) not in (3, 4):
        raise DataError(f'expected "utterance recording start end", got {1 + len(fields)} fields')
    recording, *numbers = fields
    if recording not in recordings:
        raise DataError(f"recording {recording!r} is not in wav.scp; add it or remove the segment")
    try:
        start, end = map(float, numbers[:2])
        channel = int(numbers[2]) if len(numbers) == 3 else None
    except ValueError:
        raise DataError(f"{' '.join(numbers)}: expected start and end in seconds") from None
    last = math.nan if end == TO_THE_END else end
    if not 0 <= start < MAX_SECONDS or last <= start or last >= MAX_SECONDS:
        raise DataError(f"{start:g} to {end:g} s is no segment; correct its start and end")
    if channel is not None and channel < 0:
        raise DataError(f"channel {channel}: expected 0 or more")
    wav, is_command = recordings[recording]
    return Utterance(
        key,
        wav,
        start,
        None if end == TO_THE_END else end,
        texts.get(key),
        channel=channel,
        is_command=is_command,
    )
