"""Time and memory of everything around the teacher, at 10,000 to 1,000,000 utterances.

    OMP_NUM_THREADS=1 python bench/scale.py --save

There is no teacher and no audio: the codes are random, 100 frames of 8 bytes an utterance. Every
stage runs in a process of its own; its memory is what that grows by at most. The exponent of the
growth is fitted to the CPU time: 1 is proportional to the number of utterances.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from k2distil.data import ListAccess, read_list
from k2distil.pipeline.run.digests import digest_of
from k2distil.storage import CodebookReader, PartFolder, Problems, check_h5, note_for_merge

SIZES = [10_000, 100_000, 1_000_000]
FRAMES, NUM_CODEBOOKS = 100, 8
FRAME_SHIFT = 0.02  # seconds
PART_UTTERANCES = 256
NUM_FILES = 4
NUM_READS = 20_000
POOL = np.random.default_rng(0).integers(0, 256, (100_000, NUM_CODEBOOKS), np.uint8)
FINGERPRINT = {"teacher": "none"}
ATTRIBUTES = {"kind": "codes", "num_codebooks": NUM_CODEBOOKS, "frame_shift": FRAME_SHIFT}


def key_of(index: int) -> str:
    """About as long as those of public corpora."""
    return f"speaker{index % 5000:05d}-utterance{index:09d}"


def codes_of(index: int) -> np.ndarray:
    """(FRAMES, NUM_CODEBOOKS), of each utterance its own."""
    start = index * 7919 % (len(POOL) - FRAMES)
    return POOL[start : start + FRAMES]


def keys_of(num: int) -> list[str]:
    """All keys of a list."""
    return [key_of(index) for index in range(num)]


def one_file(folder: Path) -> Path:
    """The output in one file."""
    return folder / "codes.h5"


def several_files(folder: Path) -> Path:
    """The output in several files."""
    return folder / "several.h5"


def parts_of(path: Path, num: int) -> PartFolder:
    """As an extraction opens them."""
    return PartFolder(path, FINGERPRINT, num, PART_UTTERANCES)


def read(folder: Path, num: int) -> Callable[[], object]:
    """The list, as an extraction reads it."""
    return lambda: read_list(folder / "data.list", access=ListAccess(with_text=False))


def digest(folder: Path, num: int) -> Callable[[], object]:
    """What the fingerprint says of the list."""
    utterances = read(folder, num)()
    return lambda: digest_of(utterances)


def plan(folder: Path, num: int) -> Callable[[], object]:
    """What is written down before the first part, and that none is there."""
    keys = keys_of(num)

    def work() -> None:
        parts = parts_of(one_file(folder), num)
        note_for_merge(parts, keys, ATTRIBUTES, earlier=None)
        assert not parts.done()

    return work


def write(folder: Path, num: int) -> Callable[[], object]:
    """All parts."""
    parts = parts_of(one_file(folder), num)

    def work() -> None:
        for part in range(parts.num_parts):
            own = range(part * PART_UTTERANCES, min(num, (part + 1) * PART_UTTERANCES))
            arrays = {key_of(index): codes_of(index) for index in own}
            parts.write(part, arrays, {"failed": [], "dropped": []})

    return work


def resume(folder: Path, num: int) -> Callable[[], object]:
    """What a run that goes on looks for: all parts are there."""
    parts = parts_of(one_file(folder), num)

    def work() -> None:
        parts.discard_damaged()
        assert len(parts.done()) == parts.num_parts

    return work


def merge_one(folder: Path, num: int) -> Callable[[], object]:
    """Into one file."""
    keys, path = keys_of(num), one_file(folder)
    # Both merges remove their parts.
    shutil.copytree(parts_of(path, num).folder, f"{several_files(folder)}.parts")
    return lambda: parts_of(path, num).merge(keys, ATTRIBUTES)


def merge_several(folder: Path, num: int) -> Callable[[], object]:
    """Into several."""
    keys = keys_of(num)
    hours = (num / NUM_FILES + 0.5) * FRAMES * FRAME_SHIFT / 3600
    attributes = {**ATTRIBUTES, "shard_hours": hours}
    return lambda: parts_of(several_files(folder), num).merge(keys, attributes)


def opened(path: Path) -> Callable[[], object]:
    """A reader, up to its first array."""

    def work() -> CodebookReader:
        reader = CodebookReader(path)
        assert np.array_equal(reader[key_of(0)], codes_of(0))
        return reader

    return work


def reads(path: Path, num: int) -> Callable[[], object]:
    """Arrays in random order, each compared."""
    reader = CodebookReader(path)
    assert (len(reader), key_of(num) in reader) == (num, False)
    indexes = random.Random(0).choices(range(num), k=NUM_READS)

    def work() -> None:
        for index in indexes:
            assert np.array_equal(reader[key_of(index)], codes_of(index))

    return work


def coverage(path: Path, num: int) -> Callable[[], object]:
    """What a training asks first: has every key of the list its codes?"""
    reader, keys = CodebookReader(path), keys_of(num)
    assert key_of(0) in reader

    def work() -> None:
        assert sum(reader.num_frames(key) for key in keys if key in reader) == num * FRAMES

    return work


def verify(path: Path) -> Callable[[], object]:
    """The whole of k2distil verify but the audio's durations."""

    def work() -> None:
        problems = Problems()
        check_h5(path, "codes", problems)
        assert problems.counts.keys() == {"attributes"}  # there is no teacher

    return work


STAGES: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "read the list": read,
    "digest of the list": digest,
    "plan the parts": plan,
    "write the parts": write,
    "look for missing parts": resume,
    "merge into one file": merge_one,
    f"merge into {NUM_FILES} files": merge_several,
    "verify one file": lambda folder, num: verify(one_file(folder)),
    "open a reader, one file": lambda folder, num: opened(one_file(folder)),
    f"open a reader, {NUM_FILES} files": lambda folder, num: opened(several_files(folder)),
    "keys of the list in one file": lambda folder, num: coverage(one_file(folder), num),
    f"keys of the list in {NUM_FILES} files": lambda folder, num: coverage(
        several_files(folder), num
    ),
    f"{NUM_READS} random reads, one file": lambda folder, num: reads(one_file(folder), num),
    f"{NUM_READS} random reads, {NUM_FILES} files": lambda folder, num: reads(
        several_files(folder), num
    ),
}


def measure(name: str, folder: Path, num: int) -> dict[str, Any]:
    """One stage, in the process that calls."""
    work = STAGES[name](folder, num)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    row = {
        "stage": name,
        "utterances": num,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "megabytes": memory("VmHWM") - before,
    }
    del result
    return row


def memory(name: str) -> float:
    """MB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def write_list(path: Path, num: int) -> None:
    """A raw list with transcripts of 13 words."""
    text = "the quick brown fox jumps over the lazy dog and runs away again"
    with path.open("w") as file:
        for index in range(num):
            wav = f"/data/corpus/audio/{index % 5000:05d}/{index:09d}.flac"
            file.write(json.dumps({"key": key_of(index), "wav": wav, "txt": text}) + "\n")


def measure_all(sizes: list[int], above: Path | None) -> Iterator[dict[str, Any]]:
    """Every stage at every size, each behind those whose files it needs."""
    for num in sizes:
        with tempfile.TemporaryDirectory(dir=above) as name:
            folder = Path(name)
            write_list(folder / "data.list", num)
            for stage in STAGES:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    row = pool.apply(measure, (stage, folder, num))
                row["bytes"] = sum(each.stat().st_size for each in folder.rglob("*.h5*"))
                print(json.dumps(row), flush=True)
                yield row


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By stage, of the CPU time's growth: the slope between logarithms."""
    fitted = {}
    for stage in STAGES:
        points = [(row["utterances"], row["cpu_seconds"]) for row in rows if row["stage"] == stage]
        sizes, seconds = np.log(np.array(points)).T
        fitted[stage] = float(np.polyfit(sizes, seconds, 1)[0])
    return fitted


def main() -> None:
    """Measure, fit, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="two or more")
    parser.add_argument("--folder", type=Path, help="for about 6 GB of files; not given: /tmp")
    parser.add_argument("--save", action="store_true", help="append to results/scale.jsonl")
    options = parser.parse_args()
    import report  # imports torch, which the stages' processes need not

    rows = list(measure_all(options.sizes, options.folder))
    fitted = exponents(rows)
    for row in rows:
        row["exponent"] = fitted[row["stage"]]
        row["us_per_utterance"] = 1e6 * row["cpu_seconds"] / row["utterances"]
        row["bytes_per_utterance"] = 2**20 * row["megabytes"] / row["utterances"]
        row["cores"] = len(os.sched_getaffinity(0))
    if options.save:
        report.save(rows, "scale")
    columns = {
        **{"stage": "", "utterances": ",", "seconds": ".2f", "cpu_seconds": ".2f"},
        **{"us_per_utterance": ".1f", "megabytes": ".0f", "bytes_per_utterance": ".0f"},
        "exponent": ".2f",
    }
    report.show(rows, columns)


if __name__ == "__main__":
    main()
