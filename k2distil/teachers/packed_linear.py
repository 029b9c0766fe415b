"""Linear layers of an x86 CPU with weights laid out once for oneDNN's matrix product.

`torch.nn.Linear` in float32 is MKL's product, which lays the weights out anew in every call, and is
slow on CPUs that are not Intel's: docs/performance.md. The two operators are those to which
torch.compile lowers linear layers on CPUs; where a torch lacks them, layers stay as they are.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

ROWS = 1024  # frames that the layout is made for; any number may come


class PackedLinear(nn.Module):
    """What the linear layer computes; its weights cannot be read back."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = linear.bias

    def forward(self, frames: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(frames, self.weight, self.bias, "none", [], "")

    def onto(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """(..., out) + the layer of (..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise.binary(
            frames, hidden, self.weight, self.bias, "add"
        )


def add_linear(hidden: Tensor, linear: PackedLinear | nn.Linear, frames: Tensor) -> Tensor:
    """hidden + linear(frames), which has no bias."""
    if isinstance(linear, PackedLinear):
        return linear.onto(hidden, frames)
    return torch.addmm(hidden, frames, linear.weight.T)


def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer in `module`, which is float32 and on the CPU, where it helps."""
    if not _can_pack():
        return
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)


def _can_pack() -> bool:
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )
