"""lhotse's cuts, read as the JSON lines that they are: MonoCuts of audio files."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from k2distil.batch import Utterance
from k2distil.data.list_file import MAX_SECONDS, Lines
from k2distil.data.relative_path import path_resolver
from k2distil.errors import DataError

# Changes of the sound that leave every moment where it was: frames still belong to the cut. They
# are not applied, since a teacher hears the audio as it is.
TIME_STAYS = {
    "Resample",
    "Volume",
    "LoudnessNormalization",
    "ReverbWithImpulseResponse",
    "Narrowband",
    "Clipping",
}
OVERHANG = 0.1  # seconds of a supervision outside its cut
REMEDIES = {
    "MixedCut": "padded, appended or mixed; give the cuts it was made of",
    "MultiCut": "of several channels; split it with to_mono()",
    "PaddingCut": "silence without a recording; remove it",
}


def is_cut(fields: Any) -> bool:
    """Whether a line of JSON is one of lhotse's cuts.

    >>> is_cut({"key": "a", "wav": "a.wav"}), is_cut({"id": "a", "type": "MonoCut"})
    (False, True)
    """
    return isinstance(fields, dict) and (
        fields.get("type") in {"MonoCut", *REMEDIES} or "recording" in fields
    )


def fault_of_manifest(fields: Any) -> str | None:
    """What is wrong and what helps where a line of JSON is of another manifest of lhotse.

    >>> fault_of_manifest({"id": "c", "start": 0.0, "recording": {}})  # None: a cut
    """
    if not isinstance(fields, dict) or "key" in fields or is_cut(fields):
        return None
    if "sources" not in fields and "recording_id" not in fields:
        return None
    what = "recordings" if "sources" in fields else "supervisions or features"
    return (
        f"{what} of lhotse, no cuts; make cuts first (lhotse cut simple, then lhotse cut "
        "trim-to-supervisions)"
    )


def is_in_shar(fields: Any) -> bool:
    """Whether a line of JSON is a cut whose audio lies in a tar of lhotse's Shar."""
    try:
        return any(each["type"] == "shar" for each in fields["recording"]["sources"])
    except (KeyError, TypeError):
        return False


def remedy_of_shar(folder: Path) -> str:
    """What to give in place of a Shar; in its tars is no text.

    >>> remedy_of_shar(Path("exp/shar")).partition("; ")[2].partition(" (")[0]
    'give a list of these: ls exp/shar/recording.*.tar > shards.list'
    """
    return (
        "the audio of a Shar lies in its tars; give a list of these: ls "
        f"{shlex.quote(str(folder))}/recording.*.tar > shards.list (for a student, which needs the "
        "text, the cuts that it was made of)"
    )


def without(transform: str) -> str:
    """The line of lhotse that leaves out the cuts that a transform has changed.

    >>> without("Speed")
    "cuts.filter(lambda cut: 'Speed' not in str(cut.recording.transforms))"
    """
    return f"cuts.filter(lambda cut: {transform!r} not in str(cut.recording.transforms))"


def read_cuts(
    lines: Lines, list_path: Path, with_text: bool = True
) -> Iterator[tuple[int, Utterance | str]]:
    """Yield (line number, utterance), or (line number, what is wrong and what helps).

    The key is the cut's id, the transcript that of its supervisions. Features are not read.

    Args:
        lines: of a cuts.jsonl or cuts.jsonl.gz.
        list_path: what its relative paths are beside.
        with_text: the transcript is wanted, so it must be of what the cut has.
    """
    resolve = path_resolver(list_path)
    for number, line in lines:
        try:
            cut = json.loads(line)
            if is_in_shar(cut):
                raise DataError(f"cut {cut.get('id')}: {remedy_of_shar(list_path.parent)}")
            found = _utterance(cut, resolve, with_text)
        except DataError as error:
            yield number, str(error)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})"
        except (KeyError, TypeError, AttributeError) as error:
            yield number, f"not a cut as lhotse writes it ({type(error).__name__}: {error})"
        else:
            yield number, found


def _utterance(cut: dict[str, Any], resolve: Callable[[str], str], with_text: bool) -> Utterance:
    name, kind = cut["id"], cut.get("type", "MonoCut")
    if name is None:
        raise DataError("a cut whose id is null; give each an id of its own")
    if kind != "MonoCut":
        raise DataError(f"cut {name}: a {kind}, {REMEDIES.get(kind, 'expected a MonoCut')}")
    recording = cut.get("recording")
    if recording is None:
        raise DataError(f"cut {name}: no recording in it; give cuts with audio")
    for transform in recording.get("transforms") or ():
        if (what := transform.get("name")) not in TIME_STAYS:
            raise DataError(
                f"cut {name}: changed by {what}, so that its frames are not those of the audio "
                f"file; leave such cuts out: {without(what)}"
            )
    channel = cut["channel"]
    source = next((each for each in recording["sources"] if channel in each["channels"]), None)
    if source is None:
        raise DataError(f"cut {name}: no channel {channel} in its recording")
    if source["type"] != "file":
        raise DataError(
            f"cut {name}: its audio is of type {source['type']!r}, expected 'file'; "
            "save it to files with lhotse's save_audios()"
        )
    start, duration = cut["start"], cut["duration"]
    if not (0 <= start < MAX_SECONDS and 0 < duration < MAX_SECONDS):
        raise DataError(f"cut {name}: {duration} s from {start} s is no segment")
    return Utterance(
        str(name),
        resolve(source["source"]),
        start,
        start + duration,
        _text_of(cut) if with_text else None,
        channel=source["channels"].index(channel),
    )


def _text_of(cut: dict[str, Any]) -> str | None:
    """The transcript, all of which must be said in the cut: its supervisions count from its start.

    Raises:
        DataError: one goes on outside, as where the cut is a window of a recording.
    """
    begin, duration, texts = cut["start"], cut["duration"], []
    # Outside the recording nothing is said: times are rounded, or lengths were other ones.
    whole = (cut.get("recording") or {}).get("duration", math.inf)
    earliest = -OVERHANG if begin > OVERHANG else -math.inf
    latest = duration + OVERHANG if begin + duration < whole - OVERHANG else math.inf
    for each in cut.get("supervisions", ()):
        if not each.get("text"):
            continue
        start = each.get("start", 0.0)
        end = start + each.get("duration", 0.0)
        if start < earliest or end > latest:
            raise DataError(
                f"cut {cut['id']}: a text of {start:.2f} to {end:.2f} s in a cut of "
                f"{cut['duration']:.2f} s; give those of "
                "cuts.trim_to_supervisions(keep_overlapping=False)"
            )
        texts.append(each["text"])
    return " ".join(texts) or None
