"""Decoded audio -> teacher -> one array per utterance: what every command with a teacher does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from k2distil.batch import SAMPLE_RATE, EmbeddingBatch, Utterance
from k2distil.config.wenet_yaml import DurationLimits
from k2distil.data import batch_by_seconds
from k2distil.errors import DataError
from k2distil.teachers import Teacher

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


def embed(
    decoded: Iterable[tuple[Utterance, Tensor | DataError]],
    teacher: Teacher,
    values_of: ValuesOf,
    options: EmbedOptions,
) -> Embedded:
    """Run `teacher` over a few hundred utterances, the longest first, in batches.

    Args:
        decoded: utterances in list order, each with its samples (num_samples,) or what is wrong.
        teacher: what embeds.
        values_of: what to keep of the embeddings, e.g. their codes.
        options: batch size and limits.
    """
    result = Embedded()
    pieces: list[tuple[str, Tensor]] = []  # (utterance index, piece index) as a batch key
    accepted: list[tuple[Utterance, Tensor]] = []
    for utterance, audio in decoded:
        if isinstance(audio, DataError):
            result.failed.append(Rejection(utterance, str(audio)))
            continue
        if rejected := _rejection(utterance, audio, teacher, options):
            kept, reason = rejected
            kept_in = result.dropped if kept == "dropped" else result.failed
            kept_in.append(Rejection(utterance, reason))
            continue
        for piece_index, piece in enumerate(_pieces(audio, teacher)):
            pieces.append((f"{len(accepted)} {piece_index}", piece))
        accepted.append((utterance, audio))

    values: dict[str, np.ndarray] = {}
    bad: dict[int, str] = {}
    padded_to = 30.0 if teacher.padding == "30s" else 0.0
    for batch in batch_by_seconds(pieces, options.batch_seconds, padded_to):
        _add_values(teacher.embed(batch), values_of, values, bad)

    for index, (utterance, audio) in enumerate(accepted):
        if index in bad:
            result.failed.append(Rejection(utterance, bad[index]))
            continue
        num_pieces = len(_pieces(audio, teacher))
        result.values[utterance.key] = np.concatenate(
            [values[f"{index} {piece}"] for piece in range(num_pieces)]
        )
        result.audio_seconds += len(audio) / SAMPLE_RATE
    return result


def _rejection(
    utterance: Utterance, audio: Tensor, teacher: Teacher, options: EmbedOptions
) -> tuple[str, str] | None:
    """("failed" or "dropped", reason) of audio the teacher cannot or shall not take."""
    seconds = len(audio) / SAMPLE_RATE
    where = f"{utterance.key} ({utterance.wav})"
    if reason := options.limits.reason(seconds):
        return "dropped", f"{where}: {reason}"
    if len(audio) < teacher.min_samples:
        least = teacher.min_samples / SAMPLE_RATE
        return "failed", f"{where}: {seconds:.4f} s is too short, the teacher needs {least:.4f} s"
    if teacher.max_samples is not None and len(audio) > teacher.max_samples:
        most = teacher.max_samples / SAMPLE_RATE
        reason = f"{where}: {seconds:.2f} s is longer than the teacher's {most:g} s"
        if options.long_audio == "skip":
            return "dropped", f"{reason}; skipped"
        if options.long_audio == "error":
            return "failed", f"{reason}; use --long_audio chunk or skip"
    return None


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
    bad: dict[int, str],
) -> None:
    """Add the batch's values by piece; where something is not finite, the reason to `bad`."""
    finite = torch.isfinite(batch.embedding).flatten(1).all(1).tolist()
    good = []
    for (name, frames), is_finite in zip(batch.unpadded(), finite, strict=True):
        if is_finite:
            good.append((name, frames))
        else:
            bad[_index(name)] = "NaN or inf in the embedding; check the audio and the checkpoint"
    if not good:
        return
    names, frames_of = zip(*good, strict=True)
    for name, value in zip(names, values_of(list(frames_of)), strict=True):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad[_index(name)] = "embedding beyond float16's range; use --embedding_dtype float32"
        values[name] = value


def _index(name: str) -> int:
    return int(name.split()[0])
