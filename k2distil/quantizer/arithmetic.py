"""The same results whatever the caller has switched on around a call: autocast, TF32, gradients.

What `torch.set_default_dtype` says is met otherwise: every tensor made here states its dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from k2distil.device import no_tf32


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """float32 on the device and on the CPU as it is: neither autocast nor TF32 round it."""
    on_cpu, there = (torch.autocast(kind, enabled=False) for kind in ("cpu", device.type))
    with on_cpu, there, no_tf32(device):
        yield


@contextmanager
def shielded(device: torch.device) -> Iterator[None]:
    """`exact`, and without gradients; tensors made under `inference_mode` are plain ones."""
    with torch.inference_mode(False), torch.no_grad(), exact(device):
        yield
