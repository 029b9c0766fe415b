"""train_distil.sh: transcripts and codes -> a student."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from k2distil.config import TrainDistilConfig
from k2distil.data import PackedUtterances
from k2distil.device import keep_freed_memory
from k2distil.distil import CodebookLoss
from k2distil.distil.align import OTHER_AUDIO
from k2distil.distil.codebook_head import CodebookHead
from k2distil.distil.student import Student
from k2distil.distil.vocabulary import normalize
from k2distil.errors import DataError
from k2distil.pipeline.run.digests import warn_of_other_entries
from k2distil.pipeline.run.lists import names_of, read_lists
from k2distil.pipeline.run.processes import telling_of_peers
from k2distil.pipeline.run.summary import Summary, write_config
from k2distil.pipeline.student.arguments import dtype_of
from k2distil.pipeline.student.check import USED_IN_PART, check_utterances, refuse_unfit
from k2distil.pipeline.student.checked import Checked
from k2distil.pipeline.student.codes import check_coverage
from k2distil.pipeline.student.errors import explaining
from k2distil.pipeline.student.fingerprint import fingerprint_of
from k2distil.pipeline.student.folder import StudentFolder
from k2distil.pipeline.student.job import DistilJob, open_job
from k2distil.pipeline.student.rejected import RejectedLists
from k2distil.pipeline.student.testing import StudentTest
from k2distil.pipeline.student.training import make_trainer, train

logger = logging.getLogger(__name__)


def train_distil(config: TrainDistilConfig) -> Summary:
    """Train the student that a config asks for, or go on where an earlier run stopped."""
    started = time.monotonic()
    job = open_job(config)
    if job.processes.device.type == "cpu":
        keep_freed_memory()
    with StudentFolder(config.save_path) as folder:
        return _train_distil(job, folder, started)


def _train_distil(job: DistilJob, folder: StudentFolder, started: float) -> Summary:
    on_first = job.processes.on_first
    if (done := on_first(lambda: _begin(job, folder))) is not None:
        return done
    checkpoint = on_first(folder.checkpoint)
    head = _codebook_head(job, checkpoint)
    train_on = on_first(lambda: _utterances_to_train_on(job, folder, checkpoint))
    test = _test(job, is_new=checkpoint is None)
    rejected = RejectedLists(folder.stem, train_on, test, job.processes)
    if checkpoint is not None:
        rejected.remember(job.utterances)
    if job.processes.rank == 0:
        folder.start()
        train_on.save(folder.checked)
        write_config(folder.stem, job.config)
    _describe(job, train_on)
    trainer = make_trainer(job, folder, head, train_on, test)
    rejected.write(trainer)
    with explaining(folder.path), telling_of_peers():
        train(trainer, checkpoint, lambda: rejected.write(trainer))
        if test is not None and trainer.tested_step != trainer.state.global_step:
            trainer.evaluate()
    num_failed = rejected.write(trainer)
    if job.processes.rank != 0:
        return Summary(num_failed)
    step, best = trainer.state.global_step, folder.best()
    figures = {
        "wall_seconds": time.monotonic() - started,  # of this run; less than all after a resume
        "steps": step,
        **_sizes(job.student, train_on),
        "last": test and test.figures,
        "best": best,
    }
    with explaining(folder.path):
        summary = folder.finish(job.student, head, figures, num_failed)
    metric = "wer" if test is None else test.metric
    logger.info(
        "%s: last at step %d%s; k2distil evaluate --student_checkpoint %s --train_data LIST",
        *(folder.path, step),
        "" if best is None else f", best at step {best['step']} ({metric} {best[metric]:.4g})",
        folder.path / ("last" if best is None else "best"),
    )
    return summary


def _begin(job: DistilJob, folder: StudentFolder) -> Summary | None:
    """The summary of a training that is complete already; None: there is something to do."""
    config, dtype = job.config, dtype_of(job.args)
    fingerprint = fingerprint_of(config, job.utterances, job.codes, job.processes.size, dtype)
    return folder.begin(fingerprint, config.force, ("dtype",) if config.dtype == "auto" else ())


def _codebook_head(job: DistilJob, checkpoint: Path | None) -> CodebookHead | None:
    """What predicts the codes; where the training does not go on, --student_checkpoint's."""
    config, codes = job.config, job.codes
    if codes is None:
        return None
    sizes = (job.student.dim, codes.num_codebooks, codes.codebook_size, codes.frames_ratio)
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
        "student_layer": job.layer,
        "student_dim": job.student.dim,
    }
    head = CodebookHead(loss, {name: str(value) for name, value in made_for.items()})
    if config.student_checkpoint is not None and checkpoint is None:
        head.go_on_from(config.student_checkpoint)
    return head


def _utterances_to_train_on(
    job: DistilJob, folder: StudentFolder, checkpoint: Path | None
) -> Checked:
    """A training that goes on has those it began with, and looks at none again."""
    if checkpoint is not None and (before := Checked.load(folder.checked)) is not None:
        logger.info("the utterances are those that this training began with")
        return before
    config = job.config
    checked = _check(job, config.train_data, job.utterances, for_training=True)
    if job.codes is not None and config.max_seconds is not None and config.missing_codes == "error":
        used = job.utterances.at(checked.rows)  # what is too long needs no codes
        check_coverage(names_of(config.train_data), used, job.codes, ignore_missing=False)
    return checked


def _test(job: DistilJob, is_new: bool) -> StudentTest | None:
    """The test on what has text in --cv_data; None: there is none."""
    config = job.config
    found = read_lists(config.cv_data, config, config.save_path) if config.cv_data else []
    if is_new and job.processes.rank == 0 and job.codes is not None:
        for reader in job.codes.reader.readers:
            warn_of_other_entries(reader, chain(job.utterances, found))
    if config.cv_data is None:
        return None
    tested = PackedUtterances(
        each for each in found if each.text is not None and normalize(each.text)
    )
    if job.processes.rank == 0:
        _warn_of_shared(job, tested)
        if job.codes is not None and not any(each.key in job.codes.reader for each in tested):
            logger.info(
                "no codes for --cv_data: its tests tell of text alone; the save_codebook.sh that "
                "made the codes adds them where --train_data names both lists"
            )
    checked = job.processes.on_first(
        lambda: _check(job, config.cv_data, tested, for_training=False)
    )
    return StudentTest(job.student, tested, checked, job.codes, config, job.processes)


def _warn_of_shared(job: DistilJob, tested: PackedUtterances) -> None:
    places = {(each.key, each.wav) for each in tested}
    shared = [each.key for each in job.utterances if (each.key, each.wav) in places]
    if shared:
        logger.warning(
            "%d of %d utterances of --cv_data are in --train_data too, such as %s: their error "
            "rates say nothing of other audio",
            *(len(shared), len(places), shared[0]),
        )


def _check(
    job: DistilJob, paths: Sequence[Path] | None, utterances: PackedUtterances, for_training: bool
) -> Checked:
    """The utterances of a list that can be used."""
    config, names = job.config, names_of(paths)
    longest = config.max_seconds if for_training else None
    checked = check_utterances(
        utterances,
        job.student,
        job.codes,
        for_training=for_training,
        decode_timeout=config.decode_timeout,
        max_seconds=longest,
    )
    _refuse_no_audio(names, checked, longest)
    if config.bad_utterances == "error":
        unreadable = checked.unreadable if for_training else []  # a test has the rest of them
        refuse_unfit(names, unreadable + checked.unfit)
    if for_training and job.codes is not None:
        _refuse_no_codes(names, checked)
    if for_training and checked.unfit:
        in_part = sum(int(USED_IN_PART in row["reason"]) for row in checked.unfit)
        logger.warning(
            "%d utterances do not fit: %d are used in part, %d not at all",
            *(len(checked.unfit), in_part, len(checked.unfit) - in_part),
        )
    if not checked.labelled.any():
        raise DataError(f'{names}: no utterance that can be used has text ("txt")')
    return checked


def _refuse_no_audio(names: str, checked: Checked, longest: float | None) -> None:
    if not len(checked.rows) and checked.too_long:
        raise DataError(
            f"{names}: all of its audio is longer than --max_seconds {longest}, or cannot be used; "
            "raise it"
        )
    if not len(checked.rows) and checked.unreadable:
        first = checked.unreadable[0]["reason"]
        raise DataError(f"{names}: none of its audio can be read: {first}")


def _refuse_no_codes(names: str, checked: Checked) -> None:
    if not checked.coded.any():
        told = next((row["reason"] for row in checked.unfit if OTHER_AUDIO in row["reason"]), "")
        raise DataError(
            f"{names}: of no utterance that can be used the codes fit; give the codes of this "
            "audio, or --codebook_weight 0 to train on text alone"
            + (f". Such as: {told}" if told else "")
        )


def _describe(job: DistilJob, train: Checked) -> None:
    student, config = job.student, job.config
    logger.info(
        "student %s: %d layers, %.1f M parameters, %d tokens, a frame every %.4g ms",
        *(student.model.config.model_type, student.num_layers),
        sum(each.numel() for each in student.model.parameters()) / 1e6,
        *(len(student.tokenizer), 1000 * student.frame_shift),
    )
    hours, with_text = train.seconds.sum() / 3600, train.seconds[train.labelled].sum() / 3600
    with_codes = train.seconds[train.coded].sum() / 3600
    logger.info(
        "%d utterances, %.2f h, of them %.2f h with text, %.2f h with codes",
        *(len(train.rows), hours, with_text, with_codes),
    )
    batches = config.max_steps * config.accumulate_batches * job.processes.size
    most = batches * config.batch_seconds / 3600
    logger.info(
        "%d steps, %d batches of up to %g s: at most %.4g h, %.3g times this audio",
        *(config.max_steps, batches, config.batch_seconds, most, most / hours),
    )


def _sizes(student: Student, train: Checked) -> dict[str, Any]:
    """How large the student is, and what it trains on, for the summary."""
    return {
        "utterances": len(train.rows),
        "labelled": int(train.labelled.sum()),
        "with_codes": int(train.coded.sum()),
        "hours": float(train.seconds.sum()) / 3600,
        "parameters": sum(each.numel() for each in student.model.parameters()),
    }
