import pytest
import torch

from k2distil.errors import CheckpointError
from k2distil.quantizer import (
    AdditiveQuantizer,
    Correction,
    evaluate,
    learn_correction,
    load_quantizer,
    num_correction_steps,
    relative_error,
    save_quantizer,
)
from tests.quantizer.conftest import trained

DIM = 16


def curved_frames(num_frames: int, seed: int) -> torch.Tensor:
    """On a sheet of 2 dimensions, bent into 16, far from 0; (num_frames, 16)."""
    weights = torch.Generator().manual_seed(0)
    inner, outer = (torch.randn(shape, generator=weights) for shape in ((2, 32), (32, DIM)))
    place = torch.randn(num_frames, 2, generator=torch.Generator().manual_seed(seed))
    return 4 * torch.sin(place @ inner) @ outer + 100


@pytest.fixture(scope="module")
def curved() -> torch.Tensor:
    """(140000, 16) float32, as many as teach all steps."""
    return curved_frames(140_000, seed=1)


@pytest.fixture(scope="module")
def plain(curved: torch.Tensor) -> AdditiveQuantizer:
    """Trained, without a correction."""
    quantizer = trained(curved, "additive", 3, 16)
    assert isinstance(quantizer, AdditiveQuantizer)
    return quantizer


@pytest.fixture(scope="module")
def corrected(plain: AdditiveQuantizer, curved: torch.Tensor) -> AdditiveQuantizer:
    """The same with one."""
    quantizer = AdditiveQuantizer(**plain.entries(), **plain.settings)
    quantizer.correction = learn_correction(plain, curved)
    return quantizer


def test_other_frames_decode_with_less_error_from_the_same_codes(plain, corrected):
    frames = curved_frames(3000, seed=2)
    codes = plain.encode(frames)
    assert torch.equal(corrected.encode(frames), codes)
    assert corrected.id == plain.id
    before, after = (relative_error(q, codes, frames) for q in (plain, corrected))
    assert after < 0.75 * before


def test_the_sum_is_still_there(plain, corrected):
    codes = plain.encode(curved_frames(50, seed=2))
    assert torch.equal(corrected.decode(codes, corrected=False), plain.decode(codes))
    assert not torch.allclose(corrected.decode(codes), plain.decode(codes), atol=0.1)
    total = sum(corrected.centers[n][codes[:, n].long()] for n in range(3))
    assert torch.allclose(corrected.decode(codes, corrected=False), total, atol=1e-3)


def test_it_is_the_mean_of_what_the_sums_leave(corrected, curved):
    """Of the frames with one set of codes, the corrected frame lies nearer to the mean."""
    codes = corrected.encode(curved)
    kinds, members, counts = codes.unique(dim=0, return_inverse=True, return_counts=True)
    common = counts.topk(20).indices
    means = torch.stack([curved[members == kind].mean(0) for kind in common])
    by_sum, by_both = (corrected.decode(kinds[common], each) - means for each in (False, True))
    assert by_both.square().sum() < 0.3 * by_sum.square().sum()


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5000, 3), (2, 4, 3), (3,)])
def test_any_number_of_frames_is_corrected_alike(corrected, shape):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(16, shape, generator=generator)
    decoded = corrected.decode(codes)
    assert decoded.shape == (*shape[:-1], DIM)
    alone = [corrected.decode(each) for each in codes.reshape(-1, 3)]
    for one, among_others in zip(alone, decoded.reshape(-1, DIM), strict=True):
        assert torch.allclose(one, among_others, atol=1e-4)


def test_the_same_seed_gives_the_same_correction_whatever_was_drawn_before(plain, curved):
    few = curved[:1000]
    torch.manual_seed(3)
    first = learn_correction(plain, few, seed=0)
    after_it = torch.rand(1)
    again, other = (learn_correction(plain, few, seed=seed) for seed in (0, 1))
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after_it)  # nobody else's numbers are drawn
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert not torch.equal(other.inner.weight, first.inner.weight)


def test_float16_frames_teach_it(plain, curved):
    correction = learn_correction(plain, (curved[:2000] - 100).half() + 100)
    assert correction.outer.weight.abs().max() > 0


@pytest.mark.parametrize(("num_frames", "num_steps"), [(1, 0), (85, 0), (86, 1), (1000, 11)])
def test_few_frames_are_not_learnt_by_heart(plain, curved, num_frames, num_steps):
    calls: list[None] = []
    correction = learn_correction(plain, curved[:num_frames], on_step=lambda: calls.append(None))
    assert len(calls) == num_correction_steps(num_frames) == num_steps
    if num_steps == 0:
        assert not correction(torch.ones(2, DIM)).any()


def test_it_needs_no_gradients_when_it_is_learnt(corrected):
    assert not any(each.requires_grad for each in corrected.parameters())


def test_autocast_leaves_it_alone(corrected):
    codes = torch.randint(16, (10, 3), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = corrected.decode(codes)
    assert torch.equal(under_autocast, corrected.decode(codes))


def test_the_first_codebooks_have_none(corrected):
    assert corrected.first(2).correction is None
    assert corrected.first(3).correction is corrected.correction


def test_the_figures_tell_what_it_brings(plain, corrected, curved):
    held_out = curved_frames(2000, seed=2)
    with_it, without = (evaluate(each, curved[:2000], held_out) for each in (corrected, plain))
    assert with_it.error_by_num_codebooks == without.error_by_num_codebooks
    assert without.relative_error == without.error_by_num_codebooks[-1]
    assert with_it.relative_error < 0.75 * with_it.error_by_num_codebooks[-1]


def test_it_is_kept_with_the_quantizer(corrected, plain, tmp_path):
    codes = plain.encode(curved_frames(50, seed=2))
    loaded = load_quantizer(save_quantizer(corrected, tmp_path / "with.pt"))
    assert torch.equal(loaded.decode(codes), corrected.decode(codes))
    assert not any(each.requires_grad for each in loaded.parameters())
    without = save_quantizer(plain, tmp_path / "without.pt")
    assert "correction" not in torch.load(without, weights_only=True)
    assert load_quantizer(without).correction is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("outer.bias"),
        lambda tensors: tensors.pop("inner.weight"),
        lambda tensors: tensors.update({"inner.bias": torch.zeros(3)}),
        lambda tensors: tensors.update({"inner.weight": torch.zeros(3)}),
        lambda tensors: tensors["outer.bias"].fill_(torch.nan),
    ],
)
def test_a_damaged_one_is_refused(corrected, tmp_path, damage):
    path = save_quantizer(corrected, tmp_path / "q.pt")
    content = torch.load(path, weights_only=True)
    damage(content["correction"])
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"q.pt: a damaged quantizer file.*train it again"):
        load_quantizer(path)


def test_one_of_other_dimensions_is_refused(corrected, tmp_path):
    path = save_quantizer(corrected, tmp_path / "q.pt")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "correction": Correction(DIM + 1).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"damaged quantizer file"):
        load_quantizer(path)
