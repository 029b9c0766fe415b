import io

import pytest
import torch

from k2distil.quantizer import QuantizerTrainer, load_quantizer, save_quantizer
from k2distil.quantizer.metrics import relative_error
from k2distil.quantizer.search import additive as search
from k2distil.quantizer.training.conjugate_gradients import solve
from k2distil.quantizer.training.statistics import CodeSums
from k2distil.quantizer.training.updates import update_additive
from tests.quantizer.conftest import batch, power_law_frames, trained
from tests.quantizer.test_trainer import error_of
from tests.quantizer.test_updates import random_sums


def test_it_solves_what_a_dense_solver_solves():
    generator = torch.Generator().manual_seed(0)
    hot = (torch.rand(200, 30, generator=generator) < 0.2).float()
    pairs, ridge = hot.T @ hot, 10.0
    target = torch.randn(30, 4, generator=generator)
    expected = torch.linalg.solve(pairs + ridge * torch.eye(30), target)
    start = torch.randn(30, 4, generator=generator)
    sparse = pairs.to_sparse().coalesce()
    found = solve(sparse, ridge, target, start, tolerance=1e-6, max_iterations=100)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(solve(sparse, ridge, target, expected, tolerance=1e-3), expected)


def test_sparse_sums_are_dense_ones(monkeypatch):
    _, _, _, dense = random_sums(3, 4, 5)
    monkeypatch.setattr(search, "MAX_TABLE_SIZE", 1)
    _, _, _, sparse = random_sums(3, 4, 5)
    assert sparse.pairs.is_sparse
    for sums in (dense, sparse):
        fresh = CodeSums.of({name: tensor.clone() for name, tensor in sums.tensors().items()})
        sums.merge(fresh, 0.5)
        sums.forget(torch.arange(12) == 7)
    assert torch.equal(sparse.pairs.to_dense(), dense.pairs)
    assert torch.equal(sparse.sums, dense.sums)


@pytest.mark.parametrize("num_codebooks", [1, 2, 8])
def test_additive_entries_are_those_of_the_dense_system(num_codebooks, monkeypatch):
    _, _, table, dense = random_sums(num_codebooks, 16, 12, num_frames=3000)
    table = 0.5 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    expected = update_additive(dense, table)
    monkeypatch.setattr(search, "MAX_TABLE_SIZE", 1)
    _, _, _, sparse = random_sums(num_codebooks, 16, 12, num_frames=3000)
    found = update_additive(sparse, table)
    assert torch.equal(found, update_additive(sparse, table))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_entries_stay_where_nothing_was_seen(monkeypatch):
    monkeypatch.setattr(search, "MAX_TABLE_SIZE", 1)
    table = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(update_additive(CodeSums.zeros(table, with_pairs=True), table), table)


def run(trainer, frames, num_steps):
    """Train up to so many steps."""
    while trainer.steps_done < num_steps:
        trainer.step(batch(frames, trainer.steps_done))
    return trainer


def test_training_without_a_gram_table_is_as_good_and_resumes(monkeypatch):
    frames = power_law_frames(3000, 16)
    with_table = trained(frames, "additive", 3, 16)
    monkeypatch.setattr(search, "MAX_TABLE_SIZE", 1)
    whole = QuantizerTrainer("additive", 16, 3, 16)
    run(whole, frames, whole.num_steps)
    assert whole.quantizer.interactions is None
    expected = error_of(with_table, frames)
    assert error_of(whole.quantizer, frames) == pytest.approx(expected, rel=0.02)

    stopped = run(QuantizerTrainer("additive", 16, 3, 16), frames, whole.num_steps - 4)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = QuantizerTrainer("additive", 16, 3, 16)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert run(resumed, frames, whole.num_steps).quantizer.id == whole.quantizer.id


def test_thousands_of_entries_train_and_code(tmp_path):
    frames = power_law_frames(6000, 8)
    trainer = QuantizerTrainer("additive", 8, 2, 5000, batch_size=100_000)
    trainer.step(frames)
    while not trainer.done:
        rows = torch.arange(1000) + 1000 * (trainer.steps_done % 6)
        trainer.step(frames[rows])
    quantizer = load_quantizer(save_quantizer(trainer.quantizer, tmp_path / "q.pt"))
    codes = quantizer.encode(frames[:500])
    assert codes.dtype == torch.int16
    assert relative_error(quantizer, codes, frames[:500]) < 0.05
