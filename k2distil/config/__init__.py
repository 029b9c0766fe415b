"""k2distil.config."""
