import pytest
import torch

from k2distil.errors import CheckpointError
from k2distil.quantizer import (
    AdditiveQuantizer,
    Correction,
    evaluate,
    load_quantizer,
    num_correction_steps,
    save_quantizer,
)
from k2distil.quantizer.metrics import relative_error
from k2distil.quantizer.training.correction_training import add_correction
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
    quantizer = trained(curved, "additive", 3, 4)
    assert isinstance(quantizer, AdditiveQuantizer)
    return quantizer


@pytest.fixture(scope="module")
def short(plain: AdditiveQuantizer) -> AdditiveQuantizer:
    """Its sums go 0.8 of the way, whatever the training came to: few steps bring much."""
    return AdditiveQuantizer(0.8 * plain.table, plain.mean, plain.scale, **plain.settings)


@pytest.fixture(scope="module")
def corrected(plain: AdditiveQuantizer, curved: torch.Tensor) -> AdditiveQuantizer:
    """The same with one."""
    return taught(plain, curved)


def taught(
    plain: AdditiveQuantizer, frames: torch.Tensor, seed: int = 0, on_step=lambda: None
) -> AdditiveQuantizer:
    """The same quantizer after `add_correction`."""
    quantizer = AdditiveQuantizer(**plain.entries(), **plain.settings)
    add_correction(quantizer, frames, curved_frames(3000, seed=3), seed, on_step)
    return quantizer


def test_other_frames_decode_with_less_error_from_the_same_codes(plain, corrected, curved):
    """Most of the way to the least error there is: of the mean of all frames with these codes."""
    frames = curved_frames(3000, seed=2)
    codes = plain.encode(frames)
    assert torch.equal(corrected.encode(frames), codes)
    assert corrected.id == plain.id
    before, after = (relative_error(q, codes, frames) for q in (plain, corrected))
    kinds, members = torch.cat([codes, plain.encode(curved)]).unique(dim=0, return_inverse=True)[:2]
    own, others = members[: len(codes)], members[len(codes) :]
    counts = torch.bincount(others, minlength=len(kinds)).unsqueeze(1)
    means = torch.zeros(len(kinds), DIM).index_add_(0, others, curved) / counts.clamp(min=1)
    least = float((frames - means[own]).square().sum() / (frames - frames.mean(0)).square().sum())
    assert after < before - 0.7 * (before - least)
    assert least < 0.8 * before


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
    common = (counts >= 50).nonzero().flatten()
    assert len(common) > 30
    assert counts[common].sum() > 0.99 * len(curved)
    means = torch.stack([curved[members == kind].mean(0) for kind in common])
    by_sum, by_both = (corrected.decode(kinds[common], each) - means for each in (False, True))
    assert by_both.square().sum() < 0.3 * by_sum.square().sum()


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5000, 3), (2, 4, 3), (3,)])
def test_any_number_of_frames_is_corrected_alike(corrected, shape):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(4, shape, generator=generator)
    decoded = corrected.decode(codes)
    assert decoded.shape == (*shape[:-1], DIM)
    alone = [corrected.decode(each) for each in codes.reshape(-1, 3)]
    for one, among_others in zip(alone, decoded.reshape(-1, DIM), strict=True):
        assert torch.allclose(one, among_others, atol=1e-4)


def test_the_same_seed_gives_the_same_correction_whatever_was_drawn_before(short, curved):
    few = curved[:5000]
    torch.manual_seed(3)
    first = taught(short, few, seed=0).correction
    after_it = torch.rand(1)
    again, other = (taught(short, few, seed=seed).correction for seed in (0, 1))
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after_it)  # nobody else's numbers are drawn
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert not torch.equal(other.inner.weight, first.inner.weight)


def test_no_generator_of_a_gpu_is_seeded(short, curved, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    assert taught(short, curved[:5000]).correction is not None


def test_reading_a_file_draws_no_numbers(corrected, tmp_path):
    path = save_quantizer(corrected, tmp_path / "q.pt")
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    load_quantizer(path)
    assert torch.equal(torch.rand(1), wanted)


def test_float16_frames_teach_the_same(plain, curved):
    few, held_out = curved[:20_000] - 100, curved_frames(3000, seed=2)
    codes = plain.encode(held_out)
    exact, rounded = (
        relative_error(taught(plain, frames + 100), codes, held_out) for frames in (few, few.half())
    )
    assert rounded == pytest.approx(exact, rel=0.02)
    assert exact < 0.97 * relative_error(plain, codes, held_out)


@pytest.mark.parametrize(
    ("num_frames", "num_steps"), [(1, 0), (900, 0), (4266, 0), (4267, 50), (10_000, 117)]
)
def test_few_frames_are_not_learnt_by_heart(short, curved, num_frames, num_steps):
    calls: list[None] = []
    quantizer = taught(short, curved[:num_frames], on_step=lambda: calls.append(None))
    assert len(calls) == num_correction_steps(num_frames) == num_steps
    assert (quantizer.correction is None) == (num_steps == 0)


def test_what_held_out_frames_do_not_gain_by_is_left_out(plain):
    noise = 100 + torch.randn(5000, DIM, generator=torch.Generator().manual_seed(0))
    quantizer = AdditiveQuantizer(**plain.entries(), **plain.settings)
    add_correction(quantizer, noise, curved_frames(3000, seed=3))
    assert quantizer.correction is None


@pytest.mark.parametrize("bias", [0.0, 0.2, float("nan")])
def test_one_that_makes_it_a_little_worse_is_left_out(plain, monkeypatch, bias):
    held_out = curved_frames(3000, seed=3)

    def learn(*_):
        worse = Correction(DIM)
        torch.nn.init.constant_(worse.outer.bias, bias)
        return worse.requires_grad_(False)

    quantizer = AdditiveQuantizer(**plain.entries(), **plain.settings)
    codes = plain.encode(held_out)
    before = relative_error(plain, codes, held_out)
    quantizer.correction = learn()
    assert not relative_error(quantizer, codes, held_out) > 1.5 * before
    monkeypatch.setattr("k2distil.quantizer.training.correction_training._learn", learn)
    add_correction(quantizer, curved_frames(5000, seed=1), held_out)
    assert quantizer.correction is None


@torch.no_grad()
def test_it_learns_where_gradients_are_off(plain, curved):
    assert taught(plain, curved[:20_000]).correction is not None


def test_it_needs_no_gradients_when_it_is_learnt(corrected):
    assert not any(each.requires_grad for each in corrected.parameters())


def test_autocast_leaves_it_alone(corrected):
    codes = torch.randint(4, (10, 3), generator=torch.Generator().manual_seed(0))
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
        lambda tensors: tensors.update(
            {"outer.bias": torch.full((DIM,), 1e300, dtype=torch.float64)}
        ),
    ],
)
def test_a_damaged_one_is_refused(corrected, tmp_path, damage):
    path = save_quantizer(corrected, tmp_path / "q.pt")
    content = torch.load(path, weights_only=True)
    damage(content["correction"])
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"q.pt: a damaged quantizer file.*train it again"):
        load_quantizer(path)


@pytest.mark.parametrize("name", ["inner.weight", "outer.bias"])
def test_a_flipped_bit_is_found(corrected, tmp_path, name):
    path = save_quantizer(corrected, tmp_path / "q.pt")
    content = torch.load(path, weights_only=True)
    content["correction"][name].view(torch.int32).view(-1)[1] ^= 1
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"q.pt: the correction does not match its digest"):
        load_quantizer(path)


def test_a_file_from_before_digests_is_read(corrected, tmp_path):
    path = save_quantizer(corrected, tmp_path / "q.pt")
    content = torch.load(path, weights_only=True)
    assert content.pop("correction_digest") == corrected.correction.digest
    torch.save(content, path)
    assert load_quantizer(path).correction.digest == corrected.correction.digest


def test_one_of_other_dimensions_is_refused(corrected, tmp_path):
    path = save_quantizer(corrected, tmp_path / "q.pt")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "correction": Correction(DIM + 1).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"damaged quantizer file"):
        load_quantizer(path)
