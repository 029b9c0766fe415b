"""The processes that torchrun started for one command, and how they go on together."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from k2distil.device import use_device
from k2distil.errors import EXIT_USER_ERROR, DataError, K2DistilError

PATIENCE = timedelta(days=1)  # one process may have far more to read than another
REST = 0.2  # seconds; far more than the last work takes to go
PEER_GONE = (  # of gloo, and of NCCL
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),
    "remote process exiting",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """rank: which of `size` processes this is; device: its own."""

    rank: int
    size: int
    device: torch.device

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, the same bits on each of them; may overwrite it."""
        if self.size > 1 and tensor.is_sparse:
            return self._add_up_sparse(tensor)
        if self.size > 1 and tensor.numel():
            dist.all_reduce(tensor)
        return tensor

    def _add_up_sparse(self, tensor: Tensor) -> Tensor:
        parts = self.gather((tensor.indices().cpu(), tensor.values().cpu()))
        indices = torch.cat([part[0] for part in parts], dim=1).to(tensor.device)
        values = torch.cat([part[1] for part in parts]).to(tensor.device)
        size = tuple(tensor.shape)
        return torch.sparse_coo_tensor(indices, values, size, check_invariants=True).coalesce()

    def on_first(self, function: Callable[[], T]) -> T:
        """What the first process finds, known to all of them; its error ends them all."""
        found: list[T | None] = [None]
        with self.all_or_none():
            if self.rank == 0:
                found = [function()]
        if self.size > 1:
            dist.broadcast_object_list(found)
        return found[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, on each of them."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def send_in_turn(self, values: Sequence[T]) -> Iterator[T]:
        """Each process' values, those of the first process first, on each of them; one at a time.

        Memory: that of one value beyond the process' own.
        """
        for rank, number in enumerate(self.gather(len(values))):
            for index in range(number):
                sent = [values[index] if rank == self.rank else None]
                if self.size > 1:
                    dist.broadcast_object_list(sent, src=rank)
                yield sent[0]  # type: ignore[misc]

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """What fails in one process ends all of them, and one alone says why."""
        error = None
        try:
            yield
        except K2DistilError as caught:
            error = caught
        failed = [rank for rank, each in enumerate(self.gather(error is not None)) if each]
        if error is not None and failed[0] == self.rank:
            raise error
        if failed:
            sys.exit(EXIT_USER_ERROR)


@contextmanager
def telling_of_peers() -> Iterator[None]:
    """What the others' end makes of this process' work is told as such.

    Raises:
        DataError: in the place of what gloo or NCCL raises.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in PEER_GONE):
            raise
        raise DataError(
            "another process of this work has ended, as its own words above may tell; run the "
            "same command again to resume"
        ) from error


@contextmanager
def joined(gpu: str | None) -> Iterator[Processes]:
    """All processes that torchrun started, joined; one that it did not start is alone.

    Args:
        gpu: the --gpu value; of several devices, or under torchrun, each process has its own.

    Raises:
        ConfigError: a device this machine lacks.
    """
    device = use_device(gpu)
    if "LOCAL_RANK" not in os.environ:
        yield Processes(0, 1, device)
        return
    # Plain Python values go by way of the CPU.
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    with telling_of_peers():
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    # torch 2.6 waits for ever where a group goes just after its last work: another thread has that
    # work's tensors to free, for which it needs the interpreter, which is held meanwhile.
    time.sleep(REST)
    dist.destroy_process_group()  # after an error torchrun ends the others
