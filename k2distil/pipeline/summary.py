"""What a run leaves beside its output: summary, resolved config, lists of what has no values."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import logging
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from k2distil import __version__
from k2distil.atomic import make_folder, replacing
from k2distil.batch import Utterance
from k2distil.config.yaml_text import dump_yaml
from k2distil.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, str]]

PACKAGES = ("torch", "transformers", "h5py", "numpy", "soundfile", "soxr")


@dataclass(frozen=True)
class Summary:
    """What a command did."""

    num_failed: int = 0  # decides the exit status
    figures: dict[str, Any] = field(default_factory=dict)  # in <save_path>.summary.json, mostly
    report: str = ""  # for standard output


def prepare_output(save_path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Make the folder of an output, and refuse what cannot be one before any work is done.

    Raises:
        ConfigError: the output is a folder, or one of the inputs.
        DataError: its folder cannot be made, or written to.
    """
    if save_path.is_dir():
        raise ConfigError(f"--save_path {save_path}: a folder; give the name of a file in it")
    for each in inputs:
        if each is not None and save_path.resolve() == Path(each).resolve():
            raise ConfigError(f"--save_path {save_path}: an input of this command; give another")
    make_folder(save_path.parent)
    if not os.access(save_path.parent, os.W_OK | os.X_OK):
        raise DataError(
            f"{save_path.parent}: no right to write to this folder; give a --save_path in another"
        )


def beside(save_path: Path, suffix: str) -> Path:
    """<save_path>.<suffix>, e.g. exp/codes.h5.summary.json."""
    return save_path.with_name(f"{save_path.name}.{suffix}")


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    found = {"k2distil": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def write_summary(save_path: Path, figures: Mapping[str, Any], num_failed: int = 0) -> Summary:
    """Write <save_path>.summary.json."""
    content = {**figures, "versions": versions()}
    write_json(beside(save_path, "summary.json"), content)
    return Summary(num_failed, content)


def read_summary(save_path: Path) -> dict[str, Any]:
    """The figures of an earlier run, or nothing where it left none."""
    return read_json(beside(save_path, "summary.json")) or {}


def write_config(save_path: Path, config: Any) -> None:
    """Write <save_path>.config.yaml: every option as it was resolved; a valid --config.

    Not --force: it is meant for one run.
    """
    names = [each.name for each in fields(config) if each.name not in ("force", "given")]
    tree = {name: getattr(config, name) for name in names}
    tree = {key: _as_plain(value) for key, value in tree.items()}
    write_text(beside(save_path, "config.yaml"), dump_yaml(tree))


def _as_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def rejection(utterance: Utterance, reason: str) -> dict[str, str]:
    """A row of failed.tsv or dropped.tsv."""
    return {"key": utterance.key, "wav": utterance.wav, "reason": reason}


def write_rejections(save_path: Path, failed: Rows, dropped: Rows) -> None:
    """Write <save_path>.failed.tsv and .dropped.tsv; without rows, remove that of an earlier run.

    Args:
        save_path: the output.
        failed: key, wav and reason of utterances that could not be done.
        dropped: of those that a setting left out.
    """
    for name, rows in [("failed", failed), ("dropped", dropped)]:
        path = beside(save_path, f"{name}.tsv")
        if not rows:
            path.unlink(missing_ok=True)
            continue
        text = io.StringIO()
        writer = csv.DictWriter(
            text, ["key", "wav", "reason"], dialect="excel-tab", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
        logger.warning("%d utterances %s: %s", len(rows), name, path)


def read_rejections(save_path: Path, name: str) -> list[dict[str, str]]:
    """The rows of <save_path>.<name>.tsv; none where there is no such file."""
    try:
        text = beside(save_path, f"{name}.tsv").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(io.StringIO(text), dialect="excel-tab"))


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a small file so that it is whole or not there."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_text(path: Path, text: str) -> None:
    r"""Write a small file so that it is whole or not there.

    What is not UTF-8 in a name, such as "\udcd6", becomes its escape, as in JSON.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
