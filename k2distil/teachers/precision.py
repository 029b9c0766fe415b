"""Compute in half precision, and in float32 where that was not enough."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class FiniteEncoder:
    """An encoder in `dtype` that runs a batch again in float32 where NaN or infinity came out.

    The float32 weights stay on the CPU until they are needed for the first time.
    """

    def __init__(self, encoder: nn.Module, device: torch.device, dtype: torch.dtype):
        """encoder: float32, on the CPU, in eval mode; it is owned from now on."""
        self.device = device
        self.dtype = dtype
        self.num_fallbacks = 0
        if dtype != torch.float32:
            self._fast = copy.deepcopy(encoder).to(device, dtype)
        self._exact = encoder.to(device) if dtype == torch.float32 else encoder

    def __call__(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Features and lengths as the encoder takes them -> (B, T, dim) float32."""
        if self.dtype == torch.float32:
            return self._in_float32(features, lengths)
        hidden = self._fast(features, lengths).float()
        if bool(hidden.isfinite().all()):
            return hidden
        self.num_fallbacks += 1
        logger.warning(
            "%s gave NaN or infinity: a batch of %d utterances was computed in float32 "
            "(batch %d so far); --dtype bfloat16 or float32 avoids the second pass",
            str(self.dtype).removeprefix("torch."),
            len(lengths),
            self.num_fallbacks,
        )
        self._exact.to(self.device)
        return self._in_float32(features, lengths)

    def _in_float32(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        # On CUDA, convolutions of float32 round to 10 bits (TF32) unless they are told not to.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._exact(features, lengths)
