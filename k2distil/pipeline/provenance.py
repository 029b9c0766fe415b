"""Where embeddings come from: compared between quantizer and codes, and stored with both."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from k2distil.batch import Utterance
from k2distil.config import AudioOptions
from k2distil.errors import ConfigError
from k2distil.storage import UtteranceReader
from k2distil.teachers import Teacher

logger = logging.getLogger(__name__)

ENTRIES_MODULUS = 2**128  # of digests that add up
SAME_TEACHER = ("dim", "teacher_digest")  # other ones never fit
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


def check_same_embedding(
    quantizer_path: object, trained_on: Mapping[str, Any], asked: Mapping[str, Any], force: bool
) -> None:
    """Refuse a quantizer that was trained on embeddings of another kind.

    Raises:
        ConfigError: naming every difference with both values, and the flag that mends it.
    """
    errors = [
        f"{quantizer_path}: trained for {name} {trained_on[name]}, this teacher has "
        f"{asked[name]}; train a quantizer for this teacher"
        for name in SAME_TEACHER
        if name in trained_on and trained_on[name] != asked[name]
    ]
    if "teacher_digest" not in trained_on:
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


def digest_of(utterances: Sequence[Utterance], with_text: bool = False) -> str:
    """Of keys, audio and segments in their order, and of the text where it counts."""
    digest = hashlib.sha256()
    for each in utterances:
        fields = (each.key, _source(each), each.start, each.end, each.tar_offset)
        digest.update(repr(fields).encode())
        if each.channel is not None:
            digest.update(repr(each.channel).encode())
        if with_text:
            digest.update(repr(each.text).encode())
    return digest.hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of its bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of_path(path: Path) -> str:
    """sha256 (hex) of a file; of a folder that of its files."""
    if not path.is_dir():
        return digest_of_file(path)
    digest = hashlib.sha256()
    for each in sorted(path.iterdir()):
        if each.is_file():
            digest.update(f"{each.name} {digest_of_file(each)}\n".encode())
    return digest.hexdigest()


def content_of(file: UtteranceReader) -> str:
    """What tells two versions of a file apart: its own digest; of those of others size and time."""
    status = file.path.stat()
    stamp = f"{status.st_size} bytes, changed at {status.st_mtime_ns}"
    return str(file.meta.get("content_digest", stamp))


def digest_of_entries(utterances: Iterable[Utterance]) -> int:
    """Of keys, audio and segments in any order; those of two sets add up to that of both.

    The place in a tar does not count: a tar that is made anew for one of its members moves others.
    """
    total = 0
    for each in utterances:
        fields = (each.key, _source(each), each.start, each.end, each.channel)
        total += int.from_bytes(hashlib.sha256(repr(fields).encode()).digest()[:16], "big")
    return total % ENTRIES_MODULUS


def _source(utterance: Utterance) -> str:
    """The audio file, or the tar or the URL of the tar it lies in, or a command."""
    if utterance.is_command:
        return utterance.wav
    return utterance.tar_url or os.path.abspath(utterance.wav)
