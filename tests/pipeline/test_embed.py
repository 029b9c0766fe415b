"""Audio through a stub teacher whose output is known."""

import pytest
import torch

from k2distil.batch import SAMPLE_RATE, EmbeddingBatch, Utterance
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline import embed as module
from k2distil.pipeline.embed import EmbedOptions, as_dtype, embed


class StubTeacher:
    """One frame of one float per 100 samples: their sum. A sample of 7 makes NaN, of 9 too much."""

    name, dim, num_layers, layer, frame_shift, digest = "stub", 1, 1, 1, 0.00625, "0"
    padding, min_samples, max_samples = "none", 100, 30 * SAMPLE_RATE

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def num_frames(self, num_samples):
        return num_samples // 100

    def embed(self, batch):
        self.batches.append(batch.num_samples.tolist())
        num_frames = batch.num_samples // 100
        sums = batch.samples[:, : int(num_frames.max()) * 100].unflatten(1, (-1, 100)).sum(-1)
        sums = sums.masked_fill((batch.samples == 7).any(1, keepdim=True), float("nan"))
        sums = sums.masked_fill((batch.samples == 9).any(1, keepdim=True), 1e6)
        for row, frames in zip(sums, num_frames.tolist(), strict=True):
            row[frames:] = 0
        return EmbeddingBatch(batch.keys, sums[..., None], num_frames)


def decoded(**audio):
    return [
        (
            Utterance(key, f"{key}.wav"),
            each if isinstance(each, DataError) else torch.as_tensor(each),
        )
        for key, each in audio.items()
    ]


def sines(*lengths):
    return {f"u{n}": torch.sin(torch.arange(float(length))) for n, length in enumerate(lengths)}


def test_values_come_in_list_order_whatever_the_batches_and_windows(monkeypatch):
    audio = sines(1000, 300, 2500, 100, 700, 999)
    expected = None
    for window, seconds in [(10**9, 1.0), (1500, 0.1), (1, 60.0)]:
        monkeypatch.setattr(module, "WINDOW", window)
        result = embed(decoded(**audio), StubTeacher(), as_dtype("float32"), EmbedOptions(seconds))
        assert list(result.values) == list(audio)
        assert result.audio_seconds == pytest.approx(5599 / SAMPLE_RATE)
        sums = {
            key: samples[: len(samples) // 100 * 100].view(-1, 100).sum(1)
            for key, samples in audio.items()
        }
        for key, values in result.values.items():
            assert values.shape == (len(audio[key]) // 100, 1)
            assert torch.allclose(torch.from_numpy(values[:, 0]), sums[key], atol=1e-5)
        expected = expected or result.values
        assert all((expected[key] == result.values[key]).all() for key in expected)


def test_a_window_bounds_what_is_sorted_together(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 1000)
    teacher = StubTeacher()
    embed(decoded(**sines(600, 500, 400, 100)), teacher, as_dtype("float32"), EmbedOptions(60.0))
    assert teacher.batches == [[600, 500], [400, 100]]


def test_what_cannot_be_done_is_named_and_its_neighbours_are_done():
    audio = sines(500, 500, 500, 500, 50)
    audio["u1"][3], audio["u2"][3] = 7, 9
    audio["gone"] = DataError("gone.wav: utterance gone: missing")
    result = embed(decoded(**audio), StubTeacher(), as_dtype("float16"), EmbedOptions(60.0))
    assert list(result.values) == ["u0", "u3"]
    reasons = {each.utterance.key: each.reason for each in result.failed}
    assert reasons.keys() == {"u1", "u2", "u4", "gone"}
    assert "u1.wav: utterance u1: NaN or inf in the embedding" in reasons["u1"]
    assert "use --embedding_dtype float32" in reasons["u2"]
    assert "too short" in reasons["u4"]
    float32 = embed(decoded(**audio), StubTeacher(), as_dtype("float32"), EmbedOptions(60.0))
    assert "u2" in float32.values


def test_short_of_gpu_memory_names_the_flag():
    class Greedy(StubTeacher):
        def embed(self, batch):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match="--batch_seconds 60: out of GPU memory"):
        embed(decoded(**sines(500)), Greedy(), as_dtype("float32"), EmbedOptions(60.0))


def test_pieces_of_long_audio_are_joined_and_an_end_too_short_is_left_out():
    most = StubTeacher.max_samples
    audio = sines(2 * most + 50, 300)
    options = EmbedOptions(60.0, long_audio="chunk")
    result = embed(decoded(**audio), StubTeacher(), as_dtype("float32"), options)
    assert len(result.values["u0"]) == 2 * most // 100
    assert len(result.values["u1"]) == 3
