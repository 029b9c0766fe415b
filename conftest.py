"""Modules that some machines cannot import, and so have no doctests to collect there."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["k2distil/quantizer/search/kernels.py"]
