import pytest
import torch

from k2distil.quantizer.training.seeding import revive_entries, seed_entries


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("num_entries", [2, 10, 300])
def test_seeds_are_distinct_points(num_entries):
    points = torch.randn(1000, 3, generator=generator())
    seeds = seed_entries(points, num_entries, generator(1))
    assert seeds.shape == (num_entries, 3)
    assert torch.cdist(seeds.double(), points.double()).amin(1).max() < 1e-6
    assert len(seeds.unique(dim=0)) == num_entries


def test_seeds_reach_every_far_cluster():
    centers = 100 * torch.randn(20, 3, generator=generator())
    points = centers.repeat(50, 1) + 0.1 * torch.randn(1000, 3, generator=generator(1))
    seeds = seed_entries(points, 20, generator(2))
    assert torch.cdist(centers, seeds).amin(1).max() < 1


def test_too_few_points_are_all_seeds_and_repeat():
    points = torch.randn(3, 2, generator=generator()).repeat(10, 1)
    seeds = seed_entries(points, 8, generator(1))
    assert seeds.shape == (8, 2)
    assert torch.equal(seeds.unique(dim=0), points.unique(dim=0))


def test_dead_entries_move_beside_those_with_the_greatest_error():
    table = torch.randn(1, 4, 3, generator=generator())
    counts = torch.tensor([[10.0, 0.0, 10.0, 0.0]])
    errors = torch.tensor([[1.0, 0.0, 9.0, 0.0]])
    new, moved = revive_entries(table, counts, errors, generator(1))
    assert torch.equal(new[0, [0, 2]], table[0, [0, 2]])
    assert (new[0, 1] - table[0, 2]).norm() < 0.5 * table[0].std(0).norm()
    assert (new[0, 3] - table[0, 0]).norm() < 0.5 * table[0].std(0).norm()
    assert moved.all()


def test_an_entry_of_one_frame_has_no_room_for_another():
    table = torch.randn(1, 3, 3, generator=generator())
    counts, errors = torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[0.0, 9.0, 1.0]])
    _, moved = revive_entries(table, counts, errors, generator(1))
    assert moved.tolist() == [True, False, True]


def test_nothing_moves_where_nothing_is_dead_or_nothing_is_wrong():
    table = torch.randn(1, 3, 3, generator=generator())
    for counts, errors in [([5.0, 5.0, 5.0], [1.0, 1.0, 1.0]), ([9.0, 0.0, 0.0], [0.0, 0.0, 0.0])]:
        new, moved = revive_entries(
            table, torch.tensor([counts]), torch.tensor([errors]), generator()
        )
        assert torch.equal(new, table)
        assert not moved.any()
