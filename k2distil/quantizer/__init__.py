"""k2distil.quantizer."""
