"""train_quantizer_offline.sh: frames from an h5, or straight from audio, -> a quantizer."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from k2distil.config import TrainQuantizerConfig
from k2distil.errors import CheckpointError, ConfigError, DataError, counted
from k2distil.leases import held_alone
from k2distil.pipeline.extraction.frame_source import FrameSource, fill, open_source
from k2distil.pipeline.extraction.provenance import deciding
from k2distil.pipeline.quantizer.earlier import (
    checkpoint_path,
    is_there_already,
    resume,
    summary_of_existing,
)
from k2distil.pipeline.run.processes import Processes, joined
from k2distil.pipeline.run.progress import Progress
from k2distil.pipeline.run.rejections import write_rejections
from k2distil.pipeline.run.summary import (
    Summary,
    prepare_output,
    write_config,
    write_summary,
)
from k2distil.quantizer import (
    PROBE_FRAMES,
    FrameReservoir,
    OutlierError,
    Quantizer,
    QuantizerTrainer,
    Share,
    evaluate,
    finish,
    num_correction_steps,
    save_quantizer,
    write_tensors,
)
from k2distil.storage import output_lease

logger = logging.getLogger(__name__)

NOISE = re.compile(r"flips_(\d)")  # a figure's name
FEW_FRAMES = 50  # per entry of a codebook: below, some entries hardly see any


@dataclass(frozen=True)
class Job:
    """A training that is not done yet. fingerprint: all that decides its result."""

    save_path: Path
    source: FrameSource
    trainer: QuantizerTrainer
    fingerprint: dict[str, Any]


def train_quantizer(config: TrainQuantizerConfig) -> Summary:
    """Train a quantizer; resumes where a run stopped. Under torchrun all processes train it.

    Raises:
        ConfigError, DataError, CheckpointError: see docs/errors.md.
    """
    started = time.monotonic()
    save_path = _file_of(config)
    with ExitStack() as held:  # the lease of the output, until all is written
        with joined(config.gpu) as processes:
            with processes.all_or_none():
                inputs = [*(config.train_data or ()), config.checkpoint, config.embedding_path]
                prepare_output(save_path, inputs)
                if processes.rank == 0:
                    held.enter_context(held_alone(output_lease(save_path), save_path))
            with processes.all_or_none():
                job = _open(config, save_path, processes)
            with processes.all_or_none():
                _check_together(job, save_path, processes)
            if job is None:
                return summary_of_existing(save_path) if processes.rank == 0 else Summary()
            training, held_out = _read(job, config, processes)
            training_started = time.monotonic()
            with processes.all_or_none(), _named_outliers(job.source):
                _train(job, training, config, processes)
            training_seconds = time.monotonic() - training_started
        if processes.rank > 0:
            return Summary()  # the first process measures and writes
        with _named_outliers(job.source):
            summary = _write_quantizer(job, training, held_out, config, started, training_seconds)
        checkpoint_path(save_path).unlink(missing_ok=True)
        return summary


def _open(config: TrainQuantizerConfig, save_path: Path, processes: Processes) -> Job | None:
    """What there is to do; None: nothing."""
    source = open_source(config, processes)
    dim = source.provenance["dim"]
    if config.quantizer_in_dim not in (None, dim):
        raise ConfigError(
            f"--quantizer_in_dim {config.quantizer_in_dim}: the embeddings have {dim} dimensions; "
            f"use --quantizer_in_dim {dim} or leave it out"
        )
    num_utterances = counted(source.num_utterances, "utterance")
    logger.info("embeddings of dimension %d, %s", dim, num_utterances)
    fingerprint = _fingerprint(config, source)
    if is_there_already(save_path, fingerprint, config.force):
        return None
    trainer = QuantizerTrainer(
        config.quantizer_type,
        dim,
        config.quantizer_out_dim,
        config.quantizer_codebook_size,
        seed=config.seed,
        device=processes.device,
        batch_size=config.quantizer_batch_size,
        share=Share(processes.rank, processes.size, processes.add_up),
    )
    resume(trainer, save_path, fingerprint, config.force)
    return Job(save_path, source, trainer, fingerprint)


def _check_together(job: Job | None, save_path: Path, processes: Processes) -> None:
    """Refuse to begin at different steps: the sums of one process would wait for ever.

    Raises:
        CheckpointError: the processes found different files.
    """
    steps = processes.gather(None if job is None else job.trainer.steps_done)
    if len(set(steps)) > 1:
        found = ", ".join("the end" if step is None else f"step {step}" for step in steps)
        raise CheckpointError(
            f"{save_path}: the processes would go on from {found}; run again if the disk is late "
            "to show its files, or give a --save_path on a disk that all nodes share"
        )


def _read(
    job: Job, config: TrainQuantizerConfig, processes: Processes
) -> tuple[FrameReservoir, FrameReservoir]:
    """-> (frames to train on, held out), the same on every process."""
    source = job.source
    with Progress("reading frames", source.num_utterances, "utterances") as progress:
        training, held_out = fill(
            source, config.reservoir_frames, config.seed, lambda: progress.advance(1)
        )
    if processes.rank == 0:
        write_rejections(job.save_path, source.failed, source.dropped)
    with processes.all_or_none():
        _check_number(len(training), len(held_out), config)
    return training, held_out


@contextmanager
def _named_outliers(source: FrameSource) -> Iterator[None]:
    """Say where a value is that is no embedding's."""
    try:
        yield
    except OutlierError as error:
        raise DataError(f"{source.farthest()}: {error}") from error


def _write_quantizer(
    job: Job,
    training: FrameReservoir,
    held_out: FrameReservoir,
    config: TrainQuantizerConfig,
    started: float,
    training_seconds: float,
) -> Summary:
    """Measure the quantizer, and write it, its summary and its config."""
    source = job.source
    quantizer = _finish_with_bar(job.trainer.quantizer, training, held_out, config.seed)
    sample = training.sample(PROBE_FRAMES)
    held_out_figures = asdict(evaluate(quantizer, sample, held_out.frames, config.seed))
    quantizer.provenance = {**source.provenance, "fingerprint": json.dumps(job.fingerprint)}
    quantizer.figures = held_out_figures
    num_frames = training.num_seen + held_out.num_seen
    num_failed, num_dropped = len(source.failed), len(source.dropped)
    figures = {
        "quantizer_id": quantizer.id,
        "written": source.num_utterances - num_failed - num_dropped,
        "failed": num_failed,
        "dropped": num_dropped,
        "audio_seconds": num_frames * source.provenance.get("frame_shift", 0.0),
        "wall_seconds": time.monotonic() - started,
        "training_seconds": training_seconds,
        "frames": num_frames,
        "dim": quantizer.dim,
        "held_out": held_out_figures,
        "fingerprint": job.fingerprint,
    }
    _log_figures(job.save_path, quantizer, held_out_figures)
    write_config(job.save_path, config)
    summary = write_summary(job.save_path, figures, num_failed)
    save_quantizer(quantizer, job.save_path)
    return summary


def _log_figures(save_path: Path, quantizer: Quantizer, figures: dict[str, Any]) -> None:
    logger.info("%s: %s", save_path, _in_words(figures))
    if quantizer.type == "additive" and quantizer.correction is None:
        logger.info("no correction of decoded frames: they are few, or held-out ones do not gain")
    elif quantizer.type == "additive":
        without = figures["error_by_num_codebooks"][-1]
        logger.info("without its correction of decoded frames: relative error %.3g", without)
    if quantizer.num_codebooks > 1:
        errors = figures["error_by_num_codebooks"]
        logger.info(
            "relative error of the first 1 to %d codebooks%s: %s",
            *(quantizer.num_codebooks, "" if quantizer.correction is None else ", uncorrected"),
            " ".join(f"{error:.3g}" for error in errors),
        )


def _finish_with_bar(
    quantizer: Quantizer, training: FrameReservoir, held_out: FrameReservoir, seed: int
) -> Quantizer:
    """`finish`, with a bar where that takes a while."""
    if quantizer.type == "product":
        return finish(quantizer, training, held_out.frames, seed)
    num_steps = num_correction_steps(len(training))
    with Progress("learning the correction", num_steps, "steps") as progress:
        return finish(quantizer, training, held_out.frames, seed, lambda: progress.advance(1))


def _check_number(num_training: int, num_held_out: int, config: TrainQuantizerConfig) -> None:
    """Refuse too few frames, and warn of few, or of fewer than a step takes.

    Raises:
        DataError: fewer frames than entries in a codebook, or none to measure on.
    """
    codebook_size, batch_size = config.quantizer_codebook_size, config.quantizer_batch_size
    logger.info("%d frames to train on, %d held out", num_training, num_held_out)
    if num_training < codebook_size or num_held_out < 2:  # one has no variance
        raise DataError(
            f"{num_training} frames to train {codebook_size} entries a codebook on, {num_held_out} "
            "held out: too few utterances gave frames; see the failed ones above, raise "
            "--num_audio or lower --quantizer_codebook_size"
        )
    if num_training < FEW_FRAMES * codebook_size:
        logger.warning(
            "fewer than %d frames an entry: other audio will be coded badly; raise --num_audio",
            FEW_FRAMES,
        )
    if num_training < batch_size:
        logger.warning(
            "--quantizer_batch_size %d, but %d frames: each step takes all of them, some more than "
            "once, and is slow; a smaller one, such as %d, is faster",
            *(batch_size, num_training, 2 ** ((num_training // 2).bit_length() - 1)),
        )


def _train(
    job: Job, training: FrameReservoir, config: TrainQuantizerConfig, processes: Processes
) -> None:
    """Train to the end, with a checkpoint now and then, of the first process."""
    trainer, batch_size = job.trainer, config.quantizer_batch_size
    saved = time.monotonic()
    with Progress("training", trainer.num_steps, "steps", trainer.steps_done) as progress:
        while not trainer.done:
            if trainer.starts_next:
                progress.show("trying starts")
            stats = trainer.step(training.batch(trainer.steps_done, batch_size))
            error = "" if stats.relative_error is None else f"error {stats.relative_error:.3f}"
            progress.advance(1, f"{stats.phase} {error}")
            is_time = time.monotonic() - saved > config.checkpoint_seconds
            is_last = trainer.done and config.quantizer_type == "additive"  # a correction follows
            if processes.rank == 0 and (is_time or is_last) and trainer.is_whole:
                state = {"fingerprint": job.fingerprint, "state": trainer.state_dict()}
                write_tensors(state, checkpoint_path(job.save_path))
                saved = time.monotonic()


def _file_of(config: TrainQuantizerConfig) -> Path:
    """A folder gets quantizer.pt inside."""
    path = config.save_path
    is_file = path.suffix in {".pt", ".pth"} and not path.is_dir()
    return path if is_file else path / "quantizer.pt"


def _in_words(held_out: dict[str, Any]) -> str:
    named = {NOISE.sub(r"flips at \1 % noise", name): value for name, value in held_out.items()}
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}"
        for name, value in named.items()
        if isinstance(value, float)
    )


def _fingerprint(config: TrainQuantizerConfig, source: FrameSource) -> dict[str, Any]:
    """All that decides the result."""
    names = (
        *("quantizer_type", "quantizer_out_dim", "quantizer_codebook_size"),
        *("quantizer_batch_size", "reservoir_frames", "seed"),
    )
    settings = {name: getattr(config, name) for name in names}
    return settings | deciding(source.provenance) | source.identity
