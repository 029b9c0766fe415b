"""Utterances -> teacher -> one array per utterance: what every command with a teacher does.

Three threads, so that the slowest stage alone sets the speed: `windows_of` decodes (in workers) and
batches ahead, this thread gives the device its work, and whoever calls `PendingChunk.result`, a
thread that writes, waits for the device and takes the values.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from k2distil.batch import AudioBatch, EmbeddingBatch, Rejection, rejection
from k2distil.device import is_out_of_memory
from k2distil.pipeline.extraction.ahead import ahead
from k2distil.pipeline.extraction.windows import (
    Chunk,
    EmbedOptions,
    Window,
    windows_of,
)
from k2distil.stages import stage
from k2distil.teachers import Teacher

logger = logging.getLogger(__name__)

# What to keep of finite frames: (num_frames, dim) -> (num_frames, ...), on the same device.
ValuesOf = Callable[[Tensor], Tensor]

NOT_FINITE = "NaN or inf in the embedding; check the audio and the checkpoint"
BEYOND_DTYPE = "embedding beyond float16's range; use --embedding_dtype float32"
NO_MEMORY = "out of memory even alone; split the audio into segments"


@dataclass
class ChunkValues:
    """What became of some utterances; every one is in exactly one of the three."""

    values: dict[str, np.ndarray] = field(default_factory=dict)  # by key, in list order
    failed: list[Rejection] = field(default_factory=list)
    dropped: list[Rejection] = field(default_factory=list)  # on purpose, by a setting
    audio_seconds: float = 0.0  # of those that have values


@dataclass
class PendingChunk:
    """A chunk whose values are on their way from the device."""

    chunk: Chunk
    _windows: list[tuple[Window, list[_Computed | _NoMemory]]]

    def result(self) -> ChunkValues:
        """Wait for the device; once, in any thread."""
        found = ChunkValues()
        for window, computed in self._windows:
            _collect(window, computed, found)
        return found


def as_dtype(dtype: str) -> ValuesOf:
    """Embeddings as they are, in a dtype; what it cannot hold becomes inf, which is found later."""
    return lambda frames: frames.to(getattr(torch, dtype))


def embed(
    chunks: Iterable[Chunk], teacher: Teacher, values_of: ValuesOf, options: EmbedOptions
) -> Generator[PendingChunk]:
    """Run `teacher` over chunks of utterances, in batches of similar length.

    Args:
        chunks: drawn one by one, as far ahead as utterances are decoded.
        teacher: what embeds.
        values_of: what to keep of the embeddings, e.g. their codes.
        options: batch size, limits and decoding.

    Yields:
        One for each chunk, in order.
    """
    windows = ahead(windows_of(chunks, teacher, options), 1, waiting="wait for audio")
    done: list[tuple[Window, list[_Computed | _NoMemory]]] = []
    with contextlib.closing(windows):
        for window in windows:
            computed = [
                each for batch in window.batches for each in _compute(batch, teacher, values_of)
            ]
            window.batches = []
            done.append((window, computed))
            if window.ends is not None:
                yield PendingChunk(window.ends, done)
                done = []


@dataclass(frozen=True)
class _Computed:
    """The values of a batch, perhaps still on their way to the host."""

    names: list[str]
    num_frames: list[int]
    values: Tensor  # (sum of num_frames, ...)
    is_finite: Tensor  # (B,) bool, of the embedding
    ready: torch.cuda.Event | None

    def arrays(self) -> Iterator[tuple[str, np.ndarray | str]]:
        """Wait for the device; (name, values, or why there are none)."""
        if self.ready is not None:
            self.ready.synchronize()
        arrays = np.split(self.values.numpy(), np.cumsum(self.num_frames)[:-1])
        for name, array, is_finite in zip(self.names, arrays, self.is_finite.tolist(), strict=True):
            if not is_finite:
                yield name, NOT_FINITE
            elif array.dtype.kind == "f" and not np.isfinite(array).all():
                yield name, BEYOND_DTYPE
            else:
                yield name, array


@dataclass(frozen=True)
class _NoMemory:
    """A single piece that the device cannot take."""

    name: str

    def arrays(self) -> Iterator[tuple[str, np.ndarray | str]]:
        yield self.name, NO_MEMORY


def _compute(
    batch: AudioBatch, teacher: Teacher, values_of: ValuesOf
) -> Iterator[_Computed | _NoMemory]:
    """Give a batch to the device; where it is too much for its memory, half of it, and so on."""
    try:
        yield _values(teacher.embed(batch), values_of)
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
    if torch.cuda.is_initialized():  # the error is gone, and with it what held the memory
        torch.cuda.empty_cache()
    if len(batch.keys) == 1:
        yield _NoMemory(batch.keys[0])
        return
    logger.warning(
        "out of memory with %d utterances of up to %.1f s at once, half of them next (%s); "
        "a smaller --batch_seconds is faster",
        *(len(batch.keys), batch.seconds, reason),
    )
    for half in batch.halves():
        yield from _compute(half, teacher, values_of)


def _values(batch: EmbeddingBatch, values_of: ValuesOf) -> _Computed:
    device = batch.embedding.device
    with stage("quantizer", device):
        is_finite = torch.isfinite(batch.embedding).flatten(1).all(1)
        frames = torch.cat([frames for _, frames in batch.unpadded()])
        # A quantizer takes finite frames only; what it makes of these is not used.
        repeats = batch.num_frames.to(device)
        is_bad = ~is_finite.repeat_interleave(repeats, output_size=len(frames))
        values = values_of(frames.masked_fill_(is_bad[:, None], 0.0))
    ready = None
    if device.type == "cuda":
        values, is_finite = (each.to("cpu", non_blocking=True) for each in (values, is_finite))
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(device))
    return _Computed(batch.keys, batch.num_frames.tolist(), values, is_finite, ready)


def _collect(window: Window, computed: list[_Computed | _NoMemory], found: ChunkValues) -> None:
    """Add a window's utterances to `found`, in their order."""
    by_name = dict(pair for each in computed for pair in each.arrays())
    found.failed += window.failed
    found.dropped += window.dropped
    for index, (utterance, seconds, num_pieces) in enumerate(window.taken):
        pieces = [by_name[f"{index} {piece}"] for piece in range(num_pieces)]
        arrays = [each for each in pieces if isinstance(each, np.ndarray)]
        if len(arrays) < num_pieces:
            reason = next(each for each in pieces if isinstance(each, str))
            found.failed.append(rejection(utterance, utterance.about(reason)))
            continue
        found.values[utterance.key] = arrays[0] if num_pieces == 1 else np.concatenate(arrays)
        found.audio_seconds += seconds
