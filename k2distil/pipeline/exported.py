"""Which exports may be replaced: those whose summary knows the file by its digest.

The summary is written before the file gets its name, and knows the one that it replaces too. So
whenever a process is killed or the disk is full, what is there is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from k2distil.pipeline.provenance import digest_of_file


def digests(save_path: Path, temporary: Path) -> dict[str, str | None]:
    """For the summary of a file that is about to replace what is at `save_path`, if anything."""
    replaced = digest_of_file(save_path) if save_path.exists() else None
    return {"sha256": digest_of_file(temporary), "replaces": replaced}


def is_ours(save_path: Path, summary: dict[str, Any]) -> bool:
    """Whether an export made the file that is there."""
    return digest_of_file(save_path) in (summary.get("sha256"), summary.get("replaces"))


def is_whole(save_path: Path, summary: dict[str, Any]) -> bool:
    """Whether the file that is there is the one the summary is of."""
    return digest_of_file(save_path) == summary.get("sha256")
