"""Which positions of a padded batch belong to an utterance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def valid_positions(lengths: Sequence[int], size: int, device: torch.device) -> Tensor:
    """lengths of B utterances -> (B, size) bool, True below each length."""
    ends = torch.tensor(lengths, device=device)
    return torch.arange(size, device=device) < ends[:, None]


def all_equal(lengths: Sequence[int]) -> bool:
    """True where no utterance is padded: the mask can go, and SDPA takes its fastest kernel."""
    return min(lengths) == max(lengths)
