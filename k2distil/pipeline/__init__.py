"""k2distil.pipeline."""
