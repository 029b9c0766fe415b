"""k2distil evaluate: a student -> word and character error rates on a list."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from k2distil.atomic import read_json, write_json
from k2distil.config import EvaluateConfig
from k2distil.data import PackedUtterances
from k2distil.device import is_out_of_memory, use_device
from k2distil.distil.model import DistilModel
from k2distil.distil.pretrained import load_student
from k2distil.distil.scoring import error_rates, worst
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.run.lists import names_of, num_workers, read_lists
from k2distil.pipeline.run.summary import Summary, prepare_output
from k2distil.pipeline.student.check import check_utterances
from k2distil.pipeline.student.dataset import DistilDataset
from k2distil.pipeline.student.transcribe import batches_to_test, transcribe
from k2distil.workers import mending

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> Summary:
    """Transcribe a list and compare with its text; utterances without text are left out."""
    output = config.save_path or config.student_checkpoint
    if config.save_path is not None:
        prepare_output(config.save_path, [*(config.train_data or ())])
        _check_replaceable(config.save_path)
    utterances = read_lists(config.train_data, config, output)
    names = names_of(config.train_data)
    labelled = PackedUtterances(each for each in utterances if (each.text or "").strip())
    if not labelled:
        raise DataError(f'{names}: no utterance has text ("txt") to compare with')
    if num_without := len(utterances) - len(labelled):
        logger.warning("%d of %d utterances have no text: left out", num_without, len(utterances))
    student = load_student(config.student_checkpoint)
    device = use_device(config.gpu)
    checked = check_utterances(labelled, student, None, False, config.decode_timeout)
    if not len(checked.rows):
        reason = (checked.unreadable + checked.unfit)[0]["reason"]
        raise DataError(f"{names}: none of its audio can be used: {reason}")
    tested = labelled.at(checked.rows)
    batches = batches_to_test(student, checked.seconds.tolist(), config.batch_seconds)
    student.model.to(device)
    try:
        with mending():
            scored = transcribe(
                DistilModel(student.model, None, -1, 0.0, None),
                DistilDataset(
                    tested, student, None, config.channel, config.decode_timeout, for_training=False
                ),
                batches,
                num_workers(config),
                device,
            )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        longest = tested[int(checked.seconds.argmax())]
        raise DataError(
            "out of memory: give a smaller --batch_seconds, or leave the longest audio out, such "
            f"as {longest.key} of {checked.seconds.max():.0f} s"
        ) from error
    rates = error_rates(scored.transcripts)
    failed = len(labelled) - len(scored.transcripts)
    for row in checked.unreadable + checked.unfit + scored.failed:
        logger.warning("left out: %s", row["reason"])
    report = (
        f"{worst(scored.transcripts, config.num_worst)}\n\n"
        f"{names}: WER {100 * rates['wer']:.2f} %, CER {100 * rates['cer']:.2f} %, "
        f"{len(scored.transcripts)} utterances, {failed} failed"
    ).strip()
    if config.save_path is not None:
        rows = [dataclasses.asdict(each) for each in scored.transcripts]
        try:
            write_json(config.save_path, {**rates, "failed": failed, "utterances": rows})
        except DataError:
            logger.error("%s", report)  # all that is left of the work
            raise
    return Summary(failed, rates, report)


def _check_replaceable(path: Path) -> None:
    """A file of rates may be written again, nothing else.

    Raises:
        ConfigError: it is there and was not written here.
    """
    if path.exists() and not (read_json(path) or {}).keys() >= {"wer", "cer", "utterances"}:
        raise ConfigError(f"--save_path {path}: is there, and has no rates of evaluate; move it")
