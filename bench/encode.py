"""How fast frames become codes: the bare matrix product + argmax, ours, multi_quantization's.

    python bench/encode.py --dims 1280 384 --save

All methods take turns in one process, so that a busy machine slows all of them alike. Ratios are
taken within a turn, against the faster of the two bare products and against multi_quantization's
own search, and their medians are shown. Tables are random (of product
quantizers in slices of a random rotation) and frames Gaussian, float32, in memory.
Only the time of multi_quantization's search as k2distil has it depends on them: it goes on with a
frame until no round changes its codes, which with random tables takes all 5 rounds of nearly every
frame, its worst case.
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
from k2distil.quantizer.multi_quantization import from_package_state

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
    """Codes of normalised frames by full entries, as by one linear layer: nothing but that."""
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
    rotation = torch.linalg.qr(torch.randn(dim, dim))[0]
    slices = [
        torch.randn(codebook_size, len(axes)) @ axes
        for axes in rotation.tensor_split(num_codebooks)
    ]
    rest = torch.zeros(dim), torch.ones(())
    frames = torch.randn(num_frames, dim)
    product = ProductQuantizer(torch.stack(slices), *rest)
    additive = AdditiveQuantizer(table, *rest)
    bare = (product.table, product.bias)
    found = [
        Method(f"{BARE}, {chunk} at once", bare_product(*bare, chunk), frames)
        for chunk in sorted({128, num_frames})
    ]
    found.append(Method("k2distil product", product.encode, frames))
    name = f"k2distil additive, beam of {additive.beam}"
    found.append(Method(name, additive.encode, frames[: num_frames // 4]))
    try:
        from multi_quantization import Quantizer
    except ImportError as error:
        print(f"{MULTI_QUANTIZATION} is left out ({error}): pip install -e '.[bench]'")
        return found
    package = Quantizer(dim, codebook_size, num_codebooks)
    reader = from_package_state(package.state_dict(), MULTI_QUANTIZATION)
    found.append(Method("k2distil multi_quantization", reader.encode, frames[: num_frames // 8]))
    encode = torch.no_grad()(package.encode)
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
    rows = []
    for method in all_methods:
        own = speeds[method.name]
        row = {
            "method": method.name,
            "frames": len(method.frames),
            "frames_per_cpu_second": statistics.median(own),
            "frames_per_cpu_second_max": max(own),
            "speed_over_bare": _ratio(own, bare),
            "repeats": repeats,
        }
        if MULTI_QUANTIZATION in speeds:
            row["speed_over_multi_quantization"] = _ratio(own, speeds[MULTI_QUANTIZATION])
        rows.append(row)
    return rows


def _ratio(one: list[float], other: list[float]) -> float:
    """Median over turns."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


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
    columns |= {"frames_per_cpu_second_max": ",.0f", "speed_over_bare": ".4f"}
    if "speed_over_multi_quantization" in rows[0]:
        columns["speed_over_multi_quantization"] = ".1f"
    report.show(rows, columns)
    if options.save:
        report.save(rows, "encode")


if __name__ == "__main__":
    main()
