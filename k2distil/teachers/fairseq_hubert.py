"""HuBERT as fairseq saves it, pre-trained or fine-tuned: {"model": ..., "cfg" or "args": ...}.

github.com/facebookresearch/fairseq, fairseq/models/hubert/{hubert,hubert_asr}.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from k2distil.batch import SAMPLE_RATE
from k2distil.errors import CheckpointError
from k2distil.teachers.hubert import CONV_KERNEL, CONV_STRIDE, HubertWeights, choose_do_normalize
from k2distil.teachers.pickle_file import Inert
from k2distil.teachers.tensors import refuse_lora, select, unwrapped

FINE_TUNED = r"w2v_encoder\.w2v_model\."
TRAINING_ONLY = ("mask_emb", "label_embs_concat", "final_proj.")  # and all outside FINE_TUNED
NEEDED = ("encoder_attention_heads", "layer_norm_first")
SETTINGS = {  # and their types; True is an int
    **dict.fromkeys((*NEEDED, "normalize", "sample_rate"), int),
    **dict.fromkeys(("activation_fn", "conv_feature_layers"), str),
}
CONVOLUTIONS = r"\[?\(\s*\d+\s*,\s*\d+\s*,\s*(\d+)\s*\)\]?(?:\s*\*\s*(\d+))?"  # "[(512, 3, 2)] * 4"
NAMES = {  # transformers' -> fairseq's
    r"^feature_projection\.layer_norm": "layer_norm",
    r"^feature_projection\.projection": "post_extract_proj",
    r"^(encoder\.)pos_conv_embed\.conv\.": r"\1pos_conv.0.",
    r"\.parametrizations\.weight\.original0$": ".weight_g",
    r"\.parametrizations\.weight\.original1$": ".weight_v",
    r"^(feature_extractor\.conv_layers\.\d+)\.conv\.": r"\1.0.",
    r"\.attention\.": ".self_attn.",
    r"^(encoder\.layers\.\d+)\.layer_norm": r"\1.self_attn_layer_norm",
    r"\.feed_forward\.intermediate_dense": ".fc1",
    r"\.feed_forward\.output_dense": ".fc2",
}
CONV_NORM = r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm"
FIRST_CONV = "feature_extractor.conv_layers.0"


def read_fairseq_hubert(
    content: Mapping[str, Any], checkpoint: str, do_normalize: bool | None
) -> HubertWeights:
    """The encoder of a loaded `.pt`; the head of a fine-tuned one is left out.

    Raises:
        CheckpointError: no HuBERT in it, or one whose head count is not said.
        ConfigError: do_normalize is neither given nor in the checkpoint, or they contradict.
    """
    tensors: Mapping[str, Tensor] = unwrapped(content["model"])
    refuse_lora(tensors, checkpoint)
    found = select(tensors, FINE_TUNED) or dict(tensors)
    found = {name: t for name, t in found.items() if not name.startswith(TRAINING_ONLY)}
    told = list(_settings([content.get("cfg"), content.get("args")]))
    settings = dict(told)
    if len({value for name, value in told if name == "normalize"}) > 1:
        del settings["normalize"]  # of the two, nobody can know
    missing = [name for name in NEEDED if name not in settings]
    if missing:
        raise CheckpointError(
            f"{checkpoint}: neither `cfg` nor `args` gives {', '.join(missing)}; "
            "use the original file, or a Hugging Face folder"
        )
    if (rate := settings.get("sample_rate", SAMPLE_RATE)) != SAMPLE_RATE:
        raise CheckpointError(
            f"{checkpoint}: trained on audio of {rate} Hz, by its settings; a teacher hears "
            f"{SAMPLE_RATE}: choose one that was trained so"
        )
    config, conv_norm = _config(found, settings, checkpoint)
    normalizes = choose_do_normalize(settings.get("normalize"), do_normalize, checkpoint)
    return HubertWeights(config, found, NAMES | {CONV_NORM: conv_norm}, normalizes)


def _settings(value: object) -> Iterator[tuple[str, Any]]:
    """(name, value) of each of SETTINGS, wherever in fairseq's nested configuration it stands.

    A fine-tuned model's lie in cfg.model.w2v_args, or among those of the fine-tuning.
    """
    if isinstance(value, Inert):
        value = vars(value)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(inner, SETTINGS.get(name, ())):
                yield from _settings(inner)
            elif not str(inner).startswith("$"):  # "${task.normalize}" stands elsewhere
                yield name, inner
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _settings(inner)


def _config(
    found: Mapping[str, Tensor], settings: Mapping[str, Any], checkpoint: str
) -> tuple[dict[str, Any], str]:
    """HubertConfig fields by the shapes, and where the convolutions' norm is."""
    convs = [f"feature_extractor.conv_layers.{n}.0.weight" for n in range(len(CONV_KERNEL))]
    others = ["post_extract_proj.weight", "encoder.layers.0.fc1.weight"]
    others += ["encoder.pos_conv.0.weight_v"]
    missing = [name for name in convs + others if name not in found]
    if missing:
        raise CheckpointError(
            f"{checkpoint}: no {', '.join(missing)}; not a HuBERT, or an incomplete checkpoint"
        )
    projection, fc1, position = (found[name] for name in others)
    layer_norm = f"{FIRST_CONV}.2.1.weight" in found  # a group norm has no inner module 1
    blocks = {name.split(".")[2] for name in found if name.startswith("encoder.layers.")}
    config = {
        "hidden_size": projection.shape[0],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": settings["encoder_attention_heads"],
        "intermediate_size": fc1.shape[0],
        "conv_dim": [found[name].shape[0] for name in convs],
        "conv_kernel": [found[name].shape[2] for name in convs],
        "conv_stride": _strides(settings.get("conv_feature_layers")),
        "hidden_act": settings.get("activation_fn", "gelu"),
        "conv_bias": f"{FIRST_CONV}.0.bias" in found,
        "feat_extract_norm": "layer" if layer_norm else "group",
        "do_stable_layer_norm": bool(settings["layer_norm_first"]),
        "num_conv_pos_embeddings": position.shape[2],
        "num_conv_pos_embedding_groups": projection.shape[0] // position.shape[1],
    }
    return config, r"\1.2.1" if layer_norm else r"\1.2"


def _strides(layers: str | None) -> list[int]:
    """Of fairseq's "[(dim, kernel, stride)] * times + ..."; HuBERT's own where it is not given."""
    if layers is None:
        return list(CONV_STRIDE)
    found = re.findall(CONVOLUTIONS, layers)
    return [int(stride) for stride, times in found for _ in range(int(times or 1))]
