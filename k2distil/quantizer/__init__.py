"""Multi-codebook quantizers: frames of D floats <-> N codes."""

from k2distil.quantizer.checkpoint import (
    load_quantizer,
    quantizer_file,
    save_quantizer,
    write_tensors,
)
from k2distil.quantizer.correction import Correction
from k2distil.quantizer.metrics import PROBE_FRAMES, HeldOutFigures, evaluate
from k2distil.quantizer.model import AdditiveQuantizer, ProductQuantizer, Quantizer
from k2distil.quantizer.multi_quantization import MultiQuantizer, package_state
from k2distil.quantizer.outliers import OutlierError
from k2distil.quantizer.training.correction_training import num_correction_steps
from k2distil.quantizer.training.finishing import finish
from k2distil.quantizer.training.reservoir import FrameReservoir
from k2distil.quantizer.training.statistics import Share
from k2distil.quantizer.training.trainer import QuantizerTrainer, StepStats

__all__ = [
    "PROBE_FRAMES",
    "AdditiveQuantizer",
    "Correction",
    "FrameReservoir",
    "HeldOutFigures",
    "MultiQuantizer",
    "OutlierError",
    "ProductQuantizer",
    "Quantizer",
    "QuantizerTrainer",
    "Share",
    "StepStats",
    "evaluate",
    "finish",
    "load_quantizer",
    "num_correction_steps",
    "package_state",
    "quantizer_file",
    "save_quantizer",
    "write_tensors",
]
