"""Paths written in lists: relative to the list, or to the working directory as WeNet has them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path


def path_resolver(list_path: Path) -> Callable[[str], str]:
    """A function that turns a path of a list into one that can be opened.

    Beside the list comes first, then beside the file that it is a link to, then the working
    directory; where none has the file, the first. Folders are looked up once, not once per file:
    on network filesystems a look-up costs about a millisecond.
    """
    beside_list, here = os.fspath(list_path.parent), ""
    folders: dict[str, str] = {}  # each once, or every file would have two candidates
    for base in (beside_list, os.path.dirname(os.path.realpath(list_path)), here):
        folders.setdefault(os.path.realpath(base), base)
    bases = list(folders.values())

    @functools.cache
    def bases_with(directory: str) -> list[str]:
        found = [base for base in bases if os.path.isdir(os.path.join(base, directory or "."))]
        return found or [beside_list]

    def resolve(path: str) -> str:
        if os.path.isabs(path):
            return path
        candidates = [os.path.join(base, path) for base in bases_with(os.path.dirname(path))]
        if len(candidates) == 1:
            return candidates[0]
        return next(filter(os.path.exists, candidates), candidates[0])

    return resolve
