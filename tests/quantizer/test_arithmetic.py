"""What surrounds a call changes nothing: autocast, gradients, inference mode, the default dtype."""

from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import pytest
import torch

from k2distil.quantizer import (
    AdditiveQuantizer,
    Correction,
    FrameReservoir,
    MultiQuantizer,
    QuantizerTrainer,
    evaluate,
    finish,
)
from k2distil.quantizer.training.procrustes import by_products
from k2distil.quantizer.training.statistics import CodeSums
from tests.quantizer.conftest import trained
from tests.quantizer.test_correction import DIM, curved_frames


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "frames that require gradients": nullcontext,
}


def all_results(quantizer_type, frames, held_out):
    """A training, what finishes it, its figures, codes and vectors."""
    quantizer = trained(frames, quantizer_type, 3, 4)
    reservoir = FrameReservoir(6000, DIM, seed=0)
    reservoir.add(frames)
    done = finish(quantizer, reservoir, held_out)
    codes = done.encode(held_out)
    found = {
        "trained": quantizer.id,
        "finished": done.id,
        "figures": asdict(evaluate(done, frames, held_out)),
        "codes": codes.tolist(),
        "decoded": done.decode(codes).tolist(),
        "first": done.first(2).encode(held_out).tolist(),
    }
    if done.correction is not None:
        found["correction"] = done.correction.digest
    return found


@pytest.fixture(scope="module")
def given():
    """Frames to train on, and held out."""
    return curved_frames(6000, seed=1), curved_frames(800, seed=3)


@pytest.fixture(scope="module", params=["product", "additive"])
def plain(request, given):
    """The type and its results where nothing is switched on."""
    return request.param, all_results(request.param, *given)


@pytest.mark.parametrize("mode", MODES)
def test_everything_gives_what_it_gives_alone(mode, plain, given):
    quantizer_type, expected = plain
    if mode == "frames that require gradients":
        given = [each.clone().requires_grad_() for each in given]
    with MODES[mode]():
        found = all_results(quantizer_type, *given)
    assert ("correction" in expected) == (quantizer_type == "additive")
    assert found == expected
    assert all(each.grad is None for each in given)


@pytest.mark.parametrize("mode", MODES)
def test_a_training_may_go_in_and_out_of_a_mode(mode, given):
    """What was made within must be of use outside."""
    frames, held_out = given
    with MODES[mode]():
        quantizer = trained(frames, "additive", 2, 4)
    reservoir = FrameReservoir(6000, DIM, seed=0)
    reservoir.add(frames)
    done = finish(quantizer, reservoir, held_out)
    assert all(each.dtype == torch.float32 for each in done.state_dict().values())
    assert not any(each.is_inference() or each.requires_grad for each in done.state_dict().values())


@pytest.mark.parametrize("mode", MODES)
def test_quantizers_built_within_search_alike(mode):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(3, 16, DIM, generator=generator)
    frames = 2 * torch.randn(500, DIM, generator=generator)
    rest = torch.zeros(DIM), torch.ones(())
    start = torch.zeros(3, 16)
    plain = AdditiveQuantizer(table, *rest), MultiQuantizer(table, table, start)
    with MODES[mode]():
        within = AdditiveQuantizer(table, *rest), MultiQuantizer(table, table, start)
        for ours, theirs in zip(within, plain, strict=True):
            assert torch.equal(ours.interactions, theirs.interactions)
            assert torch.equal(ours.encode(frames), theirs.encode(frames))


def test_kernels_write_float32():
    kernels = pytest.importorskip("k2distil.quantizer.search.kernels", exc_type=ImportError)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = [torch.ones(shape, device=device) for shape in ((8, 16), (16,), (8,), ())]
    frames = torch.ones(5, 8, device=device)
    with default_dtype(torch.float64):
        values, _ = kernels.SplitLinear(*given, largest=kernels.MAX_FLOAT16)(frames)
    assert values.dtype == torch.float32
    assert (values == 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whatever_is_made_is_float32(dtype):
    table = torch.zeros(2, 8200, 1)  # too many entries for a Gram table
    matrix = torch.eye(3)
    with default_dtype(dtype):
        sums = CodeSums.zeros(table, with_pairs=True, dtype=torch.float32)
        rotation = by_products(matrix, matrix)
        reservoir = FrameReservoir(8, 1, seed=0)
        correction = Correction(4)
        state = QuantizerTrainer("product", 3, 2, 4).state_dict()
    tensors = [*sums.tensors().values(), rotation, *correction.parameters(), reservoir._frames]
    tensors.append(state["rotation"])
    assert sums.pairs.is_sparse
    assert {each.dtype for each in tensors if each.is_floating_point()} == {torch.float32}
