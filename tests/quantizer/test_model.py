import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k2distil.errors import ConfigError, DataError
from k2distil.quantizer import AdditiveQuantizer, ProductQuantizer
from k2distil.quantizer.model import chunk_frames
from k2distil.quantizer.sizes import check_sizes
from tests.quantizer.conftest import power_law_frames


def held_out_error(quantizer, frames):
    approximation = quantizer.decode(quantizer.encode(frames))
    return float((approximation - frames).square().sum() / (frames - frames.mean(0)).square().sum())


def random_product(num_codebooks, codebook_size, dim, seed=0):
    """Orthogonal slices of one dimension range each, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.zeros(num_codebooks, codebook_size, dim)
    for n, axes in enumerate(torch.arange(dim).chunk(num_codebooks)):
        table[n, :, axes] = torch.randn(codebook_size, len(axes), generator=generator)
    mean = 30 + torch.randn(dim, generator=generator)
    return ProductQuantizer(table, mean, torch.tensor(2.5))


def test_product_codes_are_the_best_of_all_combinations():
    quantizer = random_product(2, 5, 6)
    frames = 30 + 2.5 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    errors = torch.cdist(frames.double(), quantizer.decode(pairs).double())
    codes = quantizer.encode(frames)
    assert torch.equal(codes.long(), pairs[errors.argmin(1)])


def test_decode_is_the_sum_of_the_chosen_centers(quantizer, frames):
    codes = quantizer.encode(frames[:100])
    total = sum(quantizer.centers[n][codes[:, n].long()] for n in range(3))
    assert quantizer.centers.shape == (3, 16, 16)
    assert torch.allclose(quantizer.decode(codes), total, atol=1e-5)


def test_decoded_centers_encode_to_their_own_codes():
    quantizer = random_product(3, 300, 24)
    codes = torch.randint(0, 300, (500, 3), generator=torch.Generator().manual_seed(0))
    encoded = quantizer.encode(quantizer.decode(codes))
    assert encoded.dtype == torch.int16
    assert torch.equal(encoded.long(), codes)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_leading_shape_and_float_dtype(quantizer, shape, dtype):
    frames = torch.randn(*shape, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes = quantizer.encode(frames)
    assert codes.shape == (*shape, 3)
    assert codes.dtype == torch.uint8
    assert quantizer.decode(codes).shape == (*shape, 16)
    assert torch.equal(codes, quantizer.encode(frames.float()))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 700))
def test_codes_do_not_depend_on_the_frames_beside_them(quantizer, seed, num_frames):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(num_frames, 16, generator=generator)
    codes = quantizer.encode(frames)
    order = torch.randperm(num_frames, generator=generator)
    assert torch.equal(quantizer.encode(frames[order]), codes[order])
    split = int(torch.randint(num_frames + 1, (1,), generator=generator))
    parts = torch.cat([quantizer.encode(frames[:split]), quantizer.encode(frames[split:])])
    assert torch.equal(parts, codes)
    row = int(order[0])
    assert torch.equal(quantizer.encode(frames[row]), codes[row])


def test_rounding_decides_a_tie_alike_whatever_frames_stand_beside():
    generator = torch.Generator().manual_seed(0)
    entries = torch.randn(2, 4, 24, generator=generator)
    table = torch.cat([entries, entries.flip(-1)], dim=1)
    frames = torch.randn(300, 12, generator=generator)
    frames = torch.cat([frames, frames.flip(-1)], dim=1)  # as near to an entry as to its mirror
    quantizer = ProductQuantizer(table, torch.zeros(24), torch.ones(()))
    alone = torch.stack([quantizer.encode(frame) for frame in frames])
    assert torch.equal(quantizer.encode(frames), alone)


def test_codes_are_those_of_a_search_over_all_frames_at_once(quantizer, frames):
    whole = quantizer._search(quantizer.normalise(frames))
    assert torch.equal(quantizer.encode(frames).long(), whole)


def test_autocast_changes_no_code(quantizer, frames):
    codes = quantizer.encode(frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(frames), codes)


def test_codes_can_be_targets_of_a_loss(quantizer, frames):
    codes = quantizer.encode(frames[:8])
    logits = torch.zeros(8, 16, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, codes[:, 0].long()).backward()
    assert logits.grad is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_frames_that_are_not_finite_are_refused(quantizer, value):
    frames = torch.zeros(4, 100, 16)
    frames[2, 50, 3] = value
    with pytest.raises(DataError, match=r"1 of 400 frames hold NaN.*frame 250"):
        quantizer.encode(frames)


def test_a_refusal_looks_at_a_chunk_of_frames_at_a_time(quantizer, monkeypatch):
    frames = torch.zeros(1000, 16, dtype=torch.float16)
    frames[[777, 999]] = torch.inf
    sizes, kind = [], type(quantizer)
    normalise = kind.normalise

    def counted(self, rows):
        sizes.append(len(rows))
        return normalise(self, rows)

    monkeypatch.setattr(kind, "normalise", counted)
    with pytest.raises(DataError, match=r"2 of 1000 frames hold .*frame 777"):
        quantizer.encode(frames)
    assert max(sizes) == 128


def test_values_beyond_float32_are_refused(quantizer):
    with pytest.raises(DataError, match="beyond float32"):
        quantizer.encode(torch.full((1, 16), 1e300, dtype=torch.float64))


def test_frames_that_are_beyond_float32_when_scaled_are_refused_too():
    tiny = AdditiveQuantizer(torch.ones(2, 3, 4), torch.zeros(4), torch.tensor(0.01))
    frames = torch.zeros(5, 4)
    frames[3, 1] = 1e37
    with pytest.raises(DataError, match=r"1 of 5 frames .*beyond float32 .*frame 3"):
        tiny.encode(frames)


def test_entries_that_are_all_alike_are_searched_without_kernels():
    constant = ProductQuantizer(torch.zeros(2, 4, 6), torch.zeros(6), torch.ones(()))
    assert constant.kernel_search() is None
    assert constant.encode(torch.zeros(3, 6)).tolist() == [[0, 0]] * 3


def test_a_wrong_dimension_is_refused_naming_both(quantizer):
    with pytest.raises(DataError, match=r"\(7, 15\).*16 dimensions"):
        quantizer.encode(torch.zeros(7, 15))
    with pytest.raises(DataError, match="16 dimensions"):
        quantizer.encode(torch.tensor(1.0))


def test_integer_frames_are_refused(quantizer):
    with pytest.raises(DataError, match="int64"):
        quantizer.encode(torch.zeros(7, 16, dtype=torch.int64))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(5, 4, dtype=torch.uint8), "3 codebooks"),
        (torch.zeros(5, 3), "float32"),
        (torch.zeros(5, 3, dtype=torch.bool), "torch.bool: expected integers"),
        (torch.zeros(5, 3, dtype=torch.complex64), "torch.complex64: expected integers"),
        (torch.tensor([[0, 0, 16]]), "from 0 to 16"),
        (torch.tensor([[0, 0, -100]]), "remove padding"),
    ],
)
def test_codes_that_are_not_of_this_quantizer_are_refused(quantizer, codes, message):
    with pytest.raises(DataError, match=message):
        quantizer.decode(codes)


@pytest.mark.parametrize(
    ("codebook_size", "dtype"),
    [
        (2, torch.uint8),
        (256, torch.uint8),
        (257, torch.int16),
        (32_768, torch.int16),
        (32_769, torch.int32),
        (65_536, torch.int32),
    ],
)
def test_codes_are_as_narrow_as_the_codebook_allows(codebook_size, dtype):
    table = torch.linspace(-1, 1, codebook_size).reshape(1, codebook_size, 1)
    quantizer = ProductQuantizer(table, torch.zeros(1), torch.tensor(1.0))
    codes = quantizer.encode(torch.tensor([[-2.0], [2.0]]))
    assert codes.dtype == dtype
    assert codes.flatten().tolist() == [0, codebook_size - 1]


def test_a_float16_unit_near_its_limit_changes_no_code(quantizer, frames):
    held_out = power_law_frames(4000, 16)[3000:]
    largest = float(held_out.abs().max())
    big = type(quantizer)(
        quantizer.table,
        quantizer.mean * 60_000 / largest,
        quantizer.scale * 60_000 / largest,
        **quantizer.settings,
    )
    near_limit = (held_out * 60_000 / largest).half()
    assert torch.equal(
        big.encode(near_limit), quantizer.encode(near_limit.float() * largest / 60_000)
    )
    assert big.decode(big.encode(near_limit)).isfinite().all()


def test_the_id_is_of_the_tensors_and_the_search(quantizer):
    same = type(quantizer)(**quantizer.entries(), **quantizer.settings)
    other = type(quantizer)(quantizer.table + 1e-3, quantizer.mean, quantizer.scale)
    assert same.id == quantizer.id
    assert len(quantizer.id) == 16
    entries = quantizer.entries()
    moved = [type(quantizer)(**entries | {name: entries[name] * 1.001}) for name in entries]
    assert len({quantizer.id, other.id, *(each.id for each in moved)}) == 5
    assert AdditiveQuantizer(**entries, beam=2).id != AdditiveQuantizer(**entries, beam=4).id
    assert AdditiveQuantizer(**entries).id != ProductQuantizer(**entries).id


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-50, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [ProductQuantizer, AdditiveQuantizer])
def test_a_scale_that_no_frame_can_be_divided_by_is_refused(kind, scale):
    with pytest.raises(ValueError, match=r"a scale of .*: expected a float32 above 0"):
        kind(torch.zeros(2, 4, 6), torch.zeros(6), torch.tensor(scale, dtype=torch.float64))


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_residuals_are_exact_beside_an_offset(quantizer, offset):
    entries = quantizer.entries()
    moved = type(quantizer)(**entries | {"mean": entries["mean"] + offset})
    frames = power_law_frames(500, 16) + offset
    codes = moved.encode(frames)
    total = sum(moved.table[n][codes[:, n].long()].double() for n in range(3))
    exact = (frames.double() - moved.mean.double()) / moved.scale.double() - total
    assert moved.residuals(frames, codes).shape == (500, 16)
    assert (moved.residuals(frames, codes) - exact).abs().max() < 1e-5


def test_the_first_codebooks_are_a_quantizer_of_their_own(quantizer, frames):
    quantizer.provenance = {"teacher": "tiny"}
    part = quantizer.first(2)
    assert type(part) is type(quantizer)
    assert (part.num_codebooks, part.dim, part.settings) == (2, 16, quantizer.settings)
    assert part.id != quantizer.id
    found = {"teacher": "tiny", "first_of": 3, "whole_id": quantizer.id}
    assert part.provenance == found
    assert part.first(1).provenance == found
    assert part.first(1).id == quantizer.first(1).id
    codes = part.encode(frames)
    assert codes.shape == (3000, 2)
    total = quantizer.mean + quantizer.scale * sum(
        quantizer.table[n][codes[:, n].long()] for n in range(2)
    )
    assert torch.allclose(part.decode(codes), total, atol=1e-5)
    if quantizer.type == "product":
        assert torch.equal(codes, quantizer.encode(frames)[:, :2])


def test_all_codebooks_are_the_quantizer_itself(quantizer):
    assert quantizer.first(3) is quantizer


@pytest.mark.parametrize("num_codebooks", [-1, 0, 4])
def test_codebooks_that_are_not_there_are_refused(quantizer, num_codebooks):
    with pytest.raises(ConfigError, match=f"first {num_codebooks} codebooks.*give 1 to 3"):
        quantizer.first(num_codebooks)


def test_a_chunk_shrinks_with_many_entries():
    assert chunk_frames(torch.device("cpu"), 8 * 256) == 128
    assert chunk_frames(torch.device("cpu"), 128 * 65_536) == 32


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("productt", 8, 2, 16), "expected one of product, additive"),
        (("product", 8, 2, 1), "quantizer_codebook_size 1"),
        (("product", 8, 2, 65_537), "2 to 65536"),
        (("product", 8, 0, 16), "quantizer_out_dim 0"),
        (("product", 8, 9, 16), "1 to 8 codebooks"),
        (("additive", 1280, 64, 65_536), "5368709120 values.*at most 2147483648"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        check_sizes(*sizes)
