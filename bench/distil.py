"""What codes bring: students with and without them, side by side, by the project's own scripts.

    python bench/distil.py --students labels codes --steps 640 --seeds 3

The teacher is the real Whisper tiny.en encoder; the audio, connected digits of real speakers
(`digits.py`): 480 training utterances, of which 160 have text, a test on the same speakers
("seen") and one on a fourth ("unseen"). Training audio comes at three speeds. Tokens are letters,
or digits (`--as_digits`).
Students are plain CTC, greedy, on one thread of the CPU. Every finished run is appended to `--out`
and not done again; two processes share the work by `--students` or `--first_seed`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
from curves import draw
from digit_codes import (
    CODEBOOK_SIZE,
    CodesSettings,
    bytes_of,
    embedding_of_digits,
    make_codes,
    script,
)
from digits import ROOT, SPEEDS, default_data, make_lists
from ideas import IDEAS

from k2distil.pipeline.outputs.training_curves import training_curves

CONFIG = ROOT / "bench" / "distil.yaml"
FIGURES = {"cpu_minutes", "megabytes", "seen", "unseen", "curve"}  # of a row; the rest tells it
LABELLED_SECONDS = 20.0  # of a batch: about 8 utterances; as much again without text
# student: (codes, list, further flags of train_distil.sh)
STUDENTS: dict[str, tuple[str | None, str, list[str]]] = {
    "labels": (None, "labelled", []),
    "codes": ("product", "train", []),
    "codes on labelled audio": ("product", "labelled", []),
    "additive codes": ("additive", "train", []),
    "multi_quantization's codes": ("multi_quantization", "train", []),
    "shuffled codes": ("shuffled", "train", []),
    "codes of filter banks": ("filter_banks", "train", []),
    "L1 to embeddings": ("frames", "train", []),
    "autoregressive head": ("product", "train", ["--codebook_head", "autoregressive"]),
    **{f"idea: {idea}": (idea, "train", []) for idea in IDEAS},
}


def codes_settings(
    name: str, student_seed: int, options: argparse.Namespace
) -> CodesSettings | None:
    """The codes that a student learns; None: labels only."""
    codes = STUDENTS[name][0]
    if codes is None:
        return None
    teacher = (options.num_codebooks, options.layer, options.padding)
    seed = student_seed if options.quantizer_of_each_seed else 0
    return CodesSettings(codes, *teacher, options.mq_seconds, seed, options.codebook_size)


def identity(name: str, steps: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What tells a run from others; it is done again when any of it changes."""
    row = {"student": name, "steps": steps, "seed": seed, "unseen_speaker": options.unseen}
    row |= {"labelled": options.num_labelled, "speeds": " ".join(map(str, options.speeds))}
    if options.as_digits:
        row["tokens"] = "digits"
    if options.config.name != CONFIG.name:
        row["config"] = options.config.name
    row["device"] = report.environment()["device"]  # rounding decides more than a seed
    if options.curve_points and STUDENTS[name][0] != "frames":  # which have no figures to test
        row["curve_points"] = options.curve_points
    if (settings := codes_settings(name, seed, options)) is not None:
        row |= {"num_codebooks": options.num_codebooks, "layer": options.layer}
        row |= {"padding": options.padding, "weight": options.weight}
        row["weight_end"] = options.weight_end
        row |= {"student_layer": options.student_layer, "quantizer_of": "digits and LibriSpeech"}
        row |= {"quantizer_seed": settings.seed}
        if settings.codebook_size != CODEBOOK_SIZE:
            row["codebook_size"] = settings.codebook_size
    return row


def find(name: str, steps: int, seed: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """The finished row of a student."""
    wanted = identity(name, steps, seed, options)
    for line in options.out.read_text().splitlines() if options.out.exists() else ():
        row = json.loads(line)
        known = {key: value for key, value in row.items() if key not in FIGURES}
        # A run that was tested on the way serves those who ask for no curve.
        if known in (wanted, {"curve_points": row.get("curve_points")} | wanted):
            return row
    return None


def train(
    name: str, steps: int, seed: int, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one student and test it."""
    _, list_name, more = STUDENTS[name]
    settings = codes_settings(name, seed, options)
    row = identity(name, steps, seed, options)
    student = folder / "students" / "_".join(str(each).replace(" ", "-") for each in row.values())
    seconds = LABELLED_SECONDS * (2 if list_name == "train" else 1)
    flags: list[object] = [
        *("--config", options.config, "--save_path", student, "--seed", seed),
        *("--train_data", folder / f"{list_name}.list", "--batch_seconds", seconds),
        *("--max_steps", steps, "--warmup_steps", steps // 10, "--save_steps", steps, *more),
    ]
    if "curve_points" in row:
        flags += ["--cv_data", folder / "seen.list", folder / "unseen.list"]
        flags += ["--eval_steps", steps // options.curve_points]
    stored = 0
    program: list[str] | None = None
    if settings is None:
        flags += ["--codebook_weight", 0]
    else:
        codes = make_codes(options.data, folder, settings)
        flags += ["--codebook_path", codes, "--codebook_weight", options.weight]
        flags += ["--student_layer", options.student_layer]
        flags += ["--codebook_weight_end", options.weight_end]
        stored = bytes_of(codes)
        if settings.name == "frames":
            embedding = embedding_of_digits(folder, settings)
            program = [str(ROOT / "bench" / "l1_student.py"), "--embedding", str(embedding)]
            stored = bytes_of(embedding)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if program is None:
        script("train_distil.sh", *flags)
    else:
        command = [sys.executable, *program, *map(str, flags), "--gpu", "cpu", "--num_workers", "0"]
        subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row["cpu_minutes"] = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    row["megabytes"] = stored / 1e6
    for test in ("seen", "unseen"):
        rates = student / f"{test}.json"
        script_flags = ["--student_checkpoint", student / "last", "--save_path", rates]
        script_flags += ["--train_data", folder / f"{test}.list", "--num_worst", 0]
        _evaluate(script_flags)
        row[test] = 100 * json.loads(rates.read_text())["cer" if options.as_digits else "wer"]
    if "curve_points" in row:
        row["curve"] = _curve(student / "runs")
    return row


def _curve(runs: Path) -> list[tuple[int, float]]:
    """Steps and WER on both tests together, in percent."""
    return [(step, round(100 * rate, 2)) for step, rate in training_curves(runs)["eval/wer"]]


def _evaluate(flags: Sequence[object]) -> None:
    command = [sys.executable, "-m", "k2distil", "evaluate", "--gpu", "cpu", "--num_workers", "0"]
    subprocess.run([*command, *map(str, flags)], check=True, cwd=ROOT)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of one student and number of steps."""
    of_a_run = {"seed", "quantizer_seed", "seen", "unseen", "curve"}
    row = {key: value for key, value in runs[0].items() if key not in of_a_run}
    for name in ("seen", "unseen"):
        rates = [run[name] for run in runs]
        deviation = statistics.stdev(rates) if len(rates) > 1 else float("nan")
        row[name] = f"{statistics.mean(rates):.1f} +- {deviation:.1f}"
    row["cpu_minutes"] = statistics.mean(run["cpu_minutes"] for run in runs)
    return {**row, "seeds": len(runs), "runs": list(runs)}


def _folder_name(options: argparse.Namespace) -> str:
    """Of the audio and all that is made of it."""
    name = f"{options.unseen}_{options.num_labelled}"
    if tuple(options.speeds) != SPEEDS:
        name += "_at_" + "_".join(map(str, options.speeds))
    return f"{name}_digits" if options.as_digits else name


def main() -> None:
    """Do what is missing in `--out`, then print a table of all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=["labels", "codes"])
    parser.add_argument("--config", type=Path, default=CONFIG, help="of the students")
    parser.add_argument("--steps", type=int, nargs="+", default=[640])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each student and steps")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--num_codebooks", type=int, default=8)
    parser.add_argument(
        "--codebook_size", type=int, default=CODEBOOK_SIZE, help="of product and additive codes"
    )
    parser.add_argument("--layer", type=int, default=-1, help="of the teacher")
    parser.add_argument("--padding", choices=["none", "30s"], default="none")
    parser.add_argument("--student_layer", type=int, default=-1)
    parser.add_argument("--weight", type=float, default=5.0, help="of the codebook loss")
    parser.add_argument("--weight_end", type=float, default=0.0, help="at the last step")
    parser.add_argument("--mq_seconds", type=float, default=360.0, help="its training, CPU time")
    parser.add_argument(
        "--quantizer_of_each_seed", action="store_true", help="else one of seed 0 for all"
    )
    parser.add_argument("--unseen", default="george", help="speaker that only tests")
    parser.add_argument("--num_labelled", type=int, default=160, help="utterances of 480")
    parser.add_argument(
        "--speeds", type=float, nargs="*", default=SPEEDS, help="of copies of training audio"
    )
    parser.add_argument("--as_digits", action="store_true", help="a digit is one token")
    parser.add_argument(
        "--curve_points", type=int, default=0, help="tests on the way, in its CPU time"
    )
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--work", type=Path, default=ROOT / "exp" / "distil")
    parser.add_argument("--out", type=Path, default=ROOT / "exp" / "distil" / "runs.jsonl")
    parser.add_argument("--plot", type=Path, help="draw all runs of --out that have a curve")
    parser.add_argument("--save", action="store_true", help="append to results/distil.jsonl")
    options = parser.parse_args()
    folder = options.work / _folder_name(options)
    lists = (options.unseen, options.num_labelled, options.speeds, options.as_digits)
    make_lists(options.data, folder, *lists)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for seed in seeds:  # seeds outermost: a table of fewer seeds is there early
        for name in options.students:
            for steps in options.steps:
                if find(name, steps, seed, options):
                    continue
                row = train(name, steps, seed, folder, options)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                rates = f"{row['seen']:.1f} / {row['unseen']:.1f} %"
                print(f"done: {name}, {steps} steps, seed {seed}: {rates}", flush=True)
    groups = [
        [find(name, steps, seed, options) for seed in seeds]
        for name in options.students
        for steps in options.steps
    ]
    rows = [summary([run for run in group if run]) for group in groups]
    if options.save:
        report.save(rows, "distil")
    if options.plot is not None:
        all_rows = map(json.loads, options.out.read_text().splitlines())
        draw([row for row in all_rows if "curve" in row], options.plot)
    columns = {"student": "", "steps": "", "seen": "", "unseen": "", "seeds": ""}
    columns |= {"cpu_minutes": ".1f", "megabytes": ".2f"}
    report.show(rows, columns)


if __name__ == "__main__":
    main()
