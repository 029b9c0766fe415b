"""Entries that no frame chooses get one, when the training is done."""

import torch

from k2distil.quantizer import AdditiveQuantizer
from k2distil.quantizer.metrics import num_dead_codes, relative_error, unused_entries
from k2distil.quantizer.training.unused import use_every_entry


def with_far_entries(num_far):
    """A quantizer of 4 x 16 entries, the last ones of the first codebook far from every frame."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(4, 16, 8, generator=generator)
    table[0, 16 - num_far :] += 1000.0
    return AdditiveQuantizer(table, torch.ones(8), torch.tensor(2.0), beam=4)


def some_frames(number=2000):
    return 4 * torch.randn(number, 8, generator=torch.Generator().manual_seed(1))


def test_entries_far_from_every_frame_come_where_frames_are():
    quantizer, frames = with_far_entries(5), some_frames()
    before = quantizer.encode(frames)
    unused = unused_entries(before, 16)
    assert unused[0, 11:].all()
    found = use_every_entry(quantizer, frames, seed=3)
    codes = found.encode(frames)
    assert num_dead_codes(codes, 16) == 0
    assert torch.equal(found.table[~unused], quantizer.table[~unused])
    assert relative_error(found, codes, frames) < relative_error(quantizer, before, frames)
    assert found.settings == quantizer.settings
    assert use_every_entry(quantizer, frames, seed=3).id == found.id


def test_where_every_entry_is_used_it_is_the_quantizer_itself():
    quantizer = with_far_entries(0)
    assert use_every_entry(quantizer, some_frames()) is quantizer


def test_frames_that_are_fewer_than_entries_and_those_without_error_end_too():
    quantizer = with_far_entries(3)
    assert use_every_entry(quantizer, some_frames(2)).table.isfinite().all()
    table = torch.zeros(2, 4, 3)
    alike = AdditiveQuantizer(table, torch.zeros(3), torch.ones(()))
    assert use_every_entry(alike, torch.zeros(9, 3)) is alike


def test_frames_are_drawn_by_their_errors():
    table = torch.zeros(1, 2, 2)
    table[0, 1] = 100.0  # used by none
    quantizer = AdditiveQuantizer(table, torch.zeros(2), torch.ones(()))
    frames = torch.tensor([[1.0, 0.0], [0.0, 3.0**0.5]])
    moved = [use_every_entry(quantizer, frames, seed).table[0, 1] for seed in range(200)]
    assert 0.66 < float((torch.stack(moved)[:, 1] > 0).float().mean()) < 0.84
