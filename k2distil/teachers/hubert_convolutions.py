"""HuBERT's convolutions with transformers' weights, computed in another order.

The layout is channels last, in which convolutions are fastest. The first one's norm over time is
multiplied into its weights, so that the stack can run piece by piece.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HOP, WINDOW = 320, 400  # samples between frames, and that a frame sees
CPU_PIECE = 128  # frames computed at once: what stays in a core's cache
PIECE = 1500  # frames elsewhere: 30 s, which bounds the memory


class FeatureExtractor(nn.Module):
    """Samples of one utterance -> features."""

    def __init__(self, conv_layers: Any):
        """conv_layers: transformers', with weights; their tensors are used on, re-ordered."""
        super().__init__()
        self.layers = conv_layers
        for layer in conv_layers:
            _to_channels_last(layer.conv)

    def forward(self, samples: Tensor) -> Tensor:
        """(S,) -> (T, channels)."""
        num_frames = (len(samples) - WINDOW) // HOP + 1
        weight, bias = self._first(samples)
        step = CPU_PIECE if samples.device.type == "cpu" else PIECE
        pieces = []
        for start in range(0, num_frames, step):
            end = min(start + step, num_frames)
            seen = samples[start * HOP : (end - 1) * HOP + WINDOW]
            pieces.append(self._convolve(seen, weight, bias))
        return torch.cat(pieces)

    def _first(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the first convolution, with the norm over time multiplied in.

        A convolution is linear: mean and variance of its output follow from the mean (k,) and
        covariance (k, k) of what it sees, here in float64.
        """
        conv, norm = self.layers[0].conv, getattr(self.layers[0], "layer_norm", None)
        if not isinstance(norm, nn.GroupNorm):
            return conv.weight, conv.bias
        seen = samples.unfold(0, conv.kernel_size[0], conv.stride[0]).double()
        mean = seen.mean(0)
        covariance = (seen - mean).T @ (seen - mean) / len(seen)
        weight = conv.weight[:, 0, 0].double()  # (channels, k)
        scale = norm.weight / (((weight @ covariance) * weight).sum(1) + norm.eps).sqrt()
        bias = norm.bias - scale * (weight @ mean)
        return (scale[:, None] * weight)[:, None, None].to(samples), bias.to(samples)

    def _convolve(self, samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(S,), and what the first convolution computes with -> (T, channels)."""
        hidden = samples[None, None, None]  # (1, channels, 1, T)
        for layer in self.layers:
            conv, norm = layer.conv, getattr(layer, "layer_norm", None)
            if layer is not self.layers[0]:
                weight, bias = conv.weight, conv.bias
            hidden = F.conv2d(hidden, weight, bias, (1, conv.stride[0]))
            if isinstance(norm, nn.LayerNorm):
                hidden = norm(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            hidden = layer.activation(hidden)
        return hidden[0, :, 0].T


class PositionalConvolution(nn.Module):
    """The convolution that tells frames where they are, its weight norm multiplied out."""

    def __init__(self, embed: Any):
        """embed: transformers', with weights."""
        super().__init__()
        self.conv: Any = embed.conv
        nn.utils.parametrize.remove_parametrizations(self.conv, "weight")
        _to_channels_last(self.conv)
        self.activation = embed.activation

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        conv = self.conv
        hidden = frames.transpose(1, 2)[:, :, None]
        padding = (0, conv.kernel_size[0] // 2)
        hidden = F.conv2d(hidden, conv.weight, conv.bias, 1, padding, 1, conv.groups)
        return self.activation(hidden[:, :, 0, : frames.shape[1]]).transpose(1, 2)


def _to_channels_last(conv: nn.Conv1d) -> None:
    """Make the weight that of a 2-D convolution of height 1."""
    weight = conv.weight.data[:, :, None].contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(weight, requires_grad=False)
