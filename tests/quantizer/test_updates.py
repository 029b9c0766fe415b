import itertools

import pytest
import torch

from k2distil.quantizer.training.statistics import CodeSums
from k2distil.quantizer.training.updates import RIDGE, update_additive, update_product


def random_sums(num_codebooks, codebook_size, dim, num_frames=500):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(num_frames, dim, generator=generator)
    codes = torch.randint(0, codebook_size, (num_frames, num_codebooks), generator=generator)
    table = torch.zeros(num_codebooks, codebook_size, dim)
    sums = CodeSums.zeros(table, with_pairs=True, dtype=torch.float32)
    sums.add(frames, codes, torch.ones(num_frames), codebook_size)
    return frames, codes, table, sums


def mean_error(frames, codes, table):
    chosen = sum(table[n][codes[:, n]] for n in range(len(table)))
    return float((frames - chosen).square().sum(1).mean())


def test_product_entries_are_means_in_their_own_slice():
    frames, codes, table, sums = random_sums(2, 4, 5)
    new, rotation = update_product(sums, table, torch.eye(5), [3, 2], num_rotations=0)
    assert torch.equal(rotation, torch.eye(5))
    for n, axes in enumerate([slice(0, 3), slice(3, 5)]):
        for k in range(4):
            expected = torch.zeros(5)
            expected[axes] = frames[codes[:, n] == k].mean(0)[axes]
            assert torch.allclose(new[n, k], expected, atol=1e-5)


def test_every_rotation_lowers_the_error_and_stays_orthogonal():
    frames, codes, table, sums = random_sums(2, 4, 5)
    errors = []
    for num_rotations in range(5):
        new, rotation = update_product(sums, table, torch.eye(5), [3, 2], num_rotations)
        assert torch.allclose(rotation @ rotation.T, torch.eye(5), atol=1e-5)
        assert torch.allclose(new[0] @ rotation[3:].T, torch.zeros(4, 2), atol=1e-5)
        errors.append(mean_error(frames, codes, new))
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


def test_an_entry_nobody_chose_stays():
    _, _, table, sums = random_sums(2, 4, 5)
    table = table + 1.0
    sums.forget(torch.arange(8) == 1)
    new, _ = update_product(sums, table, torch.eye(5), [3, 2], num_rotations=0)
    assert torch.equal(new[0, 1], torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))


def test_additive_entries_solve_the_tied_least_squares():
    frames, codes, table, sums = random_sums(3, 4, 5)
    table = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    new = update_additive(sums, table)
    hot = torch.nn.functional.one_hot(codes, 4).flatten(1).double()
    system = torch.cat([hot, RIDGE**0.5 * torch.eye(12, dtype=torch.float64)])
    target = torch.cat([frames.double(), RIDGE**0.5 * table.flatten(0, 1).double()])
    expected = torch.linalg.lstsq(system, target).solution
    assert torch.allclose(new.flatten(0, 1).double(), expected, atol=1e-4)
    assert mean_error(frames, codes, new) < mean_error(frames, codes, table)


def test_additive_entries_stay_where_nothing_was_seen():
    _, _, table, _ = random_sums(3, 4, 5)
    table = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    unseen = update_additive(CodeSums.zeros(table, with_pairs=True), table)
    assert unseen == pytest.approx(table, abs=1e-6)
