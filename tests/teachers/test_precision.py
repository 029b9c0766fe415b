import logging
from functools import partial

import pytest
import torch

from k2distil.device import choose_dtype
from k2distil.teachers import build_teacher
from k2distil.teachers.precision import FiniteEncoder
from tests.teachers.oracles import difference
from tests.teachers.tiny import (
    audio_batch,
    batch_of,
    make_hf_hubert,
    make_hf_waveform,
    make_openai,
)

AUDIO = audio_batch(16000, 16161)
MAKE = {
    "wenet-whisper": make_openai,
    "hubert": partial(make_hf_hubert, norm="layer"),
    "wavlm": partial(make_hf_waveform, norm="layer", kind="WavLMModel"),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.005), (torch.bfloat16, 0.04)])
@pytest.mark.parametrize("encoder_type", MAKE)
def test_half_precision_is_near_float32(tmp_path, encoder_type, dtype, tolerance):
    checkpoint = MAKE[encoder_type](tmp_path / "teacher.pt")
    exact = build_teacher(encoder_type, checkpoint)
    half = build_teacher(encoder_type, checkpoint, dtype=dtype)
    assert half.digest == exact.digest  # of the weights, not of how they are computed with
    ours, theirs = half.embed(AUDIO).embedding, exact.embed(AUDIO).embedding
    assert ours.dtype == torch.float32
    error = (ours - theirs).norm() / theirs.norm()
    assert 0 < error < tolerance
    assert half.encoder.num_fallbacks == 0


@pytest.fixture
def overflowing(tmp_path):
    """A checkpoint whose every utterance overflows in float16."""
    checkpoint = make_openai(tmp_path / "o.pt")
    content = torch.load(checkpoint, weights_only=True)
    content["model_state_dict"]["encoder.blocks.0.mlp.0.weight"] *= 1e5
    content["model_state_dict"]["encoder.blocks.0.mlp.2.weight"] *= 1e-5
    torch.save(content, checkpoint)
    return checkpoint


def alone(teacher, batch):
    """Each utterance embedded in a batch of its own."""
    waves = zip(batch.samples, batch.num_samples.tolist(), strict=True)
    return [teacher.embed(batch_of([wave[:length]])).embedding[0] for wave, length in waves]


def test_utterances_that_overflow_are_computed_again_in_float32(overflowing, caplog):
    exact = alone(build_teacher("wenet-whisper", overflowing), AUDIO)
    half = build_teacher("wenet-whisper", overflowing, dtype=torch.float16)
    for batch_number in (1, 2):
        with caplog.at_level(logging.WARNING):
            out = half.embed(AUDIO)
        for (_, ours), theirs in zip(out.unpadded(), exact, strict=True):
            assert torch.equal(ours, theirs)
        assert half.encoder.num_fallbacks == 2 * batch_number
    assert "float16 gave NaN or infinity: 2 of 2 utterances of a batch" in caplog.text


class Doubling(torch.nn.Module):
    """(B, 1, T) -> (B, T, 1), twice the features: float16 overflows past 32,752."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.batch_sizes = []

    def forward(self, features, lengths, wanted):
        self.batch_sizes.append(len(features))
        return (features.to(self.factor.dtype) * self.factor).transpose(1, 2)


def test_only_the_utterance_that_overflows_is_computed_again():
    exact = Doubling()
    encoder = FiniteEncoder(exact, torch.device("cpu"), torch.float16)
    features = torch.full((3, 1, 5), 0.1)
    features[1, 0, 1] = 40_000.0
    features[2, 0, 3:] = 40_000.0  # padding
    out = encoder(features, [5, 4, 3], [5, 4, 3])
    half = torch.tensor(0.1).half().float() * 2
    assert torch.equal(out[0], half.expand(5, 1))
    assert torch.equal(out[1, :4, 0], torch.tensor([0.2, 80_000.0, 0.2, 0.2]))
    assert torch.equal(out[2, :3], half.expand(3, 1))
    assert exact.batch_sizes == [1]
    assert encoder.num_fallbacks == 1


class TooLarge(Doubling):
    """Without memory for one utterance in float32; knows where it is."""

    def __init__(self):
        super().__init__()
        self.places = []

    def to(self, *args, **options):
        self.places.append(args[0])
        return super().to(*args, **options)

    def forward(self, features, lengths, wanted):
        if self.factor.dtype == torch.float32:
            raise torch.OutOfMemoryError("too much")
        return super().forward(features, lengths, wanted)


def test_the_float32_weights_leave_the_device_even_without_memory():
    exact = TooLarge()
    encoder = FiniteEncoder(exact, torch.device("cpu", 0), torch.float16)
    with pytest.raises(torch.OutOfMemoryError):
        encoder(torch.full((1, 1, 2), 40_000.0), [2], [2])
    assert exact.places == [torch.device("cpu", 0), "cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("encoder_type", MAKE)
def test_float16_on_a_gpu_is_near_float32_on_the_cpu(tmp_path, encoder_type):
    checkpoint = MAKE[encoder_type](tmp_path / "teacher.pt")
    device = torch.device("cuda")
    half = build_teacher(
        encoder_type, checkpoint, device=device, dtype=choose_dtype("auto", device)
    )
    exact = build_teacher(encoder_type, checkpoint).embed(AUDIO).embedding
    ours = half.embed(AUDIO).embedding.cpu()
    assert 0 < (ours - exact).norm() / exact.norm() < 0.005
    assert half.encoder.num_fallbacks == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_float32_weights_leave_the_gpu_again(overflowing):
    half = build_teacher("wenet-whisper", overflowing, device="cuda", dtype=torch.float16)
    exact = alone(build_teacher("wenet-whisper", overflowing), AUDIO)
    for (_, ours), theirs in zip(half.embed(AUDIO).unpadded(), exact, strict=True):
        assert difference(ours.cpu(), theirs) < 5e-5
    assert half.encoder.num_fallbacks == 2
    assert {p.device.type for p in half.encoder._exact.parameters()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("encoder_type", MAKE)
def test_float32_on_a_gpu_equals_the_cpu(tmp_path, encoder_type):
    checkpoint = MAKE[encoder_type](tmp_path / "teacher.pt")
    ours = build_teacher(encoder_type, checkpoint, device="cuda").embed(AUDIO).embedding
    theirs = build_teacher(encoder_type, checkpoint).embed(AUDIO).embedding
    assert difference(ours.cpu(), theirs) < 5e-5
