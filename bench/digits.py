"""Connected digits with a real teacher's frames: the data of `students.py`.

Single digits of the Free Spoken Digit Dataset (four speakers, 8 kHz) are put together to
utterances of 3 to 6 digits of one speaker. Three speakers train; of them, recordings 0 to 4 are
kept for the test "seen", and all of the fourth speaker are the test "unseen". What depends on
no student, i.e. features and Whisper's frames, is computed once and kept in a file.
"""

import csv
import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from k2distil.atomic import replacing
from k2distil.batch import SAMPLE_RATE, AudioBatch
from k2distil.teachers import Teacher, build_teacher
from k2distil.teachers.log_mel import log_mel, mel_filters

ROOT = Path(__file__).parent.parent
RECORDED_RATE = 8000  # Hz, of the recordings
SILENCE = (0.05, 0.2)  # seconds, before, between and behind digits
NOISE = 1e-3  # deviation in silences: 60 dB below full scale
NUM_DIGITS = (3, 6)  # of an utterance
TEST_RECORDINGS = 5  # of each digit and seen speaker
TRAIN_PER_SPEAKER, SEEN_PER_SPEAKER, UNSEEN = 160, 34, 110  # utterances
VERSION = 2  # of what this file makes: raise it with any change to the data
BATCH = 16  # utterances of the teacher


@dataclass(frozen=True)
class DataSettings:
    """What decides the data; layer: of Whisper, -1 is the last."""

    unseen_speaker: str = "nicolas"
    layer: int = -1
    data_seed: int = 0


@dataclass(frozen=True)
class DigitSet:
    """U utterances.

    features: (T, 80) float32 each, 100 frames/s, of zero mean in every bin and unit deviation.
    frames: (ceil(T / 2), D) float16 each, as embedding files keep them, 50 frames/s.
    """

    texts: list[str]
    features: list[Tensor]
    frames: list[Tensor]


@dataclass(frozen=True)
class Digits:
    """Training data and tests; order: of training utterances; the text of the first may be used."""

    train: DigitSet
    order: list[int]
    seen: DigitSet
    unseen: DigitSet


def default_data() -> Path:
    """The folder of recordings and teachers: K2DISTIL_DATA, or shared/data beside the project."""
    return Path(os.environ.get("K2DISTIL_DATA", ROOT.parent / "shared" / "data"))


def load_digits(data: Path, cache: Path, settings: DataSettings) -> Digits:
    """Read the data from the folder `cache`, where the first call puts it."""
    key = hashlib.sha256(f"{VERSION} {settings}".encode()).hexdigest()[:8]
    path = cache / f"digits_{settings.unseen_speaker}_{settings.layer}_{key}.pt"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        digits = _make(data, settings)
        with replacing(path) as temporary:
            torch.save(asdict(digits), temporary)
    stored = torch.load(path, weights_only=True)
    sets = {name: DigitSet(**stored[name]) for name in ("train", "seen", "unseen")}
    return Digits(order=stored["order"], **sets)


def _make(data: Path, settings: DataSettings) -> Digits:
    """Put utterances together, all from one seed, and run the teacher."""
    recordings = _recordings(data / "fsdd")
    if settings.unseen_speaker not in recordings:
        raise SystemExit(
            f"--unseen {settings.unseen_speaker}: the speakers are {', '.join(recordings)}"
        )
    rng = random.Random(settings.data_seed)
    train, seen, unseen = [], [], []
    for speaker, all_of in recordings.items():
        if speaker == settings.unseen_speaker:
            unseen += _utterances(all_of, UNSEEN, rng)
            continue
        kept = [each for each in all_of if each.index < TEST_RECORDINGS]
        others = [each for each in all_of if each.index >= TEST_RECORDINGS]
        train += _utterances(others, TRAIN_PER_SPEAKER, rng)
        seen += _utterances(kept, SEEN_PER_SPEAKER, rng)
    order = rng.sample(range(len(train)), len(train))
    teacher = build_teacher(
        "wenet-whisper",
        str(data / "teachers" / "whisper_tiny_en_encoder.fp16.pt"),
        middle_layer=settings.layer,
        whisper_padding="none",
    )
    sets = [_embed(utterances, teacher) for utterances in (train, seen, unseen)]
    return Digits(sets[0], order, sets[1], sets[2])


@dataclass(frozen=True)
class Recording:
    """One digit; samples: (S,) float32 at 8 kHz."""

    index: int
    text: str
    samples: np.ndarray


def _recordings(folder: Path) -> dict[str, list[Recording]]:
    """All recordings of each speaker."""
    found: dict[str, list[Recording]] = {}
    with (folder / "transcripts.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            samples, rate = soundfile.read(folder / row["path"], dtype="float32")
            assert rate == RECORDED_RATE, row["path"]
            index = int(row["key"].rsplit("_", 1)[1])
            found.setdefault(row["speaker"], []).append(Recording(index, row["text"], samples))
    return found


def _utterances(
    recordings: list[Recording], count: int, rng: random.Random
) -> list[tuple[str, np.ndarray]]:
    """`count` texts, each with its (S,) float32 samples at 16 kHz."""
    endless = _shuffled_passes(recordings, rng)
    noise = np.random.default_rng(rng.getrandbits(32))
    result = []
    for _ in range(count):
        digits = [next(endless) for _ in range(rng.randint(*NUM_DIGITS))]
        parts = [_silence(rng, noise)]
        for digit in digits:
            parts += [digit.samples, _silence(rng, noise)]
        # One resampling of it all: silences end at 4 kHz as the digits do.
        samples = soxr.resample(np.concatenate(parts), RECORDED_RATE, SAMPLE_RATE, quality="HQ")
        result.append((" ".join(digit.text for digit in digits), samples))
    return result


def _silence(rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    num_samples = int(rng.uniform(*SILENCE) * RECORDED_RATE)
    return noise.normal(0.0, NOISE, num_samples).astype(np.float32)


def _shuffled_passes(recordings: list[Recording], rng: random.Random) -> Iterator[Recording]:
    while True:
        yield from rng.sample(recordings, len(recordings))


def _embed(utterances: Sequence[tuple[str, np.ndarray]], teacher: Teacher) -> DigitSet:
    """Features and the teacher's frames, in the order given."""
    filters = mel_filters(80)
    features: list[Tensor] = [torch.empty(0)] * len(utterances)
    frames: list[Tensor] = [torch.empty(0)] * len(utterances)
    by_length = sorted(range(len(utterances)), key=lambda i: len(utterances[i][1]))
    for start in range(0, len(by_length), BATCH):
        chosen = by_length[start : start + BATCH]
        audio = [torch.from_numpy(utterances[i][1]) for i in chosen]
        lengths = torch.tensor([len(each) for each in audio])
        samples = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
        batch = teacher.embed(AudioBatch([str(i) for i in chosen], samples, lengths))
        for key, values in batch.unpadded():
            frames[int(key)] = values.half()
        for i, each in zip(chosen, audio, strict=True):
            mel = log_mel(each[None], [len(each)], filters)[0].T
            mel = mel - mel.mean(0)
            features[i] = (mel / mel.std()).contiguous()
    return DigitSet([text for text, _ in utterances], features, frames)
