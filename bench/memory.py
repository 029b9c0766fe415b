"""How much memory training a quantizer takes when the embeddings are far larger.

    python bench/memory.py --gigabytes 20 --save

Makes an h5 of so many GB whose frames are zeros but for the first 1 % of each utterance: zeros that
nobody wrote are holes and take no room on the disk. `train_quantizer_offline.sh` then reads all of
it; shown is its peak of memory in use, the most that Linux counted for the process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import report

ROOT = Path(__file__).parents[1]
UTTERANCE = 1500  # frames, 30 s
WRITTEN = 15  # of them; the others are holes
GIGABYTE = 10**9  # bytes


def make(path: Path, num_bytes: int, dim: int) -> int:
    """Write the h5; -> its frames."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    number = -(-num_bytes // (UTTERANCE * dim * 2))
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((UTTERANCE, dim))
        for index in range(number):
            name = f"utterance{index:07}".encode()
            dataset = h5py.h5d.create(file.id, name, h5py.h5t.IEEE_F16LE, space, layout)
            h5py.Dataset(dataset)[:WRITTEN] = random.standard_normal((WRITTEN, dim))
    return number * UTTERANCE


def train(path: Path, flags: list[str]) -> dict[str, Any]:
    """Run the script; -> what it took."""
    started = time.perf_counter()
    command = [ROOT / "train_quantizer_offline.sh", "--embedding_path", path, "--gpu", "cpu"]
    environment = os.environ | {"PYTHON": sys.executable}
    process = subprocess.Popen([*map(str, command), *flags], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("error: the training failed, see above")
    return {
        "peak_mb": usage.ru_maxrss / 1024,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Print one row; the h5 is removed at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--folder", type=Path, help="for the h5; default: where temporary files go")
    parser.add_argument("--flags", nargs="*", default=[], help="more of the script, as name=value")
    parser.add_argument("--save", action="store_true", help="append to results/memory.jsonl")
    options = parser.parse_args()
    flags = [part for each in options.flags for part in f"--{each}".split("=", 1)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "embedding.h5")
        num_frames = make(path, int(options.gigabytes * GIGABYTE), options.dim)
        on_disk = 512 * path.stat().st_blocks
        row = {
            "file_gb": path.stat().st_size / GIGABYTE,
            "on_disk_gb": on_disk / GIGABYTE,
            "frames": num_frames,
            "dim": options.dim,
            "flags": " ".join(options.flags),
            **train(path, [*flags, "--save_path", str(Path(folder, "quantizer.pt"))]),
        }
    columns = {"file_gb": ".1f", "on_disk_gb": ".1f", "frames": ",", "dim": "", "flags": ""}
    report.show([row], {**columns, "peak_mb": ",.0f", "cpu_seconds": ",.0f"})
    if options.save:
        report.save([row], "memory")


if __name__ == "__main__":
    main()
