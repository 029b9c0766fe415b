import pytest
import torch

from k2distil.quantizer.procrustes import nearest_rotation, newton_schulz


def matrix_of(dim, fall, rank=None):
    """A random U S V^T with S = i^-fall, and U V^T; float64."""
    generator = torch.Generator().manual_seed(dim)
    left, right = (
        torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    values = torch.arange(1, dim + 1, dtype=torch.float64) ** -fall
    values[dim if rank is None else rank :] = 0.0
    return left * values @ right, left @ right


@pytest.mark.parametrize("fall", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dim", [1, 16, 200])
def test_newton_schulz_is_the_decompositions_rotation(dim, fall):
    matrix, exact = matrix_of(dim, fall)
    rotation = newton_schulz(matrix.float())
    assert torch.allclose(rotation.double(), exact, atol=1e-4)
    assert torch.allclose(rotation @ rotation.T, torch.eye(dim), atol=1e-5)


def test_where_directions_hardly_count_it_loses_as_little_as_a_decomposition():
    matrix, exact = matrix_of(200, 2.0)
    rotations = newton_schulz(matrix.float()), nearest_rotation(matrix.float(), torch.eye(200))
    best = (matrix * exact).sum()
    lost = [float((best - (matrix * each).sum()) / best) for each in rotations]
    assert abs(lost[0]) < max(abs(lost[1]), 1e-6)


def test_newton_schulz_gives_up_where_there_is_nothing_to_grow():
    matrix = torch.eye(4)
    matrix[3, 3] = 0.0
    assert newton_schulz(matrix) is None


def test_any_matrix_has_a_nearest_rotation():
    for matrix in (matrix_of(16, 0.0, rank=10)[0].float(), torch.zeros(16, 16)):
        rotation = nearest_rotation(matrix, torch.eye(16))
        assert torch.allclose(rotation @ rotation.T, torch.eye(16), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rank", [None, 150, 0])
def test_on_a_gpu_what_the_matrix_leaves_open_stays(rank):
    matrix = matrix_of(200, 0.5, rank)[0].float().cuda()
    present = matrix_of(200, 0.0)[1].float().cuda()
    rotation = nearest_rotation(matrix, present)
    assert torch.allclose(rotation @ rotation.T, torch.eye(200, device="cuda"), atol=1e-5)
    best = torch.linalg.svdvals(matrix).sum()
    assert float((matrix * rotation).sum()) == pytest.approx(float(best), rel=1e-4, abs=1e-6)
