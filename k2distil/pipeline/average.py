"""k2distil average: the latest checkpoints of a student's training -> one student."""

from __future__ import annotations

import logging
from pathlib import Path

from k2distil.atomic import make_folder
from k2distil.config import AverageConfig
from k2distil.distil.averaging import average_weights
from k2distil.distil.codebook_head import with_weights
from k2distil.distil.pretrained import load_student
from k2distil.distil.trainer import checkpoints
from k2distil.errors import CheckpointError, ConfigError, DataError
from k2distil.pipeline.run.summary import Summary

logger = logging.getLogger(__name__)


def average(config: AverageConfig) -> Summary:
    """Write a student whose weights are the mean of those of several checkpoints.

    Raises:
        ConfigError: --save_path is there already.
        DataError: there are fewer checkpoints, or one is damaged.
        CheckpointError: the training has no student yet.
    """
    folder, save_path = config.student_checkpoint, config.save_path
    if save_path.exists():
        raise ConfigError(f"--save_path {save_path}: there already; give another")
    chosen = checkpoints(folder)[-config.num_checkpoints :]
    if not chosen:
        raise DataError(f"{folder}: no checkpoints in it; give the --save_path of a training")
    if len(chosen) < config.num_checkpoints:
        raise DataError(
            f"{folder}: has {len(chosen)} of --num_checkpoints {config.num_checkpoints}; give "
            f"--num_checkpoints {len(chosen)}, or train into another --save_path with "
            f"--keep_checkpoints {config.num_checkpoints}, and --save_steps that gives as many"
        )
    there = _student_in(folder)
    student = load_student(there)  # all but its weights
    of_student, of_head = average_weights([path for _, path in chosen])
    student.model.load_state_dict(of_student)
    make_folder(save_path.parent)
    student.save(save_path, with_weights(there, of_head))
    steps = ", ".join(str(step) for step, _ in chosen)
    logger.info("%s: the mean of the student at steps %s", save_path, steps)
    return Summary()


def _student_in(folder: Path) -> Path:
    """The one that is there; while it trains there may be the best alone."""
    found = next((folder / name for name in ("last", "best") if (folder / name).is_dir()), None)
    if found is None:
        raise CheckpointError(
            f"{folder}: no student in it yet, neither best/ nor last/; a training writes them at "
            "its first test and at its end: run its command again"
        )
    return found
