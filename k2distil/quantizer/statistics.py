"""What training remembers of the frames it saw: plain sums, so that processes can add theirs up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class CodeSums:
    """Which entries were chosen, for which frames, and with what error. R = N * K entries.

    counts: (R,) how often each entry was chosen; pairs: (R, R) how often two were chosen together
    (its diagonal is `counts`), or (0, 0) where nobody needs it; sums: (R, D) of the frames that
    chose it; errors: (R,) of their squared errors. float32, exact for counts below 2^24.
    """

    counts: Tensor
    pairs: Tensor
    sums: Tensor
    errors: Tensor

    @classmethod
    def zeros(cls, table: Tensor, with_pairs: bool) -> CodeSums:
        """No frames yet; table: (N, K, D)."""
        num_rows = table.shape[0] * table.shape[1]
        size = num_rows if with_pairs else 0
        return cls(
            table.new_zeros(num_rows),
            table.new_zeros(size, size),
            table.new_zeros(num_rows, table.shape[2]),
            table.new_zeros(num_rows),
        )

    def add(self, frames: Tensor, codes: Tensor, errors: Tensor, codebook_size: int) -> None:
        """frames: (B, D) float32 normalised, codes: (B, N), errors: (B,) squared."""
        num_codebooks = codes.shape[1]
        rows = codes.long() + torch.arange(num_codebooks, device=codes.device) * codebook_size
        # Sorted by entry, the sums are deterministic on every device; index_add_ is not on CUDA.
        order = rows.flatten().argsort(stable=True)
        counts = torch.bincount(rows.flatten(), minlength=len(self.counts))
        bags = (order.div(num_codebooks, rounding_mode="floor"), counts.cumsum(0) - counts)
        values = torch.cat([frames, errors.unsqueeze(1)], dim=1)
        summed = F.embedding_bag(bags[0], values, bags[1], mode="sum")
        self.counts += counts
        self.sums += summed[:, :-1]
        self.errors += summed[:, -1]
        if self.pairs.numel():
            both = (rows.unsqueeze(2) * len(self.pairs) + rows.unsqueeze(1)).flatten()
            self.pairs.view(-1).scatter_add_(0, both, torch.ones_like(both, dtype=torch.float32))

    def merge(self, fresh: CodeSums, decay: float) -> None:
        """Fade what was summed before by `decay` and add `fresh`."""
        for name, tensor in vars(self).items():
            tensor.mul_(decay).add_(getattr(fresh, name))

    def forget(self, rows: Tensor) -> None:
        """Drop all that is known of these entries: they are about to move."""
        self.counts[rows], self.sums[rows], self.errors[rows] = 0.0, 0.0, 0.0
        if self.pairs.numel():
            self.pairs[rows], self.pairs[:, rows] = 0.0, 0.0
