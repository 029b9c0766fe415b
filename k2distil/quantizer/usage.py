"""Which entries serve frames, however rare, and which none: these may get another place.

One round has too few frames to tell. So an entry counts as used if any frame chose it since the
rounds at rest began; but the noise step moves entries a little, behind which frames may leave one.
That shows where many frames would have chosen it by now, and none did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ENOUGH = 7.0  # choices expected: that none comes by chance has a probability of 0.001


@dataclass
class Usage:
    """How often each entry was chosen in rounds at rest.

    before, after: (N, K) float32, in the rounds before and behind the noise step; num_before,
    num_after: of these rounds.
    """

    before: Tensor
    after: Tensor
    num_before: int = 0
    num_after: int = 0

    @classmethod
    def none(cls, num_codebooks: int, codebook_size: int, device: torch.device) -> Usage:
        """Before the first round."""
        before = torch.zeros(num_codebooks, codebook_size, device=device)
        return cls(before, before.clone())

    @classmethod
    def of(cls, state: Mapping[str, Any], device: torch.device) -> Usage:
        """What `dataclasses.asdict` made a dict of."""
        counts = {name: state[name].to(device, copy=True) for name in ("before", "after")}
        return cls(**counts, num_before=state["num_before"], num_after=state["num_after"])

    def add(self, counts: Tensor, *, is_after: bool) -> None:
        """Note a round; counts: (N * K,), how often each entry was chosen in it."""
        if is_after:
            self.after += counts.view_as(self.after)
            self.num_after += 1
        else:
            self.before += counts.view_as(self.before)
            self.num_before += 1

    def unused(self) -> Tensor:
        """(N, K) bool, the entries that may move."""
        expected = self.before * (self.num_after / max(self.num_before, 1))
        return (self.after == 0) & ((self.before == 0) | (expected >= ENOUGH))

    def forget(self, moved: Tensor) -> None:
        """Entries that moved, (N, K) bool, must show anew that they serve."""
        self.before[moved], self.after[moved] = 0.0, 0.0

    def reorder(self, order: Tensor) -> None:
        """Take another order of the codebooks; order: (N,) int64, the places they had."""
        self.before, self.after = self.before[order], self.after[order]
