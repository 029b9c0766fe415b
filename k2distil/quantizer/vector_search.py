"""Inner products of entries for the search, without a Gram table: for many entries.

A Gram table of R entries has R^2 values: 40 GB for R = 100,000. Here the chosen entries are added
up first, and their sum is multiplied with the codebook being chosen: D multiplications a score
instead of up to N look-ups, and no memory but the result's.
"""

from __future__ import annotations

from torch import Tensor

from k2distil.quantizer.search import Products, sum_rows


def vector_products(table: Tensor) -> Products:
    """What `search.gram_products` gives, up to rounding; table: (N, K, D)."""
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
