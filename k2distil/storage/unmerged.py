"""Parts that were made but not merged: merged later, without the teacher that made them.

codes.h5.parts/merge.json    all that the merge needs beside the parts
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2distil.atomic import replacing
from k2distil.errors import DataError
from k2distil.storage.fingerprint import as_json, describe_differences
from k2distil.storage.parts import PartFolder, parts_folder
from k2distil.storage.reader import UtteranceReader
from k2distil.storage.utterance_h5 import attributes_of

NOTE = "merge.json"


@dataclass(frozen=True)
class Unmerged:
    """What a run left to be merged."""

    parts: PartFolder
    keys: list[str]  # of the whole list, in its order
    attributes: dict[str, Any]  # of the root
    onto: bool  # the parts are to be added to the h5 that is there
    earlier: dict[str, Any]  # what to know of that h5

    def is_merged(self) -> bool:
        """Whether the h5 has it all already: the run was killed while it removed the parts."""
        path = self.parts.save_path
        if not path.exists():
            return False
        found = json.loads(attributes_of(path).get("fingerprint", "{}"))
        if describe_differences(found, self.parts.fingerprint):
            return False
        if len(self.parts.done()) < self.parts.num_parts:  # of a retry, which has the same one
            return False
        reader = UtteranceReader(path)
        return all(key in reader for report in self.parts.reports() for key in report["written"])


def note_for_merge(
    parts: PartFolder,
    keys: Sequence[str],
    attributes: Mapping[str, Any],
    *,
    earlier: Mapping[str, Any] | None,
) -> None:
    """Write down what the merge of these parts will be given, if nobody did yet.

    Args:
        parts: to be merged.
        keys: of the whole list.
        attributes: of the root.
        earlier: what to know of the h5 that they are merged onto, of JSON's types; None: there is
            none.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    if (parts.folder / NOTE).exists():
        return
    onto = earlier is not None
    note = {"fingerprint": parts.fingerprint, "attributes": attributes, "onto": onto, "keys": keys}
    note["earlier"] = earlier or {}
    with replacing(parts.folder / NOTE) as temporary:
        temporary.write_text(as_json(note), encoding="utf-8")


def find_unmerged(save_path: Path) -> Unmerged | None:
    """What a run left of an output; None: there are no parts.

    Raises:
        DataError: the parts are of an older version, or damaged.
    """
    folder = parts_folder(save_path)
    if not folder.exists():
        return None
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        counts = (plan["utterances"], plan["part_utterances"])
        parts = PartFolder(save_path, note["fingerprint"], *counts)
        earlier = note.get("earlier", {})
        return Unmerged(parts, note["keys"], note["attributes"], note["onto"], earlier)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder}: cannot be merged alone ({error}); run the command again that made it"
        ) from error


def merged_already(save_path: Path) -> bool:
    """Whether there are parts that a run left which was killed after their merge.

    Raises:
        DataError: see `find_unmerged`.
    """
    left = find_unmerged(save_path)
    return left is not None and left.is_merged()
