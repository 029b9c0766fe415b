"""A student's training itself: its losses, batches and callbacks, to the end or to a signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from k2distil.config.options import MAX_SEED
from k2distil.distil.batches import BatchesBySeconds
from k2distil.distil.callbacks import (
    AtCheckpoints,
    Bar,
    FiniteLoss,
    LogLines,
    MissedTest,
    Pace,
    StopOnSignal,
    WeightOverSteps,
)
from k2distil.distil.codebook_head import CodebookHead
from k2distil.distil.model import DistilModel
from k2distil.distil.spec_augment import SpecAugment
from k2distil.distil.trainer import STATE_FILE, DistilTrainer
from k2distil.errors import DataError
from k2distil.pipeline.run.lists import num_workers
from k2distil.pipeline.student.checked import Checked
from k2distil.pipeline.student.dataset import DistilDataset
from k2distil.pipeline.student.folder import StudentFolder
from k2distil.pipeline.student.job import MASKS, DistilJob
from k2distil.pipeline.student.testing import StudentTest
from k2distil.workers import Loader

logger = logging.getLogger(__name__)


def make_trainer(
    job: DistilJob,
    folder: StudentFolder,
    head: CodebookHead | None,
    train: Checked,
    test: StudentTest | None,
) -> DistilTrainer:
    """The student with its losses and batches; the best one of the tests is kept."""
    config, student = job.config, job.student
    spec_augment = SpecAugment(**{name: getattr(config, name) for name in MASKS})
    model = DistilModel(
        student.model,
        None if head is None else head.loss,
        job.layer,
        config.codebook_weight,
        None if student.masks_itself else spec_augment,
    )

    def keep_best(step: int, figures: dict[str, float]) -> None:
        assert test is not None
        folder.offer(student, head, test.digest, test.metric, step, figures)

    trainer = DistilTrainer(
        *(model, job.args, _batches(job, train), config.keep_checkpoints, test, keep_best)
    )
    trainer.add_callback(WeightOverSteps(model, config.codebook_weight_end))
    return trainer


def _batches(job: DistilJob, train: Checked) -> Loader:
    """All batches of this process; one pass over them is the whole training."""
    config = job.config
    return Loader(
        DistilDataset(
            *(job.utterances.at(train.rows), job.student, job.codes),
            *(config.channel, config.decode_timeout),
            labelled=train.labelled,
            strict=config.bad_utterances == "error",
        ),
        batch_sampler=BatchesBySeconds(
            train.seconds.tolist(),
            train.labelled.tolist(),
            config.batch_seconds,
            config.labelled_share,
            config.max_steps * config.accumulate_batches,
            config.seed,
            job.processes.rank,
            job.processes.size,
        ),
        num_workers=num_workers(config),
        pin_memory=job.processes.device.type == "cuda",
        generator=torch.Generator(),  # of the workers' seeds: torch's own stays as resumed
    )


def train(
    trainer: DistilTrainer, checkpoint: Path | None, at_checkpoints: Callable[[], object]
) -> None:
    """Train to the end, or to a signal: then a checkpoint is written before the process ends.

    Args:
        trainer: of `make_trainer`.
        checkpoint: what to go on from.
        at_checkpoints: called on every process, after each of them.
    """
    from transformers import PrinterCallback, ProgressCallback, set_seed

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(AtCheckpoints(at_checkpoints))
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(Bar())
    trainer.add_callback(Pace())
    trainer.add_callback(LogLines())
    trainer.add_callback(FiniteLoss(trainer))
    trainer.add_callback(MissedTest(trainer))
    if checkpoint is not None:
        if not (checkpoint / STATE_FILE).is_file():  # each process makes the folder for its own
            raise DataError(
                f"{checkpoint}: the first process sees it, this one does not; run again if the "
                "disk is late to show it, or give a --save_path on a disk that all nodes share"
            )
        logger.info("going on from %s", checkpoint)
    # Each process its own dropout and masks; what a checkpoint knows of them comes after this.
    set_seed((trainer.args.seed + trainer.args.process_index) % (MAX_SEED + 1))
    with _stopping(trainer):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.check_weights()


@contextmanager
def _stopping(trainer: DistilTrainer) -> Iterator[None]:
    """The first signal is kept for the end of the step; what it meant before happens then."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = StopOnSignal(before)
    trainer.add_callback(stop)
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.received and trainer.state.global_step < trainer.state.max_steps:
        logger.info("saved at step %d", trainer.state.global_step)
        signal.raise_signal(stop.received)
