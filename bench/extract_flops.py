"""The floating-point operations of a run, and how many a second a bare matrix product does."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

FRAMES = 1500  # of 30 s of Whisper
SIZES = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))  # of blocks
REPEATS = 10
aten = torch.ops.aten
WEIGHTED = (aten.linear, aten.conv1d, aten.conv2d)  # (input, weight, ...)


class _Counter(TorchDispatchMode):
    """Adds up operations. torch's own counter cannot run HuBERT's weight norm, and in inference
    mode neither sees convolutions nor attention, which arrive here whole.
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func.overloadpacket
        if kind in WEIGHTED:
            self.total += 2 * result.numel() * args[1][0].numel()
        elif kind is torch.ops.mkldnn._linear_pointwise:  # of k2distil's packed layers
            self.total += 2 * result.numel() * args[0].shape[-1]
        elif kind is aten.scaled_dot_product_attention:
            self.total += sdpa_flop_count(*(each.shape for each in args[:3]))
        elif kind in flop_registry:
            self.total += flop_registry[kind](*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(run: Callable[[], Any]) -> tuple[int, Any]:
    """Of the matrix products, convolutions and attention; and what `run` gives."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a counter sees its own thread only
    with _Counter() as counter:
        result = run()
    torch.set_num_threads(num_threads)
    return counter.total, result


def matrix_rate() -> float:
    """Operations a CPU second of torch.mm at the blocks' sizes, float32, the fastest of them."""
    return max(_rate(FRAMES, inner, outer) for inner, outer in SIZES)


def _rate(rows: int, inner: int, outer: int) -> float:
    left, right = torch.randn(rows, inner), torch.randn(inner, outer)
    result = torch.mm(left, right)
    started = time.process_time()
    for _ in range(REPEATS):
        torch.mm(left, right, out=result)
    return 2 * rows * inner * outer * REPEATS / (time.process_time() - started)
