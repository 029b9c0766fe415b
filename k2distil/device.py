"""Where and how exactly a command computes: `--gpu`, `--dtype`, and no TF32."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from k2distil.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DTYPES = ("float32", "float16", "bfloat16")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 2**31 - 1


def device_indexes(gpu: str | None) -> list[int]:
    """The CUDA indexes in a `--gpu` value, the first without one; empty: the CPU.

    >>> device_indexes("0,1"), device_indexes("cpu"), device_indexes("-1")
    ([0, 1], [], [])
    """
    if gpu is None:
        return [0]
    if gpu.strip().lower() in {"cpu", "-1"}:
        return []
    try:
        indexes = [int(part) for part in gpu.split(",")]
    except ValueError:
        indexes = [-1]
    if any(index < 0 for index in indexes) or len(set(indexes)) < len(indexes):
        raise ConfigError(
            f"--gpu {gpu or repr(gpu)}: expected a device index, a list such as 0,1,2,3, or cpu"
        )
    return indexes


def use_device(gpu: str | None) -> torch.device:
    """The device of this process, made the current one of this thread.

    Of the processes that torchrun started each has its own visible device.

    Args:
        gpu: what the user gave; None: the first device, or the CPU with a warning without one.
            For processes of torchrun it only says whether to use the CPU.

    Raises:
        ConfigError: this machine lacks the device, has fewer than processes, or one process was
            given several.
    """
    import torch

    device = _device_of(gpu)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # else events and the like would be of the first one
    return device


def _device_of(gpu: str | None) -> torch.device:
    import torch

    indexes = device_indexes(gpu)
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, which torch tells of a CPU by a plain RuntimeError."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("DefaultCPUAllocator", "bad_alloc"))


@contextmanager
def no_tf32(device: torch.device) -> Iterator[None]:
    """Keep float32 on CUDA from rounding to 10 bits (TF32).

    Convolutions do so by default, matrix products where somebody asked for it, as the environment
    of some containers does.
    """
    import torch

    if device.type != "cuda":
        yield
        return
    # torch 2.9 has newer switches; where somebody used those, the older ones raise.
    conv = getattr(torch.backends.cudnn, "conv", None)
    places = (torch.backends.cuda.matmul, conv or torch.backends.cudnn)
    name, exact = ("fp32_precision", "ieee") if conv else ("allow_tf32", False)
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, exact)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


def keep_freed_memory() -> bool:
    """Have freed tensors of the CPU stay with the process, for the next ones; -> whether they do.

    glibc gives large ones back to the system and asks for them again, page by page: a training
    spent half of its time on that (docs/performance.md). It takes up to twice the memory so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
