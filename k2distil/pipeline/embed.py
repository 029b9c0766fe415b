"""Decoded audio -> teacher -> one array per utterance: what every command with a teacher does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from k2distil.batch import SAMPLE_RATE, EmbeddingBatch, Utterance
from k2distil.config.wenet_yaml import DurationLimits
from k2distil.data import batch_by_seconds
from k2distil.errors import ConfigError, DataError
from k2distil.teachers import Teacher

WINDOW = 30 * 60 * SAMPLE_RATE  # samples sorted by length together; bounds the memory to 115 MB

# Frames of several utterances, all finite: list of (num_frames, dim) -> list of (num_frames, ...).
ValuesOf = Callable[[list[Tensor]], list[np.ndarray]]


@dataclass(frozen=True)
class Rejection:
    """An utterance that has no values, and why."""

    utterance: Utterance
    reason: str

    def row(self) -> dict[str, str]:
        """As in failed.tsv."""
        return {"key": self.utterance.key, "wav": self.utterance.wav, "reason": self.reason}


@dataclass
class Embedded:
    """What became of some utterances; every one is in exactly one of the three."""

    values: dict[str, np.ndarray] = field(default_factory=dict)  # by key, in list order
    failed: list[Rejection] = field(default_factory=list)
    dropped: list[Rejection] = field(default_factory=list)  # on purpose, by a setting
    audio_seconds: float = 0.0  # of those that have values


@dataclass(frozen=True)
class EmbedOptions:
    """How audio reaches the teacher."""

    batch_seconds: float
    long_audio: str = "error"  # error, skip or chunk
    limits: DurationLimits = field(default_factory=DurationLimits)


def as_dtype(dtype: str) -> ValuesOf:
    """Embeddings as they are, in a numpy dtype; what it cannot hold becomes inf."""

    def values_of(frames: list[Tensor]) -> list[np.ndarray]:
        with np.errstate(over="ignore"):  # found, and named with its utterance, later
            return [each.cpu().numpy().astype(dtype) for each in frames]

    return values_of


def embed(
    decoded: Iterable[tuple[Utterance, Tensor | DataError]],
    teacher: Teacher,
    values_of: ValuesOf,
    options: EmbedOptions,
) -> Embedded:
    """Run `teacher` over a few hundred utterances, in batches of similar length.

    Args:
        decoded: utterances in list order, each with its samples (num_samples,) or what is wrong.
        teacher: what embeds.
        values_of: what to keep of the embeddings, e.g. their codes.
        options: batch size and limits.
    """
    result = Embedded()
    waiting: list[tuple[Utterance, Tensor]] = []
    num_waiting = 0  # samples
    for utterance, audio in decoded:
        if isinstance(audio, DataError):
            result.failed.append(Rejection(utterance, str(audio)))
        elif not _is_rejected(utterance, audio, teacher, options, result):
            waiting.append((utterance, audio))
            num_waiting += len(audio)
            if num_waiting >= WINDOW:
                _embed_window(waiting, teacher, values_of, options, result)
                waiting, num_waiting = [], 0
    _embed_window(waiting, teacher, values_of, options, result)
    return result


def _is_rejected(
    utterance: Utterance, audio: Tensor, teacher: Teacher, options: EmbedOptions, result: Embedded
) -> bool:
    """Whether the teacher cannot or shall not take the audio; then `result` says why."""
    seconds = len(audio) / SAMPLE_RATE
    if reason := options.limits.reason(seconds):
        result.dropped.append(Rejection(utterance, _about(utterance, reason)))
    elif len(audio) < teacher.min_samples:
        least = teacher.min_samples / SAMPLE_RATE
        reason = f"{seconds:.4f} s is too short, the teacher needs {least:.4f} s"
        result.failed.append(Rejection(utterance, _about(utterance, reason)))
    elif teacher.max_samples is not None and len(audio) > teacher.max_samples:
        reason = (
            f"{seconds:.2f} s is longer than the teacher's {teacher.max_samples / SAMPLE_RATE:g} s"
        )
        if options.long_audio == "skip":
            result.dropped.append(Rejection(utterance, _about(utterance, f"{reason}; skipped")))
        elif options.long_audio == "error":
            reason = f"{reason}; use --long_audio chunk or skip"
            result.failed.append(Rejection(utterance, _about(utterance, reason)))
        else:
            return False
    else:
        return False
    return True


def _embed_window(
    window: Sequence[tuple[Utterance, Tensor]],
    teacher: Teacher,
    values_of: ValuesOf,
    options: EmbedOptions,
    result: Embedded,
) -> None:
    """Embed some utterances and add what comes of them to `result`, in their order."""
    pieces = [_pieces(audio, teacher) for _, audio in window]
    named = [
        (f"{index} {number}", piece)
        for index, of_one in enumerate(pieces)
        for number, piece in enumerate(of_one)
    ]
    padded_to = 30.0 if teacher.padding == "30s" else 0.0
    values: dict[str, np.ndarray] = {}
    faults: dict[int, str] = {}
    try:
        for batch in batch_by_seconds(named, options.batch_seconds, padded_to):
            _add_values(teacher.embed(batch), values_of, values, faults)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"--batch_seconds {options.batch_seconds:g}: out of GPU memory ({error}); lower it and "
            "run the same command again"
        ) from error
    for index, (utterance, audio) in enumerate(window):
        if index in faults:
            result.failed.append(Rejection(utterance, _about(utterance, faults[index])))
            continue
        of_one = [values[f"{index} {number}"] for number in range(len(pieces[index]))]
        result.values[utterance.key] = np.concatenate(of_one)
        result.audio_seconds += len(audio) / SAMPLE_RATE


def _about(utterance: Utterance, reason: str) -> str:
    return f"{utterance.wav}: utterance {utterance.key}: {reason}"


def _pieces(audio: Tensor, teacher: Teacher) -> tuple[Tensor, ...]:
    """The audio in pieces the teacher takes; an end too short for a frame is left out."""
    if teacher.max_samples is None:
        return (audio,)
    pieces = audio.split(teacher.max_samples)
    return tuple(piece for piece in pieces if len(piece) >= teacher.min_samples)


def _add_values(
    batch: EmbeddingBatch,
    values_of: ValuesOf,
    values: dict[str, np.ndarray],
    faults: dict[int, str],
) -> None:
    """Add the batch's values by piece; where something is not finite, the reason to `faults`."""
    finite = torch.isfinite(batch.embedding).flatten(1).all(1).tolist()
    good = []
    for (name, frames), is_finite in zip(batch.unpadded(), finite, strict=True):
        if is_finite:
            good.append((name, frames))
        else:
            faults[_index(name)] = "NaN or inf in the embedding; check the audio and the checkpoint"
    if not good:
        return
    names, frames_of = zip(*good, strict=True)
    for name, value in zip(names, values_of(list(frames_of)), strict=True):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            faults[_index(name)] = "embedding beyond float16's range; use --embedding_dtype float32"
        values[name] = value


def _index(name: str) -> int:
    return int(name.split()[0])
