"""What model.py searches, as kernels (Triton) for CUDA devices: the same codes but for rounding.

torch's own operations write all scores to memory and read them again for every step, and multiply
float32 at a tenth of the speed of float16. Here a float32 number is the sum of two of float16,
products of which are exact in float32 (Ootomo and Yokota, "Recovering single precision accuracy
from Tensor Cores", IJHPCA 2022). Frames that are float16 or bfloat16 are worth one of them only.

Tiles are of one fixed size, so a frame's codes depend on no other frame. B frames, N codebooks of K
entries, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_FLOAT16 = 60_000.0  # that it holds, and room for rounding
MAX_FLOAT32 = 3e38
USED = 1000.0  # a weight's greatest value is scaled to this at most: so its low parts hold bits

# Of the beam search.
CHUNK = 16  # candidates that are compared as one at first
WIDTH = 64  # entries that are scored at once
BITS = 8  # of a code in a word
MAX_BEAM = 32


@dataclass(frozen=True)
class _Tile:
    """What one program computes: rows of frames, and columns, in steps of the summed dimension."""

    rows: int
    columns: int
    step: int
    num_warps: int


LARGE = _Tile(128, 256, 32, 8)
LARGE_HALF = _Tile(128, 256, 64, 8)  # for products of one float16
SMALL = _Tile(64, 128, 32, 4)  # 58 kB of shared memory
NUM_STAGES = 3


class SplitLinear:
    """(frames - mean) / scale @ weight + bias.

    Args:
        weight: (D, M) float32; bias: (M,); mean: (D,); scale: ().
        largest: what no value may reach.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, largest: float
    ) -> None:
        self._high, self._low, factor = _split(weight)
        self._bias, self._mean, self._largest = bias.contiguous(), mean.contiguous(), largest
        self._scales = torch.stack([1 / scale, 1 / factor])

    def __call__(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (B, D) float16, bfloat16 or float32 -> (B, M) float32 and is_bad, (B,) bool.

        is_bad: where a value is not finite, the frame beyond float16, or `largest` is reached.
        """
        num_frames, dim = frames.shape
        num_columns = self._high.shape[1]
        out = torch.empty(num_frames, num_columns, dtype=torch.float32, device=frames.device)
        is_bad = torch.zeros(num_frames, dtype=torch.int8, device=frames.device)
        is_float32 = frames.dtype == torch.float32
        tile = SMALL
        if _takes_large(frames.device):
            tile = LARGE if is_float32 else LARGE_HALF
        grid = triton.cdiv(num_frames, tile.rows) * triton.cdiv(num_columns, tile.columns)
        _split_linear[grid,](
            *(frames.contiguous(), self._mean, self._scales, self._high, self._low, self._bias),
            *(out, is_bad, self._largest, num_frames, dim, num_columns),
            *(tile.rows, tile.columns, tile.step, is_float32),
            num_warps=tile.num_warps,
            num_stages=NUM_STAGES,
        )
        return out, is_bad.bool()


class Nearest:
    """The best entry of each codebook in its slice (slices.py).

    Args:
        entries: (N, d, K), along the axes; bias: (N, K).
    """

    def __init__(self, entries: Tensor, bias: Tensor) -> None:
        self._high, self._low, factor = _split(entries)
        self._bias = bias * factor

    def __call__(self, projected: Tensor) -> Tensor:
        """projected: (B, N * d) float32 -> codes (B, N) int32."""
        num_codebooks, num_axes, codebook_size = self._high.shape
        num_frames = len(projected)
        codes = torch.empty(num_frames, num_codebooks, dtype=torch.int32, device=projected.device)
        tile = LARGE if _takes_large(projected.device) else SMALL
        _nearest[triton.cdiv(num_frames, tile.rows), num_codebooks](
            *(projected, self._high, self._low, self._bias, codes, num_frames),
            *(num_codebooks, num_axes, codebook_size, tile.rows, tile.columns, tile.step),
            num_warps=tile.num_warps,
            num_stages=NUM_STAGES,
        )
        return codes


def can_search(num_codebooks: int, codebook_size: int, beam: int) -> bool:
    """Whether `beam_search` takes these: up to 8 codebooks of up to 256 entries, powers of 2."""
    fit_a_word = num_codebooks * BITS <= 64 and CHUNK <= codebook_size <= 2**BITS
    are_powers = all(size & (size - 1) == 0 for size in (codebook_size, beam))
    return fit_a_word and are_powers and 1 <= beam <= min(codebook_size, MAX_BEAM)


def beam_search(unary: Tensor, interactions: Tensor, beam: int, num_sweeps: int) -> Tensor:
    """`additive.beam_search`, then `additive.refine`; -> codes (B, N) int32.

    unary: (B, N, K) float32, contiguous; interactions: (N, N * K, K).
    """
    num_frames, num_codebooks, codebook_size = unary.shape
    codes = torch.empty(num_frames, num_codebooks, dtype=torch.int32, device=unary.device)
    _beam_search[num_frames,](
        *(unary, interactions, codes, num_codebooks, codebook_size, beam, num_sweeps),
        *(CHUNK, min(WIDTH, codebook_size), BITS),
        num_warps=1,
    )
    return codes


def _takes_large(device: torch.device) -> bool:
    """Whether a program has 148 kB of shared memory: Hopper, and Blackwell in data centres."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)


def _split(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> high, low, factor: high + low = weight * factor, high and low float16; () float32."""
    largest = weight.abs().max().clamp(min=1e-30)
    factor = (USED / largest).log2().floor().exp2()  # a power of 2: no bit is lost
    scaled = weight * factor
    high = scaled.half()
    return high.contiguous(), (scaled - high.float()).half().contiguous(), factor


@triton.jit
def _halves(values):
    high = values.to(tl.float16)
    return high, (values - high.to(tl.float32)).to(tl.float16)


@triton.jit(do_not_specialize=["num_frames"])
def _split_linear(
    frames, mean, scales, high, low, bias, out, is_bad, largest, num_frames, dim, num_columns,
    rows: tl.constexpr, columns: tl.constexpr, step: tl.constexpr, is_float32: tl.constexpr,
):  # fmt: skip
    """A tile: `rows` frames, `columns` values."""
    tiles = tl.cdiv(num_columns, columns)
    row = (tl.program_id(0) // tiles).to(tl.int64) * rows + tl.arange(0, rows)
    column = (tl.program_id(0) % tiles) * columns + tl.arange(0, columns)
    of_frames, of_columns = (row < num_frames)[:, None], (column < num_columns)[None, :]
    scale = tl.load(scales)
    total = tl.zeros((rows, columns), tl.float32)
    for first in range(0, dim, step):
        depth = first + tl.arange(0, step)
        inside = depth < dim
        places = frames + row[:, None] * dim + depth[None, :]
        x = tl.load(places, mask=of_frames & inside[None, :], other=0.0).to(tl.float32)
        x = (x - tl.load(mean + depth, mask=inside, other=0.0)[None, :]) * scale
        places = depth[:, None] * num_columns + column[None, :]
        mask = inside[:, None] & of_columns
        weight = tl.load(high + places, mask=mask, other=0.0)
        x_high, x_low = _halves(x)
        if is_float32:
            total = tl.dot(x_low, weight, total)
            total = tl.dot(x_high, tl.load(low + places, mask=mask, other=0.0), total)
        total = tl.dot(x_high, weight, total)
    total = total * tl.load(scales + 1)
    total += tl.load(bias + column, mask=column < num_columns, other=0.0)[None, :]
    # A NaN is not below anything.
    bad = tl.max(tl.where(tl.abs(total) < largest, 0, of_frames.to(tl.int32)), 1)
    tl.store(is_bad + row, bad.to(tl.int8), mask=bad > 0)  # of any tile
    tl.store(out + row[:, None] * num_columns + column[None, :], total, mask=of_frames & of_columns)


@triton.jit(do_not_specialize=["num_frames"])
def _nearest(
    projected, high, low, bias, codes, num_frames, num_codebooks, num_axes, codebook_size,
    rows: tl.constexpr, columns: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    """`rows` frames and one codebook, `columns` of whose entries are compared at once."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    n = tl.program_id(1)
    of_frames = (row < num_frames)[:, None]
    best = tl.full((rows,), float("-inf"), tl.float32)
    code = tl.zeros((rows,), tl.int32)
    for start in range(0, codebook_size, columns):
        entry = start + tl.arange(0, columns)
        is_entry = entry < codebook_size
        scores = tl.zeros((rows, columns), tl.float32)
        for first in range(0, num_axes, step):
            depth = first + tl.arange(0, step)
            inside = depth < num_axes
            places = row[:, None] * (num_codebooks * num_axes) + (n * num_axes + depth)[None, :]
            x = tl.load(projected + places, mask=of_frames & inside[None, :], other=0.0)
            x_high, x_low = _halves(x)
            places = (n * num_axes + depth)[:, None] * codebook_size + entry[None, :]
            mask = inside[:, None] & is_entry[None, :]
            weight = tl.load(high + places, mask=mask, other=0.0)
            scores = tl.dot(x_low, weight, scores)
            scores = tl.dot(x_high, tl.load(low + places, mask=mask, other=0.0), scores)
            scores = tl.dot(x_high, weight, scores)
        offset = tl.load(bias + n * codebook_size + entry, mask=is_entry, other=float("-inf"))
        scores += offset[None, :]
        highest = tl.max(scores, 1)
        winner = tl.min(tl.where(scores == highest[:, None], entry[None, :], codebook_size - 1), 1)
        code = tl.where(highest > best, winner, code)
        best = tl.maximum(highest, best)
    tl.store(codes + row * num_codebooks + n, code, mask=row < num_frames)


@triton.jit
def _picked(values, index, indexes):
    """values[index]; all (H,), and in registers."""
    return tl.sum(tl.where(index[:, None] == indexes[None, :], values[None, :], 0), 1)


@triton.jit
def _beam_search(
    unary, interactions, codes, num_codebooks: tl.constexpr, size: tl.constexpr,
    beam: tl.constexpr, num_sweeps: tl.constexpr,
    chunk: tl.constexpr, width: tl.constexpr, bits: tl.constexpr,
):  # fmt: skip
    """One frame. The codes of a prefix are bits of a word, `bits` for each codebook.

    Of all candidates the best lie in the chunks whose greatest values are greatest. So chunks
    are ranked first, then the candidates in the best ones. `width` entries are scored at once.
    """
    unary += tl.program_id(0).to(tl.int64) * (num_codebooks * size)
    mask: tl.constexpr = (1 << bits) - 1
    chunks_of: tl.constexpr = size // chunk  # of a prefix
    parts: tl.constexpr = size // width
    entry = tl.arange(0, size)
    prefix = tl.arange(0, beam)
    part = tl.arange(0, parts)
    number = tl.arange(0, beam * chunks_of)
    within = tl.arange(0, chunk)

    single = tl.load(unary + entry)
    scores = tl.full((beam,), float("-inf"), tl.float32)
    words = tl.zeros((beam,), tl.int64)
    for i in range(beam):
        highest = tl.max(single, 0)
        best = tl.min(tl.where(single == highest, entry, size - 1), 0)  # also among NaN
        scores = tl.where(prefix == i, highest, scores)
        words = tl.where(prefix == i, best.to(tl.int64), words)
        single = tl.where(entry == best, float("-inf"), single)

    for m in range(1, num_codebooks):
        table = interactions + m * (num_codebooks * size * size)
        own = unary + m * size
        highest_of = tl.full((beam, parts, width // chunk), float("-inf"), tl.float32)
        for p in range(parts):
            columns = p * width + tl.arange(0, width)
            candidates = scores[:, None] + tl.load(own + columns)[None, :]
            for n in range(m):
                rows = n * size + ((words >> (bits * n)) & mask)
                candidates -= tl.load(table + rows[:, None] * size + columns[None, :])
            found = tl.max(tl.reshape(candidates, (beam, width // chunk, chunk)), 2)
            highest_of = tl.where((part == p)[None, :, None], found[:, None, :], highest_of)
        ranked = tl.reshape(highest_of, (beam * chunks_of,))
        chosen = tl.zeros((beam,), tl.int32)
        for i in range(beam):
            best = tl.min(tl.where(ranked == tl.max(ranked, 0), number, beam * chunks_of - 1), 0)
            chosen = tl.where(prefix == i, best, chosen)
            ranked = tl.where(number == best, float("-inf"), ranked)

        parents = chosen // chunks_of
        first = chosen % chunks_of * chunk
        columns = first[:, None] + within[None, :]
        parent_words = _picked(words, parents, prefix)
        candidates = _picked(scores, parents, prefix)[:, None] + tl.load(own + columns)
        for n in range(m):  # in the same order, so that the values are the same bits
            rows = n * size + ((parent_words >> (bits * n)) & mask)
            candidates -= tl.load(table + rows[:, None] * size + columns)
        place = prefix[:, None] * chunk + within[None, :]
        codes_of = (first[:, None] + within[None, :]).to(tl.int64)
        words_of = parent_words[:, None] | (codes_of << (bits * m))
        for i in range(beam):
            highest = tl.max(tl.max(candidates, 1), 0)
            best = tl.min(tl.min(tl.where(candidates == highest, place, beam * chunk - 1), 1), 0)
            word = tl.sum(tl.sum(tl.where(place == best, words_of, 0), 1), 0)
            scores = tl.where(prefix == i, highest, scores)
            words = tl.where(prefix == i, word, words)
            candidates = tl.where(place == best, float("-inf"), candidates)

    word = tl.sum(tl.where(prefix == 0, words, 0), 0)
    for step in range(num_sweeps * num_codebooks):
        m = step % num_codebooks
        single = tl.load(unary + m * size + entry)
        for n in tl.static_range(num_codebooks):  # of m itself there are zeros
            row = (m * num_codebooks + n) * size + ((word >> (bits * n)) & mask)
            single -= tl.load(interactions + row * size + entry)
        best = tl.min(tl.where(single == tl.max(single, 0), entry, size - 1), 0).to(tl.int64)
        kept = ~(tl.full((), mask, tl.int64) << (bits * m))
        word = (word & kept) | (best << (bits * m))
    for n in range(num_codebooks):
        code = ((word >> (bits * n)) & mask).to(tl.int32)
        tl.store(codes + tl.program_id(0).to(tl.int64) * num_codebooks + n, code)
