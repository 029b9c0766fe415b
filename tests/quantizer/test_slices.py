"""Product quantizers compare frames in the slices of their codebooks: the same codes, sooner."""

import pytest
import torch

from k2distil.quantizer import ProductQuantizer, QuantizerTrainer, load_quantizer
from k2distil.quantizer.checkpoint import save_quantizer
from k2distil.quantizer.search.slices import FEW, find_axes, pad_axes
from tests.quantizer.conftest import batch, power_law_frames, trained


def rotated_table(num_codebooks, codebook_size, dim, seed=0):
    """Entries in slices of a random rotation, and the slices' axes."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    slices = rotation.tensor_split(num_codebooks)
    entries = [torch.randn(codebook_size, len(axes), generator=generator) @ axes for axes in slices]
    return torch.stack(entries), pad_axes(slices)


def agree_with_brute_force(quantizer, frames):
    """Each code is the best of its codebook, but for what float32 cannot tell apart."""
    entries, wanted = quantizer.table.double(), quantizer.normalise(frames).double()
    distances = torch.stack([torch.cdist(wanted, each) for each in entries], 1)
    chosen = distances.gather(2, quantizer.encode(frames).long().unsqueeze(2)).squeeze(2)
    return torch.allclose(chosen, distances.amin(2), rtol=1e-5)


@pytest.mark.parametrize(
    "sizes", [(4, 64, 48), (3, 40, 20), (5, 16, 12), (2, 300, 24), (2, 900, 540)]
)
def test_the_axes_of_the_slices_are_found(sizes):
    table, axes = rotated_table(*sizes)
    found = find_axes(table)
    assert found.shape == axes.shape
    for ours, theirs in zip(found, axes, strict=True):
        ours, theirs = ours[ours.any(1)], theirs[theirs.any(1)]
        assert len(ours) == len(theirs)
        assert torch.allclose(ours @ ours.T, torch.eye(len(ours)), atol=1e-5)
        assert torch.allclose(ours.T @ ours, theirs.T @ theirs, atol=1e-4)  # the same subspace


@pytest.mark.parametrize("sizes", [(4, 64, 48), (3, 40, 20), (5, 16, 12), (2, 300, 24)])
def test_codes_are_the_best_with_slices_and_without(sizes):
    table, axes = rotated_table(*sizes)
    frames = 30 + 2 * torch.randn(500, sizes[2], generator=torch.Generator().manual_seed(1))
    mean, scale = torch.full((sizes[2],), 30.0), torch.tensor(2.0)
    for quantizer in (
        ProductQuantizer(table, mean, scale),
        ProductQuantizer(table, mean, scale, axes),
    ):
        assert quantizer.axes is not None
        assert agree_with_brute_force(quantizer, frames)
    bent = table.clone()
    bent[-1, -1] += 0.01  # out of its slice
    quantizer = ProductQuantizer(bent, mean, scale)
    assert (quantizer.axes is None) == (sizes[1] > FEW)  # else it is one axis more
    assert agree_with_brute_force(quantizer, frames)


def test_slices_that_would_save_nothing_are_not_used():
    assert find_axes(torch.randn(2, 16, 24)) is None  # any entries
    table, axes = rotated_table(1, 64, 16)
    assert find_axes(table) is None
    assert ProductQuantizer(table, torch.zeros(16), torch.ones(()), axes).axes is None


def test_entries_of_fewer_dimensions_than_their_slice_are_compared_all_the_same():
    table, _ = rotated_table(4, 64, 48)
    table[0] = 0.0  # a codebook of nothing
    table[1, 1:] = table[1, 0]  # of one entry, again and again
    quantizer = ProductQuantizer(table, torch.zeros(48), torch.ones(()))
    assert quantizer.axes[0].any() == 0
    assert int(quantizer.axes[1].any(1).sum()) == 1
    codes = quantizer.encode(torch.randn(200, 48, generator=torch.Generator().manual_seed(1)))
    assert not codes[:, 0].any()
    assert agree_with_brute_force(quantizer, torch.randn(200, 48))


def test_a_trained_one_has_them_and_so_has_its_file(tmp_path):
    frames = power_law_frames(4000, 24)
    quantizer = trained(frames, "product", 5, 16)
    assert quantizer.axes.shape == (5, 5, 24)  # four slices of 5 axes, one of 4
    assert int(quantizer.axes.any(2).sum()) == 24
    assert agree_with_brute_force(quantizer, frames)
    loaded = load_quantizer(save_quantizer(quantizer, tmp_path))
    assert torch.equal(loaded.axes, quantizer.axes)
    assert torch.equal(loaded.encode(frames), quantizer.encode(frames))
    assert torch.equal(quantizer.first(2).encode(frames), quantizer.encode(frames)[:, :2])


def test_entries_that_no_frame_chose_move_within_their_slice():
    frames = power_law_frames(4000, 24)
    trainer = QuantizerTrainer("product", 24, 4, 64)
    for step in range(trainer.schedule.gather_steps):
        trainer.step(batch(frames[:40], step))  # fewer than entries: some repeat others
    first = trainer.quantizer
    while trainer.quantizer is first:
        trainer.step(batch(frames, trainer.steps_done))
    chosen = [len(codes.unique()) for codes in trainer.quantizer.encode(frames).T]
    assert min(chosen) > 40
    table, axes = trainer.quantizer.table, trainer.quantizer.axes
    assert (table - table @ axes.transpose(1, 2) @ axes).abs().max() < 1e-5


def test_an_entry_far_from_the_others_hides_no_axes():
    table, _ = rotated_table(4, 64, 48)
    table[:, 0] *= 1e7  # as of a damaged file
    quantizer = ProductQuantizer(table, torch.zeros(48), torch.ones(()))
    assert quantizer.axes.shape == (4, 12, 48)
    frames = torch.randn(300, 48, generator=torch.Generator().manual_seed(1))
    assert agree_with_brute_force(quantizer, frames)


def test_one_made_under_autocast_has_the_same_codes():
    table, _ = rotated_table(4, 64, 48)
    quantizer = ProductQuantizer(table, torch.zeros(48), torch.ones(()))
    frames = torch.randn(100, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.first(2).encode(frames), quantizer.encode(frames)[:, :2])
