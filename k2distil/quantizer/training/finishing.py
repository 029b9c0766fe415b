"""What an additive quantizer gets when its entries are trained: all in use, and a correction."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from k2distil.quantizer.arithmetic import shielded
from k2distil.quantizer.metrics import PROBE_FRAMES
from k2distil.quantizer.model import AdditiveQuantizer, Quantizer
from k2distil.quantizer.outliers import refuse_outliers
from k2distil.quantizer.training.correction_training import add_correction
from k2distil.quantizer.training.reservoir import FrameReservoir
from k2distil.quantizer.training.unused import use_every_entry


def finish(
    quantizer: Quantizer,
    frames: FrameReservoir,
    held_out: Tensor,
    seed: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> Quantizer:
    """The quantizer to keep; a product one as it is.

    Args:
        quantizer: as `QuantizerTrainer` leaves it.
        frames: that trained it.
        held_out: others, (num_held_out, D), which decide whether a correction is kept.
        seed: of all that is drawn.
        on_step: see `add_correction`.

    Raises:
        OutlierError: a value is so far from the others that float32 cannot hold its square.
    """
    refuse_outliers(quantizer, frames.frames, "training")
    refuse_outliers(quantizer, held_out, "held-out")
    if not isinstance(quantizer, AdditiveQuantizer):
        return quantizer
    with shielded(quantizer.table.device):
        quantizer = use_every_entry(quantizer, frames.sample(PROBE_FRAMES), seed)
    add_correction(quantizer, frames.frames, held_out, seed, on_step)
    return quantizer
