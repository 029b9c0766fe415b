"""k2distil.teachers."""
