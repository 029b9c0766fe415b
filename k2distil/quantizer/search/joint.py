"""Choose all codebooks again at once: candidates of each, joined two by two.

The refinement of multi_quantization (github.com/k2-fsa/multi_quantization, `_refine_indexes`), here
on scores and inner products alone (additive.py). Each codebook keeps the `width` entries that are
best while all others stay as they are. Then neighbours are joined: of all pairs of candidates the
best are kept, of the pairs of those again, until one group holds all codebooks.

A candidate stands for a change of the present codes. With d its vector minus the one it replaces,
and `gain` what it adds to the score (half of what it takes from the squared error), two changes
of different codebooks together have

    gain(a, b) = gain(a) + gain(b) - <d_a, d_b>

B frames, N codebooks of K entries; scores float32, codes int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from k2distil.quantizer.search.additive import entry_rows, sum_rows

MAX_GROWN_WIDTH = 128  # candidates; a greater `width` is kept, but does not grow


def refine_jointly(
    unary: Tensor,
    interactions: Tensor,
    codes: Tensor,
    width: int,
    num_rounds: int = 1,
) -> Tensor:
    """Improve (B, N) codes; -> codes (B, N).

    It leaves minima of `refine`, which changes one code at a time, at several times its work. With
    width >= K ** N one round finds the best of all codes. A narrower one can raise a frame's error,
    as in the package: the present codes are among the candidates only while they are among the best
    ones. A frame's result depends on no other frame.

    Args:
        unary: (B, N, K) from `unary_scores`; interactions: (N, N * K, K) from `interaction_tables`.
        codes: where to start.
        width: candidates kept of each codebook. Groups of 4 codebooks keep twice as many, of 16
            four times, up to 128.
        num_rounds: how often; a frame whose codes a round leaves alone is done.
    """
    codes = codes.clone()
    active = torch.arange(len(codes), device=codes.device)
    for _ in range(num_rounds):
        before = codes[active]
        after = _round(unary[active], interactions, before, width)
        codes[active] = after
        active = active[(after != before).any(1)]
        if not len(active):
            break
    return codes


@dataclass(frozen=True)
class _Group:
    """L codebooks and W changes of their codes.

    rows: (B, R) where in the Gram table the entries begin that they may take; columns: (B, R) the
    same for the other side of a product. R = L * (C + 1): per codebook its candidates, last the
    present entry.
    gains: (B, W). picks: (B, W + 1, L) what each change takes, 0 .. R-1; the last is no change.
    """

    rows: Tensor
    columns: Tensor
    gains: Tensor
    picks: Tensor


def values_per_frame(num_codebooks: int, codebook_size: int, width: int) -> int:
    """How many float32 of a frame stand at once, at most.

    Scores of all entries four times. As the last two groups are joined, the products of all their
    candidates and where these were found; and a few tables with what each change adds up.
    """
    half = -(-num_codebooks // 2)
    rows = half * (min(width, codebook_size) + 1)
    changes = _grown(width, half) + 1
    return 4 * num_codebooks * codebook_size + 2 * rows**2 + 4 * changes * rows


def _round(unary: Tensor, interactions: Tensor, codes: Tensor, width: int) -> Tensor:
    num_codebooks = codes.shape[1]
    entries, gains = _candidates(unary, interactions, codes, width)
    groups = _single_codebooks(entries, gains, unary.shape[2])
    table = interactions.flatten()
    while len(groups) > 1:
        pairs = zip(groups[::2], groups[1::2], strict=False)  # an odd one waits
        joined = [_join(*pair, table, width, num_codebooks) for pair in pairs]
        groups = joined + groups[2 * len(joined) :]
    (group,) = groups
    best = group.gains.argmax(1)
    picks = group.picks.gather(1, best.view(-1, 1, 1).expand(-1, 1, num_codebooks))
    return entries.flatten(1).gather(1, picks.squeeze(1))


def _candidates(
    unary: Tensor, interactions: Tensor, codes: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """The best entries of each codebook and what they gain; (B, N, C + 1), (B, N, C).

    The last entry is the present one.
    """
    num_codebooks, codebook_size = unary.shape[1:]
    rows = entry_rows(codes, codebook_size)
    gains = torch.stack(
        [unary[:, m] - sum_rows(interactions[m], rows) for m in range(num_codebooks)], 1
    )
    present = codes.unsqueeze(2)
    best, entries = gains.topk(min(width, codebook_size), sorted=False)
    return torch.cat([entries, present], 2), best - gains.gather(2, present)


def _single_codebooks(entries: Tensor, gains: Tensor, codebook_size: int) -> list[_Group]:
    """Each codebook as a group of one."""
    num_codebooks, num_entries = entries.shape[1:]
    index = torch.int32 if num_codebooks**2 * codebook_size**2 < 2**31 else torch.int64
    own = torch.arange(num_codebooks, device=entries.device, dtype=index).unsqueeze(1)
    narrow = entries.to(index)
    rows = (narrow + own * codebook_size) * codebook_size
    columns = narrow + own * (num_codebooks * codebook_size**2)
    picks = torch.arange(num_entries, device=entries.device).view(1, -1, 1)
    picks = picks.expand(len(entries), -1, -1)
    return [_Group(rows[:, n], columns[:, n], gains[:, n], picks) for n in range(num_codebooks)]


def _join(one: _Group, two: _Group, table: Tensor, width: int, num_codebooks: int) -> _Group:
    """The best changes of both groups together."""
    size = one.picks.shape[2] + two.picks.shape[2]
    kept = 1 if size == num_codebooks else _grown(width, size)
    products = _products(one, two, table)  # (B, W_two + 1, W_one + 1)
    first = one.gains + products[:, -1, :-1]
    second = two.gains + products[:, :-1, -1] - products[:, -1, -1:]
    gains = (first.unsqueeze(1) + second.unsqueeze(2) - products[:, :-1, :-1]).flatten(1)
    if kept == 1:
        best_gains, best = gains.max(1, keepdim=True)
    else:
        best_gains, best = gains.topk(min(kept, gains.shape[1]), sorted=False)
    num_changes = first.shape[1]
    pick_two = best.div(num_changes, rounding_mode="floor")
    pick_one = best - pick_two * num_changes
    picks = [
        torch.cat([_take(one.picks, pick_one), one.picks[:, -1:]], 1),
        torch.cat([_take(two.picks, pick_two), two.picks[:, -1:]], 1) + one.rows.shape[1],
    ]
    return _Group(
        torch.cat([one.rows, two.rows], 1),
        torch.cat([one.columns, two.columns], 1),
        best_gains,
        torch.cat(picks, 2),
    )


def _products(one: _Group, two: _Group, table: Tensor) -> Tensor:
    """Inner products of what the changes of two groups take; (B, W_two + 1, W_one + 1)."""
    places = two.columns.unsqueeze(2) + one.rows.unsqueeze(1)
    products = table.index_select(0, places.flatten()).view(places.shape)  # (B, R_two, R_one)
    if two.picks.shape[2] > 1:
        products = _sum_picked(products, two.picks)
    if one.picks.shape[2] > 1:
        products = _sum_picked(products.transpose(1, 2), one.picks).transpose(1, 2)
    return products


def _sum_picked(values: Tensor, picks: Tensor) -> Tensor:
    """values: (B, R, S), picks: (B, W, L) in 0 .. R-1 -> (B, W, S), sums of L rows."""
    num_frames, num_rows, _ = values.shape
    first = torch.arange(num_frames, device=picks.device).view(-1, 1, 1) * num_rows
    return sum_rows(values.reshape(-1, values.shape[2]), picks + first)


def _take(picks: Tensor, index: Tensor) -> Tensor:
    """picks: (B, W, L), index: (B, V) -> (B, V, L)."""
    return picks.gather(1, index.unsqueeze(2).expand(-1, -1, picks.shape[2]))


def _grown(width: int, size: int) -> int:
    """How many changes a group of `size` codebooks keeps."""
    grown = width
    while size >= 4:
        size, grown = size // 4, grown * 2
    return max(width, min(grown, MAX_GROWN_WIDTH))
