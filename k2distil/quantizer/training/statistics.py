"""What training remembers of the frames it saw: plain sums, so that processes can add theirs up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from k2distil.quantizer.search.additive import entry_rows, has_gram_table

# Frames, of a deviation of 1, are summed as multiples of GRID in float64: exact up to 2^29. So sums
# are the same bits in any order, and shared among any number of processes.
GRID = 2.0**-24


@dataclass(frozen=True)
class Share:
    """One process' part of a training that several do together.

    rank, size: it encodes every `size`-th frame of a batch, from the `rank`-th on.
    add_up: a tensor, sparse too, that it may overwrite -> the sum of all processes' tensors.
    """

    rank: int = 0
    size: int = 1
    add_up: Callable[[Tensor], Tensor] = lambda tensor: tensor


ALONE = Share()


@dataclass
class CodeSums:
    """Which entries were chosen, for which frames, and with what error. R = N * K entries.

    counts: (R,) how often each entry was chosen; pairs: (R, R) how often two were chosen together
    (its diagonal is `counts`), or (0, 0) where nobody needs it; sums: (R, D) of the frames that
    chose it; errors: (R,) of their squared errors. Counts are float32, exact below 2^24; the others
    float64 while they are summed (see GRID), float32 once they fade. `pairs` is sparse (COO,
    coalesced) where there are too many entries for a Gram table.
    """

    counts: Tensor
    pairs: Tensor
    sums: Tensor
    errors: Tensor

    @classmethod
    def zeros(cls, table: Tensor, with_pairs: bool, dtype: torch.dtype = torch.float64) -> CodeSums:
        """No frames yet; table: (N, K, D); dtype: of sums and errors."""
        num_rows = table.shape[0] * table.shape[1]
        size = num_rows if with_pairs else 0
        sparse = with_pairs and not has_gram_table(*table.shape[:2])
        return cls(
            table.new_zeros(num_rows),
            _no_pairs(size, table.device) if sparse else table.new_zeros(size, size),
            table.new_zeros(num_rows, table.shape[2], dtype=dtype),
            table.new_zeros(num_rows, dtype=dtype),
        )

    def add(self, frames: Tensor, codes: Tensor, errors: Tensor, codebook_size: int) -> None:
        """frames: (B, D) float32 normalised, codes: (B, N), errors: (B,) squared."""
        num_codebooks = codes.shape[1]
        rows = entry_rows(codes.long(), codebook_size)
        # Sorted by entry, the sums are deterministic on every device; index_add_ is not on CUDA.
        order = rows.flatten().argsort(stable=True)
        counts = torch.bincount(rows.flatten(), minlength=len(self.counts))
        bags = (order.div(num_codebooks, rounding_mode="floor"), counts.cumsum(0) - counts)
        values = torch.cat([frames, errors.unsqueeze(1)], dim=1).double()
        values = values.div_(GRID).round_().mul_(GRID)
        summed = F.embedding_bag(bags[0], values, bags[1], mode="sum")
        self.counts += counts
        self.sums += summed[:, :-1]
        self.errors += summed[:, -1]
        if self.pairs.is_sparse:
            shape = (-1, num_codebooks, num_codebooks)
            both = torch.stack([rows.unsqueeze(2).expand(shape), rows.unsqueeze(1).expand(shape)])
            fresh = _pairs(both.flatten(1), frames.new_ones(both[0].numel()), len(self.counts))
            self.pairs = (self.pairs + fresh).coalesce()
        elif self.pairs.numel():
            both = (rows.unsqueeze(2) * len(self.pairs) + rows.unsqueeze(1)).flatten()
            self.pairs.view(-1).scatter_add_(0, both, torch.ones_like(both, dtype=torch.float32))

    def merge(self, fresh: CodeSums, decay: float) -> None:
        """Fade what was summed before by `decay` and add `fresh`."""
        for name, tensor in vars(self).items():
            tensor.mul_(decay).add_(getattr(fresh, name))
        if self.pairs.is_sparse:
            self.pairs = self.pairs.coalesce()

    def add_up(self, share: Share) -> None:
        """Add what the other processes summed, which add what this one did."""
        for name, tensor in vars(self).items():
            setattr(self, name, share.add_up(tensor))

    def forget(self, rows: Tensor) -> None:
        """Drop all that is known of these entries: they are about to move."""
        self.counts[rows], self.sums[rows], self.errors[rows] = 0.0, 0.0, 0.0
        if self.pairs.is_sparse:
            indices, values = self.pairs.indices(), self.pairs.values()
            kept = ~(rows[indices[0]] | rows[indices[1]])
            self.pairs = _pairs(indices[:, kept], values[kept], len(self.counts))
        elif self.pairs.numel():
            self.pairs[rows], self.pairs[:, rows] = 0.0, 0.0

    def tensors(self) -> dict[str, Tensor]:
        """All sums as dense tensors, for a file; `of` takes them."""
        if not self.pairs.is_sparse:
            return dict(vars(self))
        dense = {name: tensor for name, tensor in vars(self).items() if name != "pairs"}
        return {
            **dense,
            "pair_indices": self.pairs.indices(),
            "pair_values": self.pairs.values(),
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> CodeSums:
        """What `tensors` gave."""
        tensors = dict(tensors)
        if "pair_indices" in tensors:
            indices, values = tensors.pop("pair_indices"), tensors.pop("pair_values")
            tensors["pairs"] = _pairs(indices, values, len(tensors["counts"]))
        return cls(**tensors)


def _no_pairs(num_rows: int, device: torch.device) -> Tensor:
    indices = torch.zeros(2, 0, dtype=torch.int64, device=device)
    return _pairs(indices, torch.zeros(0, dtype=torch.float32, device=device), num_rows)


def _pairs(indices: Tensor, values: Tensor, num_rows: int) -> Tensor:
    """indices: (2, M), values: (M,), those of one place added up -> (R, R) sparse."""
    size = (num_rows, num_rows)
    return torch.sparse_coo_tensor(indices, values, size, check_invariants=True).coalesce()
