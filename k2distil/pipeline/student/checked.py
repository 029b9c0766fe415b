"""What the check of a list found, kept beside a student for when its training goes on."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from k2distil.atomic import replacing
from k2distil.batch import Rejection


@dataclass(frozen=True)
class Checked:
    """Which utterances of a list can be used, and why the others cannot.

    rows: (U,) int64, their places in the list; seconds: (U,) float64; labelled, coded: (U,) bool,
    whether each has text, and codes, that fit. unreadable: rows of failed.tsv; unfit, too_long: of
    dropped.tsv.
    """

    rows: np.ndarray
    seconds: np.ndarray
    labelled: np.ndarray
    coded: np.ndarray
    unreadable: list[Rejection]
    unfit: list[Rejection]
    too_long: list[Rejection]

    def save(self, path: Path) -> None:
        """Write a .npz, whole or not at all.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        rejected = json.dumps([self.unreadable, self.unfit, self.too_long]).encode()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                rows=self.rows,
                seconds=self.seconds,
                labelled=self.labelled,
                coded=self.coded,
                rejected=np.frombuffer(rejected, np.uint8),
            )

    @classmethod
    def load(cls, path: Path) -> Checked | None:
        """What `save` wrote; None: there is nothing, or nothing whole."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("rows", "seconds", "labelled", "coded")}
                unreadable, unfit, too_long = json.loads(file["rejected"].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return cls(**arrays, unreadable=unreadable, unfit=unfit, too_long=too_long)
