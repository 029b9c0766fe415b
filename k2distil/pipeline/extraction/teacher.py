"""The teacher, and the utterances, that a config asks for."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch

from k2distil.batch import Utterance
from k2distil.config import (
    SaveCodebookConfig,
    SaveEmbeddingConfig,
    TeacherOptions,
    TrainQuantizerConfig,
)
from k2distil.config.wenet_yaml import DurationLimits, duration_limits
from k2distil.data import sample_utterances
from k2distil.device import choose_dtype
from k2distil.errors import ConfigError, counted
from k2distil.pipeline.extraction.provenance import teacher_provenance
from k2distil.pipeline.extraction.windows import EmbedOptions
from k2distil.pipeline.run.lists import names_of, num_workers, read_lists
from k2distil.teachers import Teacher, build_teacher

logger = logging.getLogger(__name__)

EmbedConfig = SaveEmbeddingConfig | SaveCodebookConfig | TrainQuantizerConfig


def open_teacher(config: TeacherOptions, device: torch.device) -> tuple[Teacher, dict[str, Any]]:
    """Load the teacher; with it, what decides its output, as plain values."""
    if config.encoder_type is None or config.checkpoint is None:
        raise ConfigError("--encoder_type and --checkpoint: missing; they name the teacher")
    dtype = choose_dtype(config.dtype, device)
    teacher = build_teacher(
        config.encoder_type,
        config.checkpoint,
        middle_layer=config.middle_layer,
        middle_layer_norm=config.middle_layer_norm,
        device=device,
        dtype=dtype,
        whisper_padding=config.whisper_padding,
        wenet_config=config.wenet_yaml,
        do_normalize=config.do_normalize,
    )
    provenance = teacher_provenance(teacher, config.middle_layer_norm, str(dtype).split(".")[-1])
    logger.info(
        "teacher %s: layer %d of %d, dimension %d, %g ms a frame, %s on %s, padding %s",
        *(teacher.name, teacher.layer, teacher.num_layers, teacher.dim, 1000 * teacher.frame_shift),
        *(provenance["dtype"], device, teacher.padding),
    )
    return teacher, provenance


def read_utterances(config: EmbedConfig) -> list[Utterance]:
    """The utterances asked for, in list order, without text."""
    found = read_lists(config.train_data, config, config.save_path, with_text=False)
    chosen = sample_utterances(found, config.num_audio, config.num_audio_from, config.seed)
    names = names_of(config.train_data)
    logger.info("%s: %s, %d taken", names, counted(len(found), "utterance"), len(chosen))
    if config.num_audio is not None and len(found) < config.num_audio:
        logger.info("%s: fewer than --num_audio %d", names, config.num_audio)
    return chosen


def limits_of(config: EmbedConfig) -> DurationLimits:
    """Which audio is dropped for its length; filter_conf counts only in a yaml the user gave."""
    limits = duration_limits(config.wenet_yaml)
    if config.long_audio == "chunk":  # asked for: filter_conf then drops nothing for its length
        return dataclasses.replace(limits, longest=float("inf"))
    return limits


def embed_options(config: EmbedConfig, teacher: Teacher) -> EmbedOptions:
    """How audio reaches the teacher."""
    if config.long_audio != "error" and teacher.max_samples is None:
        logger.warning(
            "--long_audio %s: nothing is too long for the teacher %s, so it is neither cut nor "
            "skipped; split long audio into segments",
            *(config.long_audio, teacher.name),
        )
    return EmbedOptions(
        config.batch_seconds,
        config.long_audio,
        limits_of(config),
        num_workers(config),
        config.channel,
        config.decode_timeout,
    )
