"""What decides a student: a training of another one is not gone on with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k2distil.batch import Utterance
from k2distil.config import TrainDistilConfig
from k2distil.pipeline.run.digests import content_of, digest_of, digest_of_path
from k2distil.pipeline.student.codes import Codes

NOT_DECISIVE = {  # options that may change between two runs of the same training
    *("save_path", "gpu", "num_workers", "force", "given", "cache_dir", "allow_pipes"),
    *("decode_timeout", "nnodes", "rdzv_endpoint", "max_restarts"),
    *("cv_data", "eval_steps", "save_steps", "keep_checkpoints", "logging_steps"),
    *("train_data", "data_type", "codebook_path"),  # what they lead to counts instead
    *("num_codebooks", "codebook_size", "frames_ratio"),
    "accumulate_batches",
}


def fingerprint_of(
    config: TrainDistilConfig,
    utterances: Sequence[Utterance],
    codes: Codes | None,
    world_size: int,
    dtype: str,
) -> dict[str, Any]:
    """What decides the student; all of it plain values.

    Args:
        config: of the training.
        utterances: of its lists, with their text.
        codes: what it learns; None: text alone.
        world_size: processes that share a step.
        dtype: that they compute in.
    """
    options = {
        each.name: getattr(config, each.name)
        for each in dataclasses.fields(config)
        if each.name not in NOT_DECISIVE
    }
    options = {key: str(each) if isinstance(each, Path) else each for key, each in options.items()}
    options["dtype"] = dtype  # a scaler's state is of no use to another one
    options["batches_per_step"] = world_size * config.accumulate_batches
    options["list"] = digest_of(utterances, with_text=True)
    # A path may stay while what it holds changes: then outputs of a checkpoint mean other tokens.
    for name in ("vocabulary", "student_checkpoint"):
        if (path := getattr(config, name)) is not None:
            options[f"content of --{name}"] = digest_of_path(path)[:16]
    if codes is not None:
        sizes = (codes.num_codebooks, codes.codebook_size, codes.frames_ratio)
        options["codes"] = [*map(content_of, codes.reader.readers), *sizes]
    return options
