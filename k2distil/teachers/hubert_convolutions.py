"""HuBERT's convolutions with transformers' weights, piece by piece, as matrix products.

The group norm of the base model's first convolution is multiplied into its weights, so that the
stack can run in pieces, each of a size that stays in a core's cache.

A convolution whose stride is s sees the frames (T, channels) as rows of s frames, (T / s, s *
channels), without a copy: its first s taps are one product, the rest another that is added. Layer
norm wants this layout; without one, torch's convolutions are faster where its products are MKL's
and the CPU is not Intel's (docs/performance.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HOP, WINDOW = 320, 400  # samples between frames, and that a frame sees
CPU_PIECE = 128  # frames computed at once
PIECE = 1500  # frames elsewhere: 30 s, which bounds the memory


class FeatureExtractor(nn.Module):
    """Samples of one utterance -> features."""

    def __init__(self, conv_layers: Any, as_products: bool):
        """conv_layers: transformers', with weights."""
        super().__init__()
        self.first = conv_layers[0]
        of_one = _Products if as_products else _Transposed
        self.others = nn.ModuleList(of_one(layer) for layer in conv_layers[1:])
        self.as_products = as_products

    def forward(self, samples: Tensor) -> Tensor:
        """(S,) -> (T, channels)."""
        num_frames = (len(samples) - WINDOW) // HOP + 1
        weight, bias = self._first_weights(samples)
        step = CPU_PIECE if samples.device.type == "cpu" else PIECE
        pieces = []
        for start in range(0, num_frames, step):
            end = min(start + step, num_frames)
            seen = samples[start * HOP : (end - 1) * HOP + WINDOW]
            hidden = self._first(seen, weight, bias)
            if isinstance(norm := _norm_of(self.first), nn.LayerNorm):
                hidden = norm(hidden)
            hidden = self.first.activation(hidden)
            for layer in self.others:
                hidden = layer(hidden)
            pieces.append(hidden)
        return torch.cat(pieces)

    def _first(self, samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(S,), (k, channels), (channels,) -> (T, channels)."""
        if self.as_products:
            return _product(self._seen_first(samples), weight, bias)
        return F.conv1d(samples[None, None], weight.T[:, None], bias, self.first.conv.stride)[0].T

    def _seen_first(self, samples: Tensor) -> Tensor:
        """(S,) -> (T, k): what each frame of the first convolution sees."""
        conv = self.first.conv
        return samples.unfold(0, conv.kernel_size[0], conv.stride[0])

    def _first_weights(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """(k, channels) and (channels,), with the norm over time multiplied in.

        A convolution is linear: mean and variance of its output follow from the mean (k,) and
        covariance (k, k) of what it sees, here in float64.
        """
        conv, norm = self.first.conv, _norm_of(self.first)
        if not isinstance(norm, nn.GroupNorm):
            return conv.weight[:, 0].T, conv.bias
        seen = self._seen_first(samples).double()
        mean = seen.mean(0)
        covariance = (seen - mean).T @ (seen - mean) / len(seen)
        weight = conv.weight[:, 0].double()  # (channels, k)
        scale = norm.weight / (((weight @ covariance) * weight).sum(1) + norm.eps).sqrt()
        bias = norm.bias - scale * (weight @ mean)
        return (scale[:, None] * weight).T.to(samples), bias.to(samples)


class _Transposed(nn.Module):
    """(S, channels) -> (T, channels): transformers' own layer, whose memory is (channels, T)."""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer

    def forward(self, frames: Tensor) -> Tensor:
        return self.layer(frames.T[None])[0].T


class _Products(nn.Module):
    """(S, channels) -> (T, channels): convolution, norm where there is one, activation."""

    def __init__(self, layer: Any):
        super().__init__()
        conv = layer.conv
        self.stride, self.kernel = conv.stride[0], conv.kernel_size[0]
        self.weights = nn.ParameterList(
            nn.Parameter(taps.permute(2, 1, 0).flatten(0, 1).contiguous(), requires_grad=False)
            for taps in conv.weight.data.split(self.stride, dim=2)
        )  # (taps * channels in, channels out) each
        self.bias, self.norm, self.activation = conv.bias, _norm_of(layer), layer.activation

    def forward(self, frames: Tensor) -> Tensor:
        channels = frames.shape[1]
        num_frames = (len(frames) - self.kernel) // self.stride + 1
        hidden = None
        for place, weight in enumerate(self.weights):
            rows = frames.as_strided(
                (num_frames, len(weight)),
                (self.stride * channels, 1),
                frames.storage_offset() + place * self.stride * channels,
            )
            if hidden is None:
                hidden = _product(rows, weight, self.bias)
            else:
                hidden = hidden.addmm_(rows, weight)
        return self.activation(hidden if self.norm is None else self.norm(hidden))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(rows, weight) if bias is None else torch.addmm(bias, rows, weight)


def _norm_of(layer: Any) -> nn.Module | None:
    return getattr(layer, "layer_norm", None)


def products_are_faster(layer_norm: bool, device: torch.device) -> bool:
    """Whether to compute convolutions as products; the same for all processes of a machine."""
    if layer_norm or device.type != "cpu":
        return True
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return False
