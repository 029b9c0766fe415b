from dataclasses import replace

import pytest
import torch

from k2distil.errors import ConfigError
from k2distil.teachers import build_teacher, whisper_encoder
from k2distil.teachers.whisper_encoder import CONV2D, conv2d_size
from tests.teachers.oracles import (
    difference,
    embed_alone,
    hf_whisper_blocks,
    openai_blocks,
    wave_of,
)
from tests.teachers.tiny import DIMS, audio_batch, make_hf_whisper, make_openai, make_wenet

PARITY = 5e-6
BATCHING = 1e-5
AUDIO = audio_batch(16000, 16161, 40123, 8003)  # 100, 101, 250, 50 mel frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whisper")


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("padding", ["none", "30s"])
def test_every_layer_equals_openai_whisper(folder, num_mels, padding):
    checkpoint = make_openai(folder / f"{num_mels}.pt", replace(DIMS, num_mels=num_mels))
    theirs = [
        openai_blocks(checkpoint, wave_of(AUDIO, row), padding == "30s")
        for row in range(len(AUDIO.keys))
    ]
    for layer in (1, 2, 3, -1):
        teacher = build_teacher(
            "huggingface-whisper", checkpoint, middle_layer=layer, whisper_padding=padding
        )
        assert (teacher.dim, teacher.num_layers, teacher.padding) == (64, 3, padding)
        ours = dict(teacher.embed(AUDIO).unpadded())
        for row, key in enumerate(AUDIO.keys):
            assert difference(ours[key], theirs[row][teacher.layer - 1]) < PARITY


@pytest.mark.parametrize("padding", ["none", "30s"])
def test_blocks_see_frames_that_lie_in_order(folder, padding):
    """Else every norm copies them and every sum is slow: a quarter of a GPU's time."""
    checkpoint = make_openai(folder / f"order{padding}.pt")
    teacher = build_teacher("huggingface-whisper", checkpoint, whisper_padding=padding)
    seen = []
    for block in teacher.encoder._exact.blocks:
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    teacher.embed(AUDIO)
    assert len(seen) >= 3
    assert all(seen)


@pytest.mark.parametrize("padding", ["none", "30s"])
def test_a_batch_in_parts_equals_the_whole(folder, padding):
    checkpoint = make_openai(folder / f"parts{padding}.pt")
    teacher = build_teacher("huggingface-whisper", checkpoint, whisper_padding=padding)
    whole = replace(teacher, cpu_lengths=10**9).embed(AUDIO).embedding
    assert teacher.cpu_lengths == 500  # mel frames
    for most in (1, 210, teacher.cpu_lengths):
        in_parts = replace(teacher, cpu_lengths=most).embed(AUDIO).embedding
        assert difference(in_parts, whole) < BATCHING


@pytest.mark.parametrize("num_mels", [80, 128])
def test_every_layer_equals_transformers(folder, num_mels):
    checkpoint = make_hf_whisper(folder / f"hf{num_mels}", replace(DIMS, num_mels=num_mels))
    theirs = [hf_whisper_blocks(checkpoint, wave_of(AUDIO, row)) for row in range(2)]
    for layer in (1, 2, 3, -1):
        teacher = build_teacher(
            "huggingface-whisper", checkpoint, middle_layer=layer, whisper_padding="30s"
        )
        for row in range(2):
            ours = embed_alone(teacher, AUDIO, row)
            assert difference(ours, theirs[row][teacher.layer - 1]) < PARITY


@pytest.mark.parametrize("layer", [1, -1])
@pytest.mark.parametrize("padding", ["none", "30s"])
@pytest.mark.parametrize("subsampling", ["conv1d2", "conv2d"])
def test_batched_equals_single(folder, subsampling, padding, layer):
    dims = replace(DIMS, subsampling=subsampling)
    checkpoint = make_wenet(folder / subsampling, dims)
    teacher = build_teacher(
        "wenet-whisper", checkpoint, middle_layer=layer, whisper_padding=padding
    )
    out = teacher.embed(AUDIO)
    assert out.embedding.dtype == torch.float32
    for row, (_key, frames) in enumerate(out.unpadded()):
        num_frames = teacher.num_frames(int(AUDIO.num_samples[row]))
        assert difference(frames, embed_alone(teacher, AUDIO, row)) < BATCHING
        assert frames.shape == (num_frames, 64)
        assert not out.embedding[row, num_frames:].any()


def test_the_mask_is_dropped_where_no_utterance_is_padded(folder, monkeypatch):
    masks = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask):
        masks.append(attn_mask)
        return attend(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(whisper_encoder.F, "scaled_dot_product_attention", spy)
    teacher = build_teacher("wenet-whisper", make_openai(folder / "o.pt"))
    teacher.embed(audio_batch(16000, 16100))
    assert masks == [None] * 3
    teacher.embed(audio_batch(16000, 16400))
    assert masks[3].shape == (2, 1, 1, 51)


def test_blocks_after_the_chosen_layer_are_neither_run_nor_kept(folder):
    checkpoint = make_openai(folder / "o.pt")
    content = torch.load(checkpoint, weights_only=True)
    content["model_state_dict"]["encoder.blocks.2.mlp.0.bias"].fill_(torch.nan)
    torch.save(content, folder / "nan.pt")
    whole = build_teacher("wenet-whisper", checkpoint)
    broken = build_teacher("wenet-whisper", str(folder / "nan.pt"), middle_layer=2)
    assert broken.embed(AUDIO).embedding.isfinite().all()
    assert not any("blocks.2" in name for name in broken.encoder._exact.state_dict())
    assert whole.digest != broken.digest


def test_the_final_norm_after_a_middle_block_is_the_encoders_own(folder):
    checkpoint = make_openai(folder / "o.pt")
    content = torch.load(checkpoint, weights_only=True)["model_state_dict"]
    raw = build_teacher("wenet-whisper", checkpoint, middle_layer=2)
    normed = build_teacher("wenet-whisper", checkpoint, middle_layer=2, middle_layer_norm="final")
    expected = torch.nn.functional.layer_norm(
        embed_alone(raw, AUDIO, 0),
        (64,),
        content["encoder.ln_post.weight"],
        content["encoder.ln_post.bias"],
    )
    assert difference(embed_alone(normed, AUDIO, 0), expected) < PARITY


def test_padding_to_30_s_needs_the_positions(folder):
    checkpoint = make_openai(folder / "short.pt", replace(DIMS, num_positions=500))
    with pytest.raises(ConfigError, match="500 positions"):
        build_teacher("wenet-whisper", checkpoint, whisper_padding="30s")
    assert build_teacher("wenet-whisper", checkpoint).max_samples == 160_000


def test_conv2d_size_is_what_two_convolutions_leave():
    conv = torch.nn.Conv1d(1, 1, 3, stride=2)
    for size in range(7, 60):
        assert conv2d_size(size) == conv(conv(torch.zeros(1, 1, size))).shape[-1]
    assert [conv2d_size(size) for size in range(7)] == [0] * 7


def test_conv2d_front_end_has_half_the_frames(folder):
    teacher = build_teacher(
        "wenet-whisper", make_wenet(folder / "2d", replace(DIMS, subsampling=CONV2D))
    )
    assert teacher.frame_shift == 0.04
    assert teacher.embed(audio_batch(32000)).embedding.shape == (1, 49, 64)
