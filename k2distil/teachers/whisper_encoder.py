"""The Whisper encoder that serves every format, and the only one that can mask.

Radford et al. 2022 (arXiv 2212.04356). openai-whisper and transformers run it on 30 s exactly and
attend to the padding; here each utterance of a batch comes out as it would alone.
Tensor names are openai-whisper's without their `encoder.` prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2distil.teachers.lengths import all_equal, valid_positions

CONV1D2 = "conv1d2"  # Whisper's own front end: two 1-D convolutions, 50 frames/s
CONV2D = "conv2d"  # WeNet's: two 2-D convolutions of stride 2, 25 frames/s


@dataclass(frozen=True)
class WhisperDims:
    """The shape of an encoder."""

    num_mels: int
    dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    num_positions: int
    subsampling: str = CONV1D2

    def num_frames(self, num_mel_frames: int) -> int:
        """Encoder frames of so many mel frames; 0: too few."""
        if self.subsampling == CONV2D:
            return conv2d_size(num_mel_frames)
        return (num_mel_frames + 1) // 2


def conv2d_size(size: int) -> int:
    """What two convolutions of kernel 3 and stride 2, without padding, leave of `size`."""
    return max(0, ((size - 1) // 2 - 1) // 2)


class Attention(nn.Module):
    """Self-attention over the keys that are not masked."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"{num_heads} attention heads do not divide the dimension {dim}")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, frames: Tensor, key_mask: Tensor | None, wanted: int) -> Tensor:
        """frames: (B, T, dim); key_mask: (B, 1, 1, T) bool, None: no padding.

        Returns:
            (B, wanted, dim): of the first frames only, which attend to all.
        """
        query, key, value = (
            linear(seen).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear, seen in (
                (self.query, frames[:, :wanted]),
                (self.key, frames),
                (self.value, frames),
            )
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each after its layer norm and added to its input."""

    def __init__(self, dims: WhisperDims):
        super().__init__()
        self.attn_ln = nn.LayerNorm(dims.dim)
        self.attn = Attention(dims.dim, dims.num_heads)
        self.mlp_ln = nn.LayerNorm(dims.dim)
        self.mlp = nn.Sequential(
            nn.Linear(dims.dim, dims.ffn_dim), nn.GELU(), nn.Linear(dims.ffn_dim, dims.dim)
        )

    def forward(self, frames: Tensor, key_mask: Tensor | None, wanted: int) -> Tensor:
        """frames: (B, T, dim) -> (B, wanted, dim): the first frames."""
        frames = frames[:, :wanted] + self.attn(self.attn_ln(frames), key_mask, wanted)
        return frames + self.mlp(self.mlp_ln(frames))


class WhisperEncoder(nn.Module):
    """Log-mel -> frames. Lengths are in mel frames."""

    positional_embedding: Tensor

    def __init__(self, dims: WhisperDims):
        super().__init__()
        self.dims = dims
        if dims.subsampling == CONV2D:
            self.conv1: nn.Module = nn.Conv2d(1, dims.dim, kernel_size=3, stride=2)
            self.conv2: nn.Module = nn.Conv2d(dims.dim, dims.dim, kernel_size=3, stride=2)
            self.out = nn.Linear(dims.dim * conv2d_size(dims.num_mels), dims.dim)
        else:
            self.conv1 = nn.Conv1d(dims.num_mels, dims.dim, kernel_size=3, padding=1)
            self.conv2 = nn.Conv1d(dims.dim, dims.dim, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.empty(dims.num_positions, dims.dim))
        self.blocks = nn.ModuleList(Block(dims) for _ in range(dims.num_layers))
        self.ln_post: nn.Module = nn.LayerNorm(dims.dim)

    def cut_after(self, layer: int, final_norm: bool) -> None:
        """Drop the blocks after `layer`, and the final norm unless it is asked for."""
        self.blocks = self.blocks[:layer]
        if not final_norm:
            self.ln_post = nn.Identity()

    def forward(self, log_mel: Tensor, lengths: Sequence[int], wanted: int) -> Tensor:
        """Compute the first frames of each utterance.

        Args:
            log_mel: (B, num_mels, T), zeros beyond each utterance.
            lengths: mel frames of each.
            wanted: how many of the T' encoder frames; after audio padded to 30 s none is.

        Returns:
            (B, wanted, dim); what is beyond an utterance is undefined.
        """
        log_mel = log_mel.to(self.positional_embedding.dtype)
        if self.dims.subsampling == CONV2D:
            frames = self._conv2d(log_mel)
        else:
            frames = self._conv1d2(log_mel, lengths)
        num_frames = [self.dims.num_frames(length) for length in lengths]
        frames = frames + self.positional_embedding[: frames.shape[1]]
        key_mask = None
        if not all_equal(num_frames):
            valid = valid_positions(num_frames, frames.shape[1], frames.device)
            key_mask = valid[:, None, None, :]
        for block in self.blocks[:-1]:
            frames = block(frames, key_mask, frames.shape[1])
        return self.ln_post(self.blocks[-1](frames, key_mask, wanted))

    def _conv1d2(self, log_mel: Tensor, lengths: Sequence[int]) -> Tensor:
        hidden = F.gelu(self.conv1(log_mel))
        if not all_equal(lengths):
            # At odd lengths conv2 looks one step beyond, where it must see its own zero padding.
            valid = valid_positions(lengths, hidden.shape[-1], hidden.device)
            hidden = hidden.masked_fill(~valid[:, None, :], 0.0)
        # Once laid out frame by frame; else every norm would do so, and sums would be slow.
        return F.gelu(self.conv2(hidden)).transpose(1, 2).contiguous()

    def _conv2d(self, log_mel: Tensor) -> Tensor:
        # No padding inside, so a valid output frame sees valid input only: no mask is needed.
        hidden = F.relu(self.conv1(log_mel.transpose(1, 2)[:, None]))  # (B, dim, T, num_mels)
        hidden = F.relu(self.conv2(hidden))
        return self.out(hidden.transpose(1, 2).flatten(2))
