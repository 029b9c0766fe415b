"""What a WeNet train.yaml says of the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from k2distil.errors import ConfigError

# Of dataset_conf: what makes the audio, or the student's frames, other than those of the codes.
MISALIGNING = ("speed_perturb", "spec_trim")
KINDS: dict[str, tuple[tuple[type, ...], str]] = {  # of those that are no whole numbers
    "codebook_weight": ((int, float), "a number"),
    "codebook_head": ((str,), "a text"),
}


@dataclass(frozen=True, kw_only=True)
class CodebookOptions:
    """Keys of the yaml, at its top level."""

    num_codebooks: int
    codebook_size: int = 256
    codebook_weight: float = 5.0  # of the loss per code; 1 is too weak, 20 starves the CTC
    frames_ratio: int = 1  # teacher frames per student frame
    codebook_offset: int = 0  # teacher frames before the student's first
    codebook_head: str = "linear"
    student_layer: int = -1  # 1 to L; -1: what the encoder gives, final norm included


def read_options(configs: Mapping[str, Any]) -> CodebookOptions:
    """The options in WeNet's `configs`.

    Raises:
        ConfigError: num_codebooks is missing, a value is of another type, or the yaml perturbs
            speed or trims frames, which silently misaligns the codes.
    """
    found = {
        each.name: configs[each.name] for each in fields(CodebookOptions) if each.name in configs
    }
    if "num_codebooks" not in found:
        raise ConfigError(
            "num_codebooks: missing in the yaml; give that of the codes (its h5's root attribute)"
        )
    for name, value in found.items():
        kinds, words = KINDS.get(name, ((int,), "a whole number"))
        if type(value) not in kinds:
            raise ConfigError(f"{name}: {value!r} in the yaml; expected {words}")
    for name in MISALIGNING:
        if (configs.get("dataset_conf") or {}).get(name):
            raise ConfigError(
                f"dataset_conf.{name}: true, but the codes are of the audio as it is; set it to "
                "false (spec_aug and spec_sub may stay)"
            )
    return CodebookOptions(**found)
