import pytest
import torch

from k2distil.quantizer.training.statistics import CodeSums


def one_hot(codes, codebook_size):
    hot = torch.nn.functional.one_hot(codes.long(), codebook_size)
    return hot.flatten(1).double()


@pytest.mark.parametrize("with_pairs", [True, False])
def test_sums_are_those_of_the_one_hot_matrix(with_pairs):
    generator = torch.Generator().manual_seed(0)
    frames, errors = torch.randn(40, 5, generator=generator), torch.rand(40, generator=generator)
    codes = torch.randint(0, 4, (40, 3), generator=generator).to(torch.uint8)
    sums = CodeSums.zeros(torch.zeros(3, 4, 5), with_pairs)
    sums.add(frames[:25], codes[:25], errors[:25], 4)
    sums.add(frames[25:], codes[25:], errors[25:], 4)
    hot = one_hot(codes, 4)
    assert torch.equal(sums.counts.double(), hot.sum(0))
    assert torch.allclose(sums.sums.double(), hot.T @ frames.double(), atol=1e-5)
    assert torch.allclose(sums.errors.double(), hot.T @ errors.double(), atol=1e-5)
    if with_pairs:
        assert torch.equal(sums.pairs.double(), hot.T @ hot)
    else:
        assert sums.pairs.shape == (0, 0)


def test_sums_are_the_same_bits_however_frames_are_shared_and_ordered():
    generator = torch.Generator().manual_seed(0)
    frames, errors = torch.randn(999, 5, generator=generator), torch.rand(999, generator=generator)
    frames *= 10.0 ** -torch.arange(999).remainder(12).unsqueeze(1)  # a plain sum would round
    codes = torch.randint(0, 4, (999, 3), generator=generator)
    sums = []
    for rows in (torch.arange(999), torch.randperm(999, generator=generator)):
        parts = rows.split(333 if sums else 999)
        shares = [CodeSums.zeros(torch.zeros(3, 4, 5), True) for _ in parts]
        for part, share in zip(parts, shares, strict=True):
            share.add(frames[part], codes[part], errors[part], 4)
        for share in shares[1:]:
            shares[0].merge(share, 1.0)
        sums.append(shares[0])
    for name, tensor in sums[0].tensors().items():
        assert torch.equal(tensor, sums[1].tensors()[name])


def test_merging_fades_and_two_halves_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    frames, codes = torch.randn(40, 5, generator=generator), torch.randint(0, 4, (40, 3))
    whole, first, second = (CodeSums.zeros(torch.zeros(3, 4, 5), True) for _ in range(3))
    errors = frames.square().sum(1)
    whole.add(frames, codes, errors, 4)
    first.add(frames[:20], codes[:20], errors[:20], 4)
    second.add(frames[20:], codes[20:], errors[20:], 4)
    first.merge(second, 1.0)
    for name, tensor in vars(whole).items():
        assert torch.allclose(getattr(first, name), tensor, atol=1e-5)
    first.merge(second, 0.5)
    assert torch.allclose(first.counts, 0.5 * whole.counts + second.counts)


def test_forgotten_entries_leave_no_trace():
    sums = CodeSums.zeros(torch.zeros(2, 3, 4), True)
    sums.add(torch.ones(9, 4), torch.arange(18).view(9, 2) % 3, torch.ones(9), 3)
    rows = torch.tensor([False, True, False, False, False, True])
    sums.forget(rows)
    assert sums.counts[rows].sum() == sums.sums[rows].sum() == sums.errors[rows].sum() == 0
    assert sums.pairs[rows].sum() == sums.pairs[:, rows].sum() == 0
    assert sums.counts[~rows].min() > 0
