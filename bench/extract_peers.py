"""What a user would write in the place of k2distil: loops over an encoder, one utterance at a time.

Every loop decodes with soundfile, uses the library's own features, and keeps an utterance's own
frames; checkpoints are loaded before it starts. `extract.py` times them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import soundfile
import torch
from torch import Tensor

from k2distil.batch import SAMPLE_RATE, Utterance
from k2distil.teachers.hf_whisper import NAMES
from k2distil.teachers.tensors import translate
from k2distil.torchaudio_guard import hide_broken_torchaudio

hide_broken_torchaudio()

EmbedOne = Callable[[np.ndarray], Tensor]  # (S,) float32 samples -> (T, dim)


@torch.inference_mode()
def loop(utterances: Sequence[Utterance], embed: EmbedOne) -> dict[str, np.ndarray]:
    """Key -> (T, dim) float32, in memory."""
    return {each.key: embed(_decode(each)).numpy() for each in utterances}


@torch.inference_mode()
def loop_to_h5(utterances: Sequence[Utterance], embed: EmbedOne, path: Path) -> None:
    """The same, a dataset of the h5 per utterance, each written as soon as it is there."""
    for each in utterances:
        with h5py.File(path, "a") as file:
            file[each.key] = embed(_decode(each)).numpy()


def _decode(utterance: Utterance) -> np.ndarray:
    samples, rate = soundfile.read(utterance.wav, dtype="float32")
    assert rate == SAMPLE_RATE, utterance.wav
    return samples


def _num_frames(samples: np.ndarray) -> int:
    return (len(samples) // 160 + 1) // 2


def transformers_whisper(checkpoint: Path) -> EmbedOne:
    """transformers' encoder and feature extractor, which pads to 30 s."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    dims, tensors = _openai_encoder(checkpoint)
    config = WhisperConfig(
        num_mel_bins=dims["n_mels"],
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        max_source_positions=dims["n_audio_ctx"],
        decoder_layers=1,
        decoder_attention_heads=1,
    )
    encoder = WhisperModel(config).encoder.eval()
    encoder.load_state_dict({translate(name, NAMES): each for name, each in tensors.items()})
    extract = WhisperFeatureExtractor(feature_size=config.num_mel_bins)

    def embed(samples: np.ndarray) -> Tensor:
        inputs = extract(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        frames = encoder(inputs.input_features).last_hidden_state
        return frames[0, : _num_frames(samples)]

    return embed


def openai_whisper(checkpoint: Path) -> EmbedOne:
    """openai-whisper's embed_audio on its own 30 s of log-mel."""
    import whisper

    dims, tensors = _openai_encoder(checkpoint)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**dims)).eval()
    model.encoder.load_state_dict(tensors)

    def embed(samples: np.ndarray) -> Tensor:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), n_mels=dims["n_mels"])
        return model.embed_audio(mel[None])[0, : _num_frames(samples)]

    return embed


def _openai_encoder(checkpoint: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    """All dimensions, and the encoder's tensors in float32, of a file with or without a decoder."""
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    tensors = {
        name.removeprefix("encoder."): tensor.float()
        for name, tensor in content["model_state_dict"].items()
        if name.startswith("encoder.")
    }
    return content["dims"], tensors


def transformers_hubert(folder: Path, layer: int) -> EmbedOne:
    """transformers' HubertModel and its feature extractor; the hidden states after a layer."""
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    model = HubertModel.from_pretrained(folder, dtype=torch.float32).eval()
    extract = Wav2Vec2FeatureExtractor.from_pretrained(folder)

    def embed(samples: np.ndarray) -> Tensor:
        inputs = extract(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return model(inputs.input_values, output_hidden_states=True).hidden_states[layer][0]

    return embed


def make_hubert(folder: Path, config: Mapping[str, Any]) -> Path:
    """A HuBERT with random weights, as transformers saves it; config: what is not as in base."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    HubertModel(HubertConfig(**config)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder
