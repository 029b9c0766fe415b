"""Tiny teachers with random weights, in every format; each maker returns what --checkpoint takes.

The weights are larger than transformers draws them: at its deviation of 0.02 attention is uniform
and the convolutions vanish beside the positions, so that a wrong mask would go unseen.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from k2distil.batch import AudioBatch
from k2distil.teachers.hf_whisper import NAMES as HF_NAMES
from k2distil.teachers.tensors import translate
from k2distil.teachers.wenet_whisper import NAMES as WENET_NAMES
from k2distil.teachers.whisper_encoder import CONV2D, WhisperDims, WhisperEncoder
from k2distil.torchaudio_guard import hide_broken_torchaudio

hide_broken_torchaudio()
GOLDEN = Path(__file__).parent / "golden"
DIMS = WhisperDims(num_mels=80, dim=64, num_heads=4, num_layers=3, ffn_dim=256, num_positions=1500)


def audio_batch(*num_samples: int, seed: int = 0) -> AudioBatch:
    """Noise of a loudness that rises and falls, so that frames differ; keys a, b, c, ..."""
    generator = torch.Generator().manual_seed(seed)
    waves = []
    for length in num_samples:
        loudness = 0.3 + 0.25 * torch.sin(torch.arange(length) * 1e-3 * (1 + len(waves)))
        waves.append(0.3 * loudness * torch.randn(length, generator=generator))
    return batch_of(waves)


def batch_of(waves: list[Tensor]) -> AudioBatch:
    keys = [chr(ord("a") + n) for n in range(len(waves))]
    samples = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    return AudioBatch(keys, samples, torch.tensor([len(wave) for wave in waves]))


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights that keep the variance; norms and biases off their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 0:  # a batch norm's count
                continue
            if name.endswith("bias"):
                tensor.copy_(0.1 * noise)
            elif tensor.dim() == 1:  # a norm
                tensor.copy_(1 + 0.1 * noise)
            elif "positional" in name:
                tensor.copy_(0.3 * noise)
            elif name.endswith(("weight_g", "original0")):
                tensor.copy_(1 + 0.1 * noise.abs())
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)


def whisper_tensors(dims: WhisperDims = DIMS, seed: int = 0) -> dict[str, Tensor]:
    """A random encoder, under openai-whisper's names without `encoder.`"""
    encoder = WhisperEncoder(dims)
    randomize(encoder, seed)
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def openai_dims(dims: WhisperDims) -> dict[str, int]:
    audio = {
        "n_mels": dims.num_mels,
        "n_audio_ctx": dims.num_positions,
        "n_audio_state": dims.dim,
        "n_audio_head": dims.num_heads,
        "n_audio_layer": dims.num_layers,
    }
    text = {"n_vocab": 10, "n_text_ctx": 8, "n_text_state": 8, "n_text_head": 1, "n_text_layer": 1}
    return audio | text


def make_openai(
    path: Path, dims: WhisperDims = DIMS, dtype: torch.dtype = torch.float32, seed: int = 0
) -> str:
    """openai-whisper's .pt, with a stump of a decoder."""
    tensors = {
        f"encoder.{name}": tensor.to(dtype) for name, tensor in whisper_tensors(dims, seed).items()
    }
    tensors["decoder.ln.weight"] = torch.ones(8, dtype=dtype)
    torch.save({"dims": openai_dims(dims), "model_state_dict": tensors}, path)
    return str(path)


def make_wenet(folder: Path, dims: WhisperDims = DIMS, seed: int = 0) -> str:
    """WeNet's final.pt and train.yaml; the yaml is that of a real training, augmentation on."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"encoder.{translate(name, WENET_NAMES)}": tensor
        for name, tensor in whisper_tensors(dims, seed).items()
    }
    tensors["encoder.embed.pos_enc.pe"] = tensors["encoder.embed.pos_enc.pe"][None]
    tensors["ctc.ctc_lo.weight"] = torch.zeros(20, dims.dim)
    torch.save(tensors, folder / "final.pt")
    (folder / "train.yaml").write_text(yaml.safe_dump(wenet_config(dims)))
    return str(folder / "final.pt")


def wenet_config(dims: WhisperDims = DIMS) -> dict:
    """The train.yaml of `make_wenet`, parsed."""
    name = "wenet_conv2d" if dims.subsampling == CONV2D else "wenet_conv1d2"
    config = yaml.safe_load((GOLDEN / name / "train.yaml").read_text())
    config["input_dim"] = dims.num_mels
    config["dataset_conf"]["log_mel_spectrogram_conf"]["num_mel_bins"] = dims.num_mels
    config["encoder_conf"] |= {
        "output_size": dims.dim,
        "attention_heads": dims.num_heads,
        "num_blocks": dims.num_layers,
        "linear_units": dims.ffn_dim,
    }
    return config


def make_hf_whisper(
    folder: Path,
    dims: WhisperDims = DIMS,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    seed: int = 0,
) -> str:
    """A folder that transformers saved: config.json and safetensors, one or many."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        num_mel_bins=dims.num_mels,
        d_model=dims.dim,
        encoder_layers=dims.num_layers,
        encoder_attention_heads=dims.num_heads,
        encoder_ffn_dim=dims.ffn_dim,
        max_source_positions=dims.num_positions,
        decoder_layers=1,
        decoder_attention_heads=1,
        decoder_ffn_dim=16,
        max_target_positions=8,
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    renamed = {
        translate(name, HF_NAMES): tensor for name, tensor in whisper_tensors(dims, seed).items()
    }
    model.model.encoder.load_state_dict(renamed)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return str(folder)


def to_bin(folder: str, num_shards: int = 1) -> str:
    """Turn a folder's model.safetensors into pytorch_model.bin, or into shards of it."""
    from safetensors.torch import load_file

    tensors = load_file(Path(folder, "model.safetensors"))
    Path(folder, "model.safetensors").unlink()
    if num_shards == 1:
        torch.save(tensors, Path(folder, "pytorch_model.bin"))
        return folder
    weight_map = {}
    for shard in range(num_shards):
        name = f"pytorch_model-{shard + 1:05d}-of-{num_shards:05d}.bin"
        part = {key: tensors[key] for key in sorted(tensors)[shard::num_shards]}
        torch.save(part, Path(folder, name))
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    Path(folder, "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def _waveform_sizes(norm: str) -> dict[str, object]:
    """What the configs of HuBERT, wav2vec2 and WavLM have in common."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": norm,
        "conv_bias": norm == "layer",
        "do_stable_layer_norm": norm == "layer",
    }


def hubert_model(norm: str = "group", seed: int = 0, position_norm: bool = False):
    """norm: "group" is shaped as HuBERT base, "layer" as large: stable layer norm, conv biases.

    position_norm: a batch norm before the positional convolution.
    """
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(**_waveform_sizes(norm), conv_pos_batch_norm=position_norm)
    model = HubertModel(config).eval()
    randomize(model, seed)
    return model


def make_hf_hubert(
    folder: Path,
    norm: str = "group",
    do_normalize: bool | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    position_norm: bool = False,
) -> str:
    """A folder that transformers saved; do_normalize as HuBERT base (false) or large (true)."""
    from transformers import Wav2Vec2FeatureExtractor

    hubert_model(norm, seed, position_norm).to(dtype).save_pretrained(folder)
    normalize = norm == "layer" if do_normalize is None else do_normalize
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return str(folder)


def make_hf_waveform(folder: Path, norm: str = "group", kind: str = "Wav2Vec2Model") -> str:
    """A folder that transformers saved; norm as of `hubert_model`, kind: which of its classes."""
    import transformers

    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**_waveform_sizes(norm))).eval()
    randomize(model, seed=0)
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=norm == "layer")
    extractor.save_pretrained(folder)
    return str(folder)


def with_config(checkpoint: str, **changes: object) -> str:
    """The folder, with other values in its config.json."""
    path = Path(checkpoint, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return checkpoint


# Written out by hand after fairseq's modules, to check k2distil's own table.
FAIRSEQ_LAYER = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.out_proj",
    "layer_norm": "self_attn_layer_norm",
    "feed_forward.intermediate_dense": "fc1",
    "feed_forward.output_dense": "fc2",
    "final_layer_norm": "final_layer_norm",
}


def fairseq_tensors(norm: str, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of `hubert_model` under fairseq's names."""
    model = hubert_model(norm, seed)
    names = {
        "feature_projection.layer_norm": "layer_norm",
        "feature_projection.projection": "post_extract_proj",
        "encoder.layer_norm": "encoder.layer_norm",
    }
    for n in range(7):
        conv = f"feature_extractor.conv_layers.{n}"
        names[f"{conv}.conv"] = f"{conv}.0"
        names[f"{conv}.layer_norm"] = f"{conv}.2.1" if norm == "layer" else f"{conv}.2"
    for n in range(len(model.encoder.layers)):
        for hf, fairseq in FAIRSEQ_LAYER.items():
            names[f"encoder.layers.{n}.{hf}"] = f"encoder.layers.{n}.{fairseq}"
    tensors = model.state_dict()
    conv = model.encoder.pos_conv_embed.conv
    position = {
        "encoder.pos_conv.0.bias": conv.bias.detach(),
        "encoder.pos_conv.0.weight_g": conv.parametrizations.weight.original0.detach(),
        "encoder.pos_conv.0.weight_v": conv.parametrizations.weight.original1.detach(),
    }
    return position | {
        f"{names[module]}.{kind}": tensor
        for (module, _, kind), tensor in ((n.rpartition("."), t) for n, t in tensors.items())
        if module in names
    }


def make_fairseq_hubert(
    path: Path, norm: str = "group", fine_tuned: bool = False, seed: int = 0
) -> str:
    """fairseq's .pt, with the pickled objects beside the weights that the published ones have."""
    tensors = fairseq_tensors(norm, seed)
    model = {"encoder_attention_heads": 4, "layer_norm_first": norm == "layer"}
    task = {"_name": "hubert_pretraining", "normalize": norm == "layer"}
    if fine_tuned:
        tensors = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in tensors.items()}
        tensors |= {"w2v_encoder.w2v_model.mask_emb": torch.zeros(32)}
        tensors |= {"w2v_encoder.proj.weight": torch.zeros(20, 32)}
        w2v_args = argparse.Namespace(model=model, task=task)
        cfg = {"model": {"w2v_args": w2v_args, "normalize": "${task.normalize}"}, "task": task}
    else:
        tensors |= {"mask_emb": torch.zeros(32), "final_proj.weight": torch.zeros(8, 32)}
        tensors |= {"label_embs_concat": torch.zeros(20, 8)}
        cfg = {"model": model, "task": task}
    with _pretend_fairseq() as dictionary:
        state = {"dictionaries": [dictionary]}
        torch.save({"args": None, "cfg": cfg, "model": tensors, "task_state": state}, path)
    return str(path)


@contextmanager
def _pretend_fairseq() -> Iterator[object]:
    """A Dictionary that pickles as fairseq's own does; fairseq need not be there."""
    names = ["fairseq", "fairseq.data", "fairseq.data.dictionary"]
    modules = {name: types.ModuleType(name) for name in names}
    cls = type("Dictionary", (), {"__module__": names[-1]})
    cls.__reduce__ = lambda self: (cls, ("<s>", "</s>"), vars(self))
    modules[names[-1]].Dictionary = cls
    sys.modules.update(modules)
    dictionary = cls()
    dictionary.count = [1, 1]
    try:
        yield dictionary
    finally:
        for name in names:
            del sys.modules[name]
