"""What a run leaves beside its output: its summary and its resolved config."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from k2distil import __version__
from k2distil.atomic import make_folder, read_json, write_json, write_text
from k2distil.errors import ConfigError, DataError
from k2distil.yaml_file import dump_yaml

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
        ConfigError: the output is a folder, a link, or one of the inputs.
        DataError: its folder cannot be made, or written to.
    """
    if save_path.is_dir():
        raise ConfigError(f"--save_path {save_path}: a folder; give the name of a file in it")
    if save_path.is_symlink():
        raise ConfigError(
            f"--save_path {save_path}: a link, which the output would replace; give the path that "
            f"it leads to: {os.readlink(save_path)}"
        )
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
    """Versions of everything that can change a result."""
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
