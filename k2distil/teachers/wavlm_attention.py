"""WavLM's attention (Chen et al. 2022, arXiv 2110.13900), by fused kernels in bounded memory.

A score has a bias by the distance of the two frames, one for each head, the same in all layers, and
gated by what the asking frame holds (a gate of each layer). transformers' module writes all scores,
biases and weights of a batch at once; here some frames ask at a time, and biases are kept by
distance.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ASKING = 256  # frames whose biases stand at once


class WavLMAttention(nn.Module):
    """What transformers' module of the same name computes, from its weights.

    Args:
        theirs: it; its layers are owned from now on.
    """

    def __init__(self, theirs: Any):
        super().__init__()
        self.num_heads = theirs.num_heads
        self.q_proj, self.k_proj = theirs.q_proj, theirs.k_proj
        self.v_proj, self.out_proj = theirs.v_proj, theirs.out_proj
        self.gate, self.gate_const = theirs.gru_rel_pos_linear, theirs.gru_rel_pos_const
        self.biases = getattr(theirs, "rel_attn_embed", None)  # the first layer's, for all
        self.max_distance = theirs.max_distance

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None, Tensor]:
        """As transformers' encoder calls it.

        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, T) bool, true for frames; None: all are.
            position_bias: (heads, 2 T - 1), which the first layer gave.

        Returns:
            (B, T, D), no weights, position_bias.
        """
        num_frames = hidden_states.shape[1]
        if position_bias is None:
            position_bias = self._biases_by_distance(num_frames)
        heads = [
            each(hidden_states).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for each in (self.q_proj, self.k_proj, self.v_proj)
        ]
        query, key, value = heads  # (B, heads, T, d) each
        gate = self._gate(hidden_states)
        # Frame i asks frame j with the bias of distance j - i: row T - 1 - i of all windows.
        windows = position_bias.unfold(1, num_frames, 1)  # (heads, T, T), a view
        mixed = []
        for start in range(0, num_frames, ASKING):
            end = min(start + ASKING, num_frames)
            by_distance = windows[:, num_frames - end : num_frames - start].flip(1)
            scores = gate[:, :, start:end] * by_distance  # (B, heads, end - start, T)
            if attention_mask is not None:
                scores.masked_fill_(~attention_mask[:, None, None], -torch.inf)
            asking = query[:, :, start:end]
            mixed.append(F.scaled_dot_product_attention(asking, key, value, attn_mask=scores))
        return self.out_proj(torch.cat(mixed, 2).transpose(1, 2).flatten(2)), None, position_bias

    def _gate(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) -> (B, heads, T, 1)."""
        parts = hidden_states.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        first, second = self.gate(parts).unflatten(3, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        return first * (second * self.gate_const - 1.0) + 2.0

    def _biases_by_distance(self, num_frames: int) -> Tensor:
        """The bias of distances 1 - T .. T - 1: (heads, 2 T - 1)."""
        assert self.biases is not None
        device = self.biases.weight.device
        distances = torch.arange(1 - num_frames, num_frames, device=device)
        buckets = bucket_of(distances, self.biases.num_embeddings, self.max_distance)
        return self.biases(buckets).T.contiguous()


def bucket_of(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Which bias a distance has: int64 -> int64 of the same shape.

    Half of the buckets are for either direction; of these half are a distance each, from 0 on, and
    the others grow as its logarithm does, up to `max_distance` and all beyond.
    """
    of_direction = num_buckets // 2
    exact = of_direction // 2
    far = distances.abs()
    logarithm = torch.log(far.float() / exact) / math.log(max_distance / exact)
    grown = (exact + logarithm * (of_direction - exact)).clamp(0, of_direction - 1).long()
    return torch.where(far < exact, far, grown) + (distances > 0) * of_direction
