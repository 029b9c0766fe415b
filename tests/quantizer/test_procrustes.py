import pytest
import torch

from k2distil.quantizer.training.procrustes import by_products, nearest_rotation


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
def test_products_give_the_decompositions_rotation(dim, fall):
    matrix, exact = matrix_of(dim, fall)
    rotation = by_products(matrix.float(), torch.eye(dim))
    assert torch.allclose(rotation.double(), exact, atol=2e-3 if fall == 1.0 else 1e-4)
    assert torch.allclose(rotation @ rotation.T, torch.eye(dim), atol=1e-5)


def test_where_directions_hardly_count_they_lose_as_little_as_a_decomposition():
    matrix, exact = matrix_of(200, 2.0)
    best = float((matrix * exact).sum())
    for rotation in (by_products, nearest_rotation):
        found = float((matrix * rotation(matrix.float(), torch.eye(200))).sum())
        assert found == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("rank", [150, 1])
def test_in_directions_that_the_matrix_leaves_open_the_present_rotation_stays(rank):
    """So they are not rotated at random, round after round."""
    matrix, exact = matrix_of(200, 0.5, rank)
    right = torch.linalg.svd(exact)[2]
    matrix = torch.diag(torch.arange(1, 201) <= rank).double() @ right
    rotation = by_products(matrix.float(), right.float())
    assert torch.allclose(rotation.double(), right, atol=1e-4)


def test_products_give_up_where_there_is_nothing_to_grow():
    matrix = torch.eye(4)
    matrix[3, 3] = 0.0
    assert by_products(matrix, torch.zeros(4, 4)) is None


def test_any_matrix_has_a_nearest_rotation():
    for matrix in (matrix_of(16, 0.0, rank=10)[0].float(), torch.zeros(16, 16)):
        rotation = nearest_rotation(matrix, torch.eye(16))
        assert torch.allclose(rotation @ rotation.T, torch.eye(16), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rank", [None, 150, 0])
def test_a_gpu_finds_it_too(rank):
    matrix = matrix_of(200, 0.5, rank)[0].float().cuda()
    rotation = nearest_rotation(matrix, torch.eye(200, device="cuda"))
    assert torch.allclose(rotation @ rotation.T, torch.eye(200, device="cuda"), atol=1e-5)
    best = torch.linalg.svdvals(matrix).sum()
    assert float((matrix * rotation).sum()) == pytest.approx(float(best), rel=1e-4, abs=1e-6)
