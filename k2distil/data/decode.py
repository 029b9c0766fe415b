"""Audio decoded ahead of the teacher, in worker processes, in the order of the list."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from k2distil.batch import Utterance
from k2distil.data.audio import load_audio
from k2distil.errors import DataError

PREFETCH_FACTOR = 4  # utterances decoded ahead by each worker; bounds the memory


def decode_ahead(
    utterances: Sequence[Utterance], num_workers: int, channel: int = 0
) -> Generator[tuple[Utterance, Tensor | DataError]]:
    """Decode utterances in worker processes, at most `PREFETCH_FACTOR` ahead in each.

    Args:
        utterances: any number of them; workers that are forked share the sequence.
        num_workers: 0 decodes in this process.
        channel: see `load_audio`.

    Yields:
        (utterance, audio) in the given order; audio is (num_samples,) float32 at 16 kHz, or the
        DataError that says why there is none.

    Raises:
        DataError: a worker was killed, or shared memory is full.
    """
    audio = _Audio(utterances, channel)
    if num_workers == 0:
        decoded: Generator[Tensor | DataError] = (audio[index] for index in range(len(audio)))
    else:
        decoded = _decode_in_workers(audio, num_workers)
    with contextlib.closing(decoded):
        yield from zip(utterances, decoded, strict=True)


class _Audio(Dataset):
    """A map from index to samples."""

    def __init__(self, utterances: Sequence[Utterance], channel: int) -> None:
        self.utterances, self.channel = utterances, channel

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Tensor | DataError:
        try:
            samples = torch.from_numpy(load_audio(self.utterances[index], self.channel))
        except DataError as error:
            return error
        # In a worker the samples go into shared memory here and now: left to the queue's thread,
        # a full /dev/shm would lose them without a word. (Bytes through the queue's pipe need no
        # shared memory, but a worker killed while it writes them leaves the reader waiting.)
        return samples if get_worker_info() is None else samples.share_memory_()


def _decode_in_workers(audio: _Audio, num_workers: int) -> Generator[Tensor | DataError]:
    loader = DataLoader(
        audio,
        batch_size=None,
        num_workers=min(num_workers, max(1, len(audio))),
        prefetch_factor=PREFETCH_FACTOR,
        collate_fn=_as_it_is,
        worker_init_fn=start_worker,
    )
    handler = signal.getsignal(signal.SIGCHLD)
    decoded = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch's handler would raise in whatever the caller is doing when a worker dies. Without
        # it the loader notices within 5 s, here.
        signal.signal(signal.SIGCHLD, handler)
    try:
        for samples in decoded:
            # A copy, since shared memory is two open files per utterance while it lives.
            yield samples if isinstance(samples, DataError) else samples.clone()
    except (RuntimeError, OSError, EOFError) as error:
        if (remedy := worker_remedy(error)) is None:
            raise
        raise DataError(remedy) from error
    finally:
        decoded._shutdown_workers()  # type: ignore[attr-defined]  # `del` waits for tracebacks


def worker_remedy(error: Exception) -> str | None:
    """What the user can do about an error of torch's loader; None where it is a bug."""
    if "shared memory" in str(error):
        return (
            "decoding stopped: /dev/shm is full. Run the command again with a smaller "
            "--num_workers, or give the container more (docker run --shm-size=1g)"
        )
    if isinstance(error, OSError | EOFError) or "DataLoader worker (pid" in str(error):
        return (
            f"decoding stopped: {error}. Out of memory is the usual reason: run the command again "
            "with a smaller --num_workers (0 decodes without workers)"
        )
    return None


def unwrapped(error: Exception) -> str:
    """The message of an error of ours, without the traceback that torch's workers put around it."""
    return str(error).rpartition("k2distil.errors.DataError: ")[2].strip() or str(error)


def _as_it_is(samples: Any) -> Any:
    return samples


def start_worker(worker: int) -> None:
    """The caller alone says what became of a run: workers are quiet when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = _log_unless_caller_is_gone


def _log_unless_caller_is_gone(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """For the thread that hands shared memory over: a connection reset is the caller's end."""
    if not isinstance(error, ConnectionError):
        sys.__excepthook__(kind, error, traceback)
