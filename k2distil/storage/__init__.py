"""k2distil.storage."""
