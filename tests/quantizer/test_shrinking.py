import pytest
import torch

from k2distil.quantizer.metrics import relative_error
from k2distil.quantizer.training import trainer
from k2distil.quantizer.training.shrinking import shrink_entries
from tests.quantizer.conftest import power_law_frames, trained

N, K, D = 2, 64, 12


@pytest.fixture
def entries():
    """(N, K, D) of variance 1 on 4 axes and none on the others, around a constant."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(D, D, generator=generator))[0]
    return torch.randn(N, K, 4, generator=generator) @ axes[:4] + 3.0


def test_noise_goes_and_the_rest_stays(entries):
    generator = torch.Generator().manual_seed(1)
    counts = torch.full((N, K), 10.0)
    residuals = torch.randn(5000, D, generator=generator)
    noisy = entries + torch.randn(N, K, D, generator=generator) * 10**-0.5
    shrunk = shrink_entries(noisy, counts, residuals)
    before, after = (noisy - entries).square().mean(), (shrunk - entries).square().mean()
    # 8 of 12 axes are noise alone; on the others the best factor is 1 / 1.1.
    assert after < 0.45 * before
    assert shrunk.mean((0, 1)) == pytest.approx(noisy.mean((0, 1)), abs=1e-5)


def test_entries_of_many_frames_or_exact_ones_stay(entries):
    many = torch.full((N, K), 1e9)
    torch.testing.assert_close(shrink_entries(entries, many, torch.randn(99, D)), entries)
    few = torch.ones(N, K)
    torch.testing.assert_close(shrink_entries(entries, few, torch.zeros(99, D)), entries)


def test_an_entry_without_frames_counts_for_nothing(entries):
    counts = torch.ones(N, K)
    counts[:, 0] = 0
    residuals = torch.randn(99, D, generator=torch.Generator().manual_seed(2))
    far = entries.clone()
    far[:, 0] = 1000.0
    one, other = (shrink_entries(each, counts, residuals) for each in (entries, far))
    torch.testing.assert_close(one[:, 1:], other[:, 1:])


def test_trained_quantizers_are_better_for_it(monkeypatch):
    frames = power_law_frames(6000, 64)
    train, held_out = frames[:4000], frames[4000:]
    errors = []
    for shrink in (shrink_entries, lambda table, *_: table):
        monkeypatch.setattr(trainer, "shrink_entries", shrink)
        quantizer = trained(train, "additive", 4, 16)
        errors.append(relative_error(quantizer, quantizer.encode(held_out), held_out))
    assert errors[0] < errors[1]
