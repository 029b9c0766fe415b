"""Whether the memory of an extraction stays flat, whatever the number of utterances.

    python bench/extract_memory.py --utterances 100000 --save

The same short wav under many keys goes through the real pipeline (decoding in a worker, batches,
parts, merge) with a teacher that computes next to nothing. Shown is the memory in use when 5,000
utterances are done, at the end of extraction, and its peak, merge included.
"""

import argparse
import resource
import tempfile
from pathlib import Path

import numpy as np
import psutil
import report
import soundfile

from k2distil.batch import SAMPLE_RATE, AudioBatch, EmbeddingBatch, Utterance
from k2distil.config import SaveEmbeddingConfig
from k2distil.pipeline.extraction.embed import as_dtype
from k2distil.pipeline.extraction.extract import extract

FIRST = 5_000  # utterances, after which nothing shall grow
MEGABYTE = 10**6  # bytes


class NullTeacher:
    """Gives the mean of 20 ms, eight times; notes the memory after every batch."""

    name, dim, num_layers, layer, frame_shift, digest = "null", 8, 1, 1, 0.02, "null"
    padding, min_samples, max_samples = "n/a", 320, None

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.memory: list[tuple[int, float]] = [(0, 0.0)]  # utterances done, MB in use

    def num_frames(self, num_samples: int) -> int:
        """Of so many samples."""
        return num_samples // self.min_samples

    def embed(self, batch: AudioBatch) -> EmbeddingBatch:
        """See `Teacher.embed`."""
        num_frames = batch.num_samples // self.min_samples
        length = int(num_frames.max()) * self.min_samples
        means = batch.samples[:, :length].unflatten(1, (-1, self.min_samples)).mean(-1)
        done = self.memory[-1][0] + len(batch.keys)
        self.memory.append((done, self._process.memory_info().rss / MEGABYTE))
        return EmbeddingBatch(batch.keys, means[..., None].repeat(1, 1, self.dim), num_frames)


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--save", action="store_true", help="append to results/memory.jsonl")
    options = parser.parse_args()
    teacher = NullTeacher()
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "a.wav")
        noise = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE // 10)
        soundfile.write(wav, noise, SAMPLE_RATE)
        listed = [Utterance(f"utterance{n:09}", str(wav)) for n in range(options.utterances)]
        config = SaveEmbeddingConfig(
            encoder_type="hubert",
            checkpoint="null",
            train_data=(wav,),
            save_path=Path(folder, "embedding.h5"),
            num_workers=1,
        )
        attributes = {"kind": "embedding", "dim": teacher.dim}
        summary = extract(config, listed, teacher, as_dtype("float16"), attributes)
    assert summary.figures["written"] == options.utterances
    first = next(used for done, used in teacher.memory if done >= FIRST)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE
    row = {
        "utterances": options.utterances,
        "mb_after_first": first,
        "growth_mb": teacher.memory[-1][1] - first,
        "growth_with_merge_mb": peak - first,
    }
    report.show([row], {name: ",.1f" if name.endswith(("mb", "first")) else "," for name in row})
    if options.save:
        report.save([row], "memory")


if __name__ == "__main__":
    main()
