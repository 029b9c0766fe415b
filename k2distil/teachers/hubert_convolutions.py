"""HuBERT's convolutions with transformers' weights, piece by piece, as matrix products.

The group norm of the base model's first convolution is multiplied into its weights, so that the
stack can run in pieces, each of a size that stays in a core's cache.

A convolution whose stride is s sees the frames (T, channels) as rows of s frames, (T / s, s *
channels), without a copy: its first s taps are one product, the rest another that is added. On a
CPU, where products take all the time, kernel 3 and stride 2 do with five for six.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from k2distil.teachers.packed_linear import add_linear

HOP, WINDOW = 320, 400  # samples between frames, and that a frame sees
CPU_PIECE = 64  # frames computed at once
PIECE = 1500  # frames elsewhere: 30 s, which bounds the memory


class FeatureExtractor(nn.Module):
    """Samples of one utterance -> features."""

    def __init__(self, conv_layers: Any, for_cpu: bool):
        """conv_layers: transformers', with weights."""
        super().__init__()
        self.first = conv_layers[0]
        self.others = nn.ModuleList(_Layer(layer, for_cpu) for layer in conv_layers[1:])

    def forward(self, samples: Tensor) -> Tensor:
        """(S,) -> (T, channels)."""
        num_frames = (len(samples) - WINDOW) // HOP + 1
        weight, bias = self._first_weights(samples)
        step = CPU_PIECE if samples.device.type == "cpu" else PIECE
        pieces = []
        for start in range(0, num_frames, step):
            end = min(start + step, num_frames)
            seen = samples[start * HOP : (end - 1) * HOP + WINDOW]
            rows = self._seen_first(seen)
            hidden = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
            if isinstance(norm := _norm_of(self.first), nn.LayerNorm):
                hidden = norm(hidden)
            hidden = self.first.activation(hidden)
            for layer in self.others:
                hidden = layer(hidden)
            pieces.append(hidden)
        return torch.cat(pieces)

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


class _Layer(nn.Module):
    """(S, channels) -> (T, channels): convolution, norm where there is one, activation."""

    def __init__(self, layer: Any, for_cpu: bool):
        super().__init__()
        conv = layer.conv
        shared = for_cpu and (conv.kernel_size[0], conv.stride[0]) == (3, 2)
        self.conv = SharedConvolution(conv) if shared else Convolution(conv)
        self.norm, self.activation = _norm_of(layer), layer.activation

    def forward(self, frames: Tensor) -> Tensor:
        hidden = self.conv(frames)
        return self.activation(hidden if self.norm is None else self.norm(hidden))


class Convolution(nn.Module):
    """The products of a convolution."""

    def __init__(self, conv: Any):
        super().__init__()
        self.stride, self.kernel = conv.stride[0], conv.kernel_size[0]
        first, *rest = conv.weight.split(self.stride, dim=2)
        self.first = _linear(first, conv.bias)
        self.rest: Any = nn.ModuleList(_linear(taps) for taps in rest)

    def forward(self, frames: Tensor) -> Tensor:
        """(S, channels) -> (T, channels)."""
        num_frames = (len(frames) - self.kernel) // self.stride + 1
        step = self.stride * frames.shape[1]

        def seen(place: int) -> Tensor:
            size = (num_frames, min(step, self.kernel * frames.shape[1] - place * step))
            return frames.as_strided(size, (step, 1), frames.storage_offset() + place * step)

        hidden = self.first(seen(0))
        for place, taps in enumerate(self.rest, start=1):
            hidden = add_linear(hidden, taps, seen(place))
        return hidden


class SharedConvolution(nn.Module):
    """The products of a convolution of kernel 3 and stride 2; one of them serves two frames.

    Of taps a, b, c, two frames that see x0 to x4 are
        a x0 + b x1 + c x2 = (a + c) x2 + b x1 + a (x0 - x2)
        a x2 + b x3 + c x4 = (a + c) x2 + b x3 + c (x4 - x2)
    """

    def __init__(self, conv: Any):
        super().__init__()
        a, b, c = conv.weight.split(1, dim=2)
        self.first, self.middle, self.last = _linear(a), _linear(b, conv.bias), _linear(c)
        self.both = _linear((a.double() + c.double()).to(a.dtype))

    def forward(self, frames: Tensor) -> Tensor:
        """(S, channels) -> (T, channels)."""
        num_frames = (len(frames) - 1) // 2
        even, odd = frames[: 2 * num_frames + 1 : 2], frames[1 : 2 * num_frames : 2]
        common = even[1::2]
        shared = self.both(common)
        hidden = self.middle(odd)
        hidden[::2] += add_linear(shared, self.first, even[:num_frames:2] - common)
        pairs = num_frames // 2
        hidden[1::2] += add_linear(shared[:pairs], self.last, even[2::2] - common[:pairs])
        return hidden


def _linear(taps: Tensor, bias: nn.Parameter | None = None) -> nn.Linear:
    """(out, in, k): over k frames as one row."""
    weight = taps.transpose(1, 2).flatten(1)
    linear = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", bias)
    return linear


def _norm_of(layer: Any) -> nn.Module | None:
    return getattr(layer, "layer_norm", None)
