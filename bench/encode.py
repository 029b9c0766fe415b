"""How fast frames become codes: the bare matrix product + argmax, ours, multi_quantization's.

    python bench/encode.py --dims 1280 384 --save
    python bench/encode.py --device cuda --save

All methods take turns in one process, so that a busy machine slows all of them alike. Ratios are
taken within a turn, against the fastest of the bare products and against multi_quantization's
own search, and their medians are shown. Tables are random (of product quantizers in slices of a
random rotation) and frames Gaussian, float32, in memory; on a GPU float16 too, and there the share
of the rate at which it multiplies float16 is shown. Seconds are of the CPU, for a GPU on the wall.
Only the time of multi_quantization's search as k2distil has it depends on them: it goes on with a
frame until no round changes its codes, which with random tables takes all 5 rounds of nearly every
frame, its worst case.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import report
import torch
from clock import Clock, clock_of, median_ratio
from torch import Tensor

from k2distil.quantizer import AdditiveQuantizer, ProductQuantizer
from k2distil.quantizer.multi_quantization import from_package_state

MULTI_QUANTIZATION = "multi_quantization"
MULTI_QUANTIZATION_FRAMES = 32  # where it is fastest on a CPU; it slows down from 128 on
BARE = "bare product"
MATRIX_RATE = "matrix product alone"
FRAMES = {"cpu": 8192, "cuda": 2**18}  # given at once
BARE_CHUNK = 65_536  # frames of a bare product on a GPU: 512 MiB of scores
DTYPES = {torch.float16: ", float16", torch.float32: ""}


@dataclass(frozen=True)
class Method:
    """encode: (B, D) -> (B, N); frames: what it is given at once.

    products: multiplications of float16 that a frame takes on a GPU; 0: of others, or not known.
    """

    name: str
    encode: Callable[[Tensor], Tensor]
    frames: Tensor
    products: int = 0


def bare_product(table: Tensor, bias: Tensor, chunk: int) -> Callable[[Tensor], Tensor]:
    """Codes of normalised frames by full entries, as by one linear layer: nothing but that."""
    num_codebooks, codebook_size, _ = table.shape
    weight, offset = table.flatten(0, 1).T, bias.flatten()

    def encode(frames: Tensor) -> Tensor:
        scores = (torch.addmm(offset, part, weight) for part in frames.split(chunk))
        return torch.cat([s.view(-1, num_codebooks, codebook_size).argmax(-1) for s in scores])

    return encode


def methods(
    dim: int, num_codebooks: int, codebook_size: int, num_frames: int, device: str
) -> list[Method]:
    """All that can run here, with tables of the same sizes."""
    torch.manual_seed(0)
    table = torch.randn(num_codebooks, codebook_size, dim)
    rest = torch.zeros(dim), torch.ones(())
    frames = torch.randn(num_frames, dim).to(device)
    product = random_product(dim, num_codebooks, codebook_size).to(device)
    additive = AdditiveQuantizer(table, *rest).to(device)
    found = []
    for dtype in DTYPES if device == "cuda" else [torch.float32]:
        given = frames.to(dtype)
        bare = product.table.to(dtype), product.bias.to(dtype)
        chunks = {BARE_CHUNK} if device == "cuda" else {128, num_frames}
        for chunk in sorted(chunks):
            name = f"{BARE}, {chunk} at once{DTYPES[dtype]}"
            found.append(Method(name, bare_product(*bare, chunk), given))
        terms = 3 if dtype == torch.float32 else 1  # a float32 is two float16
        of_product = 0  # where nothing is saved by slices
        if product.axes is not None:
            of_product = num_codebooks * product.axes.shape[1] * (terms * dim + 3 * codebook_size)
        found.append(Method(f"k2distil product{DTYPES[dtype]}", product.encode, given, of_product))
        name = f"k2distil additive, beam of {additive.beam}{DTYPES[dtype]}"
        of_additive = terms * num_codebooks * codebook_size * dim
        found.append(Method(name, additive.encode, given[: num_frames // 4], of_additive))
    if device == "cuda":
        weight, given = product.table.flatten(0, 1).T.half(), frames[:BARE_CHUNK].half()
        found.append(Method(MATRIX_RATE, lambda rows: rows @ weight, given, weight.numel()))
    try:
        from multi_quantization import Quantizer
    except ImportError as error:
        print(f"{MULTI_QUANTIZATION} is left out ({error}): pip install -e '.[bench]'")
        return found
    package = Quantizer(dim, codebook_size, num_codebooks)
    reader = from_package_state(package.state_dict(), MULTI_QUANTIZATION).to(device)
    found.append(Method("k2distil multi_quantization", reader.encode, frames[: num_frames // 8]))
    encode = torch.no_grad()(package.to(device).encode)
    count = MULTI_QUANTIZATION_FRAMES if device == "cpu" else num_frames // 64
    return [*found, Method(MULTI_QUANTIZATION, encode, frames[:count])]


def random_product(dim: int, num_codebooks: int, codebook_size: int) -> ProductQuantizer:
    """How long it takes does not depend on its values."""
    rotation = torch.linalg.qr(torch.randn(dim, dim))[0]
    slices = [
        torch.randn(codebook_size, len(axes)) @ axes
        for axes in rotation.tensor_split(num_codebooks)
    ]
    return ProductQuantizer(torch.stack(slices), torch.zeros(dim), torch.ones(()))


def measure(all_methods: list[Method], repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """Frames per second of every method."""
    speeds: dict[str, list[float]] = {method.name: [] for method in all_methods}
    for method in all_methods:
        method.encode(method.frames)  # warm up
    for _ in range(repeats):
        for method in all_methods:
            started = clock()
            method.encode(method.frames)
            speeds[method.name].append(len(method.frames) / (clock() - started))
    bare = max((own for name, own in speeds.items() if BARE in name), key=statistics.median)
    products = {method.name: method.products for method in all_methods}
    rows = []
    for method in all_methods:
        own = speeds[method.name]
        row = {
            "method": method.name,
            "frames": len(method.frames),
            "frames_per_second": statistics.median(own),
            "frames_per_second_max": max(own),
            "speed_over_bare": median_ratio(own, bare),
            "repeats": repeats,
        }
        if MATRIX_RATE in speeds and method.products:
            share = median_ratio(own, speeds[MATRIX_RATE]) * method.products / products[MATRIX_RATE]
            row["of_matrix_rate"] = share
        if MULTI_QUANTIZATION in speeds:
            row["speed_over_multi_quantization"] = median_ratio(own, speeds[MULTI_QUANTIZATION])
        rows.append(row)
    return rows


def main() -> None:
    """Print one table of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[1280, 384])
    parser.add_argument("--num_codebooks", type=int, default=8)
    parser.add_argument("--codebook_size", type=int, default=256)
    parser.add_argument("--device", choices=list(FRAMES), default="cpu")
    parser.add_argument("--frames", type=int, help=f"given at once; by device: {FRAMES}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="append to results/encode.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = clock_of(options.device)
    rows = []
    for dim in options.dims:
        sizes = {"num_codebooks": options.num_codebooks, "codebook_size": options.codebook_size}
        num_frames = options.frames or FRAMES[options.device]
        found = methods(dim, **sizes, num_frames=num_frames, device=options.device)
        fixed = {"dim": dim, **sizes, "tables": "random", "backend": options.device}
        if options.device == "cuda":
            fixed["gpu"] = torch.cuda.get_device_name()
        rows += [{**fixed, **row} for row in measure(found, options.repeats, clock)]
    columns = {"method": "", "dim": "", "frames": ",", "frames_per_second": ",.0f"}
    columns |= {"frames_per_second_max": ",.0f", "speed_over_bare": ".4f"}
    for name in ("of_matrix_rate", "speed_over_multi_quantization"):
        if any(name in row for row in rows):
            columns[name] = ".3g"
    report.show(rows, columns)
    if options.save:
        report.save(rows, "encode")


if __name__ == "__main__":
    main()
