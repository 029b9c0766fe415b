"""HuBERT (Hsu et al. 2021, arXiv 2106.07447) as a teacher, run by transformers' modules.

And wav2vec2 (Baevski et al. 2020, arXiv 2006.11477), which is the same encoder, and WavLM
(Chen et al. 2022, arXiv 2110.13900), which has another attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence

from k2distil.batch import SAMPLE_RATE
from k2distil.errors import CheckpointError, ConfigError
from k2distil.teachers.base import Choice, resolve_layer
from k2distil.teachers.encoder_teacher import EncoderTeacher
from k2distil.teachers.fourier_convolution import FourierConvolution
from k2distil.teachers.hf_source import read_config
from k2distil.teachers.hubert_convolutions import HOP, WINDOW, FeatureExtractor
from k2distil.teachers.lengths import all_equal, valid_positions
from k2distil.teachers.precision import FiniteEncoder
from k2distil.teachers.tensors import digest, fill, load_float32, without_memory
from k2distil.teachers.wavlm_attention import WavLMAttention
from k2distil.torchaudio_guard import hide_broken_torchaudio

MODELS = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}  # by a config's model_type
SETTINGS = (  # of a config: that no tensor shows, for the digest
    *("do_stable_layer_norm", "feat_extract_activation", "hidden_act", "layer_norm_eps"),
)
CONV_KERNEL = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDE = (5, 2, 2, 2, 2, 2, 2)
WEIGHT_NORM = {  # transformers before torch 2.0's parametrizations
    r"\.weight_g$": ".parametrizations.weight.original0",
    r"\.weight_v$": ".parametrizations.weight.original1",
}


@dataclass(frozen=True)
class HubertWeights:
    """What a format's reader gives: fields of transformers' config, and the tensors.

    config: of HuBERT, unless its model_type says otherwise.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]  # under the checkpoint's names
    names: Mapping[str, str]  # rules from transformers' names to the checkpoint's
    do_normalize: bool  # audio to zero mean and unit variance, per utterance


class ZerosStay(nn.Module):
    """A batch norm that leaves frames of zeros alone: what the encoder zeroed is padding.

    The convolution after it reads the padding, and after an utterance alone it finds zeros.
    """

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, dim, T) -> the same shape."""
        return self.norm(features).masked_fill((features == 0).all(1, keepdim=True), 0.0)


class HubertEncoder(nn.Module):
    """Samples -> frames. Lengths are in samples."""

    def __init__(self, config: Any):
        super().__init__()
        model = _class_of(config.model_type, "Model")(config)
        self.feature_extractor: Any = model.feature_extractor
        self.feature_projection = model.feature_projection
        self.encoder = model.encoder

    def speed_up(self, for_cpu: bool) -> None:
        """Compute what transformers does our way; called once the weights are there."""
        self.feature_extractor = FeatureExtractor(self.feature_extractor.conv_layers, for_cpu)
        for layer in self.encoder.layers:
            if hasattr(layer.attention, "gru_rel_pos_linear"):
                layer.attention = WavLMAttention(layer.attention)
        position = self.encoder.pos_conv_embed
        if parametrize.is_parametrized(position.conv):  # multiply it out once, not per batch
            parametrize.remove_parametrizations(position.conv, "weight")
        if getattr(position, "batch_norm", None) is not None:  # conv_pos_batch_norm
            position.batch_norm = ZerosStay(position.batch_norm)
        if for_cpu:
            position.conv = FourierConvolution(position.conv)

    def forward(self, samples: Tensor, lengths: Sequence[int], wanted: int) -> Tensor:
        """samples: (B, S) -> (B, wanted, dim); what is beyond an utterance is undefined."""
        samples = samples.to(next(self.parameters()).dtype)
        # One utterance at a time: the group norm of the first convolution takes its statistics
        # over time, padding included; and the convolutions' memory stays small.
        features = pad_sequence(
            [
                self.feature_extractor(audio[:length])
                for audio, length in zip(samples, lengths, strict=True)
            ],
            batch_first=True,
        )
        num_frames = [num_hubert_frames(length) for length in lengths]
        mask = None
        if not all_equal(num_frames):
            mask = valid_positions(num_frames, features.shape[1], features.device)
        assert features.shape[1] == wanted  # of the longest
        projected = self.feature_projection(features)
        if isinstance(projected, tuple):  # with what wav2vec2 quantizes in pretraining
            projected = projected[0]
        return self.encoder(projected, mask).last_hidden_state


def num_hubert_frames(num_samples: int) -> int:
    """Frames of so many samples; 0: too short."""
    return max(0, (num_samples - WINDOW) // HOP + 1)


def normalize(samples: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each utterance to zero mean and unit variance: (B, S) float32 -> (B, S) float32.

    What is beyond an utterance is undefined. The two figures are numpy's, as transformers' are:
    an ulp of difference here is twenty after the convolutions.
    """
    audio = [row[:length].cpu().numpy() for row, length in zip(samples, lengths, strict=True)]
    means = torch.tensor([[float(wave.mean())] for wave in audio])
    deviations = torch.tensor([[float(np.sqrt(wave.var() + 1e-7))] for wave in audio])
    return (samples - means.to(samples.device)) / deviations.to(samples.device)


def choose_do_normalize(saved: bool | None, given: bool | None, checkpoint: str) -> bool:
    """What the checkpoint says, or the flag where it says nothing; never a guess."""
    if saved is None and given is None:
        raise ConfigError(
            f"{checkpoint}: nothing there says for certain whether this model wants normalized "
            "audio (do_normalize of preprocessor_config.json, task.normalize of a fairseq file); "
            "give --do_normalize true (as a rule the large models) or false (base)"
        )
    if saved is not None and given is not None and saved != given:
        raise ConfigError(
            f"--do_normalize {str(given).lower()}: {checkpoint} says {str(saved).lower()}; "
            "leave the flag out"
        )
    return bool(given if saved is None else saved)


def hubert_teacher(name: str, weights: HubertWeights, choice: Choice) -> EncoderTeacher:
    """Cut the encoder after the chosen layer and put it on the device; see `build_teacher`."""
    hide_broken_torchaudio()
    # Without masking in training there is no masked_spec_embed among the tensors.
    fields = weights.config | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    kind = fields.get("model_type", "hubert")
    # The model too: what transformers imports with it cannot be imported under the meta device.
    _class_of(kind, "Model")
    config = read_config(_class_of(kind, "Config"), fields, name)
    if (tuple(config.conv_kernel), tuple(config.conv_stride)) != (CONV_KERNEL, CONV_STRIDE):
        raise CheckpointError(
            f"{name}: convolutions of kernel {config.conv_kernel} and stride {config.conv_stride}; "
            f"only HuBERT's own {CONV_KERNEL} and {CONV_STRIDE} are supported"
        )
    settings = {name: getattr(config, name) for name in SETTINGS}
    if kind == "wavlm":
        settings["max_bucket_distance"] = config.max_bucket_distance
        if not 1 <= config.num_buckets // 4 < config.max_bucket_distance:
            raise CheckpointError(
                f"{name}: num_buckets {config.num_buckets}, max_bucket_distance "
                f"{config.max_bucket_distance}: a quarter of the buckets are of one distance each, "
                "and the greatest distance lies beyond them; correct config.json"
            )
    layer = resolve_layer(choice.middle_layer, config.num_hidden_layers)
    with without_memory(name):
        encoder = HubertEncoder(config)
    tensors = fill(encoder, weights.tensors, weights.names, name)
    _cut_after(encoder, layer, config, choice)
    load_float32(encoder, tensors)
    encoder.speed_up(for_cpu=choice.device.type == "cpu" and choice.dtype == torch.float32)

    def front_end(samples: Tensor, lengths: Sequence[int]) -> tuple[Tensor, list[int]]:
        if weights.do_normalize:
            samples = normalize(samples, lengths)
        return samples.to(choice.device, non_blocking=True), list(lengths)

    return EncoderTeacher(
        name=name,
        dim=config.hidden_size,
        num_layers=config.num_hidden_layers,
        layer=layer,
        frame_shift=HOP / SAMPLE_RATE,
        digest=digest(
            tensors,
            num_heads=config.num_attention_heads,
            do_normalize=weights.do_normalize,
            **settings,
        ),
        padding="n/a",
        min_samples=WINDOW,
        max_samples=None,
        num_frames=num_hubert_frames,
        front_end=front_end,
        encoder=FiniteEncoder(encoder, choice.device, choice.dtype),
        cpu_lengths=5 * SAMPLE_RATE,
    )


def _class_of(model_type: str, kind: str) -> Any:
    """transformers' `kind`, Model or Config, of a model_type."""
    import transformers

    return getattr(transformers, MODELS[model_type] + kind)


def _cut_after(encoder: HubertEncoder, layer: int, config: Any, choice: Choice) -> None:
    """Drop the blocks after `layer`, and the final norm unless it is asked for."""
    encoder.encoder.layers = encoder.encoder.layers[:layer]
    final_norm = choice.final_norm(layer, config.num_hidden_layers)
    if config.do_stable_layer_norm:
        if not final_norm:
            encoder.encoder.layer_norm = nn.Identity()
    elif final_norm and layer < config.num_hidden_layers:
        # Here the encoder's layer_norm stands before the first block.
        raise ConfigError(
            "--middle_layer_norm final: this model has no norm after its last block, as each "
            "block ends with its own; use none"
        )
