"""Kernels for GPUs: the same codes as torch's operations.

Without a GPU they run in Triton's interpreter (tests/conftest.py), one program after another.
"""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from k2distil.errors import DataError
from k2distil.quantizer import AdditiveQuantizer, ProductQuantizer, Quantizer, model
from k2distil.quantizer.search import fused
from k2distil.quantizer.search.fused import has_kernels
from tests.quantizer.conftest import power_law_frames

kernels = pytest.importorskip("k2distil.quantizer.search.kernels", exc_type=ImportError)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def by_kernels(monkeypatch):
    """encode, by kernels or not at all, also on a CPU; (quantizer, frames) -> codes."""

    def encode(quantizer: Quantizer, frames: torch.Tensor) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(model, "has_kernels", lambda device: True)
            patch.setattr(model, "check_once", lambda *_: None)
            patch.setattr(Quantizer, "encode_by_torch", None)
            return quantizer.to(DEVICE).encode(frames.to(DEVICE)).cpu()

    return encode


def by_torch(quantizer: Quantizer, frames: torch.Tensor) -> torch.Tensor:
    codes, are_finite = quantizer.cpu().encode_by_torch(frames)
    assert are_finite
    return codes


def product(dim=40, num_codebooks=4, codebook_size=64, offset=3.0, scale=0.5):
    """In slices of a random rotation."""
    torch.manual_seed(dim + num_codebooks)
    rotation = torch.linalg.qr(torch.randn(dim, dim))[0]
    table = [
        torch.randn(codebook_size, len(axes)) @ axes
        for axes in rotation.tensor_split(num_codebooks)
    ]
    return ProductQuantizer(torch.stack(table), torch.randn(dim) * offset, torch.tensor(scale))


def additive(dim=40, num_codebooks=3, codebook_size=32, beam=4, num_sweeps=1):
    torch.manual_seed(dim + num_codebooks)
    table = torch.randn(num_codebooks, codebook_size, dim)
    return AdditiveQuantizer(table, torch.randn(dim), torch.tensor(2.0), beam, num_sweeps)


def frames_for(quantizer, count=150):
    """About as the entries are."""
    frames = torch.randn(count, quantizer.dim) * 1.5
    return frames * quantizer.scale.cpu() + quantizer.mean.cpu()


def test_of_trained_quantizers(quantizer, by_kernels):
    frames = power_law_frames(12, 16, seed=1)
    ours = type(quantizer)(**quantizer.entries(), **quantizer.settings)
    assert (by_kernels(ours, frames) == by_torch(ours, frames)).all()


@pytest.mark.parametrize(
    ("dim", "num_codebooks", "codebook_size"), [(40, 3, 64), (7, 2, 100), (64, 1, 300)]
)
@pytest.mark.parametrize("count", [1, 63, 130])
def test_of_product_quantizers_of_any_size(dim, num_codebooks, codebook_size, count, by_kernels):
    quantizer = product(dim, num_codebooks, codebook_size)
    if num_codebooks == 1:  # as in a file where its entries are found to lie in no slice
        axes = torch.eye(dim)[None]
        quantizer.axes, quantizer.sliced = axes, quantizer.table.transpose(1, 2).contiguous()
    frames = frames_for(quantizer, count)
    assert (by_kernels(quantizer, frames) == by_torch(quantizer, frames)).all()


@pytest.mark.parametrize("beam", [1, 4, 16])
@pytest.mark.parametrize("num_sweeps", [0, 2])
@pytest.mark.parametrize(("num_codebooks", "codebook_size"), [(1, 16), (3, 16), (8, 32), (2, 256)])
def test_of_additive_quantizers(beam, num_sweeps, num_codebooks, codebook_size, by_kernels):
    quantizer = additive(12, num_codebooks, codebook_size, beam=beam, num_sweeps=num_sweeps)
    frames = frames_for(quantizer, 4)
    assert (by_kernels(quantizer, frames) == by_torch(quantizer, frames)).all()


@pytest.mark.parametrize(
    "sizes", [(9, 16, 16), (2, 300, 16), (2, 48, 16), (2, 64, 12), (2, 16, 32)]
)
def test_sizes_that_no_kernel_takes_are_left_to_torch(sizes, monkeypatch):
    num_codebooks, codebook_size, beam = sizes
    quantizer = additive(12, num_codebooks, codebook_size, beam=beam).to(DEVICE)
    assert quantizer.kernel_search() is None
    monkeypatch.setattr(model, "has_kernels", lambda device: True)
    frames = frames_for(quantizer, 5)
    codes = quantizer.encode(frames.to(DEVICE)).cpu()
    assert (codes == by_torch(quantizer, frames)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [product, additive])
def test_frames_of_half_precision_are_worth_that(make, dtype, by_kernels):
    quantizer = make()
    frames = frames_for(quantizer, 40).to(dtype)
    codes, exact = by_kernels(quantizer, frames), by_torch(quantizer, frames)
    assert (codes == exact).float().mean() > 0.99
    errors = [float((quantizer.decode(c) - frames).square().sum()) for c in (codes, exact)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_float64_is_left_to_torch(monkeypatch):
    quantizer = product().to(DEVICE)
    monkeypatch.setattr(model, "has_kernels", lambda device: True)
    monkeypatch.setattr(model, "product_search", None)
    frames = frames_for(quantizer, 5).double()
    assert (quantizer.encode(frames.to(DEVICE)).cpu() == by_torch(quantizer, frames)).all()


@pytest.mark.parametrize("make", [product, additive])
def test_a_frames_codes_depend_on_no_other_frame(make, by_kernels):
    quantizer = make()
    sizes = [1, 64, 5] if make is product else [1, 7]  # tiles are of 64 frames, or of one
    frames = frames_for(quantizer, sum(sizes))
    whole = by_kernels(quantizer, frames)
    parts = torch.cat([by_kernels(quantizer, part) for part in frames.split(sizes)])
    assert (whole == parts).all()


@pytest.mark.parametrize("make", [product, additive])
def test_long_inputs_are_cut(make, by_kernels, monkeypatch):
    quantizer = make()
    frames = frames_for(quantizer, 30)
    whole = by_kernels(quantizer, frames)
    monkeypatch.setattr(model, "CHUNK_VALUES", 7 * 4 * 64)
    assert (by_kernels(quantizer, frames) == whole).all()


@pytest.mark.parametrize("make", [product, additive])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_frames_that_are_not_finite_are_refused_by_number(make, value, monkeypatch):
    monkeypatch.setattr(model, "has_kernels", lambda device: True)
    quantizer = make().to(DEVICE)
    frames = frames_for(quantizer, 9)
    frames[4, 2] = value
    with pytest.raises(DataError, match=r"1 of 9 frames .*the first is frame 4"):
        quantizer.encode(frames.to(DEVICE))


@pytest.mark.parametrize("make", [product, additive])
def test_frames_beyond_float16_have_torchs_codes_and_the_others_their_own(
    make, monkeypatch, by_kernels
):
    quantizer = make()
    frames = frames_for(quantizer, 9).bfloat16()
    frames[4] *= 1e6
    is_large = torch.arange(9) == 4
    large, others = by_torch(quantizer, frames[is_large]), by_kernels(quantizer, frames[~is_large])
    monkeypatch.setattr(model, "has_kernels", lambda device: True)
    codes = quantizer.to(DEVICE).encode(frames.to(DEVICE)).cpu()
    assert (codes[is_large] == large).all()
    assert (codes[~is_large] == others).all()


@pytest.mark.parametrize("is_half", [False, True])
def test_products_of_float32_frames_are_float32s(is_half):
    torch.manual_seed(0)
    weight, bias, mean = torch.randn(300, 90) / 17, torch.randn(90), torch.randn(300)
    frames = torch.randn(70, 300) + mean
    frames = frames.half() if is_half else frames
    exact = (frames.double() - mean.double()) / 0.7 @ weight.double() + bias.double()
    given = [each.to(DEVICE) for each in (weight, bias, mean, torch.tensor(0.7))]
    values, is_bad = kernels.SplitLinear(*given, largest=kernels.MAX_FLOAT16)(frames.to(DEVICE))
    error = float((values.cpu() - exact).abs().max())
    assert not is_bad.any()
    assert 1e-4 < error < 0.1 if is_half else error < 1e-4


def test_of_two_entries_the_nearer_is_found_by_a_hair():
    """Frames between the two, nearer to one by less than float16 can tell."""
    torch.manual_seed(0)
    entries = torch.randn(1, 64, 2)
    one, two = entries[0].T
    nearer = torch.arange(200) % 2
    hair = 3e-5 * (0.5 - nearer[:, None])
    frames = (one + two) / 2 + hair * (one - two) + torch.randn(200, 1) * _across(one - two)
    nearest = kernels.Nearest(entries.to(DEVICE), -0.5 * entries.square().sum(1).to(DEVICE))
    assert (nearest(frames.contiguous().to(DEVICE)).cpu().flatten() == nearer).all()


def _across(line: torch.Tensor) -> torch.Tensor:
    """A direction at a right angle to it."""
    other = torch.randn(len(line))
    return other - (other @ line) / (line @ line) * line


@pytest.mark.parametrize("beam", [1, 16])
def test_whatever_the_scores_no_code_is_beyond_the_entries(beam):
    interactions = torch.zeros(2, 2 * 32, 32)
    for value in (float("nan"), float("inf"), -float("inf")):
        unary = torch.full((1, 2, 32), value)
        codes = kernels.beam_search(unary.to(DEVICE), interactions.to(DEVICE), beam, num_sweeps=1)
        assert 0 <= codes.min() <= codes.max() < 32


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_unit_of_the_data_costs_no_precision(factor, by_kernels):
    quantizer = product()
    frames = frames_for(quantizer, 100)
    entries = quantizer.entries()
    entries["mean"], entries["scale"] = entries["mean"] * factor, entries["scale"] * factor
    other = ProductQuantizer(**entries)
    assert (by_kernels(other, frames * factor) == by_torch(quantizer, frames)).all()


def test_other_entries_and_settings_count_at_once(by_kernels):
    first, second = additive(num_codebooks=2), additive(num_codebooks=2)
    second.table.neg_()
    second = AdditiveQuantizer(**second.entries(), **second.settings)
    frames = frames_for(first, 12)
    before = by_kernels(first, frames)
    copied = copy.deepcopy(first)
    first.load_state_dict(second.state_dict())
    assert (by_kernels(first, frames) == by_torch(second, frames)).all()
    assert (by_kernels(copied, frames) == before).all()
    copied.beam = 1
    assert copied._kernels.of(copied) is not None
    assert (by_kernels(copied, frames) == by_torch(copied, frames)).all()


def test_a_quantizer_that_has_searched_can_be_pickled(by_kernels):
    quantizer = product()
    frames = frames_for(quantizer, 5)
    codes = by_kernels(quantizer, frames)
    again = pickle.loads(pickle.dumps(quantizer))
    assert (by_kernels(again, frames) == codes).all()


@pytest.mark.parametrize("error", [RuntimeError("Failed to find C compiler."), OSError("no ptxas")])
def test_where_they_fail_torch_takes_their_place_and_it_is_told_once(error, monkeypatch, caplog):
    def broken(*_):
        raise error

    monkeypatch.setattr(model, "product_search", broken)
    monkeypatch.setattr(fused, "_given_up", set())
    monkeypatch.setattr(model, "has_kernels", lambda device: device not in fused._given_up)
    for _ in range(2):
        quantizer = product().to(DEVICE)
        frames = frames_for(quantizer, 5)
        assert (quantizer.encode(frames.to(DEVICE)).cpu() == by_torch(quantizer, frames)).all()
    assert caplog.text.count("Triton needs a C compiler") == 1
    assert f"{type(error).__name__}: {error}" in caplog.text


@pytest.mark.parametrize("make", [product, additive])
def test_kernels_that_lose_more_than_torch_are_given_up(make, monkeypatch, caplog):
    quantizer = make().to(DEVICE)
    frames = frames_for(quantizer, 20)
    wrong = fused.Search(
        lambda rows: (
            torch.zeros(len(rows), quantizer.num_codebooks, dtype=torch.int32, device=DEVICE),
            torch.zeros(len(rows), dtype=torch.bool, device=DEVICE),
        ),
        values_per_frame=40,
    )
    for name, value in (("_given_up", set()), ("_checked", set())):
        monkeypatch.setattr(fused, name, value)
    monkeypatch.setattr(model, "has_kernels", lambda device: device not in fused._given_up)
    monkeypatch.setattr(type(quantizer), "kernel_search", lambda _: wrong)
    for _ in range(2):
        assert (quantizer.encode(frames.to(DEVICE)).cpu() == by_torch(quantizer, frames)).all()
        quantizer.to(DEVICE)
    assert caplog.text.count("kernels lose") == 1


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("make", [product, additive])
def test_random_codes_are_found_wrong_beside_an_offset_too(make, offset, monkeypatch):
    monkeypatch.setattr(fused, "_checked", set())
    quantizer = make()
    quantizer.mean.fill_(offset)
    frames = frames_for(quantizer, 64)
    shape = (64, quantizer.num_codebooks)
    with pytest.raises(RuntimeError, match="kernels lose"):
        fused.check_once(quantizer, frames, torch.randint(quantizer.codebook_size, shape))
    fused.check_once(quantizer, frames, by_torch(quantizer, frames))
    assert len(fused._checked) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("make", [product, additive])
def test_kernels_are_compared_with_torch_once(make, dtype, monkeypatch):
    quantizer = make().to(DEVICE)
    monkeypatch.setattr(fused, "_checked", set())
    monkeypatch.setattr(model, "has_kernels", lambda device: True)
    frames = frames_for(quantizer, 10).to(dtype).to(DEVICE)
    compared = []
    monkeypatch.setattr(
        Quantizer,
        "encode_by_torch",
        lambda self, rows, original=Quantizer.encode_by_torch: (
            compared.append(len(rows)) or original(self, rows)
        ),
    )
    for _ in range(2):
        quantizer.encode(frames)
    assert compared == [10]
    assert len(fused._checked) == 1


def test_out_of_memory_is_for_the_caller(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model, "product_search", full)
    monkeypatch.setattr(model, "has_kernels", lambda device: True)
    with pytest.raises(torch.OutOfMemoryError):
        product().encode(torch.zeros(3, 40))


def test_a_cpu_has_no_kernels():
    assert not has_kernels(torch.device("cpu"))


@pytest.mark.parametrize("capability", [80, 90])
def test_they_compile_where_there_is_no_gpu(capability, tmp_path):
    pytest.importorskip("triton", minversion="3.3")  # older ones take other arguments
    pytest.importorskip("triton.backends.nvidia")
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, script, str(capability)],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    most = {80: 101_376, 90: 232_448}[capability]  # bytes that a program has on any such GPU
    shared = [int(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(shared) == 4
    assert max(shared) <= most
