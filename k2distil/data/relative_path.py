"""Paths written in lists: relative to the list, or to the working directory as WeNet has them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path


def path_resolver(folder: Path) -> Callable[[str], str]:
    """A function that turns a path of a list in `folder` into one that can be opened.

    Beside the list comes first, then the working directory; where neither has the file, the first.
    Folders are looked up once, not once per file: on network filesystems a look-up costs about a
    millisecond.
    """
    beside_list, here = os.fspath(folder), ""

    @functools.cache
    def bases_with(directory: str) -> list[str]:
        bases = [
            base
            for base in (beside_list, here)
            if os.path.isdir(os.path.join(base, directory or "."))
        ]
        return bases or [beside_list]

    def resolve(path: str) -> str:
        if os.path.isabs(path):
            return path
        candidates = [os.path.join(base, path) for base in bases_with(os.path.dirname(path))]
        if len(candidates) == 1 or os.path.exists(candidates[0]):
            return candidates[0]
        return candidates[1] if os.path.exists(candidates[1]) else candidates[0]

    return resolve
