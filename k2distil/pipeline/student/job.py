"""What a student's training needs, opened and compared before any of it is used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from k2distil.batch import Utterance
from k2distil.config import TrainDistilConfig
from k2distil.data import PackedUtterances
from k2distil.distil.pretrained import has_tokenizer, load_student
from k2distil.distil.student import Student, check_layer, make_student, switch_off_layerdrop
from k2distil.distil.student_config import whole_tree
from k2distil.distil.vocabulary import (
    characters_of,
    make_tokenizer,
    normalize,
    odd_tokens,
    read_tokenizer,
)
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.run.lists import names_of, read_lists
from k2distil.pipeline.run.processes import Processes
from k2distil.pipeline.run.unused_flags import warn_of_unused
from k2distil.pipeline.student.arguments import training_arguments
from k2distil.pipeline.student.codes import Codes, check_coverage, open_codes, refuse_other_list

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

MASKS = ("num_time_masks", "time_mask_frames", "num_freq_masks", "freq_mask_bins")  # SpecAugment's


@dataclass(frozen=True)
class DistilJob:
    """layer: of the student, which learns the codes; codes: None, text alone."""

    config: TrainDistilConfig
    utterances: PackedUtterances  # of --train_data
    student: Student
    layer: int
    codes: Codes | None
    args: TrainingArguments
    processes: Processes


def open_job(config: TrainDistilConfig) -> DistilJob:
    """Open what the options name; a process that torchrun started joins the others here.

    Raises:
        ConfigError, DataError, CheckpointError: see docs/errors.md.
    """
    check_options(config)
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
        names, may_miss = names_of(config.train_data), config.missing_codes == "ignore"
        if may_miss or config.max_seconds is None:
            check_coverage(names, utterances, codes, may_miss)
        else:  # lengths have to be known first
            refuse_other_list(names, utterances, codes)
    return DistilJob(config, utterances, student, layer, codes, args, processes)


def check_options(config: TrainDistilConfig) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigError: some do; all are named.
    """
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
            tokens = characters_of(texts)
            tokenizer = make_tokenizer(tokens)
            if odd := odd_tokens(tokens):
                logger.warning(
                    "the vocabulary, made of the texts as they are, has %s: each is a token of its "
                    "own; normalise the texts, unless the student shall write them so",
                    " and ".join(odd),
                )
        if checkpoint is None:
            student = make_student(whole_tree(config.student), tokenizer, config.seed)
        else:
            student = load_student(checkpoint, tokenizer, config.seed)
    if switch_off_layerdrop(student):
        logger.info("layerdrop is switched off: every layer is needed in every step")
    return student
