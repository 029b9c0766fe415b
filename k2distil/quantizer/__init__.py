"""Multi-codebook quantizers: frames of D floats <-> N codes."""

from k2distil.quantizer.checkpoint import (
    load_quantizer,
    quantizer_file,
    save_quantizer,
    write_tensors,
)
from k2distil.quantizer.correction import Correction
from k2distil.quantizer.correction_training import add_correction, num_correction_steps
from k2distil.quantizer.metrics import HeldOutFigures, evaluate
from k2distil.quantizer.model import AdditiveQuantizer, ProductQuantizer, Quantizer
from k2distil.quantizer.multi_quantization import MultiQuantizer, package_state
from k2distil.quantizer.reservoir import FrameReservoir
from k2distil.quantizer.statistics import Share
from k2distil.quantizer.trainer import QuantizerTrainer, StepStats
from k2distil.quantizer.unused import use_every_entry

__all__ = [
    "AdditiveQuantizer",
    "Correction",
    "FrameReservoir",
    "HeldOutFigures",
    "MultiQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "QuantizerTrainer",
    "Share",
    "StepStats",
    "add_correction",
    "evaluate",
    "load_quantizer",
    "num_correction_steps",
    "package_state",
    "quantizer_file",
    "save_quantizer",
    "use_every_entry",
    "write_tensors",
]
