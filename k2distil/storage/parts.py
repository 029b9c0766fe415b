"""An h5 made in parts, so that a run that is killed loses no more than the parts in work.

    codes.h5.parts/plan.json         what the parts belong to
                   part-000007.h5    arrays of the 8th part
                   part-000007.json  its report; there only once the h5 is whole and on disk
                   part-000007.lease who is at work on it

Any number of processes, on any hosts that share the folder, make the parts of one output: each
claims one after another. A part that two of them make comes out the same.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from k2distil.atomic import make_folder, remove_leftovers, replacing
from k2distil.errors import DataError
from k2distil.leases import Leases
from k2distil.storage.file_list import remove_replaced
from k2distil.storage.fingerprint import as_json, refuse_other_settings
from k2distil.storage.merge import DamagedPartError, checksum
from k2distil.storage.output import write_output
from k2distil.storage.reader import FORMAT_VERSION
from k2distil.storage.utterance_h5 import create_h5, open_h5, write_dataset
from k2distil.storage.written import Written, WrittenArrays

logger = logging.getLogger(__name__)

UNFINISHED = (  # the remedy of parts
    "give the same settings and list until the output is complete (then what failed may change in "
    "the list)"
)
PLAN = "plan"  # of a report: which parts it belongs to
CHUNKING = ("utterances", "part_utterances")  # of a plan, beside the fingerprint
_REPORT = re.compile(r"part-\d{6,}\.json")


def parts_folder(save_path: Path) -> Path:
    """exp/codes.h5 -> exp/codes.h5.parts."""
    return save_path.with_name(f"{save_path.name}.parts")


def remove_parts(save_path: Path) -> None:
    """Remove the parts of an output, if there are any, and what their merge left to remove."""
    folder = parts_folder(save_path)
    remove_replaced(save_path, folder)
    _remove_folder(folder)


def refuse_others(save_path: Path, leases: Leases) -> None:
    """Refuse to touch the parts of an output that somebody is making.

    Raises:
        DataError: a process is at work on them.
    """
    folder = parts_folder(save_path)
    if (holder := leases.holder(folder.glob("part-*.lease"))) is not None:
        raise DataError(f"{folder}: {holder} is writing this output; wait for it to end")


def refuse_unfinished(save_path: Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuse to remove the parts of another list, or of other settings.

    Raises:
        DataError: there are such.
    """
    plan = parts_folder(save_path) / "plan.json"
    if plan.exists():
        found = _read_plan(plan)
        wanted = json.loads(as_json(fingerprint))
        wanted |= {name: found.get(name) for name in CHUNKING}
        refuse_other_settings(plan.parent, found, wanted, UNFINISHED)


class PartFolder:
    """The parts of one output, numbered from 0; any of them may be there already."""

    def __init__(
        self,
        save_path: Path,
        fingerprint: Mapping[str, Any],
        num_utterances: int,
        part_utterances: int,
    ) -> None:
        """Make the folder, or go on with the one an earlier run left.

        Args:
            save_path: of the h5 that the parts become.
            fingerprint: all that decides the content, of JSON's types.
            num_utterances: of the whole list.
            part_utterances: of a part; the last may have fewer. Not part of the fingerprint: the
                merged h5 does not depend on it, but the parts of one folder must share it.

        Raises:
            DataError: the parts there belong to other settings, or the folder cannot be made.
        """
        self.save_path, self.num_parts = save_path, math.ceil(num_utterances / part_utterances)
        self.fingerprint = dict(fingerprint)
        self.folder = parts_folder(save_path)
        chunking = dict(zip(CHUNKING, (num_utterances, part_utterances), strict=True))
        self._plan = as_json({**self.fingerprint, **chunking})
        self._plan_digest = zlib.crc32(self._plan.encode())
        self._plan_path = self.folder / "plan.json"
        if self.folder.is_symlink():
            raise DataError(
                f"{self.folder}: a link; parts and output share a disk: remove it, or give a "
                "--save_path on the disk that it leads to"
            )
        if self._plan_path.exists():
            found = _read_plan(self._plan_path)
            refuse_other_settings(self.folder, found, json.loads(self._plan), UNFINISHED)
            remove_leftovers(self.folder)
            return
        make_folder(self.folder)
        with replacing(self._plan_path) as temporary:
            temporary.write_text(self._plan, encoding="utf-8")

    def exist(self) -> bool:
        """Whether the folder is still there: another process may have merged and removed it."""
        try:
            return self._plan_path.read_text(encoding="utf-8") == self._plan
        except OSError:
            return False

    def refuse_gone(self) -> None:
        """Refuse to go on where it is not.

        Raises:
            DataError: another process has merged and removed it, or started over.
        """
        if not self.exist():
            raise DataError(f"{self.folder}: merged and removed; run the same command again")

    def done(self) -> set[int]:
        """The parts that have a report, by one look at the folder; all, where it is gone."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return set(range(self.num_parts))
        return {int(name[5:-5]) for name in names if _REPORT.fullmatch(name)}

    def claim(self, leases: Leases) -> Iterator[int]:
        """Claim parts that are not done, one after another, passing over those of others.

        Ends early where the folder is gone. The lease of a part ends with `release`.
        """
        done = self.done()
        for index in range(self.num_parts):
            if index in done or self._report_path(index).exists():
                continue
            try:
                is_mine = leases.claim(self._lease_path(index))
            except DataError:
                if self.exist():
                    raise
                return  # merged by another process since the look
            if is_mine and self.exist() and not self._report_path(index).exists():
                yield index
            else:
                leases.release(self._lease_path(index))

    def release(self, index: int, leases: Leases) -> None:
        """Give a claimed part back."""
        leases.release(self._lease_path(index))

    def discard_damaged(self) -> list[DamagedPartError]:
        """Take what is cut or cannot be opened for not done; -> what is wrong with it."""
        found = []
        for index in sorted(self.done()):
            if (reason := self._damage(index)) is not None:
                logger.warning("%s: damaged, to be made again: %s", self._h5_path(index), reason)
                self._report_path(index).unlink(missing_ok=True)
                found.append(DamagedPartError(self._h5_path(index), reason))
        return found

    def refuse_missing(self) -> None:
        """Refuse to go on without all parts.

        Raises:
            DataError: some are missing.
        """
        if missing := sorted(set(range(self.num_parts)) - self.done()):
            raise DataError(
                f"{self.folder}: {len(missing)} of {self.num_parts} parts are missing "
                f"({', '.join(map(str, missing[:10]))}); run the command again that "
                "makes them"
            )

    def write(
        self, index: int, arrays: Mapping[str, np.ndarray], report: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write one part; it is done when this returns, and not there at all before.

        Args:
            index: 0 to num_parts - 1.
            arrays: (num_frames, width) by key, of one dtype and width in all parts.
            report: more for the report, of JSON's types: failed, dropped, audio_seconds, ...

        Returns:
            The report: `report`, and as `written` {key: [num_frames, crc32]}.

        Raises:
            DataError: the disk is full, the folder cannot be written to, or it has become that of
                other parts.
        """
        self.refuse_gone()
        written = {key: [len(values), checksum(values)] for key, values in arrays.items()}
        complete = {**report, "written": written}
        self._report_path(index).unlink(missing_ok=True)  # while the h5 changes, it is not done
        h5_path, report_path = self._h5_path(index), self._report_path(index)
        with (
            replacing(h5_path, tidy=False, at_last=self.refuse_gone) as temporary,
            create_h5(temporary) as file,
        ):
            for key, values in arrays.items():
                write_dataset(file, key, values)
        with replacing(report_path, tidy=False, at_last=self.refuse_gone) as temporary:
            # What is not UTF-8 in a path becomes its escape, which JSON reads as the same again.
            sealed = _sealed({**complete, PLAN: self._plan_digest})
            temporary.write_text(sealed, "utf-8", "backslashreplace")
        return complete

    def reports(self) -> Iterator[dict[str, Any]]:
        """The reports of the parts that are done, in order.

        Raises:
            DamagedPartError: one is not what was written; from now on its part is missing.
        """
        for index in range(self.num_parts):
            if self._report_path(index).exists():
                try:
                    report = self._report(index)
                except DamagedPartError:
                    self._report_path(index).unlink(missing_ok=True)
                    raise
                yield report

    def merge(
        self, keys: Sequence[str], attributes: Mapping[str, Any], *, onto: bool = False
    ) -> None:
        """Make the h5 of all parts, or several and their list, with an index, and remove the parts.

        Args:
            keys: all keys of the list; their order becomes the order of the h5. Those no part
                wrote (failed, dropped) are passed over.
            attributes: root attributes; the format's version, the fingerprint and a digest of the
                content are added. With `shard_hours`, several files are made.
            onto: keep the arrays of the h5 that is there, and add those of the parts.

        Raises:
            DamagedPartError: a part is not what was written; from now on it is missing.
            DataError: a part is missing, or holds a key twice or a strange one; or the disk is
                full.
        """
        if damaged := self.discard_damaged():
            raise damaged[0]
        self.refuse_missing()
        listed = {key: key for key in keys}
        written = WrittenArrays()
        for index in range(self.num_parts):
            h5_path = self._h5_path(index)
            for key, (num_frames, crc32) in self._report(index)["written"].items():
                if key not in listed or key in written:
                    reason = "in two parts" if key in written else "not in the list"
                    raise DataError(f"{h5_path}: {key} is {reason}; use --force")
                written.add(listed[key], Written(h5_path, num_frames, crc32))  # no copies of keys
        del listed
        own = {"format_version": FORMAT_VERSION, "fingerprint": as_json(self.fingerprint)}
        try:
            everything = {**attributes, **own}
            write_output(
                *(self.save_path, self.folder, written, keys, everything),
                onto=onto,
                at_last=self.refuse_gone,
            )
        except DamagedPartError as error:
            if error.part.parent == self.folder:
                error.part.with_suffix(".json").unlink(missing_ok=True)
            raise
        if self.exist():
            _remove_folder(self.folder)

    def _damage(self, index: int) -> str | None:
        """What is wrong with a part that has a report; None: nothing that shows at once."""
        try:
            report = self._report(index)
            with open_h5(self._h5_path(index)) as file:
                if len(file) != len(report["written"]):
                    return "not the number of arrays it reports"
        except (DataError, RuntimeError, OSError) as error:  # HDF5 raises either for a bad header
            return str(error)
        return None

    def _report(self, index: int) -> dict[str, Any]:
        """Read it.

        Raises:
            DamagedPartError: it is gone, or not what was written.
        """
        path = self._report_path(index)
        try:
            report = _unsealed(path.read_text(encoding="utf-8"))
            if report.pop(PLAN) != self._plan_digest:
                raise ValueError("of other settings")  # one who slept wrote it
            return report
        except (OSError, ValueError, KeyError) as error:
            raise DamagedPartError(self._h5_path(index), f"its report: {error}") from error

    def _h5_path(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}.h5"

    def _report_path(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}.json"

    def _lease_path(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}.lease"


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); start over with --force") from error


def _sealed(report: Mapping[str, Any]) -> str:
    """As JSON, with a checksum of the rest as the last entry."""
    crc32 = zlib.crc32(json.dumps(report).encode())
    return json.dumps({**report, "crc32": crc32}, ensure_ascii=False)


def _unsealed(text: str) -> dict[str, Any]:
    """A report again.

    Raises:
        ValueError, KeyError: it is not what was sealed.
    """
    report = json.loads(text)
    if report.pop("crc32") != zlib.crc32(json.dumps(report).encode()):
        raise ValueError("its checksum is another")
    return report


def _remove_folder(folder: Path) -> None:
    """Remove it at once as seen by other processes and later runs: a half would look like work."""
    doomed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
