"""Codes as a custom field of lhotse's cuts: a TemporalArray that points into our h5.

Nothing is copied: lhotse's storage type numpy_hdf5 is one dataset per key too.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from k2distil.batch import Rejection, Utterance, rejection
from k2distil.data import MAX_OVERSHOOT, audio_seconds
from k2distil.data.lhotse_cuts import without
from k2distil.errors import ConfigError, DataError, counted
from k2distil.storage import CodebookReader
from k2distil.torchaudio_guard import hide_broken_torchaudio

FIELD = "codebook_indexes"  # what icefall's MVQ recipe reads
STORAGE_TYPE = "numpy_hdf5"
PERTURBATIONS = ("Speed", "Tempo")  # lhotse's transforms that change how long audio is
TOLERANCE = 3  # frames that the codes and the cut's duration may differ by


def require_lhotse() -> None:
    """Refuse to go on without the package.

    A torchaudio that cannot be imported is hidden from it: it asks for torchaudio when it reads
    audio, and cannot go on without where that fails.

    Raises:
        ConfigError: with the command that installs it.
    """
    hide_broken_torchaudio()
    try:
        import lhotse  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"--to lhotse: no {error.name} here; run: pip install lhotse") from error


def check_field(name: str) -> None:
    """Refuse a field that `cut.<name>` and `cut.load_<name>()` would not give.

    Raises:
        ConfigError: it is no name of Python, or one that a cut has already.
    """
    from lhotse import MonoCut

    taken = {*dir(MonoCut), *(each.name for each in fields(MonoCut))}
    if not name.isidentifier() or {name, f"load_{name}"} & taken:
        raise ConfigError(
            f"--field {name}: expected letters, digits and _, and nothing that lhotse's cuts have; "
            "give another name"
        )


def read_cuts(path: Path) -> Iterator[Any]:
    """The cuts of a manifest, one at a time.

    Raises:
        DataError: not a manifest of cuts.
    """
    from lhotse import CutSet
    from lhotse.cut import Cut

    try:
        for each in CutSet.from_file(path):
            if not isinstance(each, Cut):
                raise TypeError(f"a {type(each).__name__} in it")
            yield each
    except (OSError, EOFError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(
            f"{path}: no manifest of cuts ({error}); give one that lhotse has written"
        ) from error


def make_cuts(utterances: Iterable[Utterance], channel: int = 0) -> Iterator[Any]:
    """A MonoCut for each utterance, with its text; a `Rejection` of what cannot be read.

    Args:
        utterances: their audio is named by its whole path.
        channel: of the audio, 0: the first, where the list names none.

    Raises:
        ConfigError: audio lies in a tar, or comes from a command.
    """
    from lhotse import MonoCut, Recording, SupervisionSegment

    for each in utterances:
        if each.tar_offset is not None or each.is_command:
            where = "from a command" if each.is_command else "in a tar"
            raise ConfigError(
                f"{each.wav}: cuts cannot be made of audio {where}; give --cuts_path, or a list "
                "of audio files"
            )
        try:
            recording = Recording.from_file(os.path.abspath(each.wav), recording_id=each.key)
        except Exception as error:  # each of lhotse's audio backends has its own
            yield rejection(each, f"cannot be read: {' '.join(str(error).split())}")
            continue
        whole = replace(each, key="", start=None, end=None, text=None)
        if (fault := _fault_of_length(whole, recording.duration)) is not None:
            yield rejection(each, fault)
            continue
        start = each.start or 0.0
        end = recording.duration if each.end is None else each.end
        if end > recording.duration + MAX_OVERSHOOT or start >= recording.duration:
            reason = f"from {start} to {end} s, but the audio ends at {recording.duration} s"
            yield rejection(each, reason)
            continue
        channels = recording.channel_ids
        index = channel if each.channel is None else each.channel
        if index >= len(channels):
            reason = f"no channel {index}: it has {len(channels)}, counted from 0"
            yield rejection(each, reason)
            continue
        duration = round(min(end, recording.duration) - start, 8)
        text = SupervisionSegment(
            id=each.key,
            recording_id=each.key,
            start=0.0,
            duration=duration,
            channel=channels[index],
            text=each.text,
        )
        yield MonoCut(
            id=each.key,
            start=start,
            duration=duration,
            channel=channels[index],
            supervisions=[text] if each.text is not None else [],
            recording=recording,
        )


def attach_codes(
    cuts: Iterable[Any], reader: CodebookReader, folder: Path, field: str = FIELD
) -> Iterator[Any]:
    """Give every cut the codes whose key is its id.

    The array starts where the cut does, so that what lhotse truncates or splits later loads its
    own part.

    Args:
        cuts: MonoCuts or MultiCuts; a `Rejection` is passed on.
        reader: of the codes; it is asked for lengths only.
        folder: of the h5, or of several, as the cuts shall name it.
        field: of the cut.

    Yields:
        A new cut with the field, or a `Rejection`: no codes, of another length, a mixed cut, or
            one of perturbed speed or tempo.

    Raises:
        DataError: an h5 without frame_shift.
    """
    from lhotse import MonoCut, MultiCut
    from lhotse.array import Array, TemporalArray

    if not {"frame_shift", "num_codebooks"} <= reader.meta.keys():
        raise DataError(
            f"{reader.path}: no frame_shift and num_codebooks among its root attributes; "
            "make it with save_codebook.sh --save_codebook, or add them"
        )
    frame_shift, num_codebooks = reader.meta["frame_shift"], reader.meta["num_codebooks"]
    a_key = next(iter(reader), "")  # once: in an h5 without index all names are looked up for it
    for cut in cuts:
        if isinstance(cut, dict):
            yield cut
        elif not isinstance(cut, MonoCut | MultiCut):
            yield Rejection(
                key=cut.id, wav="", reason="a mixed or padded cut; attach codes before mixing"
            )
        elif (fault := _fault(cut, reader, frame_shift, a_key)) is not None:
            yield Rejection(key=cut.id, wav=_wav_of(cut), reason=fault)
        else:
            shape = [reader.num_frames(cut.id), num_codebooks]
            storage_path = folder / reader.file_of(cut.id).path.name
            array = Array(STORAGE_TYPE, str(storage_path), cut.id, shape)
            codes = TemporalArray(array, temporal_dim=0, frame_shift=frame_shift, start=cut.start)
            yield cut.with_custom(field, codes)


def write_cuts(temporary: Path, path: Path, cuts: Iterable[Any]) -> tuple[int, list[Rejection]]:
    """Write cuts as lhotse does, the same bytes for the same cuts; how many, and which not.

    Args:
        temporary: where to write.
        path: what it will be called.
        cuts: all of them, and a `Rejection` for each that cannot be.

    Raises:
        DataError: there are none.
    """
    written = 0
    rejected: list[Rejection] = []
    with temporary.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        # Of names that are not UTF-8, such as "\udcd6", JSON has the same escape.
        with io.TextIOWrapper(packed, "utf-8", "backslashreplace") as file:
            for cut in cuts:
                if isinstance(cut, dict):  # a Rejection
                    rejected.append(cast(Rejection, cut))
                else:
                    file.write(json.dumps(cut.to_dict(), ensure_ascii=False) + "\n")
                    written += 1
        if not written:
            example = f", e.g. {rejected[0]['key']}: {rejected[0]['reason']}" if rejected else ""
            num_cuts = counted(len(rejected), "cut")
            raise DataError(f"{path}: none of {num_cuts} can be exported{example}")
    return written, rejected


@lru_cache(maxsize=1)  # segments of a recording follow one another
def _fault_of_length(recording: Utterance, duration: float) -> str | None:
    """lhotse takes the length from the header, which does not always tell it."""
    try:
        seconds = audio_seconds(recording)
    except DataError as error:
        return str(error)
    if abs(seconds - duration) > MAX_OVERSHOOT:
        return (
            f"{seconds:.2f} s, which lhotse cannot know: its header does not tell; convert it to "
            "flac, and make its codes anew"
        )
    return None


def _fault(cut: Any, reader: CodebookReader, frame_shift: float, a_key: str) -> str | None:
    if (fault := _fault_of_transforms(cut)) is not None:
        return fault
    if cut.id not in reader:
        fault = (
            f"no codes in {reader.path}, whose keys must be the ids of the cuts; its keys look "
            f"like {a_key!r}, the cuts' like {cut.id!r}"
        )
        if len(cut.supervisions) == 1 and (name := cut.supervisions[0].id) in reader:
            fault += (
                f"; the id of its supervision, {name}, is one: cut.with_id() makes it the cut's"
            )
        return fault
    there, wanted = reader.num_frames(cut.id), round(cut.duration / frame_shift)
    if abs(there - wanted) > TOLERANCE:
        return (
            f"codes of {there * frame_shift:.2f} s for a cut of {cut.duration:.2f} s: they are "
            "of other audio, or of the cut before it was truncated"
        )
    return None


def _fault_of_transforms(cut: Any) -> str | None:
    for transform in (cut.recording.transforms if cut.has_recording else None) or ():
        content = transform if isinstance(transform, dict) else transform.to_dict()
        if (name := content["name"]) in PERTURBATIONS:
            return (
                f"a cut of perturbed {name.lower()} ({content['kwargs']['factor']}), but codes are "
                f"of the audio as it is; train without such cuts: {without(name)}"
            )
    return None


def _wav_of(cut: Any) -> str:
    return str(cut.recording.sources[0].source) if cut.has_recording else ""
