"""Frames -> the entries of a quantizer."""
