"""Whisper as transformers saves it. We read the tensors; transformers' encoder cannot mask."""

from __future__ import annotations

from k2distil.batch import SAMPLE_RATE
from k2distil.errors import CheckpointError
from k2distil.teachers.hf_source import HfSource, read_config
from k2distil.teachers.log_mel import HOP, N_FFT
from k2distil.teachers.tensors import refuse_lora, select
from k2distil.teachers.whisper_encoder import WhisperDims
from k2distil.teachers.whisper_teacher import WhisperWeights
from k2distil.torchaudio_guard import hide_broken_torchaudio

PREFIX = r"(model\.)?encoder\."
NAMES = {  # ours -> transformers'
    r"^blocks": "layers",
    r"\.attn_ln": ".self_attn_layer_norm",
    r"\.attn\.query": ".self_attn.q_proj",
    r"\.attn\.key": ".self_attn.k_proj",
    r"\.attn\.value": ".self_attn.v_proj",
    r"\.attn\.out": ".self_attn.out_proj",
    r"\.mlp_ln": ".final_layer_norm",
    r"\.mlp\.0": ".fc1",
    r"\.mlp\.2": ".fc2",
    r"^ln_post": "layer_norm",
    r"^positional_embedding": "embed_positions.weight",
}


def read_hf_whisper(source: HfSource) -> WhisperWeights:
    """The encoder of a Hugging Face Whisper; decoder and heads are left out.

    Raises:
        CheckpointError: the weights cannot be read, or config.json is not Whisper's.
    """
    hide_broken_torchaudio()
    from transformers import WhisperConfig

    config = read_config(WhisperConfig, source.config, source.checkpoint)
    if config.activation_function != "gelu":
        raise CheckpointError(
            f"{source.checkpoint}/config.json: activation_function {config.activation_function}; "
            "only gelu, Whisper's own, is supported"
        )
    heard = {
        "sampling_rate": SAMPLE_RATE,
        "n_fft": N_FFT,
        "hop_length": HOP,
        "feature_size": config.num_mel_bins,
    }
    extractor = source.feature_extractor()
    for name, value in heard.items():
        if (found := extractor.get(name, value)) != value:
            raise CheckpointError(
                f"{source.checkpoint}: its preprocessor_config.json has {name} {found}, Whisper "
                f"has {value}; correct it if it is wrong, else this model cannot be a teacher"
            )
    tensors = source.tensors()
    refuse_lora(tensors, source.checkpoint)
    dims = WhisperDims(
        num_mels=config.num_mel_bins,
        dim=config.d_model,
        num_heads=config.encoder_attention_heads,
        num_layers=config.encoder_layers,
        ffn_dim=config.encoder_ffn_dim,
        num_positions=config.max_source_positions,
    )
    return WhisperWeights(dims, select(tensors, PREFIX), NAMES)
