"""openai-whisper's `.pt`: {"dims": ..., "model_state_dict": ...}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k2distil.errors import CheckpointError
from k2distil.teachers.tensors import refuse_lora, require_names, select, unwrapped
from k2distil.teachers.whisper_encoder import WhisperDims
from k2distil.teachers.whisper_teacher import WhisperWeights

DIMS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")


def read_openai_whisper(content: Mapping[str, Any], checkpoint: str) -> WhisperWeights:
    """The encoder of a loaded `.pt`; the decoder may be there or not.

    Raises:
        CheckpointError: a dimension is missing, or there are no tensors.
    """
    tensors = content.get("model_state_dict")
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{checkpoint}: `dims` without `model_state_dict`; download it again")
    tensors = unwrapped(require_names(tensors, checkpoint))
    refuse_lora(tensors, checkpoint)
    try:
        given = {name: int(content["dims"][name]) for name in DIMS}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint}: `dims` lacks a usable {error}; download it again"
        ) from None
    dims = WhisperDims(
        num_mels=given["n_mels"],
        dim=given["n_audio_state"],
        num_heads=given["n_audio_head"],
        num_layers=given["n_audio_layer"],
        ffn_dim=4 * given["n_audio_state"],
        num_positions=given["n_audio_ctx"],
    )
    return WhisperWeights(dims, select(tensors, r"encoder\."), {})
