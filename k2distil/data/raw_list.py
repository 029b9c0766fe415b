"""WeNet's raw list: one JSON object per line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from k2distil.batch import Utterance
from k2distil.data.list_file import MAX_SECONDS, Lines
from k2distil.data.relative_path import path_resolver
from k2distil.errors import counted

logger = logging.getLogger(__name__)

SHOWN = 60  # characters of a line, where it is no JSON
EXPECTED = '{"key": ..., "wav": ..., "txt": ...}'
OTHERS = {"audio_filepath", "file_name", "audio", "path"}  # names of NeMo's and datasets'


def read_raw_lines(lines: Lines, list_path: Path) -> Iterator[tuple[int, Utterance | str]]:
    """Yield (line number, utterance), or (line number, what is wrong and what helps).

    Fields beside key, wav, txt, start and end (seconds) are WeNet's and others' own: not read. A
    warning tells of "text" without "txt".

    Args:
        list_path: what its relative paths are beside.
    """
    resolve = path_resolver(list_path)
    num_misnamed = 0
    for number, line in lines:
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({_reason(error)}): {line[:SHOWN]!r}; expected {EXPECTED}"
            continue
        if (fault := _fault(fields)) is not None:
            yield number, fault
            continue
        num_misnamed += "text" in fields and "txt" not in fields
        start, end = fields.get("start"), fields.get("end")
        yield (
            number,
            Utterance(fields["key"], resolve(fields["wav"]), start, end, fields.get("txt")),
        )
    if num_misnamed:
        logger.warning(
            '%s: "text" and no "txt" in %s, whose audio counts as without text; a transcript is '
            'called "txt"',
            *(list_path, counted(num_misnamed, "entry", "entries")),
        )


def _reason(error: Exception) -> str:
    """json counts lines within this one, which would contradict the list's."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)


def _fault(fields: Any) -> str | None:
    if not isinstance(fields, dict):
        return f"not a JSON object; expected {EXPECTED}"
    for name in ("key", "wav", "txt"):
        value = fields.get(name, "" if name == "txt" else None)
        if value is None and name != "txt":
            there = ", ".join(repr(each) for each in fields if fields[each] is not None)
            hint = "; docs/formats.md has what converts such lists" if OTHERS & set(fields) else ""
            return f'no "{name}", but {there or "nothing"}; expected {EXPECTED}{hint}'
        if value is not None and not isinstance(value, str):
            return f'"{name}" is {value!r}; expected a string'
    if fault := _fault_of_text(fields.get("txt") or ""):
        return fault
    if not fields["wav"] or "\0" in fields["wav"]:
        return '"wav" is empty or no path'
    for name in ("start", "end"):
        value = fields.get(name)
        if value is not None and not _is_time(value):
            return f'"{name}" is {value!r}; expected seconds, 0 or more'
    start, end = fields.get("start") or 0.0, fields.get("end")
    if end is not None and end <= start:
        return f'"end" {end} is not after "start" {start}'
    return None


def _fault_of_text(text: str) -> str | None:
    r"""Half of a character, such as "\ud83d", is in no file that can be written."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"the text has half of a character ({text[error.start]!r}); correct it"
    return None


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < MAX_SECONDS  # not NaN, not true
