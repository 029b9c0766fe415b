"""What faults did to outputs: the comparison with an undisturbed run."""

from __future__ import annotations

import csv
import filecmp
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from k2distil.storage import UtteranceReader

BESIDE = ("", ".idx.npz", ".summary.json", ".config.yaml", ".failed.tsv")


@dataclass
class Tally:
    """Of all runs with faults."""

    runs: int = 0
    kills: int = 0  # SIGKILL
    terminations: int = 0  # SIGTERM
    utterances: int = 0
    failed: int = 0  # and listed, as they should be
    lost: int = 0  # neither written nor listed
    doubled: int = 0  # written and listed, or listed twice
    wrong: int = 0  # other bytes than undisturbed

    def compare(
        self,
        save_path: Path,
        undisturbed: Path,
        failed: Collection[str] = (),
        replaced: Collection[str] = (),
    ) -> None:
        """Count, and accept nothing but what an undisturbed run made.

        Args:
            save_path: made under faults.
            undisturbed: the same without any; the whole files are compared if no audio has failed
                or changed.
            failed: keys of those that must be listed, and no others.
            replaced: keys whose audio changed; the caller compares them.
        """
        listed = [row["key"] for row in _failed_rows(save_path)]
        reader = UtteranceReader(save_path)
        with h5py.File(undisturbed) as right, h5py.File(save_path) as found:
            times = Counter([*found, *listed])
            lost = set(right) - times.keys()
            doubled = {key for key, count in times.items() if count > 1}
            wrong = set(times) - set(right)
            for key in (set(found) & set(right)) - set(replaced):
                if not (_same(found[key][:], right[key][:]) and _same(reader[key], right[key][:])):
                    wrong.add(key)
            self.utterances += len(right)
        self.runs += 1
        self.failed += len(listed)
        self.lost += len(lost)
        self.doubled += len(doubled)
        self.wrong += len(wrong)
        assert not lost, f"lost: {lost}"
        assert not doubled, f"doubled: {doubled}"
        assert not wrong, f"wrong: {wrong}"
        assert sorted(listed) == sorted(failed), f"listed: {listed}"
        if not failed and not replaced:
            assert filecmp.cmp(save_path, undisturbed, shallow=False), "not the same file"
        beside = {path.name for path in save_path.parent.iterdir()}
        left = beside - {f"{save_path.name}{suffix}" for suffix in BESIDE}
        assert not left, f"left behind: {left}"


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _failed_rows(save_path: Path) -> list[dict[str, str]]:
    path = save_path.with_name(f"{save_path.name}.failed.tsv")
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))
