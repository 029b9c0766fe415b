"""From `--encoder_type` and `--checkpoint` to a teacher, whatever format the checkpoint has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from k2distil.errors import CheckpointError, ConfigError
from k2distil.teachers.base import MIDDLE_LAYER_NORMS, Choice, Teacher
from k2distil.teachers.fairseq_hubert import read_fairseq_hubert
from k2distil.teachers.hf_hubert import read_hf_hubert
from k2distil.teachers.hf_source import HfSource
from k2distil.teachers.hf_whisper import read_hf_whisper
from k2distil.teachers.hubert import hubert_teacher
from k2distil.teachers.openai_whisper import read_openai_whisper
from k2distil.teachers.pickle_file import load_pickle, unreadable
from k2distil.teachers.tensors import refuse_lora, require_names, unwrapped
from k2distil.teachers.wenet_whisper import read_wenet_config, read_wenet_whisper, wenet_padding
from k2distil.teachers.whisper_teacher import PADDINGS, whisper_teacher

OF_WAVEFORMS = ("hubert", "wav2vec2", "wavlm")
ENCODER_TYPES = ("wenet-whisper", "huggingface-whisper", *OF_WAVEFORMS)
HUB_ID = r"[\w.-]+(/[\w.-]+)?"
FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint, and the encoder types it may be given as."""

    title: str
    encoder_types: tuple[str, ...]


OPENAI = Format("an openai-whisper checkpoint", ("wenet-whisper", "huggingface-whisper"))
WENET = Format("a WeNet checkpoint", ("wenet-whisper",))
FAIRSEQ = Format("a fairseq HuBERT checkpoint", ("hubert",))
HF_WHISPER = Format("a Hugging Face Whisper", ("huggingface-whisper",))
HF_HUBERT = Format("a Hugging Face HuBERT", ("hubert",))
HF_WAV2VEC2 = Format("a Hugging Face wav2vec2", ("wav2vec2",))
HF_WAVLM = Format("a Hugging Face WavLM", ("wavlm",))
HF_KINDS = {  # by the config's model_type
    "whisper": HF_WHISPER,
    "hubert": HF_HUBERT,
    "wav2vec2": HF_WAV2VEC2,
    "wavlm": HF_WAVLM,
}


def build_teacher(
    encoder_type: str,
    checkpoint: str,
    *,
    middle_layer: int = -1,
    middle_layer_norm: str = "none",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    whisper_padding: str | None = None,
    wenet_config: Mapping[str, Any] | None = None,
    do_normalize: bool | None = None,
) -> Teacher:
    """Read a checkpoint and put its encoder on a device.

    Args:
        encoder_type: one of ENCODER_TYPES.
        checkpoint: a file, a Hugging Face folder, or a hub id.
        middle_layer: -1 or L, the number of blocks: the encoder's final output, final norm
            included. 1..L-1: the raw output of that block; later blocks are neither run nor kept.
        middle_layer_norm: "final" applies the final norm after a middle block too.
        device: where `embed` computes.
        dtype: what it computes in; a checkpoint of another dtype is converted.
        whisper_padding: "none" or "30s" (what openai-whisper and transformers do); None: of
            wenet-whisper what its yaml says, else "none".
        wenet_config: the parsed train.yaml; None: train.yaml beside the checkpoint.
        do_normalize: HuBERT, wav2vec2 and WavLM only, where the checkpoint does not say it.

    Raises:
        CheckpointError: the checkpoint cannot be used, or not as this encoder type.
        ConfigError: a setting is wrong, or contradicts the checkpoint.
    """
    _require_choice("--encoder_type", encoder_type, ENCODER_TYPES)
    _require_choice("--middle_layer_norm", middle_layer_norm, MIDDLE_LAYER_NORMS)
    if whisper_padding is not None:
        _require_choice("--whisper_padding", whisper_padding, tuple(PADDINGS))
    if encoder_type in OF_WAVEFORMS and whisper_padding not in (None, "none"):
        raise ConfigError(
            f"--whisper_padding: {encoder_type} takes audio of any length; leave it out"
        )
    if encoder_type not in OF_WAVEFORMS and do_normalize is not None:
        raise ConfigError(f"--do_normalize: {encoder_type} has no such setting; leave it out")

    kind, content = _open(checkpoint, encoder_type)
    if encoder_type not in kind.encoder_types:
        raise CheckpointError(
            f"{checkpoint}: this is {kind.title}, not for --encoder_type {encoder_type}; "
            f"use --encoder_type {' or '.join(kind.encoder_types)}"
        )
    choice = Choice(middle_layer, middle_layer_norm, torch.device(device), dtype)
    if kind in (HF_HUBERT, HF_WAV2VEC2, HF_WAVLM, FAIRSEQ):
        if kind is FAIRSEQ:
            hubert = read_fairseq_hubert(content, checkpoint, do_normalize)
        else:
            hubert = read_hf_hubert(content, do_normalize)
        return hubert_teacher(checkpoint, hubert, choice)
    if kind is WENET:
        wenet_config = wenet_config or read_wenet_config(Path(checkpoint))
        whisper = read_wenet_whisper(content, wenet_config, checkpoint)
    elif kind is OPENAI:
        whisper = read_openai_whisper(content, checkpoint)
    else:
        whisper = read_hf_whisper(content)
    padding = PADDINGS[whisper_padding or "none"]
    if whisper_padding is None and encoder_type == "wenet-whisper" and wenet_config:
        padding = wenet_padding(wenet_config)
    return whisper_teacher(checkpoint, whisper, padding, choice)


def _open(checkpoint: str, encoder_type: str) -> tuple[Format, Any]:
    """The format, and a file's content or an HfSource."""
    path = Path(checkpoint)
    try:
        is_file = path.is_file()
    except PermissionError as error:
        raise unreadable(path, error) from None
    if is_file and path.suffix != ".safetensors":
        content = unwrapped(require_names(load_pickle(path), checkpoint))
        return _format_of(content, checkpoint), content
    if is_file:
        raise CheckpointError(f"{checkpoint}: part of a Hugging Face model; give the folder")
    may_be_hub_id = encoder_type != "wenet-whisper" and re.fullmatch(HUB_ID, checkpoint)
    if not path.is_dir() and (not may_be_hub_id or path.suffix in FILE_SUFFIXES):
        is_id = encoder_type == "wenet-whisper" and re.fullmatch(HUB_ID, checkpoint)
        hint = ", or for a hub id --encoder_type huggingface-whisper" if is_id else ""
        raise CheckpointError(f"{checkpoint}: no such file or folder; check --checkpoint{hint}")
    if path.is_dir() and not (path / "config.json").exists() and (path / "final.pt").is_file():
        raise CheckpointError(f"{checkpoint}: a folder; give the file: {path / 'final.pt'}")
    source = HfSource(checkpoint)
    model_type = str(source.config.get("model_type"))
    if model_type not in HF_KINDS:
        raise CheckpointError(
            f"{checkpoint}/config.json: model_type {model_type}; a teacher is a Whisper "
            "(--encoder_type huggingface-whisper), a HuBERT (hubert), wav2vec2 (wav2vec2) or WavLM "
            "(wavlm)"
        )
    return HF_KINDS[model_type], source


def _format_of(content: Mapping[str, Any], checkpoint: str) -> Format:
    if "dims" in content:
        return OPENAI
    model = content.get("model")
    if isinstance(model, Mapping) and any(
        "feature_extractor.conv_layers." in name for name in require_names(model, checkpoint)
    ):
        if any(name.endswith(".grep_a") for name in model):  # a gate of WavLM's attention
            raise CheckpointError(
                f"{checkpoint}: a WavLM as Microsoft gives it; --encoder_type wavlm takes the "
                "Hugging Face one, a folder or a hub id such as microsoft/wavlm-large"
            )
        if any(name.endswith("quantizer.vars") for name in model):
            raise CheckpointError(
                f"{checkpoint}: a wav2vec2 as fairseq gives it; --encoder_type wav2vec2 takes the "
                "Hugging Face one, a folder or a hub id such as facebook/wav2vec2-base"
            )
        return FAIRSEQ
    refuse_lora(content, checkpoint)
    if _is_wenet(content):
        return WENET
    for key, inner in content.items():
        if isinstance(inner, Mapping) and _is_wenet(inner):
            raise CheckpointError(
                f"{checkpoint}: a WeNet model, but under {key!r}; save it alone: "
                f"torch.save(torch.load(...)[{key!r}], ...)"
            )
    raise CheckpointError(
        f"{checkpoint}: not a checkpoint of openai-whisper, WeNet or fairseq's HuBERT "
        f"(it holds {', '.join(map(str, list(content)[:3])) or 'nothing'}); "
        "of a Hugging Face model give the folder"
    )


def _is_wenet(names: Mapping[str, Any]) -> bool:
    return any(name.startswith(("encoder.encoders.", "encoder.embed.")) for name in names)


def _require_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{flag} {value}: expected one of {', '.join(choices)}")
