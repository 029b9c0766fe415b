"""Where a command computes: `--gpu` -> torch device, and `--dtype` -> torch dtype."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from k2distil.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DTYPES = ("float32", "float16", "bfloat16")


def device_indexes(gpu: str) -> list[int]:
    """The CUDA indexes in a `--gpu` value; empty: the CPU.

    >>> device_indexes("0,1"), device_indexes("cpu"), device_indexes("-1")
    ([0, 1], [], [])
    """
    if gpu.strip().lower() in {"cpu", "-1", ""}:
        return []
    try:
        indexes = [int(part) for part in gpu.split(",")]
    except ValueError:
        indexes = [-1]
    if any(index < 0 for index in indexes) or len(set(indexes)) < len(indexes):
        raise ConfigError(f"--gpu {gpu}: expected a device index, a list such as 0,1,2,3, or cpu")
    return indexes


def choose_device(gpu: str | None) -> torch.device:
    """The device of one process.

    Args:
        gpu: what the user gave; None: the first device, or the CPU with a warning without one.

    Raises:
        ConfigError: the user named a device this machine lacks, or several for one process.
    """
    import torch

    indexes = device_indexes("0" if gpu is None else gpu)
    if not indexes:
        return torch.device("cpu")
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu is None and num_devices == 0:
        logger.warning("no CUDA device: using the CPU (--gpu cpu says so without this warning)")
        return torch.device("cpu")
    if len(indexes) > 1:
        raise ConfigError(
            f"--gpu {gpu}: this command uses one device; start one process per device, "
            "each with its own part of the list"
        )
    if indexes[0] >= num_devices:
        raise ConfigError(
            f"--gpu {indexes[0]}: no such device, this machine has {num_devices} CUDA devices; "
            "use --gpu cpu or an index below that"
        )
    return torch.device("cuda", indexes[0])


def device_of_process(gpu: str | None) -> torch.device:
    """The device of one process of several that torchrun started, or of one it did not start.

    Raises:
        ConfigError: there are more processes than devices, and see `choose_device`.
    """
    import torch

    if "LOCAL_RANK" not in os.environ:
        return choose_device(gpu)
    if gpu is not None and not device_indexes(gpu):
        return torch.device("cpu")
    local, number = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local < number:  # each process its own of the visible devices
        return torch.device("cuda", local)
    if gpu is not None or number:
        raise ConfigError(
            f"process {local} of this machine has no device: it has {number} CUDA devices; "
            "start as many processes, or use --gpu cpu"
        )
    return torch.device("cpu")


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype a teacher computes in; auto: float32 on the CPU, float16 on a GPU."""
    import torch

    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected auto, {', '.join(DTYPES)}")
    return getattr(torch, dtype)
