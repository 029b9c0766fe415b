"""The rotation and entries that a product quantizer's training begins with."""

import pytest
import torch

from k2distil.quantizer.training.starts import best_start

DIM, NUM_CODEBOOKS, CODEBOOK_SIZE = 32, 4, 32


def places(generator: torch.Generator) -> torch.Tensor:
    """Sixteen in 8 dimensions, noise in 24 others, all turned: one codebook can hold the places."""
    frames = torch.randn(3000, DIM, generator=generator)
    far_apart = 8 * torch.randn(16, 8, generator=generator)
    frames[:, :8] *= 0.1
    frames[:, :8] += far_apart[torch.randint(16, (3000,), generator=generator)]
    return frames @ torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]


def outliers(generator: torch.Generator) -> torch.Tensor:
    """Eight dimensions with nearly all of the variance: too much for one codebook."""
    frames = torch.randn(3000, DIM, generator=generator)
    frames[:, :8] *= 30
    return frames


def start(frames: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = [DIM // NUM_CODEBOOKS] * NUM_CODEBOOKS
    generator = torch.Generator().manual_seed(seed)
    return best_start(frames - frames.mean(0), sizes, CODEBOOK_SIZE, 4, generator)


def variance_by_slice(frames: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """The share of each slice; (N,)."""
    variances = ((frames - frames.mean(0)) @ rotation.T).square().mean(0)
    return variances.view(NUM_CODEBOOKS, -1).sum(1) / variances.sum()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_one_codebook_can_hold_comes_to_one_codebook(seed):
    frames = places(torch.Generator().manual_seed(seed))
    _, rotation = start(frames, seed)
    assert variance_by_slice(frames, rotation)[0] > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_one_codebook_cannot_hold_is_spread(seed):
    frames = outliers(torch.Generator().manual_seed(seed))
    _, rotation = start(frames, seed)
    assert variance_by_slice(frames, rotation).max() < 0.5


@pytest.mark.parametrize("make", [places, outliers])
def test_axes_are_orthonormal_and_entries_lie_in_their_slices(make):
    table, rotation = start(make(torch.Generator().manual_seed(0)))
    assert torch.allclose(rotation @ rotation.T, torch.eye(DIM), atol=1e-5)
    for entries, axes in zip(table, rotation.split(DIM // NUM_CODEBOOKS), strict=True):
        assert torch.allclose(entries @ axes.T @ axes, entries, atol=1e-3)


def test_the_same_seed_gives_the_same_start():
    frames = places(torch.Generator().manual_seed(0))
    for one, other in zip(start(frames), start(frames), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("num_frames", [1, 5])
def test_fewer_frames_than_entries_or_dimensions_are_held_exactly(num_frames):
    frames = torch.randn(num_frames, DIM, generator=torch.Generator().manual_seed(0))
    table, rotation = start(frames)
    assert table.isfinite().all()
    assert torch.allclose(rotation @ rotation.T, torch.eye(DIM), atol=1e-5)
    centred = frames - frames.mean(0)
    for entries, axes in zip(table, rotation.split(DIM // NUM_CODEBOOKS), strict=True):
        differences = (centred @ axes.T).unsqueeze(1) - (entries @ axes.T).unsqueeze(0)
        assert differences.norm(dim=2).amin(1).max() < 1e-3
