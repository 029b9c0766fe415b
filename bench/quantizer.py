"""How good quantizers are: ours beside multi_quantization's and faiss', on the same frames.

    python bench/quantizer.py --data whisper_last gaussian --num_codebooks 4 8 --seeds 3
    python bench/quantizer.py --data whisper_last gaussian --plot exp/frontier.png --only_plot

docs/quantizer.md defines the figures, `frames.py` the data, `coders.py` the methods; `grown.py` has
two more, measured where `--methods` names them. Every training is a process of its own, within
`--max_seconds` and `--max_gb`. A finished one is appended to `--out` at once and not done again, so
an interrupted benchmark goes on where it was, and processes share the work by `--data`,
`--methods` or `--first_seed`.

Seconds are of the CPU, of all threads together; with `--device cuda` on the wall. Memory is what a
training takes at its peak beyond the float16 frames it is given.
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import coders
import faiss
import report
import torch
from clock import clock_of
from coders import CODEBOOK_SIZE, FOLLOWS, METHODS, Coder, Task, Trained
from digits import ROOT, default_data
from frames import DATA, Frames, dim_of, make, read
from frontier import cells, draw, summary
from grown import GROWN
from torch import Tensor

from k2distil.quantizer import PROBE_FRAMES, evaluate

TRAIN = coders.TRAIN | GROWN
REPEATS, REPEAT_SECONDS = 5, 1.0  # of the encoding speed
TRIAL_FRAMES = 256  # tell how many frames a repeat takes
MEBIBYTE = 2**20  # bytes


@dataclass(frozen=True)
class Job:
    """One training. What is a part of `identity` tells its row from others."""

    data: str
    num_codebooks: int
    method: str
    seed: int
    max_rows: int | None
    backend: str
    threads: int
    mq_seconds: float
    max_seconds: int
    max_gb: float

    def identity(self, method: str) -> dict[str, Any]:
        """It is done again when any of it changes."""
        row = asdict(self) | {"method": method, "codebook_size": CODEBOOK_SIZE}
        del row["max_seconds"], row["max_gb"]
        if method != coders.MULTI_QUANTIZATION:
            del row["mq_seconds"]
        return row


def run(job: Job, names: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """Train once in a process, and measure all methods that share the training; -> their rows."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, names, path, sending))
    process.start()
    sending.close()
    while not receiving.poll(0.2):
        if _resident_gb(process.pid) > job.max_gb:
            process.kill()
            break
    try:
        outcomes: list[dict[str, Any]] = receiving.recv()
    except EOFError:
        process.join()
        outcomes = [_outcome_of_dead(process.exitcode, job)] * len(names)
    process.join()
    rows = [job.identity(name) | own for name, own in zip(names, outcomes, strict=True)]
    return [row | report.environment() for row in rows]


def _outcome_of_dead(exit_code: int | None, job: Job) -> dict[str, Any]:
    if exit_code == -signal.SIGXCPU:
        return {"timed_out": True, "max_seconds": job.max_seconds}
    if exit_code == -signal.SIGKILL:
        return {"out_of_memory": True, "max_gb": job.max_gb}
    raise SystemExit(f"error: {job.method} on {job.data} ended with {exit_code}; see above")


def _child(job: Job, names: Sequence[str], path: Path, sending: Connection) -> None:
    """Send an outcome for every name."""
    torch.set_num_threads(job.threads)
    faiss.omp_set_num_threads(job.threads)
    frames = read(path, job.max_rows, job.seed)
    clock = clock_of(job.backend)
    task = Task(job.num_codebooks, job.seed, job.backend, job.mq_seconds, clock, frames.held_out)
    _limit_seconds(job.max_seconds)
    before, started = _forget_peak(job.backend), clock()
    trained = TRAIN[job.method](frames.training, task)
    cost = {"train_seconds": clock() - started, "peak_mb": _peak_mb(job.backend) - before}
    _limit_seconds(None)
    outcomes = []
    for name in names:
        made = FOLLOWS[name][1](trained) if name in FOLLOWS else trained
        outcomes.append(cost | made.notes | measure(made, frames, job))
    sending.send(outcomes)


def _limit_seconds(more: int | None) -> None:
    """End this process by a signal after so much more CPU time; None: never."""
    limit = resource.RLIM_INFINITY
    if more is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + more
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the signal would leave one
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _resident_gb(process_id: int | None) -> float:
    """0 where the process has ended."""
    try:
        pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * resource.getpagesize() / 1024 / MEBIBYTE


def _forget_peak(backend: str) -> float:
    """Let the peak be what is in use now, in MB; returns it."""
    if backend == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb(backend)


def _peak_mb(backend: str) -> float:
    """Unlike getrusage's, Linux' own peak does not begin with that of the parent process."""
    if backend == "cuda":
        return torch.cuda.max_memory_allocated() / MEBIBYTE
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def measure(trained: Trained, frames: Frames, job: Job) -> dict[str, Any]:
    """Everything that is known of a coder after training."""
    held_out = frames.held_out.to(job.backend)
    probed = frames.training.sample(PROBE_FRAMES).to(job.backend)
    row: dict[str, Any] = {"dim": frames.training.dim, "train_frames": len(frames.training)}
    row |= encode_speed(trained.coder, held_out, job.backend)
    coder = trained.for_figures or trained.coder
    row |= asdict(evaluate(coder, probed, held_out, job.seed))
    if trained.for_figures is not None:
        row["same_codes"] = coders.same_codes(trained.coder, coder, held_out[:TRIAL_FRAMES])
    limit = frames.least_error(job.num_codebooks * math.log2(CODEBOOK_SIZE))
    if limit is not None:
        row |= {"limit": limit, "over_limit": row["relative_error"] / limit}
    if job.backend == "cuda":
        row["gpu"] = torch.cuda.get_device_name()
    return row


def encode_speed(coder: Coder, frames: Tensor, backend: str) -> dict[str, float]:
    """Median of repeats, each of about as many frames as take `REPEAT_SECONDS`."""
    clock = clock_of(backend)

    def seconds(count: int) -> float:
        started = clock()
        coder.encode(frames[:count])
        return clock() - started

    seconds(TRIAL_FRAMES)  # warm up
    fitting = int(TRIAL_FRAMES * REPEAT_SECONDS / max(seconds(TRIAL_FRAMES), 1e-6))
    count = min(len(frames), max(TRIAL_FRAMES, fitting))
    taken = statistics.median(seconds(count) for _ in range(REPEATS))
    return {"frames_per_second": count / taken, "encoded_frames": count}


def find(out: Path, job: Job, method: str) -> dict[str, Any] | None:
    """The row of a finished training; one that ran into a lower limit is done again."""
    wanted = job.identity(method)
    for line in out.read_text().splitlines() if out.exists() else ():
        row = json.loads(line)
        limits = (row.get("max_seconds", job.max_seconds), row.get("max_gb", job.max_gb))
        within = limits[0] >= job.max_seconds and limits[1] >= job.max_gb
        if wanted.items() <= row.items() and within:
            return row
    return None


def jobs(options: argparse.Namespace) -> Iterator[tuple[Job, list[str], Path]]:
    """All trainings asked for, seeds outermost, with the methods that share each."""
    left_out = set()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for data in options.data:
            path, dim = Path(), 0  # of rows that are there already
            if not options.only_plot:
                path = make(data, options.data_folder, options.cache)
                dim = dim_of(path)
            for num_codebooks in options.num_codebooks:
                shared: dict[str, list[str]] = {}
                for name in options.methods:
                    reason = coders.why_not(name, dim, num_codebooks, options.device)
                    if reason is None:
                        shared.setdefault(FOLLOWS.get(name, (name,))[0], []).append(name)
                    elif (data, num_codebooks, name) not in left_out:
                        left_out.add((data, num_codebooks, name))
                        print(f"left out: {name}, {data}, N = {num_codebooks}: {reason}")
                for method, names in shared.items():
                    limits = (options.mq_seconds, options.max_seconds, options.max_gb)
                    setup = (options.rows, options.device, options.threads, *limits)
                    yield Job(data, num_codebooks, method, seed, *setup), names, path


def main() -> None:
    """Do what is missing in `--out`, then print a table of all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=["whisper_last"])
    parser.add_argument("--num_codebooks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *GROWN], default=METHODS)
    parser.add_argument("--seeds", type=int, default=3, help="trainings per row")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--rows", type=int, help="frames to train on; default: all")
    parser.add_argument("--mq_seconds", type=float, default=600.0, help="multi_quantization's")
    parser.add_argument("--max_seconds", type=int, default=1800, help="CPU time of a training")
    parser.add_argument("--max_gb", type=float, default=8.0, help="memory of its process")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data_folder", type=Path, default=default_data())
    parser.add_argument("--cache", type=Path, default=ROOT / "exp" / "quantizer", help="of frames")
    parser.add_argument("--out", type=Path, default=ROOT / "exp" / "quantizer" / "runs.jsonl")
    parser.add_argument("--plot", type=Path, help="draw error against probe cross entropy")
    parser.add_argument("--only_plot", action="store_true", help="train nothing, show --out")
    parser.add_argument("--save", action="store_true", help="append to results/quantizer.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # of the processes to come
    options.out.parent.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for job, names, path in jobs(options):
        missing = [name for name in names if not find(options.out, job, name)]
        if missing and not options.only_plot:
            rows = run(job, missing, path)
            with options.out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            where = f"{job.data}, N = {job.num_codebooks}, seed {job.seed}"
            print(f"done: {', '.join(missing)}; {where}", flush=True)
        for name in names:
            if (row := find(options.out, job, name)) is not None:
                groups.setdefault((job.data, job.num_codebooks, name), []).append(row)
    rows = [summary(groups[key]) for key in sorted(groups, key=lambda key: (key[0], key[1]))]
    if not rows:
        raise SystemExit(f"error: {options.out} has none of these rows; leave out --only_plot")
    report.show([cells(row) for row in rows], dict.fromkeys(cells(rows[0]), ""))
    if options.save:
        report.save(rows, "quantizer")
    if options.plot is not None:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
