"""A student trained by WeNet, with the codebook loss beside its own. See docs/interop.md."""

from k2distil.interop.wenet.dataset import AddCodes, add_codes, add_padded_codes, pad_codes
from k2distil.interop.wenet.model import (
    WithCodebookLoss,
    with_codebook_loss,
    without_codebook_loss,
)
from k2distil.interop.wenet.options import CodebookOptions, read_options

__all__ = [
    "AddCodes",
    "CodebookOptions",
    "WithCodebookLoss",
    "add_codes",
    "add_padded_codes",
    "pad_codes",
    "read_options",
    "with_codebook_loss",
    "without_codebook_loss",
]
