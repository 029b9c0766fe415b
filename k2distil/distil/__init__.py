"""A student's side: codes at its frame rate, the loss on them, and its training."""

from k2distil.distil.align import IGNORE_INDEX, align_batch, align_codes, check_lengths
from k2distil.distil.loss import CodebookLoss

__all__ = ["IGNORE_INDEX", "CodebookLoss", "align_batch", "align_codes", "check_lengths"]
