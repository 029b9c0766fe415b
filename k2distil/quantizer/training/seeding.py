"""First entries of a codebook (k-means++), and new places for entries that no frame chooses."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_DRAWS = 64  # k-means++ draws K / 64 seeds at once: as good for large K, and far faster
JITTER = 0.1  # a reseeded entry lies this share of its codebook's deviation from its new neighbour


def seed_entries(points: Tensor, num_entries: int, generator: torch.Generator) -> Tensor:
    """Choose spread-out points as entries; points: (M, d) -> (num_entries, d).

    Points are drawn in proportion to their squared distance from the seeds chosen so far (Arthur
    and Vassilvitskii, "k-means++", SODA 2007). With fewer distinct points than entries every
    distinct point becomes an entry and the rest repeat them (such an entry is never chosen).
    """
    first = torch.randint(len(points), (1,), generator=generator, device=points.device)
    seeds = points[first]
    distance = (points - seeds).square().sum(-1)
    while len(seeds) < num_entries:
        num_drawn = min(-(-num_entries // NUM_DRAWS), num_entries - len(seeds))
        num_drawn = min(num_drawn, int((distance > 0).sum()))
        if num_drawn == 0:
            repeats = torch.arange(num_entries - len(seeds), device=points.device) % len(seeds)
            return torch.cat([seeds, seeds[repeats]])
        drawn = torch.multinomial(distance, num_drawn, generator=generator)
        new = points[drawn]
        seeds = torch.cat([seeds, new])
        # Without the matrix-product shortcut a point that is a seed has a distance of exactly 0.
        nearest = torch.cdist(points, new, compute_mode="donot_use_mm_for_euclid_dist")
        distance = torch.minimum(distance, nearest.amin(1).square())
    return seeds


def revive_entries(
    table: Tensor, counts: Tensor, errors: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Move each unused entry beside one of the entries of its codebook with the greatest error.

    Args:
        table: (N, K, D); counts, errors: (N, K), how often each was chosen, its squared error.

    Returns:
        The new table and the (N * K,) rows that moved or got a new neighbour, as a bool mask.
    """
    table = table.clone()
    moved = torch.zeros_like(counts, dtype=torch.bool)
    for n in range(len(table)):
        crowded = errors[n].argsort(descending=True)
        crowded = crowded[(errors[n][crowded] > 0) & (counts[n][crowded] > 1)]
        dead = (counts[n] < 1).nonzero().flatten()[: len(crowded)]
        crowded = crowded[: len(dead)]
        noise = table.new_empty(len(dead), table.shape[2]).normal_(generator=generator)
        table[n, dead] = table[n, crowded] + JITTER * table[n].std(0) * noise
        moved[n, dead], moved[n, crowded] = True, True
    return table, moved.flatten()
