"""Finite values that are no embedding's, such as 1e22: sums of squares are infinite with them."""

from __future__ import annotations

from torch import Tensor

from k2distil.errors import DataError
from k2distil.quantizer.model import Quantizer

PIECE = 4096  # frames looked at at a time


class OutlierError(DataError):
    """A frame is so far from all others that float32 cannot hold its squared distance."""


def refuse_outliers(quantizer: Quantizer, frames: Tensor, name: str) -> None:
    """Look at frames, (B, D) of any float dtype, as the quantizer centres and scales them.

    Raises:
        OutlierError: of the `name` frames one has an infinite square.
    """
    for piece in frames.detach().split(PIECE):
        normalised = quantizer.normalise(piece)
        if not normalised.square().sum(1).isfinite().all():
            raise OutlierError(
                f"a value of the {name} frames is {float(normalised.abs().max()):.2g} times their "
                "deviation, and float32 cannot hold its square: it is no embedding's; look at the "
                "audio and the checkpoint, or leave it out"
            )
