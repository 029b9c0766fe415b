import threading
from concurrent.futures import ThreadPoolExecutor
from statistics import mean

import pytest
import torch

from k2distil.errors import ConfigError, DataError
from k2distil.quantizer import OutlierError, QuantizerTrainer, Share
from k2distil.quantizer.metrics import num_dead_codes, relative_error
from k2distil.quantizer.training.statistics import ALONE
from k2distil.quantizer.training.unused import use_every_entry
from tests.quantizer.conftest import batch, power_law_frames, trained


def error_of(quantizer, frames):
    return relative_error(quantizer, quantizer.encode(frames), frames.float())


def naive_product_error(frames, held_out, num_codebooks, codebook_size):
    """k-means on consecutive slices of the unrotated frames; 25 Lloyd iterations."""
    error = 0.0
    for part, other in zip(
        frames.chunk(num_codebooks, 1), held_out.chunk(num_codebooks, 1), strict=True
    ):
        entries = part[torch.randperm(len(part), generator=torch.manual_seed(0))[:codebook_size]]
        for _ in range(25):
            nearest = torch.cdist(part, entries).argmin(1)
            for k in nearest.unique():
                entries[k] = part[nearest == k].mean(0)
        error += float(torch.cdist(other, entries).amin(1).square().sum())
    return error / float((held_out - held_out.mean(0)).square().sum())


def test_held_out_error_is_below_naive_product_quantization():
    frames = power_law_frames(6000, 32)
    train, held_out = frames[:5000], frames[5000:]
    naive = naive_product_error(train, held_out, 4, 16)
    product, additive = (  # means: rounding alone moves one training by a percent
        mean(error_of(trained(train, kind, 4, 16, seed), held_out) for seed in range(3))
        for kind in ("product", "additive")
    )
    assert product < 0.85 * naive
    assert additive < 0.98 * product


def test_entries_go_beyond_the_solution_by_momentum_but_not_at_the_end(monkeypatch):
    """With no momentum at all, the first additive round ends at the solution itself."""
    frames = power_law_frames(6000, 32)
    tables = {}
    for momentum in (0.0, 0.9):
        monkeypatch.setattr("k2distil.quantizer.training.schedule.MOMENTUM", momentum)
        trainer = QuantizerTrainer("additive", 32, 4, 16)
        schedule = trainer.schedule
        while trainer.steps_done < schedule.start_of_additive + schedule.additive_steps:
            trainer.step(batch(frames, trainer.steps_done))
            if trainer.steps_done == schedule.start_of_additive:
                start = trainer.quantizer.table
        tables[momentum] = trainer.quantizer.table
    solved = tables[0.0]
    assert not torch.allclose(solved, start)
    assert torch.allclose(tables[0.9], solved + 0.9 * (solved - start), atol=1e-5)
    steps = range(schedule.start_of_additive + 1, schedule.num_steps + 1)
    ends = [step for step in steps if schedule.round_ends(step)]
    assert [schedule.momentum(step) for step in ends] == [0.9] * (len(ends) - 12) + [0.0] * 12


def test_the_step_error_falls_and_is_that_of_the_quantizer(frames):
    trainer = QuantizerTrainer("product", 16, 3, 16)
    errors, starts = [], []
    while not trainer.done:
        starts.append(trainer.starts_next)
        stats = trainer.step(frames[:512])
        errors.append(stats.relative_error)
    assert stats.step == trainer.num_steps == trainer.steps_done
    assert [step for step, starts_next in enumerate(starts) if starts_next] == [
        errors.index(next(filter(None, errors))) - 1
    ]
    assert stats.phase == "product"
    assert errors[0] is None
    assert errors[-1] < 0.9 * errors[1]
    assert errors[-1] == pytest.approx(error_of(trainer.quantizer, frames[:512]), rel=0.02)


def test_an_offset_and_a_unit_cost_nothing(quantizer, frames):
    moved = frames * 1000 + 30_000
    error = error_of(trained(moved, quantizer.type, 3, 16), moved)
    assert error == pytest.approx(error_of(quantizer, frames), rel=0.01)


def test_the_same_seed_gives_the_same_quantizer_and_another_seed_another(quantizer, frames):
    assert trained(frames, quantizer.type, 3, 16).id == quantizer.id
    assert trained(frames, quantizer.type, 3, 16, seed=1).id != quantizer.id


def test_the_frames_of_a_step_may_be_overwritten_after_it(frames):
    found = []
    for again in (False, True):
        trainer, buffer = QuantizerTrainer("product", 16, 3, 64), torch.empty(512, 16)
        assert trainer.schedule.gather_steps > 1
        while not trainer.done:
            given = batch(frames, trainer.steps_done)
            trainer.step(buffer.copy_(given) if again else given)
        found.append(trainer.quantizer.id)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("num_codebooks", "codebook_size"), [(1, 2), (1, 100), (2, 3), (5, 7), (16, 4)]
)
@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_any_number_of_codebooks_and_entries_trains(
    quantizer_type, num_codebooks, codebook_size, frames
):
    quantizer = trained(frames, quantizer_type, num_codebooks, codebook_size)
    codes = quantizer.encode(frames)
    assert codes.shape == (3000, num_codebooks)
    assert error_of(quantizer, frames) < 0.9


def test_no_code_is_dead_after_fifty_frames_an_entry(quantizer):
    frames = power_law_frames(50 * 32, 16, seed=3)
    found = trained(frames, quantizer.type, 4, 32)
    if found.type == "additive":  # as `finish` does
        found = use_every_entry(found, frames)
    assert num_dead_codes(found.encode(frames), 32) == 0


def test_clusters_beside_heaps_of_equal_frames_all_get_entries():
    """90 % silence: the few places that differ must not be lost to it."""
    places = 10 * torch.randn(15, 8, generator=torch.Generator().manual_seed(0))
    frames = torch.cat([torch.zeros(4500, 8), places.repeat(34, 1)])
    quantizer = trained(frames, "product", 1, 16)
    assert error_of(quantizer, frames) < 1e-6
    assert num_dead_codes(quantizer.encode(frames), 16) == 0


def test_dead_entries_come_back_to_life():
    frames = power_law_frames(4000, 8)
    trainer = QuantizerTrainer("product", 8, 1, 16)
    trainer.step(frames[:1].expand(512, -1))  # all that gathering sees is one frame
    while not trainer.done:
        rows = torch.arange(512) + 512 * (trainer.steps_done % 7)
        trainer.step(frames[rows])
    assert num_dead_codes(trainer.quantizer.encode(frames), 16) == 0


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_constant_dimensions_and_outliers_do_no_harm(quantizer_type, frames):
    padded = torch.cat([frames, torch.full((3000, 8), 7.0)], dim=1)
    quantizer = trained(padded, quantizer_type, 3, 16)
    assert error_of(quantizer, padded) < 1.1 * error_of(
        trained(frames, quantizer_type, 3, 16), frames
    )
    assert torch.allclose(
        quantizer.decode(quantizer.encode(padded))[:, 16:], padded[:, 16:], atol=1e-3
    )


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_fewer_frames_than_entries_are_kept_as_they_are(quantizer_type, num_frames, frames):
    few = frames[:num_frames] + 100
    quantizer = trained(few, quantizer_type, 2, 8)
    assert torch.allclose(quantizer.decode(quantizer.encode(few)), few, atol=1e-3)


def test_float16_frames_near_the_limit_train(quantizer, frames):
    big = (frames * (65_000 / float(frames.abs().max()))).half()
    error = error_of(trained(big, quantizer.type, 3, 16), big)
    assert error == pytest.approx(error_of(quantizer, frames), rel=0.05)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(0, 16), "at least one frame"),
        (torch.zeros(5, 15), "16 dimensions"),
        (torch.zeros(2, 5, 16), "16 dimensions"),
        (torch.full((5, 16), float("nan")), "NaN"),
    ],
)
def test_bad_batches_are_refused(bad, message):
    with pytest.raises(DataError, match=message):
        QuantizerTrainer("product", 16, 3, 16).step(bad)


def test_values_beyond_float32_are_refused():
    trainer = QuantizerTrainer("product", 2, 1, 2)
    with pytest.raises(DataError, match="beyond float32"):
        trainer.step(torch.tensor([[1e300, 0], [-1e300, 0]], dtype=torch.float64))


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_values_whose_squares_no_float32_holds_are_refused(quantizer_type, frames):
    trainer = QuantizerTrainer(quantizer_type, 16, 3, 16)
    while trainer.steps_done < 10:
        trainer.step(batch(frames, trainer.steps_done))
    broken = frames[:512].clone()
    broken[7, 3] = 1e22
    with pytest.raises(OutlierError, match=r"of the training frames is .*e\+22 times .*look at"):
        trainer.step(broken)
    assert trainer.steps_done == 10


def test_frames_that_differ_by_rounding_alone_have_no_unit():
    one = torch.full((512, 4), 1e6)
    one[::2, 1] = torch.nextafter(one[0, 1], torch.tensor(2e6))
    trainer = QuantizerTrainer("product", 4, 2, 4)
    while not trainer.done:
        trainer.step(one)
    assert trainer.quantizer.scale == 1
    assert torch.allclose(trainer.quantizer.decode(trainer.quantizer.encode(one)), one, rtol=1e-7)


@pytest.mark.parametrize("unit", [2.0**-126, 2.0**-149])
def test_the_tiniest_units_train(unit):
    frames = unit * power_law_frames(2000, 16).mul(8).round()
    quantizer = trained(frames, "product", 2, 16)
    assert quantizer.scale > 0
    assert error_of(quantizer, frames) < 0.9


def test_frames_whose_deviation_no_float32_holds_have_no_unit():
    frames = torch.zeros(512, 4)
    frames[::50, 1] = 2.0**-149  # the least above 0; of the deviation nothing is left
    quantizer = trained(frames, "product", 2, 4)
    assert quantizer.scale == 1
    assert torch.equal(quantizer.decode(quantizer.encode(frames)), torch.zeros(512, 4))


def test_what_is_known_of_product_entries_that_move_is_forgotten():
    frames = power_law_frames(4000, 8)
    trainer = QuantizerTrainer("product", 8, 1, 16)
    trainer.step(frames[:1].expand(512, -1))  # all entries but one are used by none
    trainer.step(frames[:512])
    assert trainer.schedule.round_ends(trainer.steps_done)
    running = trainer.state_dict()["rounds"]["running"]  # one was crowded, one came beside it
    assert all(not tensor.any() for tensor in running.values())


def test_the_rounds_at_rest_learn_from_all_of_their_frames(frames):
    trainer = QuantizerTrainer("additive", 16, 3, 16)
    schedule = trainer.schedule
    steps = range(schedule.start_of_additive + 1, schedule.num_steps + 1)
    ends = [step for step in steps if schedule.round_ends(step)]
    assert [schedule.decay(step) for step in ends] == [0.8] * (len(ends) - 12) + [0.95] * 12
    while not trainer.done:
        trainer.step(batch(frames, trainer.steps_done))
    a_round = 512 * schedule.additive_steps
    counted = trainer.state_dict()["rounds"]["running"]["counts"].view(3, 16).sum(1) / a_round
    assert counted.tolist() == pytest.approx([11.9] * 3, abs=0.5)  # rounds; 5 of 0.8


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="quantizer_out_dim 17"):
        QuantizerTrainer("product", 16, 17, 16)


def test_there_is_no_quantizer_too_early_and_no_step_too_late(frames):
    trainer = QuantizerTrainer("product", 16, 3, 16)
    with pytest.raises(RuntimeError, match="no quantizer before step 1"):
        _ = trainer.quantizer
    while not trainer.done:
        trainer.step(frames[:16])
    with pytest.raises(RuntimeError, match="done"):
        trainer.step(frames[:16])


def test_a_small_problem_has_few_steps_and_a_full_one_under_three_thousand():
    assert QuantizerTrainer("product", 16, 4, 16).num_steps <= 150
    assert QuantizerTrainer("product", 1280, 8, 256).num_steps <= 2000
    assert QuantizerTrainer("additive", 1280, 8, 256).num_steps <= 3000


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_two_that_share_batches_train_what_one_does(quantizer_type, frames):
    """In threads; they go on from a training of one that was stopped within a round."""
    barrier, given = threading.Barrier(2, timeout=60), [torch.empty(0)] * 2

    def share_of(rank):
        def add_up(tensor):
            given[rank] = tensor
            barrier.wait()
            total = given[0] + given[1]
            barrier.wait()
            return total

        return Share(rank, 2, add_up)

    def train(share, state=None, end=None):
        trainer = QuantizerTrainer(quantizer_type, 16, 3, 16, batch_size=200, share=share)
        if state is not None:
            trainer.load_state_dict(state)
        whole = []
        while trainer.steps_done < (end or trainer.num_steps):
            trainer.step(batch(frames, trainer.steps_done))
            whole.append(trainer.is_whole)
        return trainer, whole

    alone, always = train(ALONE)
    stopped, _ = train(ALONE, end=6)
    assert not stopped.schedule.round_ends(6)
    with ThreadPoolExecutor(2) as pool:
        states = [stopped.state_dict()] * 2
        (first, whole), (second, _) = pool.map(train, map(share_of, (0, 1)), states)
    assert all(always)
    assert whole[0]  # two steps a round
    assert not whole[1]
    assert alone.quantizer.id == first.quantizer.id == second.quantizer.id


def test_entries_that_the_noise_step_makes_useless_are_used_in_the_end(monkeypatch):
    def collapse(table, counts, residuals):
        table = table.clone()
        table[0, 1:6] = table[0, 0]  # only one of equals is ever chosen
        return table

    monkeypatch.setattr("k2distil.quantizer.training.trainer.shrink_entries", collapse)
    frames = power_law_frames(4000, 32)
    quantizer = trained(frames, "additive", 4, 16)
    assert num_dead_codes(quantizer.encode(frames), 16) >= 5
    quantizer = use_every_entry(quantizer, frames)
    assert num_dead_codes(quantizer.encode(frames), 16) == 0


def test_entries_of_rare_frames_stay_when_the_training_settles():
    frames = torch.randn(12_000, 16, generator=torch.Generator().manual_seed(0))
    frames[::100] *= 30  # of a round, 512 frames here, some entries see none
    trainer = QuantizerTrainer("additive", 16, 4, 16)
    batches = torch.Generator().manual_seed(1)
    while not trainer.done:
        if trainer.steps_done == trainer.num_steps - 1:
            before = error_of(trainer.quantizer, frames)
        trainer.step(frames[torch.randint(len(frames), (512,), generator=batches)])
    quantizer = use_every_entry(trainer.quantizer, frames)
    assert error_of(quantizer, frames) < 1.05 * before
    assert num_dead_codes(quantizer.encode(frames), 16) == 0
