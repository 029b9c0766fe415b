"""How fast audio becomes codes: ours, from list to h5, beside the loops a user would write.

    OMP_NUM_THREADS=1 python bench/extract.py --save
    OMP_NUM_THREADS=2 python bench/extract.py --threads 2 --save
    python bench/extract.py --device cuda --large --save

The first: the real Whisper tiny.en encoder and a HuBERT of base shape, on the shortest utterances
of LibriSpeech, on the CPU. All methods take turns in one process, decode the same files on the same
threads and find their checkpoint loaded; ratios of CPU time, and of the clock's, are taken within a
turn, medians are shown. The loops end with embeddings in memory (one of them in an h5), ours with
codes in a merged h5. Before the turns, embeddings of the same kind are compared.

The second: `extract_large.py`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import extract_large
import numpy as np
import report
import soundfile
import torch
from clock import median_ratio
from digits import default_data, librispeech
from extract_flops import count_flops, matrix_rate
from extract_ours import Ours
from extract_peers import (
    loop,
    loop_to_h5,
    make_hubert,
    openai_whisper,
    transformers_hubert,
    transformers_whisper,
)

from k2distil.batch import Utterance
from k2distil.config import SaveCodebookConfig

TOLERANCE = 1e-3  # between embeddings of values up to 10
WHISPER = "Whisper tiny.en"
HUBERT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
HUBERTS: dict[str, tuple[dict[str, Any], int]] = {  # random weights: config, layer
    "HuBERT base, last layer": ({}, 12),
    "HuBERT base, layer 9 of 12": ({}, 9),  # whose units many take
    "HuBERT large, layer 18 of 24": (HUBERT_LARGE, 18),  # MVQ-KD took 36 of extra large's 48
}


@dataclass
class Method:
    """A way to the same embeddings. run: all utterances once; embeddings: the same, to compare."""

    name: str
    teacher: str
    padding: str
    run: Callable[[], object]
    embeddings: Callable[[], dict[str, np.ndarray]] | None
    ours: Ours | None = None
    cpu_seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Time one run over the utterances."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.run()
        self.cpu_seconds.append(time.process_time() - cpu)
        self.wall_seconds.append(time.perf_counter() - wall)


def shortest(data: Path, number: int) -> list[Utterance]:
    """The shortest utterances of LibriSpeech there: 22 of them are of 5 s on average."""
    rows = sorted(librispeech(data), key=lambda row: float(row["seconds"]))
    return [Utterance(row["key"], row["path"]) for row in rows[:number]]


def methods(
    data: Path, folder: Path, utterances: Sequence[Utterance], options: argparse.Namespace
) -> list[Method]:
    """All of them, with their checkpoints loaded."""
    whisper = data / "teachers" / "whisper_tiny_en_encoder.fp16.pt"
    train_list = folder / "train.list"
    lines = [json.dumps({"key": each.key, "wav": each.wav, "txt": ""}) for each in utterances]
    train_list.write_text("\n".join(lines) + "\n")

    def peer(name: str, teacher: str, padding: str, embed: Callable) -> Method:
        run = lambda: loop(utterances, embed)  # noqa: E731
        return Method(name, teacher, padding, run, run)

    def ours(
        teacher: str, encoder_type: str, checkpoint: Path, padding: str | None, layer: int = -1
    ) -> Method:
        config = SaveCodebookConfig(
            encoder_type=encoder_type,
            checkpoint=str(checkpoint),
            whisper_padding=padding,
            middle_layer=layer,
            train_data=(train_list,),
            save_path=folder / "unset",
            embedding_dtype="float32",
            num_workers=options.num_workers,
            gpu="cpu",
        )
        made = Ours(config, folder, torch.device("cpu"))
        embeddings = None if padding == "none" else made.embeddings
        return Method("k2distil", teacher, padding or "n/a", made.codes, embeddings, made)

    def of_whisper() -> list[Method]:
        plain = transformers_whisper(whisper)

        def first_version() -> None:
            path = folder / "first.h5"
            path.unlink(missing_ok=True)
            loop_to_h5(utterances, plain, path)

        return [
            peer("transformers, plain loop", WHISPER, "30s", plain),
            Method("transformers, loop to h5", WHISPER, "30s", first_version, None),
            peer("openai-whisper embed_audio", WHISPER, "30s", openai_whisper(whisper)),
            ours(WHISPER, "huggingface-whisper", whisper, "30s"),
            ours(WHISPER, "huggingface-whisper", whisper, "none"),
        ]

    def of_hubert(teacher: str) -> list[Method]:
        config, layer = HUBERTS[teacher]
        hubert = make_hubert(folder / teacher, config)
        return [
            peer("transformers, plain loop", teacher, "n/a", transformers_hubert(hubert, layer)),
            ours(teacher, "hubert", hubert, None, layer),
        ]

    found = []
    for teacher in options.teachers:
        found += of_whisper() if teacher == WHISPER else of_hubert(teacher)
    return found


def warm_up(found: Sequence[Method]) -> tuple[list[int], dict[str, float]]:
    """Run everything once.

    Returns:
        The operations of each method, and the largest difference of embeddings by teacher.

    Raises:
        SystemExit: the methods compute different things.
    """
    flops = []
    worst: dict[str, float] = {}
    first: dict[str, dict[str, np.ndarray]] = {}
    for method in found:
        work, own = count_flops(method.embeddings or method.run)
        flops.append(work)
        if method.embeddings:
            theirs = first.setdefault(method.teacher, own)
            assert own.keys() == theirs.keys(), method.name
            difference = max(float(np.abs(own[key] - theirs[key]).max()) for key in own)
            if difference > TOLERANCE:
                raise SystemExit(f"{method.name}, {method.teacher}: off by {difference}")
            worst[method.teacher] = max(difference, worst.get(method.teacher, 0.0))
    return flops, worst


def measure(
    found: Sequence[Method], utterances: Sequence[Utterance], turns: int
) -> list[dict[str, Any]]:
    """One row per method."""
    flops, worst = warm_up(found)
    rates = []
    for turn in range(turns):
        rates.append(matrix_rate())
        for method in found:
            method.turn()
        print(f"turn {turn + 1} of {turns}: {rates[-1] / 1e9:.0f} GFLOP/s in a bare product")
    audio_seconds = sum(soundfile.info(each.wav).duration for each in utterances)
    rows = []
    for method, work in zip(found, flops, strict=True):
        peers = [each for each in found if each.teacher == method.teacher and not each.ours]
        best = min(peers, key=lambda each: statistics.median(each.cpu_seconds))
        own = method.cpu_seconds
        least = [work / rate for rate in rates]
        rows.append(
            {
                "method": method.name,
                "teacher": method.teacher,
                "padding": method.padding,
                "audio_seconds": audio_seconds,
                "cpu_seconds": statistics.median(own),
                "wall_seconds": statistics.median(method.wall_seconds),
                "times_real_time": audio_seconds / statistics.median(own),
                "over_best_peer": median_ratio(best.cpu_seconds, own),
                "over_best_peer_wall": median_ratio(best.wall_seconds, method.wall_seconds),
                "gflop": work / 1e9,
                "of_matrix_rate": median_ratio(least, own),
                "matrix_gflops": statistics.median(rates) / 1e9,
                "stages": method.ours.shares() if method.ours else {},
                "largest_difference": worst[method.teacher],
                "turns": turns,
                "cpu_seconds_of_turns": own,
            }
        )
    return rows


def main() -> None:
    """Print the table and the shares of the stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--utterances", type=int, default=22, help="the shortest; 22: 5 s average")
    parser.add_argument("--every", type=int, default=1, help="n: take every n-th of them only")
    teachers = [WHISPER, *HUBERTS]
    parser.add_argument("--teachers", nargs="+", choices=teachers, default=teachers)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--num_workers", type=int, default=0, help="that decode for k2distil")
    parser.add_argument("--save", action="store_true", help="append to results/extract.jsonl")
    extract_large.add_arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.large:
        rows = extract_large.measure(options)
        report.show(rows, extract_large.COLUMNS)
    else:
        utterances = shortest(options.data, options.utterances)[:: options.every]
        with tempfile.TemporaryDirectory() as folder:
            found = methods(options.data, Path(folder), utterances, options)
            rows = measure(found, utterances, options.turns)
        fixed = {"utterances": len(utterances), "dtype": "float32"}
        rows = [{**row, **fixed, "num_workers": options.num_workers} for row in rows]
        columns = {"method": "", "teacher": "", "padding": "", "cpu_seconds": ".2f"}
        columns |= {"times_real_time": ".0f", "over_best_peer": ".2f"}
        columns |= {"over_best_peer_wall": ".2f", "gflop": ".0f"}
        report.show(rows, {**columns, "of_matrix_rate": ".2f", "largest_difference": ".1e"})
        for row in rows:
            if row["stages"]:
                shares = (f"{name} {share:.1%}" for name, share in row["stages"].items())
                print(f"{row['teacher']}, {row['padding']}: {', '.join(shares)}")
    if options.save:
        report.save(rows, "extract")


if __name__ == "__main__":
    main()
