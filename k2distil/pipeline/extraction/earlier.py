"""What an earlier run left of an output, and whether it holds for a list that has changed since.

An output of a changed list is gone on with where the entries of what is in it are as they were:
those that failed may be corrected or removed, and new ones come. The root attribute `entries`, a
digest of these entries, tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k2distil.batch import Rejection, Utterance
from k2distil.errors import DataError, counted
from k2distil.pipeline.run.digests import ENTRIES, digest_of_entries
from k2distil.pipeline.run.rejections import read_rejections
from k2distil.pipeline.run.summary import read_summary
from k2distil.storage import (
    DamagedPartError,
    UtteranceReader,
    attributes_of,
    check_finished,
    describe_differences,
    find_unmerged,
)

OF_THE_LIST = ("list", "utterances")  # what a list decides of a fingerprint
REMEDY = (
    "give their entries as they were (--train_data with all lists, the old ones and the new), "
    "another --save_path, or --force to start over"
)


@dataclass(frozen=True)
class Earlier:
    """An output in which only utterances are missing that failed, or are new in the list."""

    is_same: bool  # whether it is of the same list and settings
    written: set[str]  # keys
    entries: int | None  # their `digest_of_entries`; None: made by an older k2distil
    num_frames: int
    dropped: list[Rejection]  # those that hold
    figures: dict[str, Any]  # of its summary

    @classmethod
    def of(
        cls, save_path: Path, fingerprint: Mapping[str, Any], noted: Mapping[str, Any]
    ) -> Earlier:
        """Read it.

        Args:
            save_path: of the output.
            fingerprint: of what it is to become.
            noted: `to_note` when the parts were begun that are added to it: what stands beside the
                output may be of these already. Empty: there are none.
        """
        reader = UtteranceReader(save_path)
        found = json.loads(reader.meta.get("fingerprint", "{}"))
        is_same = not describe_differences(found, fingerprint)
        entries = int(reader.meta[ENTRIES], 16) if ENTRIES in reader.meta else None
        num_frames = reader.total_frames()
        rows = read_rejections(save_path, "dropped") if is_same else []
        dropped = noted.get("dropped", rows)
        figures = noted.get("figures", read_summary(save_path))
        return cls(is_same, set(reader), entries, num_frames, dropped, figures)

    def to_note(self) -> dict[str, Any]:
        """What must be kept with the parts that are added."""
        figures = {name: self.figures.get(name, 0.0) for name in ("audio_seconds", "wall_seconds")}
        return {"dropped": self.dropped, "figures": figures}

    def keys(self) -> set[str]:
        """Keys of the utterances that need no second try."""
        return self.written | {row["key"] for row in self.dropped}


def find_earlier(
    save_path: Path,
    fingerprint: Mapping[str, Any],
    equivalent: Iterable[dict[str, Any]],
    utterances: Sequence[Utterance],
) -> Earlier | None:
    """What is to be gone on with; None: there is no output.

    Args:
        save_path: of the output.
        fingerprint: of what it is to become.
        equivalent: other values of its fields, with which each array would be the same.
        utterances: of the list.

    Raises:
        DataError: it was made with other settings, or by something else, or its files are not
            whole, or the list has other entries for what is in it.
    """
    if not save_path.exists():
        return None
    meta = attributes_of(save_path)
    expected = dict(fingerprint)
    if ENTRIES in meta:
        found = json.loads(meta["fingerprint"])
        expected |= {name: found[name] for name in OF_THE_LIST}
        for each in equivalent:
            if not describe_differences(found, expected | each):
                expected |= each
    check_finished(save_path, expected)
    earlier = Earlier.of(save_path, fingerprint, _noted(save_path, fingerprint))
    if not earlier.is_same:
        _refuse_other_entries(save_path, earlier, utterances)
    # Not those of a run with another list that was killed in its merge.
    missing = {each.key for each in utterances if each.key not in earlier.written}
    dropped = [row for row in earlier.dropped if row["key"] in missing]
    return replace(earlier, dropped=dropped)


def _noted(save_path: Path, fingerprint: Mapping[str, Any]) -> Mapping[str, Any]:
    """With parts that are begun and not merged yet."""
    try:
        left = find_unmerged(save_path)
    except DataError:  # killed before anything was noted
        return {}
    if left is None or describe_differences(left.parts.fingerprint, fingerprint):
        return {}
    try:
        return {} if left.is_merged() else left.earlier
    except DamagedPartError:  # it will be made again
        return left.earlier


def _refuse_other_entries(
    save_path: Path, earlier: Earlier, utterances: Sequence[Utterance]
) -> None:
    listed = [each for each in utterances if each.key in earlier.written]
    if len(listed) < len(earlier.written):
        gone = earlier.written.difference(each.key for each in listed)
        raise DataError(
            f"{save_path}: no longer in the list: {counted(len(gone), 'utterance')} in it, such as "
            f"{min(gone)}; {REMEDY}"
        )
    if digest_of_entries(listed) != earlier.entries:
        raise DataError(
            f"{save_path}: the list has other audio or segments for utterances in it; {REMEDY}"
        )
