"""Whisper as WeNet fine-tunes and saves it: a flat state dict, and train.yaml for the rest.

github.com/wenet-e2e/wenet, wenet/transformer/{encoder,subsampling,embedding}.py. Training-only
settings (augmentation, dropout, gradient_checkpointing, dtype, dynamic chunks) are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from k2distil.batch import SAMPLE_RATE
from k2distil.errors import CheckpointError, ConfigError
from k2distil.teachers.log_mel import HOP, N_FFT
from k2distil.teachers.tensors import refuse_lora, select
from k2distil.teachers.whisper_encoder import CONV1D2, CONV2D, WhisperDims
from k2distil.teachers.whisper_teacher import MAX_SAMPLES, Padding, WhisperWeights
from k2distil.yaml_file import read_yaml

NAMES = {  # ours -> WeNet's
    r"^conv1": "embed.conv.0",
    r"^conv2": "embed.conv.2",
    r"^out": "embed.out.0",
    r"^positional_embedding": "embed.pos_enc.pe",
    r"^blocks": "encoders",
    r"\.attn_ln": ".norm1",
    r"\.attn\.query": ".self_attn.linear_q",
    r"\.attn\.key": ".self_attn.linear_k",
    r"\.attn\.value": ".self_attn.linear_v",
    r"\.attn\.out": ".self_attn.linear_out",
    r"\.mlp_ln": ".norm2",
    r"\.mlp\.0": ".feed_forward.w_1",
    r"\.mlp\.2": ".feed_forward.w_2",
    r"^ln_post": "after_norm",
}
LOG_MEL = "dataset_conf.log_mel_spectrogram_conf"
SETTINGS: dict[str, tuple[Any, Any]] = {  # yaml key -> what is needed, WeNet's own default
    "encoder": ("transformer", "conformer"),
    "encoder_conf.activation_type": ("gelu", "relu"),
    "encoder_conf.pos_enc_layer_type": ("abs_pos_whisper", "abs_pos"),
    "encoder_conf.normalize_before": (True, True),
    "encoder_conf.final_norm": (True, True),
    "encoder_conf.layer_norm_type": ("layer_norm", "layer_norm"),
    "encoder_conf.norm_eps": (1e-5, 1e-5),
    "encoder_conf.selfattention_layer_type": ("selfattn", "selfattn"),
    "encoder_conf.mlp_type": ("position_wise_feed_forward", "position_wise_feed_forward"),
    "dataset_conf.feats_type": ("log_mel_spectrogram", "fbank"),
    "dataset_conf.resample_conf.resample_rate": (SAMPLE_RATE, SAMPLE_RATE),
    f"{LOG_MEL}.n_fft": (N_FFT, N_FFT),
    f"{LOG_MEL}.hop_length": (HOP, HOP),
    f"{LOG_MEL}.max_duration": (MAX_SAMPLES // SAMPLE_RATE, MAX_SAMPLES // SAMPLE_RATE),
}


def read_wenet_config(checkpoint: Path) -> dict[str, Any]:
    """The train.yaml beside a checkpoint.

    Raises:
        ConfigError: it is missing, or not a yaml mapping.
    """
    path = checkpoint.parent / "train.yaml"
    if not path.exists():
        raise ConfigError(
            f"{path}: not found; WeNet writes it when it trains, and it says what "
            f"{checkpoint.name} does not (attention heads); put it there or name it with --config"
        )
    return read_yaml(path)


def wenet_padding(config: Mapping[str, Any]) -> Padding:
    """What log_mel_spectrogram_conf asks for; none by default.

    Raises:
        ConfigError: it asks for a padding that is no number of samples.
    """
    if _get(config, f"{LOG_MEL}.pad_or_trim", False):
        return Padding(total=MAX_SAMPLES)
    extra = _get(config, f"{LOG_MEL}.padding", 0)
    if type(extra) is not int or extra < 0:
        raise ConfigError(f"train.yaml: {LOG_MEL}.padding is {extra}; expected samples, from 0 on")
    return Padding(extra=extra)


def read_wenet_whisper(
    content: Mapping[str, Tensor], config: Mapping[str, Any], checkpoint: str
) -> WhisperWeights:
    """The encoder of a loaded `.pt`; decoder and CTC head are left out.

    Raises:
        CheckpointError: a tensor that tells the dimensions is missing.
        ConfigError: the yaml lacks the head count, or contradicts the weights.
    """
    refuse_lora(content, checkpoint)
    found = select(content, r"encoder\.")
    positions = found.get("embed.pos_enc.pe")
    if positions is not None and positions.dim() == 3:  # (1, num_positions, dim)
        found["embed.pos_enc.pe"] = positions[0]
    dims = _dims(found, config, checkpoint)
    _require_settings(dims, config, checkpoint)
    return WhisperWeights(dims, found, NAMES)


def _dims(found: dict[str, Tensor], config: Mapping[str, Any], checkpoint: str) -> WhisperDims:
    """All but the head count and conv2d's mel bins are read from the shapes."""
    names = ("embed.conv.0.weight", "embed.pos_enc.pe", "encoders.0.feed_forward.w_1.weight")
    missing = [f"encoder.{name}" for name in names if name not in found]
    if missing:
        if (kind := config.get("encoder", "transformer")) != "transformer":
            raise CheckpointError(
                f"{checkpoint}: a {kind}, by its train.yaml; of WeNet's models Whisper's encoders "
                "alone serve as teachers"
            )
        raise CheckpointError(
            f"{checkpoint}: no {', '.join(missing)}; not a WeNet Whisper encoder, or an incomplete "
            "checkpoint"
        )
    conv, positions, ffn = (found[name] for name in names)
    num_heads = _get(config, "encoder_conf.attention_heads", None)
    if not isinstance(num_heads, int) or num_heads < 1 or conv.shape[0] % num_heads:
        raise ConfigError(
            f"train.yaml of {checkpoint}: encoder_conf.attention_heads is {num_heads}; the weights "
            f"need a divisor of their dimension {conv.shape[0]}"
        )
    num_mels = conv.shape[1]
    if conv.dim() == 4:
        num_mels = _get(config, f"{LOG_MEL}.num_mel_bins", config.get("input_dim", 80))
    return WhisperDims(
        num_mels=num_mels,
        dim=conv.shape[0],
        num_heads=num_heads,
        num_layers=1 + max(int(name.split(".")[1]) for name in found if name[:9] == "encoders."),
        ffn_dim=ffn.shape[0],
        num_positions=positions.shape[0],
        subsampling=CONV2D if conv.dim() == 4 else CONV1D2,
    )


def _require_settings(dims: WhisperDims, config: Mapping[str, Any], checkpoint: str) -> None:
    from_weights = {
        "encoder_conf.input_layer": dims.subsampling,
        "encoder_conf.output_size": dims.dim,
        "encoder_conf.num_blocks": dims.num_layers,
        "encoder_conf.linear_units": dims.ffn_dim,
        f"{LOG_MEL}.num_mel_bins": dims.num_mels,
        "input_dim": dims.num_mels,
    }
    wrong = [
        f"{key} is {value}, the weights have {needed}"
        for key, needed in from_weights.items()
        if (value := _get(config, key, needed)) != needed
    ]
    wrong += [
        f"{key} is {value}, only {needed} is supported"
        for key, (needed, default) in SETTINGS.items()
        if (value := _get(config, key, default)) != needed
    ]
    chunk = _get(config, "encoder_conf.static_chunk_size", -1)
    if type(chunk) is not int or chunk > 0:
        wrong.append(
            f"encoder_conf.static_chunk_size is {chunk}, only full context is supported (-1)"
        )
    if wrong:
        raise ConfigError(
            f"train.yaml of {checkpoint}: {'; '.join(wrong)}; give the yaml this checkpoint "
            "was trained with"
        )


def _get(config: Mapping[str, Any], dotted: str, default: Any) -> Any:
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or value.get(key) is None:
            return default
        value = value[key]
    return value
