"""Judge quantizers by students: the word error rate of small models that learn the codes.

    python bench/students.py --codes none product additive --steps 320 640 --seeds 3

A student of a quarter of a million parameters learns connected digits (`digits.py`) from 160
utterances with text, by CTC, and from Whisper tiny.en's codes on all 480 training utterances. It is
tested on other recordings of the same speakers ("seen") and on a fourth speaker ("unseen"), with
greedy decoding. The seed of a run is the quantizer's and the student's; the data stay the same.

Every finished run is appended to `--out` at once and not done again, so an interrupted benchmark
goes on where it was; two processes share the work by `--codes` or `--first_seed`. Other quantizers
are added from a script of one's own:

    import students
    students.METHODS["mine"] = lambda frames, seed, settings: my_coder  # see `Method`
    students.main()

CPU seconds are of the whole process, so they are one core's with `--threads 1`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import report
import torch
from digits import ROOT, DataSettings, Digits, default_data, load_digits
from mq import MultiQuantization, train_mq
from student import TOKENS
from student_training import CODEBOOK_SIZE, Settings, train_student
from torch import Tensor

from k2distil.quantizer import FrameReservoir, QuantizerTrainer, evaluate

PROBED, HELD_OUT = 20_000, 5_000  # frames that the quantizers' figures look at


class Coder(Protocol):
    """A trained quantizer, as `k2distil.quantizer.evaluate` wants it."""

    num_codebooks: int
    codebook_size: int

    def encode(self, frames: Tensor) -> Tensor:
        """(B, D) float32 -> (B, N) integers."""

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) integers -> (B, D) float32."""


# Frames of each training utterance, (T, D) float32, and the seed. What comes back is a Coder, or
# just an encode function, (T, D) -> (T, N) of fewer than 256 codes, or None for labels only.
Method = Callable[[Sequence[Tensor], int, Settings], Coder | Callable[[Tensor], Tensor] | None]


def train_ours(quantizer_type: str) -> Method:
    """-> a method of this project."""

    def train(frames: Sequence[Tensor], seed: int, settings: Settings) -> Coder:
        reservoir = fill(frames, seed)
        sizes = (reservoir.dim, settings.num_codebooks, CODEBOOK_SIZE)
        trainer = QuantizerTrainer(quantizer_type, *sizes, seed=seed)
        while not trainer.done:
            trainer.step(reservoir.batch(trainer.steps_done, 512))
        return trainer.quantizer

    return train


def fill(frames: Sequence[Tensor], seed: int) -> FrameReservoir:
    """All frames, to be drawn in an order that the seed decides."""
    reservoir = FrameReservoir(sum(map(len, frames)), frames[0].shape[1], seed)
    for each in frames:
        reservoir.add(each)
    return reservoir


def train_multi_quantization(
    frames: Sequence[Tensor], seed: int, settings: Settings
) -> MultiQuantization:
    """The package's own, within `mq_seconds` of CPU time."""
    done = train_mq(fill(frames, seed), settings.num_codebooks, seed, settings.mq_seconds)
    print(f"multi_quantization: {done.iterations} iterations, {done.seconds:.0f} s", flush=True)
    return done.quantizer


METHODS: dict[str, Method] = {
    "none": lambda frames, seed, settings: None,
    "product": train_ours("product"),
    "additive": train_ours("additive"),
    "multi_quantization": train_multi_quantization,
}


class WithDecoder:
    """A Coder made of an encode function: entries are the least squares fit to given frames."""

    def __init__(self, encode: Callable[[Tensor], Tensor], frames: Tensor, codes: Tensor) -> None:
        self.encode, self.codebook_size = encode, CODEBOOK_SIZE
        self.num_codebooks = codes.shape[1]
        chosen, size = self._rows(codes), self.num_codebooks * CODEBOOK_SIZE
        self.mean = frames.mean(0)
        pairs = (chosen[:, :, None] * size + chosen[:, None, :]).flatten()
        gram = torch.bincount(pairs, minlength=size * size).view(size, size).double()
        sums = torch.zeros(size, frames.shape[1], dtype=torch.float64)
        centred = (frames - self.mean).double()
        for rows in chosen.unbind(1):
            sums.index_add_(0, rows, centred)
        ridge = torch.eye(size, dtype=torch.float64)
        self.entries = torch.linalg.solve(gram + ridge, sums).float()

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) -> (B, D) float32."""
        return self.entries[self._rows(codes)].sum(1) + self.mean

    def _rows(self, codes: Tensor) -> Tensor:
        return codes.long() + torch.arange(self.num_codebooks) * CODEBOOK_SIZE


@dataclass(frozen=True)
class Codes:
    """What a quantizer made of the training utterances: (T, N) int64 each, and how good it is."""

    train: list[Tensor]
    figures: dict[str, Any]
    train_seconds: float
    encode_seconds: float


def make_codes(method: Method, digits: Digits, seed: int, settings: Settings) -> Codes | None:
    """Train a quantizer, encode and measure; None for labels only."""
    frames = [each.float() for each in digits.train.frames]
    started = time.process_time()
    coder = method(frames, seed, settings)
    if coder is None:
        return None
    trained = time.process_time()
    encode = coder.encode if hasattr(coder, "encode") else coder
    every_frame = torch.cat(frames)
    codes = encode(every_frame).long()
    encoded = time.process_time()
    if not hasattr(coder, "decode"):
        coder = WithDecoder(encode, every_frame, codes)
    generator = torch.Generator().manual_seed(0)  # the same frames for every method
    held_out = torch.cat(digits.seen.frames).float()
    held_out = held_out[torch.randperm(len(held_out), generator=generator)[:HELD_OUT]]
    probed = every_frame[torch.randperm(len(every_frame), generator=generator)[:PROBED]]
    figures = evaluate(coder, probed, held_out, seed).as_dict()
    lengths = [len(each) for each in frames]
    return Codes(list(codes.split(lengths)), figures, trained - started, encoded - trained)


def run(
    name: str, digits: Digits, codes: Codes | None, steps: int, seed: int, settings: Settings
) -> dict[str, Any]:
    """The row of one student."""
    row = identity(name, steps, seed, settings)
    row |= train_student(digits, codes and codes.train, steps, seed, settings)
    if codes is not None:
        row["quantizer_seconds"], row["encode_seconds"] = codes.train_seconds, codes.encode_seconds
        row["figures"] = codes.figures
    return row


def identity(name: str, steps: int, seed: int, settings: Settings) -> dict[str, Any]:
    """What tells a run from others; it is done again when any of it changes."""
    row = {"method": name, "steps": steps, "seed": seed, **asdict(settings.data)}
    row |= {"num_labelled": settings.num_labelled, "tokens": settings.tokens}
    if name != "none":
        row |= {"num_codebooks": settings.num_codebooks, "weight": settings.weight}
    if name == "multi_quantization":
        row["mq_seconds"] = settings.mq_seconds
    return row


def find(out: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The finished row that `identity` names."""
    for line in out.read_text().splitlines() if out.exists() else ():
        row = json.loads(line)
        if wanted.items() <= row.items():
            return row
    return None


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of one method and number of steps."""
    row = {key: runs[0][key] for key in ("method", "steps", "unseen_speaker") if key in runs[0]}
    for name in ("seen", "unseen"):
        rates = [run[name] for run in runs]
        deviation = statistics.stdev(rates) if len(rates) > 1 else float("nan")
        row[name] = f"{statistics.mean(rates):.1f} +- {deviation:.1f}"
    for name in ("quantizer_seconds", "student_seconds"):
        row[name] = statistics.mean(run.get(name, 0.0) for run in runs)
    for name in ("relative_error", "probe_cross_entropy"):
        row[name] = statistics.mean(run.get("figures", {}).get(name, 0.0) for run in runs)
    return {**row, "seeds": len(runs), "runs": list(runs)}


def main() -> None:
    """Do what is missing in `--out`, then print a table of all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", nargs="+", choices=METHODS, default=["none", "product"])
    parser.add_argument("--steps", type=int, nargs="+", default=[640])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method and steps")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--num_codebooks", type=int, default=8)
    parser.add_argument("--weight", type=float, default=5.0, help="of the codebook loss")
    parser.add_argument("--mq_seconds", type=float, default=360.0, help="its training, CPU time")
    parser.add_argument("--layer", type=int, default=-1, help="of the teacher")
    parser.add_argument("--unseen", default="nicolas", help="speaker that only tests")
    parser.add_argument("--num_labelled", type=int, default=160, help="utterances of 480")
    parser.add_argument("--tokens", choices=TOKENS, default="letters", help="of CTC")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--cache", type=Path, default=ROOT / "exp" / "students")
    parser.add_argument("--out", type=Path, default=ROOT / "exp" / "students" / "runs.jsonl")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="append to results/students.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = DataSettings(options.unseen, options.layer)
    settings = Settings(
        data,
        options.num_codebooks,
        options.num_labelled,
        options.tokens,
        options.weight,
        options.mq_seconds,
    )
    digits = load_digits(options.data, options.cache, data)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for seed in seeds:  # seeds outermost: a table of fewer seeds is there early
        for name in options.codes:
            codes, made = None, False
            for steps in options.steps:
                if find(options.out, identity(name, steps, seed, settings)):
                    continue
                if not made:
                    codes, made = make_codes(METHODS[name], digits, seed, settings), True
                row = run(name, digits, codes, steps, seed, settings)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                rates = f"{row['seen']:.1f} / {row['unseen']:.1f} %"
                print(f"done: {name}, {steps} steps, seed {seed}: {rates}", flush=True)
    groups = [
        [find(options.out, identity(name, steps, seed, settings)) for seed in seeds]
        for name in options.codes
        for steps in options.steps
    ]
    rows = [summary(group) for group in groups]
    if options.save:
        report.save(rows, "students")
    columns = {"method": "", "steps": "", "seen": "", "unseen": "", "relative_error": ".3f"}
    columns |= {"probe_cross_entropy": ".2f", "quantizer_seconds": ".0f", "student_seconds": ".0f"}
    report.show(rows, columns)


if __name__ == "__main__":
    main()
