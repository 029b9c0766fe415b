"""What a sum of entries cannot say: a small network after it.

Frames lie on a curved sheet, so the mean of all frames that share their codes is not the sum of
their entries. A *correction* knows the difference:

    frame ~ sum + correction(sum)

Codes stay what they are and take no more bytes; only `decode` gains. Huijben et al., "Residual
quantization with implicit neural codebooks", ICML 2024, have networks within the search; one behind
the sum leaves the search to tables. correction_training.py learns it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2distil.quantizer.arithmetic import exact

HIDDEN = 1024
CHUNK = 4096  # frames whose hidden values stand at once


class Correction(nn.Module):
    """(B, D) sums of entries, of centred and scaled frames -> (B, D), what to add; float32.

    Args:
        dim: D.
        hidden: units between `inner` and `outer`, which is 0 until it learns.
    """

    def __init__(self, dim: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, hidden, dtype=torch.float32)
        self.outer = nn.Linear(hidden, dim, dtype=torch.float32)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    @staticmethod
    def of(tensors: Mapping[str, Tensor], dim: int) -> Correction:
        """Of the `state_dict` of one for D = `dim`.

        Raises:
            KeyError, ValueError: it is not one, or holds NaN or infinite values.
        """
        with torch.device("meta"):  # draws no numbers
            correction = Correction(dim, len(tensors["inner.bias"]))
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("NaN or infinite values")
        try:
            correction.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        return correction.requires_grad_(False)

    @property
    def digest(self) -> str:
        """16 hex digits of all its tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward(self, sums: Tensor) -> Tensor:
        """See the class."""
        with exact(sums.device):
            parts = [self.outer(F.gelu(self.inner(part))) for part in sums.split(CHUNK)]
        return torch.cat(parts)
