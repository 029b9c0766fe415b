"""Arrays by utterance key, read from an h5 of ours or of others, or from the files one lists."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from k2distil.errors import DataError
from k2distil.storage.array_file import ArrayFile
from k2distil.storage.file_list import fault_of, is_list, parse_list
from k2distil.storage.keys import table_of

FORMAT_VERSION = 1


class UtteranceReader(Mapping[str, np.ndarray]):
    """A lazy mapping from key to (num_frames, width) array, each read from disk when asked for.

    Safe to fork and to pickle; see `ArrayFile` for how a file is read.
    """

    kind: str | None = None  # what the root attribute `kind` must say; None: anything
    made_by: str = ""  # the script that makes such a file

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the attributes and the indexes.

        Args:
            path: of an h5, or of one that lists files (`--shard_output`).

        Raises:
            DataError: no h5 can be opened there, or one of another kind or of a later version, or
                a file of the list is missing or another one.
        """
        self.path = Path(path)
        opened = ArrayFile(self.path, self.made_by)
        self.meta: dict[str, Any] = opened.meta  # {} in an h5 of others
        self._check_meta()
        self.files = self._open_listed() if is_list(self.meta) else [opened]
        # Of the file that a key is in; None: there is but one.
        self._numbers = None if len(self.files) == 1 else table_of(self.files)

    def __getitem__(self, key: str) -> np.ndarray:
        """(num_frames, width), writable, in this machine's byte order.

        Raises:
            KeyError: no such key.
            DataError: the file is damaged, or the key is a group.
        """
        for file in self._candidates(key):
            with suppress(KeyError):
                return file[key]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Whether there is such a key; nothing is read."""
        return isinstance(key, str) and any(key in file for file in self._candidates(key))

    def __iter__(self) -> Iterator[str]:
        """All keys, file by file."""
        return chain.from_iterable(self.files)

    def __len__(self) -> int:
        """The number of keys."""
        return sum(map(len, self.files))

    def num_frames(self, key: str) -> int:
        """The length of an array, without reading it.

        Raises:
            KeyError: no such key.
        """
        for file in self._candidates(key):
            with suppress(KeyError):
                return file.num_frames(key)
        raise KeyError(key)

    def total_frames(self) -> int:
        """Frames of all arrays, without reading them."""
        return sum(file.total_frames() for file in self.files)

    def file_of(self, key: str) -> ArrayFile:
        """The file that has a key.

        Raises:
            KeyError: no such key.
        """
        for file in self._candidates(key):
            if key in file:
                return file
        raise KeyError(key)

    def __reduce__(self) -> tuple[type[UtteranceReader], tuple[Path]]:
        return type(self), (self.path,)

    def _candidates(self, key: str) -> list[ArrayFile]:
        """The files that may have a key: as a rule one, or none."""
        if self._numbers is None:
            return self.files
        return [self.files[number] for number in self._numbers.candidates(key)]

    def _open_listed(self) -> list[ArrayFile]:
        files = []
        for each in parse_list(self.path, self.meta):
            files.append(ArrayFile(self.path.with_name(each.name)))
            if fault := fault_of(self.path, each, files[-1].meta):
                raise DataError(fault)
        return files

    def _check_meta(self) -> None:
        version = self.meta.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise DataError(
                f"{self.path}: format version {version}, this k2distil reads {FORMAT_VERSION}; "
                "update it, or make the file anew"
            )
        kind = self.meta.get("kind", self.kind)
        if self.kind is not None and kind != self.kind:
            raise DataError(
                f"{self.path}: it holds {kind}, expected {self.kind}; "
                f"{self.made_by} makes such a file"
            )


class CodebookReader(UtteranceReader):
    """(num_frames, num_codebooks) codes by key, uint8 up to 256 entries per codebook."""

    kind = "codes"
    made_by = "save_codebook.sh --save_codebook"


class EmbeddingReader(UtteranceReader):
    """(num_frames, dim) float embeddings by key."""

    kind = "embedding"
    made_by = "save_embedding.sh"
