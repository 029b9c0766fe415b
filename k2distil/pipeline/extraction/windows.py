"""Utterances -> decoded -> batches of similar length: what is done ahead of the teacher."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from k2distil.batch import SAMPLE_RATE, AudioBatch, Rejection, Utterance, rejection
from k2distil.config.wenet_yaml import DurationLimits
from k2distil.data import batch_by_seconds, decode_ahead
from k2distil.errors import DataError
from k2distil.stages import stage
from k2distil.teachers import Teacher

WINDOW = 30 * 60 * SAMPLE_RATE  # samples sorted by length together, 115 MB


@dataclass(frozen=True)
class EmbedOptions:
    """How audio reaches the teacher."""

    batch_seconds: float
    long_audio: str = "error"  # error, skip or chunk
    limits: DurationLimits = field(default_factory=DurationLimits)
    num_workers: int = 0
    channel: int = 0
    decode_timeout: float = float("inf")  # seconds


@dataclass(frozen=True)
class Chunk:
    """Utterances that are done together, such as a part of an h5."""

    index: int
    utterances: Sequence[Utterance]


def chunks_of(utterances: Sequence[Utterance], size: int) -> list[Chunk]:
    """Chunks of `size` utterances; the last may have fewer."""
    starts = range(0, len(utterances), size)
    return [Chunk(index, utterances[start : start + size]) for index, start in enumerate(starts)]


@dataclass
class Window:
    """Some utterances of a chunk, in order, and the batches of those that the teacher takes.

    A batch's keys are pieces: "{position in `taken`} {number of the piece}".
    """

    taken: list[tuple[Utterance, float, int]] = field(default_factory=list)  # seconds, pieces
    batches: list[AudioBatch] = field(default_factory=list)
    failed: list[Rejection] = field(default_factory=list)
    dropped: list[Rejection] = field(default_factory=list)  # on purpose, by a setting
    ends: Chunk | None = None  # the chunk, in its last window


def windows_of(
    chunks: Iterable[Chunk], teacher: Teacher, options: EmbedOptions
) -> Generator[Window]:
    """Decode and batch chunk by chunk; `chunks` is drawn only as far ahead as workers decode."""
    drawn: deque[Chunk] = deque()

    def utterances() -> Iterator[Utterance]:
        for chunk in chunks:
            drawn.append(chunk)
            yield from chunk.utterances

    decoded = decode_ahead(
        utterances(), options.num_workers, options.channel, options.decode_timeout
    )
    with contextlib.closing(decoded):
        while (first := next(decoded, None)) is not None:
            chunk = drawn.popleft()
            yield from _windows_of_one(chunk, first, decoded, teacher, options)


def _windows_of_one(
    chunk: Chunk,
    first: tuple[Utterance, Tensor | DataError],
    decoded: Iterator[tuple[Utterance, Tensor | DataError]],
    teacher: Teacher,
    options: EmbedOptions,
) -> Iterator[Window]:
    window, waiting, num_waiting = Window(), [], 0
    for number in range(len(chunk.utterances)):
        utterance, audio = first if number == 0 else next(decoded)
        if isinstance(audio, DataError):
            window.failed.append(rejection(utterance, str(audio)))
        elif not _reject(utterance, len(audio), teacher, options, window):
            pieces = _pieces(audio, teacher)
            index = len(window.taken)
            window.taken.append((utterance, len(audio) / SAMPLE_RATE, len(pieces)))
            waiting += [(f"{index} {piece}", each) for piece, each in enumerate(pieces)]
            num_waiting += len(audio)
            if num_waiting >= WINDOW:
                yield _batched(window, waiting, teacher, options)
                window, waiting, num_waiting = Window(), [], 0
    window.ends = chunk
    yield _batched(window, waiting, teacher, options)


def _batched(
    window: Window, named: Sequence[tuple[str, Tensor]], teacher: Teacher, options: EmbedOptions
) -> Window:
    padded_to = 30.0 if teacher.padding == "30s" else 0.0
    with stage("batch (ahead)"):
        window.batches = list(batch_by_seconds(named, options.batch_seconds, padded_to))
    return window


def _reject(
    utterance: Utterance, num_samples: int, teacher: Teacher, options: EmbedOptions, window: Window
) -> bool:
    """Whether the teacher cannot or shall not take so much audio; then `window` says why."""
    if reason := options.limits.reason(num_samples / SAMPLE_RATE):
        window.dropped.append(rejection(utterance, utterance.about(reason)))
        return True
    if (fault := _fault_of_length(num_samples, teacher)) is None:
        return False
    is_long = num_samples >= teacher.min_samples
    if is_long and options.long_audio == "chunk":
        return False
    if is_long and options.long_audio == "skip":
        window.dropped.append(rejection(utterance, utterance.about(f"{fault}; skipped")))
    else:
        remedy = "; use --long_audio chunk or skip" if is_long else ""
        window.failed.append(rejection(utterance, utterance.about(f"{fault}{remedy}")))
    return True


def _fault_of_length(num_samples: int, teacher: Teacher) -> str | None:
    """Why a teacher does not take so much audio in one piece; None: it does."""
    seconds = num_samples / SAMPLE_RATE
    if num_samples < teacher.min_samples:
        least = teacher.min_samples / SAMPLE_RATE
        return f"{seconds:.4f} s is too short, the teacher needs {least:.4f} s"
    if teacher.max_samples is not None and num_samples > teacher.max_samples:
        longest = teacher.max_samples / SAMPLE_RATE
        return f"{seconds:.10g} s is longer than the teacher's {longest:.10g} s"  # to the sample
    return None


def _pieces(audio: Tensor, teacher: Teacher) -> tuple[Tensor, ...]:
    """The audio in pieces the teacher takes; an end too short for a frame is left out.

    Each begins where its first frame does in the whole: what the convolutions of conv2d need beyond
    their last frame is in the next piece too.
    """
    if teacher.max_samples is None or len(audio) <= teacher.max_samples:
        return (audio,)
    per_frame = round(teacher.frame_shift * SAMPLE_RATE)
    overlap = max(0, teacher.min_samples - per_frame)
    step = (teacher.max_samples - overlap) // per_frame * per_frame
    pieces = (audio[start : start + step + overlap] for start in range(0, len(audio), step))
    return tuple(piece for piece in pieces if len(piece) >= teacher.min_samples)
