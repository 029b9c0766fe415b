"""Frames to train a quantizer on: from an embedding h5, or from audio with nothing on disk between.

Both give the same frames in the same order for the same utterances, so both train the same
quantizer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from k2distil.batch import Rejection
from k2distil.config import AudioOptions, TeacherOptions, TrainQuantizerConfig
from k2distil.config.load import option_types
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.extraction.embed import ChunkValues, as_dtype, embed
from k2distil.pipeline.extraction.provenance import request
from k2distil.pipeline.extraction.teacher import embed_options, open_teacher, read_utterances
from k2distil.pipeline.extraction.windows import chunks_of
from k2distil.pipeline.run.digests import content_of
from k2distil.pipeline.run.processes import Processes
from k2distil.pipeline.run.rejections import FailureLog
from k2distil.pipeline.run.unused_flags import warn_of_unused
from k2distil.quantizer import FrameReservoir
from k2distil.storage import EmbeddingReader

logger = logging.getLogger(__name__)

HELD_OUT_EVERY = 10  # one utterance in so many is kept from training, to measure on
PROVENANCE = (
    *("teacher", "teacher_digest", "num_layers", "middle_layer", "middle_layer_norm"),
    *("whisper_padding", "dtype", "frame_shift"),
)
HELD_OUT_FRAMES = 20_000  # at most
OF_AUDIO = [*option_types(TeacherOptions), *option_types(AudioOptions)]


@dataclass(frozen=True)
class FrameSource:
    """Frames of many utterances, in a fixed order, drawn once."""

    provenance: dict[str, Any]  # of the embedding; `dim` among it
    identity: dict[str, Any]  # which utterances
    num_utterances: int  # some of audio may fail
    frames: Callable[[], Iterator[Tensor]]  # (num_frames, dim) per utterance that has any
    farthest: Callable[[], str]  # where the greatest value is, for an error
    failed: list[Rejection] = field(default_factory=list)  # filled while drawing, as the next is
    dropped: list[Rejection] = field(default_factory=list)


def open_source(config: TrainQuantizerConfig, processes: Processes) -> FrameSource:
    """The frames that a config asks for, all of them on every process.

    Raises:
        ConfigError: neither or both of --embedding_path and --train_quantizer_online.
    """
    if config.train_quantizer_online:
        if config.embedding_path is not None:
            raise ConfigError(
                "--embedding_path: not read with --train_quantizer_online; leave out one of them"
            )
        return _from_audio(config, processes)
    if config.embedding_path is None:
        raise ConfigError(
            "--embedding_path: missing; give the h5 of save_embedding.sh, or "
            "--train_quantizer_online with --checkpoint, --encoder_type and --train_data"
        )
    warn_of_unused(config, OF_AUDIO, "the frames come from --embedding_path")
    return _from_h5(config.embedding_path)


def fill(
    source: FrameSource, capacity: int, seed: int, on_utterance: Callable[[], None]
) -> tuple[FrameReservoir, FrameReservoir]:
    """Draw all frames; -> (to train on, held out), each a uniform sample of bounded size.

    The second of every ten utterances is held out; of fewer than ten, the last tenth of each. Only
    those that give frames count, so the first ten are drawn before the first is used.
    """
    dim = source.provenance["dim"]
    training = FrameReservoir(capacity, dim, seed)
    held_out = FrameReservoir(HELD_OUT_FRAMES, dim, seed + 1)
    num_first, drawn = _peek(source.frames(), HELD_OUT_EVERY)
    for index, frames in enumerate(drawn):
        if num_first < HELD_OUT_EVERY:
            num_training = len(frames) - max(1, len(frames) // HELD_OUT_EVERY)
            training.add(frames[:num_training])
            held_out.add(frames[num_training:])
        else:
            (held_out if index % HELD_OUT_EVERY == 1 else training).add(frames)
        on_utterance()
    return training, held_out


def _peek(frames: Iterator[Tensor], num: int) -> tuple[int, Iterator[Tensor]]:
    """How many there are of the first `num`, and all of them."""
    first = list(islice(frames, num))
    return len(first), chain(first, frames)


def _from_h5(path: Path) -> FrameSource:
    reader = EmbeddingReader(path)
    remedy = "run save_embedding.sh again" if reader.meta else "correct or remove it there"
    if not reader:
        raise DataError(f"{path}: no utterances in it; run save_embedding.sh again")
    first = reader[next(iter(reader))]
    if first.ndim != 2 or first.dtype.kind != "f":
        raise DataError(
            f"{path}: expected float arrays (num_frames, dim), got {first.dtype} {first.shape}; "
            + ("make it anew" if first.dtype.kind == "f" else "is it a file of codes?")
        )

    def frames() -> Iterator[Tensor]:
        for key in reader:
            array = np.asarray(reader[key])
            if array.ndim != 2 or array.shape[1] != first.shape[1]:
                raise DataError(
                    f"{path}[{key}]: expected (num_frames, {first.shape[1]}), got {array.shape}; "
                    f"{remedy}"
                )
            if not array.size:
                continue
            values = torch.from_numpy(array)
            extremes = torch.stack(values.aminmax()).float()  # NaN where there is one
            if not extremes.isfinite().all():
                raise DataError(f"{path}[{key}]: NaN, inf or values beyond float32; {remedy}")
            yield values

    def farthest() -> str:
        greatest = {key: float(np.abs(reader[key]).max(initial=0.0)) for key in reader}
        key = max(greatest, key=greatest.__getitem__)
        return f"{path}[{key}], which reaches {greatest[key]:.2g}"

    provenance = {name: reader.meta[name] for name in PROVENANCE if name in reader.meta}
    identity = {"embeddings": content_of(reader), "utterances": len(reader)}
    provenance["dim"] = first.shape[1]
    return FrameSource(provenance, identity, len(reader), frames, farthest)


def _from_audio(config: TrainQuantizerConfig, processes: Processes) -> FrameSource:
    """Each process embeds its parts of the list; the frames come in the order of the list."""
    utterances = read_utterances(config)
    teacher, provenance = open_teacher(config, processes.device)
    options = embed_options(config, teacher)
    failed: list[Rejection] = []
    dropped: list[Rejection] = []
    failures = FailureLog()
    chunks = chunks_of(utterances, config.part_utterances)
    own = chunks[processes.rank :: processes.size]

    def frames() -> Iterator[Tensor]:
        embedded = embed(own, teacher, as_dtype("float32"), options)
        with contextlib.closing(embedded):
            for _ in range(0, len(chunks), processes.size):
                chunk = next(embedded, None)  # none: the others have one more
                done = ChunkValues() if chunk is None else chunk.result()
                for theirs in processes.gather((done.failed, done.dropped)):
                    failures.tell(theirs[0])
                    failed.extend(theirs[0])
                    dropped.extend(theirs[1])
                arrays = processes.send_in_turn(list(done.values.values()))
                yield from map(torch.from_numpy, arrays)

    identity = request(config, utterances, options.limits)
    return FrameSource(
        provenance, identity, len(utterances), frames, lambda: "--train_data", failed, dropped
    )
