"""Audio decoded ahead of the teacher, in worker processes, in the order of the list."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from k2distil.batch import Utterance
from k2distil.data.audio import load_audio
from k2distil.errors import DataError
from k2distil.stages import add_seconds
from k2distil.workers import PATIENCE_STEP, Loader, mending, shut_down

PREFETCH_FACTOR = 4  # utterances decoded ahead by each worker; bounds the memory
CRASHES = {-each: each.name for each in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE)}
DYING = 1.0  # seconds from a connection that a dying worker closes to its end
DECODE = "decode (in workers)"  # the stage

Audio = Tensor | DataError


def decode_ahead(
    utterances: Iterable[Utterance],
    num_workers: int,
    channel: int = 0,
    timeout: float = math.inf,
) -> Generator[tuple[Utterance, Audio]]:
    """Decode utterances in worker processes, at most `PREFETCH_FACTOR` ahead in each.

    Where a decoder crashes, the utterances that workers had begun are decoded again, one by one, so
    that only the one that it crashes on is lost.

    Args:
        utterances: any number of them; drawn only as far ahead as workers decode.
        num_workers: 0 decodes in this process.
        channel: see `load_audio`.
        timeout: seconds after which an utterance that does not come is given up, and the worker
            that hangs in it with it; without workers, of commands alone.

    Yields:
        (utterance, audio) in the given order; audio is (num_samples,) float32 at 16 kHz, or the
        DataError that says why there is none.

    Raises:
        DataError: a worker was killed from outside, or shared memory is full.
    """
    decoder = _Decoder(channel, timeout)
    if num_workers == 0:
        for utterance in utterances:
            audio, seconds = decoder[utterance]
            add_seconds(DECODE, seconds)
            yield utterance, audio
        return
    left = iter(utterances)
    while True:
        drawn: deque[Utterance] = deque()
        try:
            yield from _decode_in_workers(left, drawn, decoder, num_workers, timeout)
            return
        except _HangingError:
            utterance = drawn.popleft()
            reason = f"not decoded in {timeout:g} s; look at the file or raise --decode_timeout"
            yield utterance, DataError(utterance.about(reason))
            left = itertools.chain(drawn, left)
        except _CrashError as error:
            if len(drawn) == 1:
                reason = f"its decoder crashed ({error}); make the file anew or remove it"
                yield drawn[0], DataError(drawn[0].about(reason))
            else:
                for each in drawn:
                    yield from decode_ahead([each], 1, channel, timeout)


class _HangingError(Exception):
    """A worker does not give the utterance that is next."""


class _CrashError(Exception):
    """A worker died of a fault in what it ran; says the signal. A kill from outside is none."""


class _Decoder(Dataset):
    """A map from utterances to samples and the seconds it took; it holds nothing itself."""

    def __init__(self, channel: int, timeout: float) -> None:
        self.channel, self.timeout = channel, timeout

    def __getitem__(self, utterance: Utterance) -> tuple[Audio, float]:
        started = time.perf_counter()
        try:
            samples = torch.from_numpy(load_audio(utterance, self.channel, self.timeout))
        except DataError as error:
            return error, time.perf_counter() - started
        # In a worker the samples go into shared memory here and now: left to the queue's thread,
        # a full /dev/shm would lose them without a word. (Bytes through the queue's pipe need no
        # shared memory, but a worker killed while it writes them leaves the reader waiting.)
        if get_worker_info() is not None:
            samples.share_memory_()
        return samples, time.perf_counter() - started


def _decode_in_workers(
    utterances: Iterator[Utterance],
    drawn: deque[Utterance],
    decoder: _Decoder,
    num_workers: int,
    timeout: float,
) -> Generator[tuple[Utterance, Audio]]:
    """Decode until all is done; `drawn` is what was begun and not given.

    Raises:
        _HangingError, _CrashError: a worker does.
        DataError: as `decode_ahead`.
    """

    def draw() -> Iterator[Utterance]:
        for utterance in utterances:
            drawn.append(utterance)
            yield utterance

    loader = Loader(
        decoder,
        batch_size=None,
        sampler=draw(),
        num_workers=num_workers,
        prefetch_factor=PREFETCH_FACTOR,
        timeout=PATIENCE_STEP,
    )
    handler = signal.getsignal(signal.SIGCHLD)
    with mending():
        decoded = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch's handler would raise in whatever the caller is doing when a worker dies. Without
        # it the loader notices at its next look, here.
        signal.signal(signal.SIGCHLD, handler)
    try:
        with mending():
            while (found := _next(decoded, timeout)) is not None:
                samples, seconds = found
                add_seconds(DECODE, seconds)
                # A copy, since shared memory is two open files per utterance while it lives.
                audio = samples if isinstance(samples, DataError) else samples.clone()
                yield drawn.popleft(), audio
    except DataError as error:
        if (crash := _crash_of(decoded)) is None:
            raise
        raise _CrashError(crash) from error
    finally:
        shut_down(decoded)


def _crash_of(decoded: Any) -> str | None:
    """The signal of a fault that a loader's worker died of; None: none did."""
    deadline = time.monotonic() + DYING
    while not any(each.exitcode for each in decoded._workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    statuses = [each.exitcode for each in decoded._workers]
    return next((CRASHES[each] for each in statuses if each in CRASHES), None)


def _next(decoded: Iterator[Any], timeout: float) -> tuple[Audio, float] | None:
    """What comes next of a loader; None: nothing more.

    Raises:
        _HangingError: it does not come.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return next(decoded, None)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
        if time.monotonic() >= deadline:
            raise _HangingError
