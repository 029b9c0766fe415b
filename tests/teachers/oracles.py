"""What openai-whisper and transformers themselves compute, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from k2distil.batch import AudioBatch
from k2distil.teachers import Teacher
from k2distil.torchaudio_guard import hide_broken_torchaudio

hide_broken_torchaudio()


@torch.no_grad()
def run_with_blocks(
    module: nn.Module, blocks: Sequence[nn.Module], **inputs: Tensor
) -> list[Tensor]:
    """[output of block 1, ..., of block L - 1, final output], each (T, dim)."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output)[0])

    hooks = [block.register_forward_hook(keep) for block in blocks]
    final = module(*inputs.values()) if "x" in inputs else module(**inputs).last_hidden_state
    for hook in hooks:
        hook.remove()
    return [*outputs[:-1], final[0]]


def openai_blocks(
    checkpoint: str, wave: Tensor, padded: bool, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """openai-whisper's AudioEncoder; unpadded, its table of positions is cut to the audio."""
    import whisper
    from whisper.model import AudioEncoder, LayerNorm

    content = torch.load(checkpoint, weights_only=True)
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    encoder = AudioEncoder(*(content["dims"][name] for name in names)).eval()
    prefix = "encoder."
    tensors = {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in content["model_state_dict"].items()
        if name.startswith(prefix)
    }
    encoder.load_state_dict(tensors)
    num_frames = (len(wave) // 160 + 1) // 2
    if padded:
        wave = whisper.pad_or_trim(wave)
    else:
        encoder.positional_embedding = encoder.positional_embedding[:num_frames]
    mel = whisper.log_mel_spectrogram(wave, n_mels=content["dims"]["n_mels"])[None].to(dtype)
    if dtype == torch.float64:
        for module in encoder.double().modules():
            if isinstance(module, LayerNorm):
                module.__class__ = nn.LayerNorm  # theirs is always float32
    return [frames[:num_frames] for frames in run_with_blocks(encoder, encoder.blocks, x=mel)]


def hf_whisper_blocks(folder: str, wave: Tensor) -> list[Tensor]:
    """transformers' WhisperEncoder, padded to 30 s by its own feature extractor."""
    from transformers import WhisperFeatureExtractor, WhisperModel

    encoder = WhisperModel.from_pretrained(folder, dtype=torch.float32).encoder.eval()
    extract = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)
    features = extract(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    blocks = run_with_blocks(encoder, encoder.layers, input_features=features)
    return [frames[: (len(wave) // 160 + 1) // 2] for frames in blocks]


def hubert_blocks(folder: str, wave: Tensor, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """transformers' model on one utterance, normalized by its own feature extractor."""
    from transformers import AutoModel, Wav2Vec2FeatureExtractor

    model = AutoModel.from_pretrained(folder, dtype=dtype).eval()
    extract = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extract(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    return run_with_blocks(model, model.encoder.layers, input_values=values.to(dtype))


def wave_of(batch: AudioBatch, row: int) -> Tensor:
    return batch.samples[row, : int(batch.num_samples[row])]


def embed_alone(teacher: Teacher, batch: AudioBatch, row: int) -> Tensor:
    """One utterance in a batch of its own: (num_frames, dim)."""
    wave = wave_of(batch, row)
    alone = AudioBatch([batch.keys[row]], wave[None], batch.num_samples[row : row + 1])
    return teacher.embed(alone).embedding[0]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; the shapes must be equal."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())
