"""What several processes do together, with gloo on the CPU."""

import os
import socket
from types import SimpleNamespace

import pytest
import torch

from k2distil.errors import CheckpointError, DataError
from k2distil.pipeline.run.processes import joined
from k2distil.pipeline.train_quantizer import _check_together
from k2distil.quantizer import Share
from k2distil.quantizer.training.statistics import CodeSums


def test_one_process_is_alone():
    with joined("cpu") as processes:
        assert (processes.rank, processes.size) == (0, 1)
        assert processes.gather("mine") == ["mine"]
        assert list(processes.send_in_turn([1, 2])) == [1, 2]
        tensor = torch.ones(3)
        assert processes.add_up(tensor) is tensor
        with pytest.raises(DataError, match="bad"), processes.all_or_none():
            raise DataError("bad")
        assert processes.on_first(lambda: 3) == 3


def sums_of(part, with_gram_table):
    """Of one process of two; 4 codebooks of 5,000 entries have no Gram table."""
    num_codebooks, codebook_size = (2, 8) if with_gram_table else (4, 5000)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(64, 3, generator=generator)
    codes = torch.randint(codebook_size, (64, num_codebooks), generator=generator)
    sums = CodeSums.zeros(torch.zeros(num_codebooks, codebook_size, 3), with_pairs=True)
    assert sums.pairs.is_sparse != with_gram_table
    sums.add(frames[part], codes[part], frames[part].square().sum(1), codebook_size)
    return sums


def fail(rank):
    if rank:
        raise DataError("bad")


def begin_at(step, processes):
    """step: None: the quantizer is there already."""
    job = None if step is None else SimpleNamespace(trainer=SimpleNamespace(steps_done=step))
    with processes.all_or_none():
        _check_together(job, "q.pt", processes)


def work(rank, port):
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu") as processes:
        assert processes.gather(rank) == [0, 1]
        assert list(processes.send_in_turn("ab" if rank else "c")) == ["c", "a", "b"]
        for with_gram_table in (True, False):
            sums = sums_of(slice(rank, None, 2), with_gram_table)
            sums.add_up(Share(rank, 2, processes.add_up))
            whole = sums_of(slice(None), with_gram_table)
            for name, tensor in sums.tensors().items():
                torch.testing.assert_close(tensor, whole.tensors()[name])
        with pytest.raises(CheckpointError if rank == 0 else SystemExit) as raised:
            begin_at(1000 if rank else None, processes)
        assert rank or "would go on from the end, step 1000" in str(raised.value)
        begin_at(1000, processes)
        assert processes.on_first(lambda: rank) == 0
        with pytest.raises(SystemExit if rank else DataError):
            processes.on_first(lambda: fail(1))
        # The second alone fails: it says why, and the first ends as well.
        with pytest.raises(DataError if rank else SystemExit), processes.all_or_none():
            fail(rank)


def test_two_processes_share_what_they_have():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port,), nprocs=2)
