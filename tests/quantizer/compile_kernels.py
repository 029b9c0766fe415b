"""Compile all kernels for a GPU's compute capability, such as 90; print the shared memory of each.

As they are started where pointers and sizes are multiples of 16: with copies ahead of their use.

python compile_kernels.py 90
"""

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from k2distil.quantizer.search import kernels

FLOATS = ["frames", "mean", "scales", "bias", "out", "projected", "unary", "interactions"]
HALVES = ["high", "low"]
TYPES = dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(HALVES, "*fp16")
TYPES |= {"codes": "*i32", "is_bad": "*i8", "largest": "fp32"}


def compile_for(capability: int, kernel: triton.JITFunction, num_warps: int, **constants) -> None:
    """constants: what the kernel calls constexpr; an argument of no type in TYPES is a size."""
    names = kernel.arg_names
    signature = {name: TYPES.get(name, "i32") for name in names}
    signature |= dict.fromkeys(constants, "constexpr")
    constants = {(names.index(name),): value for name, value in constants.items()}
    divisible = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if signature[name] not in ("constexpr", "fp32")
    }
    done = triton.compile(
        ASTSource(kernel, signature, constants, divisible),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "num_stages": kernels.NUM_STAGES},
    )
    print(kernel.__name__, done.metadata.shared)


def main() -> None:
    """All of them, as kernels.py starts them."""
    capability = int(sys.argv[1])
    large = capability // 10 in (9, 10)
    of_float32 = kernels.LARGE if large else kernels.SMALL
    of_half = kernels.LARGE_HALF if large else kernels.SMALL
    for tile, is_float32 in ((of_float32, True), (of_half, False)):
        sizes = {"rows": tile.rows, "columns": tile.columns, "step": tile.step}
        TYPES["frames"] = "*fp32" if is_float32 else "*fp16"
        compile_for(
            capability, kernels._split_linear, tile.num_warps, **sizes, is_float32=is_float32
        )
    sizes = {"rows": of_float32.rows, "columns": of_float32.columns, "step": of_float32.step}
    compile_for(capability, kernels._nearest, of_float32.num_warps, **sizes)
    sizes = {"num_codebooks": 8, "size": 256, "beam": 16, "num_sweeps": 2}
    search = {"chunk": kernels.CHUNK, "width": kernels.WIDTH, "bits": kernels.BITS}
    compile_for(capability, kernels._beam_search, 1, **sizes, **search)


if __name__ == "__main__":
    main()
