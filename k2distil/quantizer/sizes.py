"""Which quantizers can be built. N codebooks of K entries, D dimensions."""

from __future__ import annotations

from k2distil.errors import ConfigError
from k2distil.quantizer.model import MAX_CODEBOOK_SIZE, QUANTIZER_TYPES

MAX_TABLE_VALUES = 2**31  # N * K * D: a table of 8 GiB; training holds several


def check_sizes(quantizer_type: str, dim: int, num_codebooks: int, codebook_size: int) -> None:
    """Raise ConfigError where no such quantizer can be built."""
    if quantizer_type not in QUANTIZER_TYPES:
        raise ConfigError(
            f"quantizer_type {quantizer_type}: expected one of {', '.join(QUANTIZER_TYPES)}"
        )
    if not 2 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise ConfigError(
            f"quantizer_codebook_size {codebook_size}: expected 2 to {MAX_CODEBOOK_SIZE} entries"
        )
    if not 1 <= num_codebooks <= dim:
        raise ConfigError(
            f"quantizer_out_dim {num_codebooks}: expected 1 to {dim} codebooks, at most one for "
            f"each of the embedding's {dim} dimensions"
        )
    if num_codebooks * codebook_size * dim > MAX_TABLE_VALUES:
        raise ConfigError(
            f"quantizer_codebook_size {codebook_size} with quantizer_out_dim {num_codebooks}: "
            f"entries of {num_codebooks * codebook_size * dim} values at {dim} dimensions, at most "
            f"{MAX_TABLE_VALUES} (8 GiB) are supported; lower one of them"
        )
