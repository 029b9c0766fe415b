"""train_distil.sh: transcripts and codes -> a student."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from k2distil.batch import Utterance
from k2distil.config import TrainDistilConfig
from k2distil.config.options import MAX_SEED
from k2distil.data import PackedUtterances
from k2distil.distil import CodebookLoss
from k2distil.distil.batches import BatchesBySeconds
from k2distil.distil.codebook_head import CodebookHead
from k2distil.distil.model import DistilModel
from k2distil.distil.pretrained import has_tokenizer, load_student
from k2distil.distil.spec_augment import SpecAugment
from k2distil.distil.student import Student, check_layer, make_student, switch_off_layerdrop
from k2distil.distil.student_config import whole_tree
from k2distil.distil.trainer import (
    STATE_FILE,
    AtCheckpoints,
    Bar,
    DistilTrainer,
    FiniteLoss,
    LogLines,
    MissedTest,
    Pace,
    StopOnSignal,
    WeightOverSteps,
)
from k2distil.distil.vocabulary import characters_of, make_tokenizer, normalize, read_tokenizer
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.distil_check import check_utterances, refuse_unfit
from k2distil.pipeline.distil_checked import Checked
from k2distil.pipeline.distil_codes import check_coverage, open_codes
from k2distil.pipeline.distil_data import Codes, DistilDataset
from k2distil.pipeline.distil_fingerprint import fingerprint_of
from k2distil.pipeline.distil_output import StudentFolder
from k2distil.pipeline.distil_rejected import Rejected
from k2distil.pipeline.distil_test import StudentTest
from k2distil.pipeline.lists import names_of, num_workers, read_lists
from k2distil.pipeline.processes import Processes
from k2distil.pipeline.summary import Summary, write_config
from k2distil.pipeline.training_arguments import dtype_of, training_arguments
from k2distil.pipeline.training_errors import explaining
from k2distil.pipeline.unused_flags import warn_of_unused
from k2distil.workers import Loader

logger = logging.getLogger(__name__)

MASKS = ("num_time_masks", "time_mask_frames", "num_freq_masks", "freq_mask_bins")  # SpecAugment's


def train_distil(config: TrainDistilConfig) -> Summary:
    """Train the student that a config asks for, or go on where an earlier run stopped."""
    started = time.monotonic()
    _check_options(config)
    if config.student_checkpoint is not None and config.student is not None:
        logger.info("`student` in the config is not used: --student_checkpoint has its own")
        config = replace(config, student=None)
    utterances = PackedUtterances(read_lists(config.train_data, config, config.save_path))
    student = _open_student(config, utterances)
    layer = check_layer(student, config.student_layer)
    if student.masks_itself:
        reason = "this student masks itself, as `mask_time_prob` in its config says"
        warn_of_unused(config, MASKS, reason)
    args = training_arguments(config, hasattr(student.model.base_model, "masked_spec_embed"))
    processes = Processes(args.process_index, args.world_size, args.device)
    codes = None
    if config.codebook_weight > 0 and config.codebook_path is not None:
        codes = open_codes(config.codebook_path, config, student)
        names = names_of(config.train_data)
        check_coverage(names, utterances, codes, config.missing_codes == "ignore")
    folder = StudentFolder(config.save_path)

    def begin() -> Summary | None:
        fingerprint = fingerprint_of(config, utterances, codes, args.world_size, dtype_of(args))
        by_device = ("dtype",) if config.dtype == "auto" else ()
        return folder.begin(fingerprint, config.force, by_device)

    if (done := processes.on_first(begin)) is not None:
        return done
    checkpoint = processes.on_first(folder.checkpoint)
    head = None if codes is None else _codebook_head(config, student, codes, layer)
    if head is not None and config.student_checkpoint is not None and checkpoint is None:
        head.go_on_from(config.student_checkpoint)

    def check_to_train() -> Checked:
        # A training that goes on has the utterances it began with, and looks at none again.
        if checkpoint is not None and (before := Checked.load(folder.checked)) is not None:
            logger.info("the utterances are those that this training began with")
            return before
        return _check(config, config.train_data, utterances, student, codes, text_fits=True)

    train = processes.on_first(check_to_train)
    test = None
    if config.cv_data is not None:
        tested = _with_text(config)
        cv = processes.on_first(
            lambda: _check(config, config.cv_data, tested, student, codes, text_fits=False)
        )
        test = StudentTest(student, tested, cv, codes, config, processes)
    rejected = Rejected(folder.stem, train, test, processes)
    if checkpoint is not None:
        rejected.remember(utterances)
    if processes.rank == 0:
        folder.start()
        train.save(folder.checked)
        write_config(folder.stem, config)

    def beside() -> dict[str, bytes]:
        return {} if head is None else head.files()

    def keep_best(step: int, figures: dict[str, float]) -> None:
        assert test is not None
        folder.offer(student, beside(), test.digest, test.metric, step, figures)

    model = _model(config, student, head, layer)
    batches = _batches(config, utterances, train, student, codes, args)
    trainer = DistilTrainer(model, args, batches, test, keep_best)
    trainer.add_callback(WeightOverSteps(model, config.codebook_weight_end))
    _describe(student, train)
    rejected.write(trainer)
    trainer.add_callback(AtCheckpoints(lambda: rejected.write(trainer)))
    with explaining(folder.path):
        _train(trainer, checkpoint)
        if test is not None and trainer.tested_step != trainer.state.global_step:
            trainer.evaluate()
    num_failed = rejected.write(trainer)
    if processes.rank != 0:
        return Summary(num_failed)
    figures = {
        "wall_seconds": time.monotonic() - started,  # of this run; less than all after a resume
        "steps": trainer.state.global_step,
        **_sizes(student, train),
        "last": test and test.figures,
        "best": folder.best(),
    }
    with explaining(folder.path):
        summary = folder.finish(student, beside(), figures, num_failed)
    best, metric = folder.best(), "wer" if test is None else test.metric
    logger.info(
        "%s: last at step %d%s; k2distil evaluate --student_checkpoint %s --train_data LIST",
        *(folder.path, trainer.state.global_step),
        "" if best is None else f", best at step {best['step']} ({metric} {best[metric]:.4g})",
        folder.path / ("last" if best is None else "best"),
    )
    return summary


def _check_options(config: TrainDistilConfig) -> None:
    errors = []
    if config.codebook_weight > 0 and config.codebook_path is None:
        errors.append(
            "--codebook_path: missing; give the codes of save_codebook.sh, or --codebook_weight 0 "
            "to train on text alone"
        )
    if config.codebook_weight == 0 < config.codebook_weight_end:
        errors.append(
            f"--codebook_weight_end {config.codebook_weight_end:g}: --codebook_weight 0 trains on "
            "text alone; leave one of them out"
        )
    checkpoint = config.student_checkpoint
    if checkpoint is not None and checkpoint.resolve().is_relative_to(config.save_path.resolve()):
        errors.append(
            f"--student_checkpoint {checkpoint}: in --save_path, which --force would empty; give "
            "another --save_path"
        )
    if errors:
        raise ConfigError("\n".join(errors))
    if config.warmup_steps >= config.max_steps:
        logger.warning(
            "--warmup_steps %d: not below --max_steps %d, so the learning rate never gets to %g; "
            "a tenth of the steps is usual",
            *(config.warmup_steps, config.max_steps, config.learning_rate),
        )


def _open_student(config: TrainDistilConfig, utterances: Sequence[Utterance]) -> Student:
    """The student to train, with a tokenizer for the text."""
    checkpoint = config.student_checkpoint
    if checkpoint is not None and config.vocabulary is None and has_tokenizer(checkpoint):
        student = load_student(checkpoint, seed=config.seed)
    else:
        texts = [normalize(each.text) for each in utterances if each.text is not None]
        if not any(texts):
            raise DataError(
                f'{names_of(config.train_data)}: no utterance has text ("txt"); CTC needs some'
            )
        if config.vocabulary is not None:
            tokenizer = read_tokenizer(config.vocabulary)
        else:
            tokenizer = make_tokenizer(characters_of(texts))
        if checkpoint is None:
            student = make_student(whole_tree(config.student), tokenizer, config.seed)
        else:
            student = load_student(checkpoint, tokenizer, config.seed)
    if switch_off_layerdrop(student):
        logger.info("layerdrop is switched off: every layer is needed in every step")
    return student


def _with_text(config: TrainDistilConfig) -> PackedUtterances:
    """What can be tested on."""
    found = read_lists(config.cv_data, config, config.save_path)
    return PackedUtterances(
        each for each in found if each.text is not None and normalize(each.text)
    )


def _check(
    config: TrainDistilConfig,
    paths: Sequence[Path] | None,
    utterances: PackedUtterances,
    student: Student,
    codes: Codes | None,
    text_fits: bool,
) -> Checked:
    """The utterances of a list that can be used."""
    checked = check_utterances(utterances, student, codes, text_fits, config.decode_timeout)
    if not len(checked.rows) and checked.unreadable:
        first = checked.unreadable[0]["reason"]
        raise DataError(f"{names_of(paths)}: none of its audio can be read: {first}")
    if config.bad_utterances == "error":
        refuse_unfit(names_of(paths), checked.unfit)
    if not checked.labelled.any():
        raise DataError(f'{names_of(paths)}: no utterance that can be used has text ("txt")')
    return checked


def _codebook_head(
    config: TrainDistilConfig, student: Student, codes: Codes, layer: int
) -> CodebookHead:
    sizes = (student.dim, codes.num_codebooks, codes.codebook_size, codes.frames_ratio)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        loss = CodebookLoss(*sizes, head=config.codebook_head, chunk_frames=config.chunk_frames)
    first = codes.reader.readers[0]  # all are of one quantizer
    made_for = {
        "quantizer_id": first.meta.get("quantizer_id") or first.path,
        "num_codebooks": codes.num_codebooks,
        "codebook_size": codes.codebook_size,
        "frames_ratio": codes.frames_ratio,
        "codebook_head": config.codebook_head,
        "student_layer": layer,
        "student_dim": student.dim,
    }
    return CodebookHead(loss, {name: str(value) for name, value in made_for.items()})


def _model(
    config: TrainDistilConfig, student: Student, head: CodebookHead | None, layer: int
) -> DistilModel:
    spec_augment = SpecAugment(**{name: getattr(config, name) for name in MASKS})
    return DistilModel(
        student.model,
        None if head is None else head.loss,
        layer,
        config.codebook_weight,
        None if student.masks_itself else spec_augment,
    )


def _batches(
    config: TrainDistilConfig,
    utterances: PackedUtterances,
    train: Checked,
    student: Student,
    codes: Codes | None,
    args: Any,
) -> Loader:
    """All batches of this process; one pass over them is the whole training."""
    workers = num_workers(config)
    return Loader(
        DistilDataset(
            utterances.at(train.rows), student, codes, config.channel, config.decode_timeout
        ),
        batch_sampler=BatchesBySeconds(
            train.seconds.tolist(),
            train.labelled.tolist(),
            config.batch_seconds,
            config.labelled_share,
            config.max_steps * config.accumulate_batches,
            config.seed,
            args.process_index,
            args.world_size,
        ),
        num_workers=workers,
        pin_memory=args.device.type == "cuda",
        generator=torch.Generator(),  # of the workers' seeds: torch's own stays as resumed
    )


def _describe(student: Student, train: Checked) -> None:
    logger.info(
        "student %s: %d layers, %.1f M parameters, %d tokens, a frame every %.4g ms",
        *(student.model.config.model_type, student.num_layers),
        sum(each.numel() for each in student.model.parameters()) / 1e6,
        *(len(student.tokenizer), 1000 * student.frame_shift),
    )
    with_text = train.seconds[train.labelled]
    logger.info(
        "%d utterances, %.2f h, of them %.2f h with text",
        *(len(train.rows), train.seconds.sum() / 3600, with_text.sum() / 3600),
    )


def _sizes(student: Student, train: Checked) -> dict[str, Any]:
    """Of the student and of what it trains on, for the summary."""
    return {
        "utterances": len(train.rows),
        "labelled": int(train.labelled.sum()),
        "hours": float(train.seconds.sum()) / 3600,
        "parameters": sum(each.numel() for each in student.model.parameters()),
    }


def _train(trainer: DistilTrainer, checkpoint: Path | None) -> None:
    """Train to the end, or to a signal: then a checkpoint is written before the process ends.

    checkpoint: what to go on from.
    """
    from transformers import PrinterCallback, ProgressCallback, set_seed

    trainer.remove_callback(PrinterCallback)
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
