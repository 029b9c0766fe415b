"""The arrays of one h5 by key: through its index where there is one, else through HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from k2distil.errors import DataError
from k2distil.storage.offsets import read_offsets
from k2distil.storage.utterance_h5 import (
    MORE_FILES,
    naming_damage,
    open_h5,
    read_attributes,
    read_h5,
)


class ArrayFile(Mapping[str, np.ndarray]):
    """A lazy mapping from key to (num_frames, width) array, each read from disk when asked for.

    The arrays and their order are the same with the index and without: the order is that of the
    list in our files, as a rule that of the names in others'. Safe to fork: a process that needs
    HDF5 opens the file for itself.
    """

    def __init__(self, path: Path, made_by: str = "") -> None:
        """Read the attributes and the index; made_by: the script that makes such a file.

        Raises:
            DataError: no h5 can be opened there.
        """
        self.path = path
        self._descriptor = -1
        self._h5: tuple[int, h5py.File] | None = None  # the process that opened it, the file
        with open_h5(path, made_by) as file, naming_damage(path):
            self.meta: dict[str, Any] = read_attributes(file)  # {} in an h5 of others
            self._num_keys = len(file)
        self._offsets = read_offsets(path, str(self.meta.get("content_digest", "")))
        if self._offsets is not None:
            try:
                self._descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be opened ({error.strerror}); of too many open files: "
                    f"{MORE_FILES}"
                ) from error

    def __getitem__(self, key: str) -> np.ndarray:
        """(num_frames, width), writable, in this machine's byte order.

        Raises:
            KeyError: no such key.
            DataError: the file is damaged, or the key is a group.
        """
        values = np.asarray(self._read(key))
        return values.astype(values.dtype.newbyteorder("="), copy=False)  # torch takes no other

    def __contains__(self, key: object) -> bool:
        """Whether the file has the key; nothing is read."""
        if self._offsets is not None:
            return key in self._offsets.keys
        try:
            return isinstance(key, str) and (key in self._file() or self._has_link(key))
        except UnicodeEncodeError:  # no file has such a key
            return False

    def __iter__(self) -> Iterator[str]:
        """All keys.

        Raises:
            DataError: the file is damaged.
        """
        if self._offsets is not None:
            yield from self._offsets.keys
            return
        file = self._file()
        with naming_damage(self.path):
            yield from file

    def __len__(self) -> int:
        """The number of keys."""
        return self._num_keys

    def num_frames(self, key: str) -> int:
        """The length of an array, without reading it.

        Raises:
            KeyError: no such key.
            DataError: the key is a group, or has a single value.
        """
        if self._offsets is None:
            shape = self._dataset(key).shape
            if not shape:  # None: of a dataset that h5py calls empty
                raise DataError(
                    f"{self.path}[{key}]: no array; expected (num_frames, width), make it anew"
                )
            return int(shape[0])
        return int(self._offsets.num_frames[self._offsets.keys.row(key)])

    def total_frames(self) -> int:
        """Frames of all arrays, without reading them.

        Raises:
            DataError: a key is a group, or has a single value.
        """
        if self._offsets is None:
            return sum(map(self.num_frames, self))
        return int(self._offsets.num_frames.sum())

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def _read(self, key: str) -> np.ndarray:
        if self._offsets is None:
            try:
                return self._dataset(key)[()]
            except OSError as error:
                raise DataError(f"{self.path}[{key}]: damaged ({error}); make it anew") from error
        row = self._offsets.keys.row(key)
        try:
            return self._offsets.read(self._descriptor, row)
        except EOFError as error:
            raise DataError(f"{self.path}[{key}]: the file ends within it; make it anew") from error

    def _file(self) -> h5py.File:
        if self._h5 is None or self._h5[0] != os.getpid():
            self._h5 = os.getpid(), read_h5(self.path)
        return self._h5[1]

    def _has_link(self, key: str) -> bool:
        """Whether there is such a name at least: of what it names h5py tells no damage."""
        is_plain = key not in ("", ".") and "/" not in key
        return is_plain and self._file().id.links.exists(key.encode())

    def _dataset(self, key: str) -> h5py.Dataset:
        if key not in self:
            raise KeyError(key)
        file = self._file()
        with naming_damage(self.path):
            dataset = file[key]
        if not isinstance(dataset, h5py.Dataset):
            raise DataError(f"{self.path}[{key}]: a group; expected one dataset per key")
        return dataset
