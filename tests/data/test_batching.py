"""Batches by seconds, checked against their definition on random lengths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from k2distil.batch import SAMPLE_RATE
from k2distil.data import batch_by_seconds
from k2distil.errors import ConfigError


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 120))
def test_batches_hold_everything_once_within_the_limit_longest_first(
    lengths: list[int], max_samples: int
) -> None:
    audio = [(f"u{i}", torch.full((length,), i + 1.0)) for i, length in enumerate(lengths)]
    batches = list(batch_by_seconds(audio, (max_samples + 0.5) / SAMPLE_RATE))
    seen: dict[str, torch.Tensor] = {}
    longest = []
    for batch in batches:
        assert batch.samples.dtype == torch.float32
        assert batch.num_samples.dtype == torch.int64
        assert batch.samples.shape == (len(batch.keys), int(batch.num_samples.max()))
        assert len(batch.keys) == 1 or batch.samples.numel() <= max_samples
        longest.append(batch.samples.shape[1])
        for key, samples, num in zip(
            batch.keys, batch.samples, batch.num_samples.tolist(), strict=True
        ):
            assert key not in seen
            assert not samples[num:].any()
            seen[key] = samples[:num]
    assert longest == sorted(longest, reverse=True)
    assert len(seen) == len(audio)
    assert all(torch.equal(seen[key], samples) for key, samples in audio)


def test_batches_are_filled_up() -> None:
    audio = [(str(i), torch.ones(10)) for i in range(7)]
    assert [len(b.keys) for b in batch_by_seconds(audio, 30 / SAMPLE_RATE)] == [3, 3, 1]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_no_seconds_and_endless_ones_are_an_error(seconds: float) -> None:
    with pytest.raises(ConfigError, match="--batch_seconds"):
        list(batch_by_seconds([], seconds))


def test_short_audio_counts_as_what_the_teacher_pads_it_to() -> None:
    audio = [(str(i), torch.ones(10)) for i in range(7)]
    batches = batch_by_seconds(audio, 90.0, least_seconds=30.0)
    assert [len(b.keys) for b in batches] == [3, 3, 1]
