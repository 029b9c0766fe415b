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
    """The device of this process; of those that torchrun started, each has its own visible device.

    Args:
        gpu: what the user gave; None: the first device, or the CPU with a warning without one.
            For processes of torchrun it only says whether to use the CPU.

    Raises:
        ConfigError: this machine lacks the device, has fewer than processes, or one process was
            given several.
    """
    import torch

    indexes = device_indexes("0" if gpu is None else gpu)
    if not indexes:
        return torch.device("cpu")
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu is None and num_devices == 0:
        logger.warning("no CUDA device: using the CPU (--gpu cpu says so without this warning)")
        return torch.device("cpu")
    if (rank := os.environ.get("LOCAL_RANK")) is not None:
        if int(rank) >= num_devices:
            raise ConfigError(
                f"process {rank} of this machine has no device: it has {num_devices} CUDA devices; "
                "start as many processes, or use --gpu cpu"
            )
        return torch.device("cuda", int(rank))
    if len(indexes) > 1:
        raise ConfigError(f"--gpu {gpu}: this command uses one device; name one")
    if indexes[0] >= num_devices:
        raise ConfigError(
            f"--gpu {indexes[0]}: no such device, this machine has {num_devices} CUDA devices; "
            "use --gpu cpu or an index below that"
        )
    return torch.device("cuda", indexes[0])


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype a teacher computes in; auto: float32 on the CPU, float16 on a GPU."""
    import torch

    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected auto, {', '.join(DTYPES)}")
    return getattr(torch, dtype)
