"""k2distil.bin."""
