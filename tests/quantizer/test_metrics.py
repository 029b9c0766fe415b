import math
from dataclasses import asdict

import pytest
import torch

from k2distil.errors import DataError
from k2distil.quantizer import OutlierError, ProductQuantizer, evaluate
from k2distil.quantizer.metrics import (
    fit_probe,
    num_dead_codes,
    probe_scores,
    relative_error,
    usage,
)
from tests.quantizer.conftest import power_law_frames


def on_one_axis(num_entries):
    """Entries at 0, 1, 2 ... on the first of two axes."""
    table = torch.zeros(1, num_entries, 2)
    table[0, :, 0] = torch.arange(num_entries)
    return ProductQuantizer(table, torch.zeros(2), torch.tensor(1.0))


def test_the_error_is_that_of_a_hand_computed_case():
    frames = torch.tensor([[0.0, 1.0], [2.0, -1.0]])  # variance 2 + 2, error 1 + 1
    figures = evaluate(on_one_axis(3), frames, frames)
    assert figures.relative_error == pytest.approx(0.5)
    assert figures.dead_codes == 1
    assert figures.usage == pytest.approx(2 / 3)
    assert figures.num_frames == 2


def test_usage_is_perplexity_over_size():
    codes = torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0]], dtype=torch.uint8)
    assert usage(codes, 4) == pytest.approx([1.0, 0.25])
    assert usage(codes, 8) == pytest.approx([0.5, 0.125])
    assert num_dead_codes(codes, 4) == 3


def test_flips_grow_with_the_distance_noise_covers():
    """Uniform on [0, 8) with borders at odd halves: a share of 2 E|noise| / width flips, about."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.zeros(20_000, 2)
    frames[:, 0] = 8 * torch.rand(20_000, generator=generator) - 0.5
    figures = evaluate(on_one_axis(8), frames[:2000], frames)
    deviation = float((frames - frames.mean(0)).square().mean().sqrt())
    for measured, level in [(figures.flips_1, 0.01), (figures.flips_5, 0.05)]:
        expected = math.sqrt(2 / math.pi) * level * deviation * 7 / 8  # 7 of 8 borders are inside
        assert measured == pytest.approx(expected, rel=0.15)


def test_codes_that_a_frame_decides_are_predicted_and_noise_codes_are_not():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(4000, 8, generator=generator)
    decided = (frames[:, :2] > 0).long()
    random = torch.randint(0, 2, (4000, 2), generator=generator)
    scores = []
    for codes in (decided, random):
        probe = fit_probe(frames[:3000], codes[:3000], 2, generator)
        cross_entropy, predicted = probe_scores(probe, frames[3000:], codes[3000:])
        scores.append((cross_entropy, float((predicted == codes[3000:]).float().mean())))
    assert scores[0][0] < 0.15
    assert scores[0][1] > 0.97
    assert scores[1][0] == pytest.approx(math.log(2), abs=0.02)
    assert abs(scores[1][1] - 0.5) < 0.05


def test_a_probe_that_can_learn_nothing_scores_the_entropy_of_the_codes():
    frames = torch.zeros(1000, 4)
    codes = (torch.arange(1000) % 4 == 0).long().unsqueeze(1)  # 1/4 : 3/4
    probe = fit_probe(frames, codes, 2, torch.Generator().manual_seed(0))
    cross_entropy, predicted = probe_scores(probe, frames, codes)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert cross_entropy == pytest.approx(entropy, abs=0.01)
    assert not predicted.any()


def test_figures_of_a_trained_quantizer_are_in_order_and_repeatable(quantizer, frames):
    held_out = power_law_frames(4000, 16)[3000:]
    figures = evaluate(quantizer, frames, held_out, seed=1)
    assert figures == evaluate(quantizer, frames, held_out, seed=1)
    assert 0 < figures.relative_error < figures.predicted_error < 1
    assert 0 < figures.probe_cross_entropy < math.log(16)
    assert 0 < figures.flips_1 < figures.flips_5 < 0.5
    assert 0.7 < figures.usage <= 1
    assert figures.dead_codes == 0
    assert figures.num_frames == 1000


def test_the_error_by_number_of_codebooks_falls_to_that_of_all(quantizer, frames):
    held_out = power_law_frames(4000, 16)[3000:]
    figures = evaluate(quantizer, frames, held_out)
    errors = figures.error_by_num_codebooks
    assert len(errors) == 3
    assert 1 > errors[0] > errors[1] > errors[2] == figures.relative_error
    part = quantizer.first(2)
    assert errors[1] == pytest.approx(relative_error(part, part.encode(held_out), held_out))
    assert evaluate(part, frames, held_out).error_by_num_codebooks == pytest.approx(errors[:2])


def test_directions_that_are_rounding_do_not_count_for_the_probe():
    """Frames on a plane among 8 dimensions: the other variances come out as 0, or below."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randn(3000, 2, generator=generator)
    frames = place @ torch.randn(2, 8, generator=generator)
    codes = (place > 0).long()
    probe = fit_probe(frames[:2000], codes[:2000], 2, generator)
    assert probe.weight.isfinite().all()
    assert (probe.whitening(frames).square().mean(0) < 2).all()
    beside = frames[2000:] + 1e-6 * torch.randn(1000, 8, generator=generator)
    cross_entropy, predicted = probe_scores(probe, beside, codes[2000:])
    assert cross_entropy < 0.15
    assert (predicted == codes[2000:]).float().mean() > 0.97


@pytest.mark.parametrize("unit", [2.0**-126, 2.0**-100, 2.0**100, 2.0**120])
def test_the_unit_of_the_frames_does_not_show_in_the_figures(quantizer, frames, unit):
    entries = quantizer.entries()
    entries |= {name: entries[name] * unit for name in ("mean", "scale")}
    held_out = power_law_frames(4000, 16)[3000:]
    figures = asdict(evaluate(quantizer, frames, held_out))
    found = evaluate(type(quantizer)(**entries), frames * unit, held_out * unit)
    for name, value in asdict(found).items():
        assert value == pytest.approx(figures[name], rel=0.02), name


def test_noise_is_in_proportion_to_the_deviation_beside_an_offset():
    """A mean that float32 does not hold: its rounding is no deviation."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.zeros(20_000, 2)
    frames[:, 0] = 8 * torch.rand(20_000, generator=generator) - 0.5
    frames[:, 1] = 2.0**26
    frames[::2, 1] += 8  # float32's next
    table = on_one_axis(8).table
    quantizer = ProductQuantizer(table, torch.tensor([0.0, 2.0**26]), torch.tensor(1.0))
    deviation = float(frames.double().var(0, correction=0).mean().sqrt())
    expected = math.sqrt(2 / math.pi) * 0.05 * deviation * 7 / 8
    assert evaluate(quantizer, frames[:2000], frames).flips_5 == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("which", ["training", "held-out"])
def test_values_whose_squares_no_float32_holds_are_refused(quantizer, frames, which):
    broken = frames.clone()
    broken[7, 3] = 1e22
    given = (broken, frames) if which == "training" else (frames, broken)
    with pytest.raises(OutlierError, match=f"a value of the {which} frames is .*e\\+22 times"):
        evaluate(quantizer, *given)


class OfAnotherMaker:
    """What bench/ gives to `evaluate`: no `first`."""

    num_codebooks, codebook_size = 1, 3

    def encode(self, frames):
        return on_one_axis(3).encode(frames)

    def decode(self, codes):
        return on_one_axis(3).decode(codes)


def test_the_error_by_number_of_codebooks_is_left_empty_for_other_makers():
    frames = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    assert evaluate(OfAnotherMaker(), frames, frames).error_by_num_codebooks == []


def test_constant_frames_have_no_error():
    frames = torch.full((10, 2), 1.0)
    frames[:, 1] = 0
    assert evaluate(on_one_axis(3), frames, frames).relative_error == 0


def test_no_frames_are_refused(quantizer):
    with pytest.raises(DataError, match="0 training and 5 held-out"):
        evaluate(quantizer, torch.zeros(0, 16), torch.zeros(5, 16))
