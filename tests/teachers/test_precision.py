import logging

import pytest
import torch

from k2distil.teachers import build_teacher
from tests.teachers.oracles import difference
from tests.teachers.tiny import audio_batch, make_hf_hubert, make_openai

AUDIO = audio_batch(16000, 16161)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.005), (torch.bfloat16, 0.04)])
@pytest.mark.parametrize("family", ["whisper", "hubert"])
def test_half_precision_is_near_float32(tmp_path, family, dtype, tolerance):
    if family == "whisper":
        encoder_type, checkpoint = "wenet-whisper", make_openai(tmp_path / "o.pt")
    else:
        encoder_type, checkpoint = "hubert", make_hf_hubert(tmp_path / "h", "layer")
    exact = build_teacher(encoder_type, checkpoint)
    half = build_teacher(encoder_type, checkpoint, dtype=dtype)
    assert half.digest == exact.digest  # of the weights, not of how they are computed with
    ours, theirs = half.embed(AUDIO).embedding, exact.embed(AUDIO).embedding
    assert ours.dtype == torch.float32
    error = (ours - theirs).norm() / theirs.norm()
    assert 0 < error < tolerance
    assert half.encoder.num_fallbacks == 0


def test_a_batch_that_overflows_is_computed_again_in_float32(tmp_path, caplog):
    checkpoint = make_openai(tmp_path / "o.pt")
    content = torch.load(checkpoint, weights_only=True)
    content["model_state_dict"]["encoder.blocks.0.mlp.0.weight"] *= 1e5
    content["model_state_dict"]["encoder.blocks.0.mlp.2.weight"] *= 1e-5
    torch.save(content, checkpoint)
    exact = build_teacher("wenet-whisper", checkpoint)
    half = build_teacher("wenet-whisper", checkpoint, dtype=torch.float16)
    for batch_number in (1, 2):
        with caplog.at_level(logging.WARNING):
            out = half.embed(AUDIO)
        assert torch.equal(out.embedding, exact.embed(AUDIO).embedding)
        assert half.encoder.num_fallbacks == batch_number
    assert "float16 gave NaN or infinity: a batch of 2 utterances" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", ["whisper", "hubert"])
def test_float32_on_a_gpu_equals_the_cpu(tmp_path, family):
    if family == "whisper":
        encoder_type, checkpoint = "wenet-whisper", make_openai(tmp_path / "o.pt")
    else:
        encoder_type, checkpoint = "hubert", make_hf_hubert(tmp_path / "h", "layer")
    ours = build_teacher(encoder_type, checkpoint, device="cuda").embed(AUDIO).embedding
    theirs = build_teacher(encoder_type, checkpoint).embed(AUDIO).embedding
    assert difference(ours.cpu(), theirs) < 5e-5
