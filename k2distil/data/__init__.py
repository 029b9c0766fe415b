"""k2distil.data."""
