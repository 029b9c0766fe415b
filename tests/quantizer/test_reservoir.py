import logging

import pytest
import torch

from k2distil.errors import ConfigError, DataError
from k2distil.quantizer import FrameReservoir
from k2distil.quantizer.training.reservoir import MEASURED


def numbered(num_frames):
    """Frame i holds the number i twice; exact in float16 up to 2048."""
    return torch.arange(num_frames, dtype=torch.float32).repeat(2, 1).T


def test_all_frames_are_kept_while_there_is_room():
    reservoir = FrameReservoir(10, 2, seed=0)
    reservoir.add(numbered(4))
    reservoir.add(numbered(6) + 4)
    reservoir.add(numbered(0))
    assert len(reservoir) == reservoir.num_seen == 10
    assert reservoir.frames.dtype == torch.float16
    assert torch.equal(reservoir.frames.float(), numbered(10))


@pytest.mark.parametrize(("capacity", "num_frames"), [(10, 40), (1, 2)])
def test_every_frame_is_kept_with_the_same_probability(capacity, num_frames):
    kept = torch.zeros(num_frames)
    for seed in range(1500):
        reservoir = FrameReservoir(capacity, 2, seed)
        for part in numbered(num_frames).split(7):
            reservoir.add(part)
        assert len(reservoir.frames[:, 0].unique()) == capacity
        kept[reservoir.frames[:, 0].long()] += 1
    share = capacity / num_frames
    deviation = (share * (1 - share) / 1500) ** 0.5
    assert (kept / 1500 - share).abs().max() < 5 * deviation


def test_the_sample_depends_on_the_seed_alone():
    def sample(seed):
        reservoir = FrameReservoir(10, 2, seed)
        reservoir.add(numbered(500))
        return reservoir.frames

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_batches_are_shuffled_epochs():
    reservoir = FrameReservoir(100, 2, seed=0)
    reservoir.add(numbered(100))
    batches = [reservoir.batch(step, 30)[:, 0] for step in range(10)]
    for epoch in torch.cat(batches).split(100):
        assert torch.equal(epoch.sort().values, numbered(100)[:, 0])
    assert not torch.equal(batches[0], batches[0].sort().values)
    assert batches[0].dtype == torch.float32


def test_any_batch_can_be_had_again():
    first, second = FrameReservoir(50, 2, seed=3), FrameReservoir(50, 2, seed=3)
    first.add(numbered(50))
    second.add(numbered(50))
    in_order = [first.batch(step, 32) for step in range(9)]
    for step in (8, 0, 5):
        assert torch.equal(second.batch(step, 32), in_order[step])
    other = FrameReservoir(50, 2, seed=4)
    other.add(numbered(50))
    assert not torch.equal(other.batch(0, 32), in_order[0])


def test_a_batch_larger_than_the_reservoir_repeats_frames():
    reservoir = FrameReservoir(10, 2, seed=0)
    reservoir.add(numbered(3))
    assert sorted(reservoir.batch(0, 6)[:, 0].tolist()) == [0, 0, 1, 1, 2, 2]


def test_values_beyond_float16_are_kept_exactly(caplog):
    reservoir = FrameReservoir(10, 2, seed=0)
    reservoir.add(numbered(3))
    with caplog.at_level(logging.WARNING):
        reservoir.add(torch.tensor([[65_504.0, -70_000.0]]))
        assert reservoir.batch(0, 4).abs().max() == 70_000
    assert "kept in float32" in caplog.text
    assert torch.equal(reservoir.frames[:3], numbered(3))


@pytest.mark.parametrize("offset", [0.0, 100.0, 20_000.0])
@pytest.mark.parametrize("length", [1, 7, 100])
def test_an_offset_costs_no_precision(offset, length):
    frames = offset + 4 * torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    reservoir = FrameReservoir(2000, 8, seed=0)
    for part in frames.split(length):
        reservoir.add(part)
    assert (reservoir.frames.dtype == torch.float32) == (offset == 20_000)
    assert (reservoir.frames.float() - frames).square().mean() < 1e-4 * 4**2
    rounded = FrameReservoir(2000, 8, seed=0)
    for part in frames.half().split(length):
        rounded.add(part)
        rounded.add(part.float())
    assert rounded.frames.dtype == torch.float16


@pytest.mark.parametrize("num_frames", [3000, 9000])
def test_frames_that_begin_all_the_same_need_no_float32(num_frames, caplog):
    generator = torch.Generator().manual_seed(0)
    silence = 1 + 1e-4 * torch.randn(150, 8, generator=generator)
    speech = torch.randn(num_frames, 8, generator=generator)
    reservoir = FrameReservoir(10_000, 8, seed=0)
    for part in (silence, *speech.split(100)):
        reservoir.add(part)
    assert torch.equal(reservoir.frames, torch.cat([silence, speech]).half())
    assert not caplog.text


def test_float32_is_taken_up_late_too(caplog):
    reservoir = FrameReservoir(10_000, 1, seed=0)
    reservoir.add(torch.randn(6000, 1))
    assert reservoir.frames.dtype == torch.float16
    reservoir.add(torch.full((1, 1), 1e5))
    assert reservoir.frames.dtype == torch.float32
    assert "reaches 1e+05, beyond float16" in caplog.text


def test_values_too_small_for_float16_are_kept():
    frames = 1e-7 * torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    reservoir = FrameReservoir(200, 8, seed=0)
    reservoir.add(frames[:0])
    reservoir.add(frames)
    assert torch.equal(reservoir.frames, frames)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(3, 5), r"\(3, 5\): expected \(num_frames, 2\)"),
        (torch.zeros(2), "quantizer_in_dim"),
        (torch.full((3, 2), float("nan")), "NaN"),
        (torch.full((3, 2), float("inf")), "infinite"),
        (torch.full((3, 2), 1e39, dtype=torch.float64), "beyond float32"),
        (torch.full((3, 2), -1e300, dtype=torch.float64), "beyond float32"),
    ],
)
def test_bad_frames_are_refused(frames, message):
    with pytest.raises(DataError, match=message):
        FrameReservoir(10, 2, seed=0).add(frames)


def test_no_frames_give_no_batch():
    with pytest.raises(DataError, match="no frames to train on"):
        FrameReservoir(10, 2, seed=0).batch(0, 4)


def test_room_that_no_machine_has_is_refused_and_few_frames_need_little():
    reservoir = FrameReservoir(10**12, 1280, 0)
    reservoir.add(torch.zeros(3000, 1280, dtype=torch.float16))
    message = r"--reservoir_frames 1000000000000: 2384186 GiB for frames of 1280 dimensions in "
    with pytest.raises(ConfigError, match=message + r"torch.float16 .*; lower it"):
        reservoir.add(torch.zeros(3000, 1280, dtype=torch.float16))


def test_frames_of_the_tiniest_unit_are_kept_as_they_are():
    frames = torch.randn(6000, 4, generator=torch.Generator().manual_seed(0)) * 1e-22
    reservoir = FrameReservoir(6000, 4, 0)
    reservoir.add(frames)
    assert torch.equal(reservoir.frames, frames)


def test_the_loss_is_measured_of_the_first_frames_a_value_beyond_float16_always(caplog):
    reservoir = FrameReservoir(100, 2, seed=0)
    plain, offset = torch.randn(MEASURED, 2), torch.randn(1000, 2) + 20_000
    reservoir.add(plain)
    for _ in range(20):
        reservoir.add(offset)
    assert reservoir.frames.dtype == torch.float16
    reservoir.add(torch.full((1, 2), 70_000.0))
    assert reservoir.frames.dtype == torch.float32
    assert "an embedding reaches 7e+04" in caplog.text
