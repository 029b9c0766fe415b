"""Frames and entries -> codes: the searches, in torch and as kernels."""
