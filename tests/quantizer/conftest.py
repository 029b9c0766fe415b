"""Frames and trained quantizers that several tests share."""

import pytest
import torch

from k2distil.quantizer import Quantizer, QuantizerTrainer


def power_law_frames(num_frames: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Gaussian, the variance of the i-th of `dim` random axes falls as 1 / i; (num_frames, dim)."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    deviations = torch.arange(1, dim + 1) ** -0.5
    return torch.randn(num_frames, dim, generator=generator) * deviations @ axes


def batch(frames: torch.Tensor, step: int) -> torch.Tensor:
    """512 random rows, the same for the same step."""
    generator = torch.Generator().manual_seed(step)
    return frames[torch.randint(len(frames), (512,), generator=generator)]


def trained(
    frames: torch.Tensor, quantizer_type: str, num_codebooks: int, codebook_size: int, seed: int = 0
) -> Quantizer:
    """The result of a whole training."""
    trainer = QuantizerTrainer(
        quantizer_type, frames.shape[1], num_codebooks, codebook_size, seed=seed
    )
    while not trainer.done:
        trainer.step(batch(frames, trainer.steps_done))
    return trainer.quantizer


@pytest.fixture(scope="session")
def frames() -> torch.Tensor:
    """(3000, 16) float32."""
    return power_law_frames(3000, 16)


@pytest.fixture(scope="session", params=["product", "additive"])
def quantizer(request: pytest.FixtureRequest, frames: torch.Tensor) -> Quantizer:
    """Trained on `frames`: D = 16, N = 3 (does not divide 16), K = 16."""
    return trained(frames, request.param, 3, 16)
