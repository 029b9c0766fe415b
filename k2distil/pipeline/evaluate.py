"""k2distil evaluate: a student -> the texts of a list, and error rates where it has text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from k2distil.atomic import read_json, write_json
from k2distil.batch import Utterance, in_words
from k2distil.config import EvaluateConfig
from k2distil.data import PackedUtterances
from k2distil.device import is_out_of_memory, keep_freed_memory, use_device
from k2distil.distil.model import DistilModel
from k2distil.distil.pretrained import load_student
from k2distil.distil.scoring import error_rates, worst
from k2distil.distil.student import Student
from k2distil.distil.vocabulary import normalize
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.run.lists import names_of, num_workers, read_lists
from k2distil.pipeline.run.summary import Summary, prepare_output
from k2distil.pipeline.student.check import check_utterances
from k2distil.pipeline.student.checked import Checked
from k2distil.pipeline.student.dataset import DistilDataset
from k2distil.pipeline.student.transcribe import Scored, batches_to_test, transcribe
from k2distil.workers import mending

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> Summary:
    """Transcribe a list, and compare with the text of those utterances that have any.

    Raises:
        ConfigError: none has text, and there is no --save_path for what the student hears.
        DataError: none can be used, or memory runs out.
    """
    output = config.save_path or config.student_checkpoint
    if config.save_path is not None:
        prepare_output(config.save_path, [*(config.train_data or ())])
        _check_replaceable(config.save_path)
    names = names_of(config.train_data)
    utterances = _of_use(read_lists(config.train_data, config, output), config)
    student = load_student(config.student_checkpoint)
    device = use_device(config.gpu)
    if device.type == "cpu":
        keep_freed_memory()
    checked = check_utterances(
        utterances, student, None, for_training=False, decode_timeout=config.decode_timeout
    )
    if not len(checked.rows):
        why = in_words((checked.unreadable + checked.unfit)[0])
        raise DataError(f"{names}: none of its audio can be used: {why}")
    scored = _transcribe(config, student, utterances.at(checked.rows), checked, device)
    left_out = checked.unreadable + checked.unfit + scored.failed
    for row in left_out:
        logger.warning("left out: %s", in_words(row))
    compared = [each for each in scored.transcripts if each.reference]
    num_heard = len(scored.transcripts)
    rates = error_rates(compared) if compared or not num_heard else {}
    failed = len(utterances) - num_heard
    found = [f"{name.upper()} {100 * rate:.2f} %" for name, rate in rates.items()]
    without = f" ({num_heard - len(compared)} without text)" if len(compared) < num_heard else ""
    in_short = ", ".join([*found, f"{num_heard} utterances{without}", f"{failed} failed"])
    shown = worst(compared, config.num_worst) if compared else ""
    report = f"{shown}\n\n{names}: {in_short}".strip()
    if config.save_path is not None:
        rows = [asdict(each) for each in scored.transcripts]
        try:
            write_json(
                config.save_path,
                {**rates, "failed": failed, "utterances": rows, "left_out": left_out},
            )
        except DataError:
            logger.error("%s", report)  # all that is left of the work
            raise
    return Summary(failed, rates, report)


def _of_use(listed: Sequence[Utterance], config: EvaluateConfig) -> PackedUtterances:
    """Those with text; to be written down, all, where no text is an empty one.

    Raises:
        ConfigError: there are none.
    """
    with_text = {row for row, each in enumerate(listed) if normalize(each.text or "")}
    if config.save_path is not None:
        return PackedUtterances(
            each if row in with_text else replace(each, text="") for row, each in enumerate(listed)
        )
    if not with_text:
        raise ConfigError(
            f'{names_of(config.train_data)}: no utterance has text ("txt") to compare with; give '
            "--save_path, a file for what the student hears"
        )
    if num_without := len(listed) - len(with_text):
        logger.warning(
            "%d of %d utterances have no text: left out; with --save_path they are transcribed",
            *(num_without, len(listed)),
        )
    return PackedUtterances(each for row, each in enumerate(listed) if row in with_text)


def _transcribe(
    config: EvaluateConfig,
    student: Student,
    tested: PackedUtterances,
    checked: Checked,
    device: torch.device,
) -> Scored:
    batches = batches_to_test(student, checked.seconds.tolist(), config.batch_seconds)
    student.model.to(device)
    try:
        with mending():
            return transcribe(
                DistilModel(student.model),
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


def _check_replaceable(path: Path) -> None:
    """A file of rates may be written again, nothing else.

    Raises:
        ConfigError: it is there and was not written here.
    """
    if path.exists() and not (read_json(path) or {}).keys() >= {"failed", "utterances"}:
        raise ConfigError(f"--save_path {path}: is there, and has no rates of evaluate; move it")
