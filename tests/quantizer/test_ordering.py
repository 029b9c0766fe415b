import pytest
import torch

from k2distil.quantizer import AdditiveQuantizer, ProductQuantizer
from k2distil.quantizer.metrics import error_by_num_codebooks, relative_error
from k2distil.quantizer.training.ordering import order_codebooks
from tests.quantizer.conftest import power_law_frames, trained
from tests.quantizer.test_model import random_product


def counts_of(codes, codebook_size):
    counts = [torch.bincount(one, minlength=codebook_size) for one in codes.long().unbind(1)]
    return torch.stack(counts).float()


def disordered(quantizer_type):
    """A quantizer with constants in its codebooks, the least important first, and frames of it."""
    generator = torch.Generator().manual_seed(0)
    product = random_product(4, 8, 12)
    deviations = torch.tensor([0.2, 0.5, 3.0, 1.0]).view(4, 1, 1)
    table = product.table * deviations
    table = torch.where(table != 0, table + 2.0, 0.0)
    if quantizer_type == "additive":
        table = table + 0.3 * torch.randn(4, 1, 12, generator=generator)
    kind = {"product": ProductQuantizer, "additive": AdditiveQuantizer}[quantizer_type]
    quantizer = kind(table, product.mean, product.scale)
    codes = torch.randint(0, 8, (600, 4), generator=generator)
    frames = quantizer.decode(codes) + 0.3 * torch.randn(600, 12, generator=generator)
    return quantizer, frames


@pytest.fixture(params=["product", "additive"])
def before_and_after(request):
    quantizer, frames = disordered(request.param)
    codes = quantizer.encode(frames)
    table, mean, order = order_codebooks(
        quantizer.table, quantizer.mean, quantizer.scale, counts_of(codes, 8)
    )
    return quantizer, type(quantizer)(table, mean, quantizer.scale), order, frames, codes


def test_every_decoded_frame_stays_where_it_was(before_and_after):
    before, after, order, _, codes = before_and_after
    assert order.tolist() == [2, 3, 1, 0]
    torch.testing.assert_close(
        after.decode(codes[:, order]), before.decode(codes), rtol=1e-5, atol=1e-5
    )


def test_the_error_stays_and_the_codes_change_their_order_only(before_and_after):
    before, after, order, frames, codes = before_and_after
    found = after.encode(frames)
    errors = [relative_error(before, codes, frames), relative_error(after, found, frames)]
    if before.type == "product":
        assert torch.equal(found, codes[:, order])
        assert errors[1] == pytest.approx(errors[0], abs=1e-5)
    else:  # a beam keeps other prefixes: of frames near the middle of the space
        assert errors[1] <= errors[0] + 1e-5


def test_what_is_left_out_is_no_bias(before_and_after):
    _, after, order, _, codes = before_and_after
    used = torch.stack([after.table[n, codes[:, m].long()] for n, m in enumerate(order)])
    assert used.mean(1).abs().max() < 1e-5
    variances = used.square().mean(1).sum(1)
    assert variances.tolist() == sorted(variances.tolist(), reverse=True)


def test_codebooks_nobody_used_come_last_and_stay():
    quantizer, _ = disordered("product")
    counts = torch.ones(4, 8)
    counts[2] = 0
    table, mean, order = order_codebooks(quantizer.table, quantizer.mean, quantizer.scale, counts)
    assert order[-1] == 2
    assert torch.equal(table[-1], quantizer.table[2])
    assert mean.isfinite().all()


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_training_leaves_the_codebooks_in_order(quantizer_type):
    frames = power_law_frames(5000, 16)
    quantizer = trained(frames[:4000], quantizer_type, 4, 16)
    held_out = frames[4000:]
    errors = error_by_num_codebooks(quantizer, quantizer.encode(held_out), held_out)
    assert len(errors) == 4
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.9
    assert errors[-1] == pytest.approx(
        relative_error(quantizer, quantizer.encode(held_out), held_out), abs=1e-7
    )
    shares = quantizer.table.square().mean(1).sum(1)
    assert shares.argmax() == 0
