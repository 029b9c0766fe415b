"""Time of the codebook loss, forward and backward, beside a bare linear layer and cross entropy.

    OMP_NUM_THREADS=1 python bench/loss.py --save

One batch: 16 utterances of 400 frames, 512 wide, 16 codes of 256 entries a frame. All are timed in
turns, so that a noisy machine is noisy for all; the ratio is that of the medians.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import report
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2distil.distil import CodebookLoss

BATCH, FRAMES, DIM = 16, 400, 512
NUM_PREDICTED, CODEBOOK_SIZE = 16, 256
CHUNK_FRAMES = 800


def bare(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """What anyone would write."""
    linear = nn.Linear(DIM, NUM_PREDICTED * CODEBOOK_SIZE).to(device)

    def loss(student: Tensor, codes: Tensor) -> Tensor:
        return F.cross_entropy(linear(student).view(-1, CODEBOOK_SIZE), codes.view(-1))

    return loss


def joint(device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """multi_quantization's, of icefall; None: it is not installed."""
    try:
        from multi_quantization.prediction import JointCodebookLoss
    except ImportError:
        return None
    sizes = {"num_codebooks": NUM_PREDICTED, "codebook_size": CODEBOOK_SIZE}
    return JointCodebookLoss(DIM, **sizes, checkpoint=False).to(device)


def main() -> None:
    """Time them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--save", action="store_true", help="append to results/loss.jsonl")
    options = parser.parse_args()
    device = torch.device(options.device)
    sizes = (DIM, NUM_PREDICTED, CODEBOOK_SIZE)
    methods = {
        "bare linear + cross_entropy": bare(device),
        "linear head": CodebookLoss(*sizes).to(device),
        "linear head, chunk_frames 800": CodebookLoss(*sizes, chunk_frames=CHUNK_FRAMES).to(device),
        "autoregressive head": CodebookLoss(*sizes, head="autoregressive").to(device),
        "multi_quantization's JointCodebookLoss": joint(device),
    }
    student = torch.randn(BATCH, FRAMES, DIM, device=device, requires_grad=True)
    codes = torch.randint(CODEBOOK_SIZE, (BATCH, FRAMES, NUM_PREDICTED), device=device)
    taken: dict[str, list[float]] = {name: [] for name, method in methods.items() if method}
    for repeat in range(options.repeats + 2):  # the first two warm up
        for name, seconds in taken.items():
            method = methods[name]
            assert method is not None
            started = time.perf_counter()
            method(student, codes).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:
                seconds.append(time.perf_counter() - started)
    base = statistics.median(taken["bare linear + cross_entropy"])
    rows = [
        {
            "method": name,
            "milliseconds": 1000 * statistics.median(seconds),
            "ratio": statistics.median(seconds) / base,
            "shape": [BATCH, FRAMES, DIM, NUM_PREDICTED, CODEBOOK_SIZE],
            "backend": options.device,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        for name, seconds in taken.items()
    ]
    if options.save:
        report.save(rows, "loss")
    report.show(rows, {"method": "", "milliseconds": ".0f", "ratio": ".2f"})


if __name__ == "__main__":
    main()
