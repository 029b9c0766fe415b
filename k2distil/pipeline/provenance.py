"""Where embeddings come from: compared between quantizer and codes, and stored with both."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from k2distil.batch import Utterance
from k2distil.errors import ConfigError
from k2distil.teachers import Teacher

logger = logging.getLogger(__name__)

SAME_TEACHER = ("dim", "teacher_digest")  # other ones never fit
SAME_OUTPUT = ("middle_layer", "middle_layer_norm", "whisper_padding", "dtype")  # --force overrides
REMEDY = {
    "middle_layer": "--middle_layer",
    "middle_layer_norm": "--middle_layer_norm",
    "whisper_padding": "--whisper_padding",
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


def check_same_embedding(
    quantizer_path: object, trained_on: Mapping[str, Any], asked: Mapping[str, Any], force: bool
) -> None:
    """Refuse a quantizer that was trained on embeddings of another kind.

    Raises:
        ConfigError: naming every difference with both values, and the flag that mends it.
    """
    if not trained_on.get("teacher_digest"):
        logger.warning("%s does not say which teacher it is for; taken as given", quantizer_path)
        return
    errors = [
        f"{quantizer_path}: trained for {name} {trained_on.get(name)}, this teacher has "
        f"{asked[name]}; train a quantizer for this teacher"
        for name in SAME_TEACHER
        if trained_on.get(name) != asked[name]
    ]
    differences = [name for name in SAME_OUTPUT if trained_on.get(name) != asked[name]]
    for name in differences:
        message = f"{quantizer_path}: trained on {name} {trained_on.get(name)}, asked {asked[name]}"
        if force:
            logger.warning("%s; going on because of --force", message)
        else:
            errors.append(f"{message}; use {REMEDY[name]} {trained_on.get(name)}, or --force")
    if errors:
        raise ConfigError("\n".join(errors))


def list_digest(utterances: Sequence[Utterance]) -> str:
    """Digest of what is to be done: keys, files and segments, in order."""
    digest = hashlib.sha256()
    for each in utterances:
        digest.update(repr((each.key, each.wav, each.start, each.end, each.tar_offset)).encode())
    return digest.hexdigest()[:16]
