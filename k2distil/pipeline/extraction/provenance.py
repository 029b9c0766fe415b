"""Where embeddings come from: compared between quantizer and codes, and stored with both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from k2distil.batch import Utterance
from k2distil.config import AudioOptions
from k2distil.errors import ConfigError
from k2distil.pipeline.run.digests import digest_of
from k2distil.teachers import Teacher

logger = logging.getLogger(__name__)

DIGITS = 12  # of a digest of 64, for people
SAME_OUTPUT = {  # and the flags that decide it; --force overrides
    "middle_layer": "--middle_layer",
    "middle_layer_norm": "--middle_layer_norm",
    "whisper_padding": "--whisper_padding (or the WeNet yaml)",
    "dtype": "--dtype",
}


def teacher_provenance(teacher: Teacher, middle_layer_norm: str, dtype: str) -> dict[str, Any]:
    """What decides the embedding of a waveform, as plain values."""
    return {
        "teacher": teacher.name,
        "teacher_digest": teacher.digest,
        "dim": teacher.dim,
        "num_layers": teacher.num_layers,
        "middle_layer": teacher.layer,
        "middle_layer_norm": "final" if teacher.layer == teacher.num_layers else middle_layer_norm,
        "whisper_padding": teacher.padding,
        "dtype": dtype,
        "frame_shift": teacher.frame_shift,
    }


def deciding(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Those that decide the content: not the teacher's path, since there is its digest."""
    return {name: value for name, value in provenance.items() if name != "teacher"}


def check_same_embedding(
    quantizer_path: object, trained_on: Mapping[str, Any], asked: Mapping[str, Any], force: bool
) -> None:
    """Refuse a quantizer that was trained on embeddings of another kind.

    Raises:
        ConfigError: naming every difference with both values, and the flag that mends it.
    """
    errors = []
    if trained_on.get("dim", asked["dim"]) != asked["dim"]:
        errors.append(
            f"{quantizer_path}: trained for dim {trained_on['dim']}, this teacher has "
            f"{asked['dim']}; train a quantizer for this teacher"
        )
    if "teacher_digest" in trained_on:
        theirs, own = trained_on["teacher_digest"], asked["teacher_digest"]
        if theirs != own:
            errors.append(
                f"{quantizer_path}: trained for {trained_on.get('teacher', 'a teacher')} (digest "
                f"{theirs[:DIGITS]}...), this teacher has {own[:DIGITS]}...; give that one as "
                "--checkpoint, or train a quantizer for this teacher; --force does not help"
            )
    else:
        logger.warning("%s does not say which teacher it is for; taken as given", quantizer_path)
    for name, flag in SAME_OUTPUT.items():
        if name not in trained_on or trained_on[name] == asked[name]:
            continue
        message = f"{quantizer_path}: trained on {name} {trained_on[name]}, asked {asked[name]}"
        if force:
            logger.warning("%s; going on because of --force", message)
        else:
            errors.append(f"{message}; use {flag} as then, or --force")
    if errors:
        raise ConfigError("\n".join(errors))


def request(
    config: AudioOptions, utterances: Sequence[Utterance], limits: object
) -> dict[str, Any]:
    """What decides the embeddings beside the teacher: which audio, and how it is read."""
    which = {"list": digest_of(utterances), "utterances": len(utterances)}
    return which | reading(config, limits)


def reading(config: AudioOptions, limits: object) -> dict[str, Any]:
    """How audio is read, and which is left out."""
    return {
        "channel": config.channel,
        "long_audio": config.long_audio,
        "filter_conf": str(limits),
    }
