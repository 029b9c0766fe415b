"""Compute in half precision, and in float32 where that was not enough."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor, nn

from k2distil.device import no_tf32
from k2distil.teachers.lengths import valid_positions
from k2distil.teachers.packed_linear import pack_linears

logger = logging.getLogger(__name__)


class FiniteEncoder:
    """An encoder in `dtype` that runs an utterance again in float32 where it gave NaN or infinity.

    It is run again alone: its neighbours keep what they have, whatever stands beside them. The
    float32 weights are on the device for that time only, which leaves its memory to the batches.
    """

    def __init__(self, encoder: nn.Module, device: torch.device, dtype: torch.dtype):
        """encoder: float32, on the CPU, in eval mode; it is owned from now on."""
        self.device = device
        self.dtype = dtype
        self.num_fallbacks = 0  # utterances
        self._counting = Lock()  # parts of a batch come from several threads on a CPU
        if dtype != torch.float32:
            self._fast = copy.deepcopy(encoder).to(device, dtype)
        if device.type == "cpu":
            pack_linears(encoder)
        self._exact = encoder.to(device) if dtype == torch.float32 else encoder

    def __call__(
        self, features: Tensor, lengths: Sequence[int], num_frames: Sequence[int]
    ) -> Tensor:
        """Features and lengths as the encoder takes them -> (B, max(num_frames), dim) float32.

        num_frames: of each utterance; NaN beyond them is no matter.
        """
        if self.dtype == torch.float32:
            return self._in_float32(features, lengths, max(num_frames))
        hidden = self._fast(features, lengths, max(num_frames)).float()
        wanted = valid_positions(num_frames, hidden.shape[1], hidden.device)
        is_bad = (wanted & ~hidden.isfinite().all(2)).any(1)
        bad = is_bad.nonzero().flatten().tolist()
        if bad:
            with self._counting:
                self.num_fallbacks += len(bad)
            logger.warning(
                "%s gave NaN or infinity: %d of %d utterances of a batch were computed in float32 "
                "(%d so far); --dtype bfloat16 or float32 avoids the second pass",
                str(self.dtype).removeprefix("torch."),
                len(bad),
                len(lengths),
                self.num_fallbacks,
            )
            try:
                self._exact.to(self.device)
                for row in bad:
                    alone = features[row : row + 1, ..., : lengths[row]]
                    frames = self._in_float32(alone, [lengths[row]], num_frames[row])
                    hidden[row, : num_frames[row]] = frames[0]
            finally:  # also where memory was too small: half of the batch is next
                self._exact.to("cpu")
        return hidden

    def _in_float32(self, features: Tensor, lengths: Sequence[int], wanted: int) -> Tensor:
        with no_tf32(self.device):
            return self._exact(features, lengths, wanted)
