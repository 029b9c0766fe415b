"""What a CPU computes in another way than torch's own layers, beside these."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from k2distil.teachers import packed_linear
from k2distil.teachers.fourier_convolution import FourierConvolution
from k2distil.teachers.hubert_convolutions import Convolution, SharedConvolution
from k2distil.teachers.packed_linear import PackedLinear, add_linear, pack_linears

can_pack = pytest.mark.skipif(
    not packed_linear._can_pack(), reason="this torch or CPU has no oneDNN product"
)


def error(ours, exact):
    """The largest, over the largest value."""
    return float((ours.double() - exact).abs().max() / exact.abs().max())


@can_pack
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inner", "outer"), [(64, 96), (1, 1), (7, 13), (384, 1536)])
@pytest.mark.parametrize("rows", [(1,), (3, 50), (2, 2, 1500)])
@torch.inference_mode()
def test_a_packed_layer_is_the_layer(inner, outer, rows, bias):
    torch.manual_seed(0)
    linear = nn.Linear(inner, outer, bias)
    frames = torch.randn(*rows, inner)
    exact = linear.double()(frames.double())
    ours = PackedLinear(linear.float())(frames)
    assert ours.shape == exact.shape
    assert error(ours, exact) < 2e-6


@can_pack
@torch.inference_mode()
def test_rows_of_a_packed_layer_may_overlap():
    linear = nn.Linear(96, 32)
    rows = torch.randn(50 * 64 + 32).as_strided((50, 96), (64, 1))
    assert error(PackedLinear(linear)(rows), linear.double()(rows.double())) < 2e-6


@pytest.mark.parametrize("packed", [pytest.param(True, marks=can_pack), False])
@torch.inference_mode()
def test_a_layer_is_added_to_what_is_there(packed):
    linear = nn.Linear(64, 32, bias=False)
    hidden, frames = torch.randn(10, 32), torch.randn(10, 64)
    exact = hidden.double() + frames.double() @ linear.weight.T.double()
    layer = PackedLinear(linear) if packed else linear
    assert error(add_linear(hidden, layer, frames), exact) < 2e-6


@can_pack
@torch.inference_mode()
def test_all_linear_layers_are_packed_and_nothing_else():
    class Other(nn.Linear):
        pass

    model = nn.Sequential(
        nn.Linear(8, 8), nn.LayerNorm(8), nn.ModuleList([nn.Linear(8, 4)]), Other(4, 4)
    )
    pack_linears(model)
    kinds = [type(each).__name__ for each in (model[0], model[1], model[2][0], model[3])]
    assert kinds == ["PackedLinear", "LayerNorm", "PackedLinear", "Other"]


def test_where_the_operators_are_missing_layers_stay(monkeypatch):
    monkeypatch.setattr(packed_linear, "_can_pack", lambda: False)
    model = nn.Sequential(nn.Linear(8, 8))
    pack_linears(model)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("packed", [pytest.param(True, marks=can_pack), False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "kernel", "stride"),
    [(SharedConvolution, 3, 2), (Convolution, 3, 2), (Convolution, 2, 2), (Convolution, 7, 3)],
)
@pytest.mark.parametrize("length", [7, 8, 9, 10, 11, 300])
@torch.inference_mode()
def test_convolutions_as_products(kind, kernel, stride, length, bias, packed):
    torch.manual_seed(0)
    conv = nn.Conv1d(24, 40, kernel, stride, bias=bias)
    frames = torch.randn(length + 2, 24)[2:]  # not at the beginning of its memory
    exact = deepcopy(conv).double()(frames.T[None].double())[0].T
    ours = kind(conv)
    if packed:
        pack_linears(ours)
    assert ours(frames).shape == exact.shape
    assert error(ours(frames), exact) < 2e-6


@pytest.mark.parametrize("length", [1, 49, 250, 1501])
@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "padding"),
    [(768, 16, 128, 64), (12, 3, 5, 2), (4, 1, 2, 1), (6, 6, 9, 0)],
)
@torch.inference_mode()
def test_fourier_transforms_convolve_as_exactly_as_products(
    channels, groups, kernel, padding, length
):
    torch.manual_seed(0)
    conv = nn.Conv1d(channels, channels, kernel, padding=padding, groups=groups)
    signal = torch.randn(2, channels, max(length, kernel))
    exact = F.conv1d(
        signal.double(), conv.weight.double(), conv.bias.double(), padding=padding, groups=groups
    )
    ours = FourierConvolution(conv)(signal)
    assert ours.shape == exact.shape
    assert error(ours, exact) < 2e-6


@torch.inference_mode()
def test_a_fourier_convolution_without_bias():
    conv = nn.Conv1d(4, 4, 3, padding=1, bias=False)
    signal = torch.randn(1, 4, 20)
    assert error(FourierConvolution(conv)(signal), conv.double()(signal.double())) < 2e-6
