"""Connected digits of real speakers, as lists: the data of `distil.py`.

Single digits of the Free Spoken Digit Dataset (four speakers, 8 kHz) are put together to
utterances of 3 to 6 digits of one speaker. Three speakers train; of them, recordings 0 to 4 are
kept for the test "seen", and all of the fourth speaker are the test "unseen". A floor of white
noise lies under everything: the recordings have floors from 65 to 38 dB below full scale, each
speaker's own, and nothing above 4 kHz, which log-mels scaled bin by bin blow up. Training
utterances come at three speeds, as if of more speakers: with text where the original has it, so
that students of text alone have them too.
"""

import csv
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from k2distil.batch import SAMPLE_RATE

ROOT = Path(__file__).parent.parent
RECORDED_RATE = 8000  # Hz, of the recordings
SILENCE = (0.05, 0.2)  # seconds, before, between and behind digits
NOISE = 3e-3  # deviation of the white noise in all audio: 50 dB below full scale
SPEEDS = (0.85, 1.15)  # of copies of training audio, their pitch and formants with them
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_DIGITS = (3, 6)  # of an utterance
TEST_RECORDINGS = 5  # of each digit and seen speaker
TRAIN_PER_SPEAKER, SEEN_PER_SPEAKER, UNSEEN = 160, 34, 110  # utterances


def default_data() -> Path:
    """The folder of recordings and teachers: K2DISTIL_DATA, or shared/data beside the project."""
    return Path(os.environ.get("K2DISTIL_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Recording:
    """One digit; samples: (S,) float32 at 8 kHz."""

    index: int
    text: str
    samples: np.ndarray


@dataclass(frozen=True)
class Said:
    """One utterance; samples: (S,) float32 at 16 kHz."""

    key: str
    text: str
    samples: np.ndarray


def make_lists(
    data: Path,
    folder: Path,
    unseen_speaker: str,
    num_labelled: int,
    speeds: Sequence[float] = SPEEDS,
    as_digits: bool = False,
) -> None:
    """Write wavs and train.list, labelled.list, seen.list, unseen.list, unless they are there.

    train.list has every training utterance and its copies at other speeds, those of `num_labelled`
    utterances with text; labelled.list only these. The audio is the same for any number.

    Args:
        data: see `default_data`.
        folder: to write to.
        unseen_speaker: who does not train.
        num_labelled: training utterances with text.
        speeds: of the copies.
        as_digits: text is "407", one token a digit, instead of "four zero seven".
    """
    if (folder / "unseen.list").exists():
        return
    recordings = _recordings(data / "fsdd", as_digits)
    if unseen_speaker not in recordings:
        raise SystemExit(f"--unseen {unseen_speaker}: the speakers are {', '.join(recordings)}")
    between, rng = "" if as_digits else " ", random.Random(0)
    train, seen, unseen = [], [], []
    for speaker, all_of in recordings.items():
        if speaker == unseen_speaker:
            unseen += _utterances(f"{speaker}_unseen", all_of, UNSEEN, between, rng)
            continue
        kept = [each for each in all_of if each.index < TEST_RECORDINGS]
        others = [each for each in all_of if each.index >= TEST_RECORDINGS]
        train += _utterances(f"{speaker}_train", others, TRAIN_PER_SPEAKER, between, rng)
        seen += _utterances(f"{speaker}_seen", kept, SEEN_PER_SPEAKER, between, rng)
    labelled = rng.sample(train, len(train))[:num_labelled]
    labelled += [_at_speed(each, speed) for each in labelled for speed in speeds]
    with_text = {each.key for each in labelled}
    train += [_at_speed(each, speed) for each in train for speed in speeds]
    _write_list(folder, "train", train, with_text)
    _write_list(folder, "labelled", labelled, with_text)
    _write_list(folder, "seen", seen, {each.key for each in seen})
    _write_list(folder, "unseen", unseen, {each.key for each in unseen})


def librispeech(data: Path) -> list[dict[str, str]]:
    """The rows of its table (key, path, seconds, ...), with whole paths."""
    folder = data / "librispeech"
    with (folder / "transcripts.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [{**row, "path": str(folder / row["path"])} for row in rows]


def librispeech_list(data: Path, folder: Path) -> Path:
    """Write the list of LibriSpeech, 50 minutes of two speakers, without text; returns it."""
    path = folder / "librispeech.list"
    lines = [json.dumps({"key": row["key"], "wav": row["path"]}) for row in librispeech(data)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _recordings(folder: Path, as_digits: bool) -> dict[str, list[Recording]]:
    """All recordings of each speaker."""
    found: dict[str, list[Recording]] = {}
    with (folder / "transcripts.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            samples, rate = soundfile.read(folder / row["path"], dtype="float32")
            assert rate == RECORDED_RATE, row["path"]
            index = int(row["key"].rsplit("_", 1)[1])
            text = str(DIGITS.index(row["text"])) if as_digits else row["text"]
            found.setdefault(row["speaker"], []).append(Recording(index, text, samples))
    return found


def _utterances(
    name: str, recordings: list[Recording], count: int, between: str, rng: random.Random
) -> list[Said]:
    """`count` utterances of one speaker, named <name>_<number>; `between` parts their digits."""
    endless = _shuffled_passes(recordings, rng)
    result = []
    for number in range(count):
        digits = [next(endless) for _ in range(rng.randint(*NUM_DIGITS))]
        parts = [_silence(rng)]
        for digit in digits:
            parts += [digit.samples, _silence(rng)]
        samples = soxr.resample(np.concatenate(parts), RECORDED_RATE, SAMPLE_RATE, quality="HQ")
        text = between.join(digit.text for digit in digits)
        result.append(Said(f"{name}_{number:03}", text, samples))
    return result


def _at_speed(said: Said, speed: float) -> Said:
    """The utterance as a tape at another speed plays it."""
    samples = soxr.resample(said.samples, round(speed * SAMPLE_RATE), SAMPLE_RATE, quality="HQ")
    return Said(f"{said.key}_speed{speed}", said.text, samples)


def _silence(rng: random.Random) -> np.ndarray:
    return np.zeros(int(rng.uniform(*SILENCE) * RECORDED_RATE), np.float32)


def _shuffled_passes(recordings: list[Recording], rng: random.Random) -> Iterator[Recording]:
    while True:
        yield from rng.sample(recordings, len(recordings))


def _write_list(folder: Path, name: str, utterances: list[Said], labelled: set[str]) -> None:
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    lines = []
    for each in utterances:
        wav = f"wav/{each.key}.wav"
        noise = np.random.default_rng(list(each.key.encode())).normal(0.0, NOISE, len(each.samples))
        soundfile.write(folder / wav, each.samples + noise, SAMPLE_RATE, subtype="PCM_16")
        entry = {"key": each.key, "wav": wav}
        lines.append(json.dumps(entry | ({"txt": each.text} if each.key in labelled else {})))
    (folder / f"{name}.list").write_text("\n".join(lines) + "\n")
