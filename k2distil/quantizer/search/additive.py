"""Which entries to choose. All search works on scores, never on a (B, N, K, D) tensor.

For a frame x and entries c, the error of a choice k_1 .. k_N is

    |x - sum_n c_n|^2 = |x|^2 - 2 * (sum_n unary_n - sum_{n<m} <c_n, c_m>)
    unary_n = <x, c_n> - |c_n|^2 / 2

so the best choice has the highest *score*, the bracket. Orthogonal codebooks have no cross terms:
each choice is found alone. Others are searched with all inner products looked up in a Gram table
(beam search and iterated conditional modes, as in Babenko and Lempitsky, "Additive quantization",
CVPR 2014, and Martinez et al., "LSQ++", ECCV 2018), or computed (`vector_products`) where there are
too many entries for a table.

B frames, N codebooks of K entries, D dimensions; all tensors float32, codes int64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from k2distil.quantizer.arithmetic import exact

MAX_TABLE_SIZE = 4096  # entries of a codebook that a Gram table is made for
MAX_TABLE_ENTRIES = 16_384  # of all codebooks: a table of 1 GiB

# (m, rows) -> (*, K): inner products of the sum of chosen entries with each entry of codebook m.
# rows: (*, n) int64, an entry n * K + k of each of the first n codebooks; that of m counts as none.
Products = Callable[[int, Tensor], Tensor]


def has_gram_table(num_codebooks: int, codebook_size: int) -> bool:
    """Whether the entries are few enough for a Gram table."""
    num_entries = num_codebooks * codebook_size
    return codebook_size <= MAX_TABLE_SIZE and num_entries <= MAX_TABLE_ENTRIES


def entry_rows(codes: Tensor, codebook_size: int) -> Tensor:
    """The chosen entries among all, n * K + k: (*, n) int64 -> (*, n)."""
    return codes + torch.arange(codes.shape[-1], device=codes.device) * codebook_size


def unary_scores(frames: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    """frames: (B, D), table: (N, K, D), bias: (N, K) = -|c|^2 / 2 -> (B, N, K)."""
    num_codebooks, codebook_size, _ = table.shape
    scores = torch.addmm(bias.flatten(), frames, table.flatten(0, 1).T)
    return scores.view(-1, num_codebooks, codebook_size)


def interaction_tables(table: Tensor) -> Tensor:
    """The Gram table by codebook: (N, K, D) -> (N, N * K, K).

    [m, n * K + j, k] = <entry j of codebook n, entry k of codebook m>, and 0 for n = m, so that
    looking up all N chosen rows leaves out the codebook that is being chosen.
    """
    num_codebooks, codebook_size, _ = table.shape
    flat = table.flatten(0, 1)
    with exact(table.device):
        gram = (flat @ flat.T).view(num_codebooks, codebook_size, num_codebooks, codebook_size)
    for n in range(num_codebooks):
        gram[n, :, n] = 0.0
    return gram.permute(2, 0, 1, 3).flatten(1, 2).contiguous()


def gram_products(interactions: Tensor) -> Products:
    """Looked up; interactions: (N, N * K, K) from `interaction_tables`."""
    return lambda m, rows: sum_rows(interactions[m], rows)


def vector_products(table: Tensor) -> Products:
    """What `gram_products` gives, up to rounding, without a Gram table; table: (N, K, D).

    Of R entries that has R^2 values: 40 GB for R = 100,000. Here the chosen entries are added up
    first, and their sum is multiplied with the codebook being chosen: D multiplications a score
    instead of up to N look-ups, and no memory but the result's.
    """
    flat = table.flatten(0, 1)

    def products(m: int, rows: Tensor) -> Tensor:
        """rows: (*, n), one of each of the first n codebooks -> (*, K)."""
        if rows.shape[-1] > m:  # all are chosen: leave out the codebook that is chosen again
            kept = [n for n in range(rows.shape[-1]) if n != m]
            rows = rows[..., kept]
        if rows.shape[-1] == 0:
            return table.new_zeros(*rows.shape[:-1], table.shape[1])
        return sum_rows(flat, rows) @ table[m].T

    return products


def beam_search(unary: Tensor, products: Products, width: int) -> Tensor:
    """Choose codebook after codebook, keeping the `width` best prefixes; -> codes (B, N).

    With width >= K ** (N - 1) it is exhaustive.
    """
    _, num_codebooks, codebook_size = unary.shape
    scores, codes = unary[:, 0].topk(min(width, codebook_size))
    codes = codes.unsqueeze(-1)  # (B, H, 1) for H prefixes
    for m in range(1, num_codebooks):
        chosen = products(m, entry_rows(codes, codebook_size))  # (B, H, K)
        candidates = scores.unsqueeze(-1) + unary[:, m].unsqueeze(1) - chosen
        num_kept = min(width, candidates[0].numel())
        scores, best = candidates.flatten(1).topk(num_kept)
        parent = best.div(codebook_size, rounding_mode="floor").unsqueeze(-1)
        prefix = codes.gather(1, parent.expand(-1, -1, m))
        codes = torch.cat([prefix, (best % codebook_size).unsqueeze(-1)], dim=-1)
    return codes[:, 0]  # topk sorts: the best prefix comes first


def refine(unary: Tensor, products: Products, codes: Tensor, num_sweeps: int) -> Tensor:
    """Choose each codebook again given all others; no sweep raises the error; -> codes (B, N)."""
    _, num_codebooks, codebook_size = unary.shape
    rows = entry_rows(codes, codebook_size)
    for _ in range(num_sweeps):
        for m in range(num_codebooks):
            scores = unary[:, m] - products(m, rows)
            rows[:, m] = scores.argmax(-1) + m * codebook_size
    return rows % codebook_size


def sum_rows(table: Tensor, rows: Tensor) -> Tensor:
    """table: (R, K), rows: (*, n) -> (*, K), the sum of the n rows, without a (*, n, K) tensor."""
    total = F.embedding_bag(rows.reshape(-1, rows.shape[-1]), table, mode="sum")
    return total.view(*rows.shape[:-1], table.shape[1])
