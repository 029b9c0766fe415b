"""How fast frames become codes: the bare matrix product + argmax, ours, multi_quantization's.

    python bench/encode.py --dims 1280 384 --save

All methods take turns in one process, so that a busy machine slows all of them alike. Ratios are
taken within a turn, against the faster of the two bare products, and their median is shown. Tables
are random and frames Gaussian, float32, in memory: no method's time depends on their values.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import report
import torch
from torch import Tensor

from k2distil.quantizer import AdditiveQuantizer, ProductQuantizer

MULTI_QUANTIZATION = "multi_quantization"
MULTI_QUANTIZATION_FRAMES = 32  # where it is fastest; it slows down from 128 on
BARE = "bare product"


@dataclass(frozen=True)
class Method:
    """encode: (B, D) -> (B, N); frames: how many it is given at once."""

    name: str
    encode: Callable[[Tensor], Tensor]
    frames: Tensor


def bare_product(table: Tensor, bias: Tensor, chunk: int) -> Callable[[Tensor], Tensor]:
    """The least that the search of a product quantizer can do, on normalised frames."""
    num_codebooks, codebook_size, _ = table.shape
    weight, offset = table.flatten(0, 1).T, bias.flatten()

    def encode(frames: Tensor) -> Tensor:
        scores = (torch.addmm(offset, part, weight) for part in frames.split(chunk))
        return torch.cat([s.view(-1, num_codebooks, codebook_size).argmax(-1) for s in scores])

    return encode


def methods(dim: int, num_codebooks: int, codebook_size: int, num_frames: int) -> list[Method]:
    """All that can run here, with tables of the same sizes."""
    torch.manual_seed(0)
    table = torch.randn(num_codebooks, codebook_size, dim)
    start = table, torch.zeros(dim), torch.ones(())
    frames = torch.randn(num_frames, dim)
    product, additive = ProductQuantizer(*start), AdditiveQuantizer(*start)
    found = [
        Method(f"{BARE}, {chunk} at once", bare_product(table, product.bias, chunk), frames)
        for chunk in sorted({128, num_frames})
    ]
    found.append(Method("k2distil product", product.encode, frames))
    found.append(Method("k2distil additive", additive.encode, frames[: num_frames // 4]))
    try:
        from multi_quantization import Quantizer
    except ImportError as error:
        print(f"{MULTI_QUANTIZATION} is left out ({error}): pip install -e '.[bench]'")
        return found
    encode = torch.no_grad()(Quantizer(dim, codebook_size, num_codebooks).encode)
    return [*found, Method(MULTI_QUANTIZATION, encode, frames[:MULTI_QUANTIZATION_FRAMES])]


def measure(all_methods: list[Method], repeats: int) -> list[dict[str, Any]]:
    """Frames per CPU second of every method."""
    speeds: dict[str, list[float]] = {method.name: [] for method in all_methods}
    for method in all_methods:
        method.encode(method.frames)  # warm up
    for _ in range(repeats):
        for method in all_methods:
            started = time.process_time()
            method.encode(method.frames)
            speeds[method.name].append(len(method.frames) / (time.process_time() - started))
    bare = max((own for name, own in speeds.items() if BARE in name), key=statistics.median)
    return [
        {
            "method": method.name,
            "frames": len(method.frames),
            "frames_per_cpu_second": statistics.median(own := speeds[method.name]),
            "frames_per_cpu_second_max": max(own),
            "speed_over_bare": statistics.median(a / b for a, b in zip(own, bare, strict=True)),
            "repeats": repeats,
        }
        for method in all_methods
    ]


def main() -> None:
    """Print one table of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[1280, 384])
    parser.add_argument("--num_codebooks", type=int, default=8)
    parser.add_argument("--codebook_size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=8192, help="given at once")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="append to results/encode.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for dim in options.dims:
        sizes = {"num_codebooks": options.num_codebooks, "codebook_size": options.codebook_size}
        found = methods(dim, **sizes, num_frames=options.frames)
        rows += [
            {"dim": dim, **sizes, "tables": "random", "dtype": "float32", **row}
            for row in measure(found, options.repeats)
        ]
    columns = {"method": "", "dim": "", "frames": ",", "frames_per_cpu_second": ",.0f"}
    report.show(rows, {**columns, "frames_per_cpu_second_max": ",.0f", "speed_over_bare": ".4f"})
    if options.save:
        report.save(rows, "encode")


if __name__ == "__main__":
    main()
