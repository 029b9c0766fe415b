"""The audio lists that a config names, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from k2distil.batch import Utterance
from k2distil.config import DataOptions
from k2distil.config.options import ListOptions
from k2distil.data import ListAccess, read_list
from k2distil.errors import ConfigError

MAX_WORKERS = 8  # by default; a few cores decode faster than a big teacher computes


def read_lists(
    paths: Sequence[Path] | None, config: DataOptions, output: Path, with_text: bool = True
) -> list[Utterance]:
    """All utterances of some lists, read as the options say.

    Args:
        paths: --train_data, mostly.
        config: of any command that takes lists.
        output: what the folder of fetched shards lies beside.
        with_text: keep the transcripts.

    Raises:
        ConfigError: no --train_data.
        DataError: see `read_list`.
    """
    if paths is None:
        raise ConfigError("--train_data: missing; it names the audio list")
    cache_dir = config.cache_dir or output.parent / "shards_cache"
    access = ListAccess(config.allow_pipes, cache_dir, with_text)
    return read_list(paths, config.data_type, access)


def names_of(paths: Sequence[Path] | None) -> str:
    """For the log.

    >>> names_of([Path("a.list"), Path("b.list")])
    'a.list, b.list'
    """
    return ", ".join(map(str, paths or ()))


def num_workers(config: ListOptions) -> int:
    """--num_workers, or a number that leaves one core to each process of this host."""
    if config.num_workers is not None:
        return config.num_workers
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // processes - 1))
