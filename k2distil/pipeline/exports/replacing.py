"""Which exports may be replaced: those whose summary knows the file by its digest.

The summary is written before the file gets its name, and knows the one that it replaces too. So
whenever a process is killed or the disk is full, what is there is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k2distil.errors import DataError
from k2distil.pipeline.run.digests import digest_of_file


def digest_at(save_path: Path) -> str | None:
    """The digest of the file that is there; None: there is none."""
    return digest_of_file(save_path) if save_path.exists() else None


def digests(temporary: Path, replaced: str | None) -> dict[str, str | None]:
    """For the summary of a file that is about to take the place of another."""
    return {"sha256": digest_of_file(temporary), "replaces": replaced}


def refuse_unknown_file(save_path: Path, there: str, summary: Mapping[str, Any]) -> None:
    """Refuse to replace a file that no export made.

    Args:
        save_path: of the file.
        there: its digest.
        summary: that lies beside it.

    Raises:
        DataError: the summary does not know the file.
    """
    if there not in (summary.get("sha256"), summary.get("replaces")):
        raise DataError(
            f"{save_path}: not made by k2distil export, never replaced; give another --save_path"
        )
