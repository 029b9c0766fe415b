#!/usr/bin/env python3
"""Make a small corpus of spoken digits with espeak-ng: audio, transcripts and WeNet lists.

    python make_speech.py exp/digits                  # 600 utterances of English
    python make_speech.py --lang cmn exp/digits_cmn   # Mandarin; yue: Cantonese

    exp/digits/{train,dev,test}/data.list       {"key": ..., "wav": "wav/....flac", "txt": ...}
    exp/digits/{train,dev,test}/wav/*.flac      16 kHz, mono

No voice is in two splits. The same arguments give the same samples, whatever --num_workers; a
second call makes only what is missing.
"""

import argparse
import json
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import soundfile
from espeak import SAMPLE_RATE, Speech, speak, variants

DIGITS = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "cmn": list("零一二三四五六七八九"),
    "yue": list("零一二三四五六七八九"),
}
ACCENTS = {
    "en": ["en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-scotland", "en-029"],
    "cmn": ["cmn"],
    "yue": ["yue"],
}
# Voices kept out of every training, the teacher's too. None has a sibling among the others
# (as klatt, klatt2, ... are).
DEV_VOICES = ["Nguyen", "belinda", "f4", "m3", "quincy", "travis"]
TEST_VOICES = ["adam", "aunty", "f2", "f5", "m1", "m6", "michel", "sandro"]
HELD_OUT = 0.1  # part of the utterances that goes to dev, and the same to test


@dataclass(frozen=True)
class Recipe:
    """All that determines one utterance."""

    key: str
    lang: str
    digits: tuple[int, ...]
    voice: str  # accent + variant, as espeak-ng wants it
    rate: int  # words per minute
    pitch: int  # 0..99
    pitch_range: int  # 0..99
    word_gap: int  # 10 ms

    @property
    def text(self) -> str:
        """The transcript: words in English, characters without spaces in Chinese."""
        return ("" if self.lang != "en" else " ").join(DIGITS[self.lang][d] for d in self.digits)


def train_voices() -> list[str]:
    """Every variant of espeak-ng that is not held out."""
    return [name for name in variants() if name not in DEV_VOICES + TEST_VOICES]


def plan(lang: str, voices: list[str], num_utterances: int, seed: int) -> list[Recipe]:
    """Draw `num_utterances` recipes, each voice as often as the others, with one accent each."""
    rng = random.Random(f"{lang} {seed} {' '.join(voices)}")
    accents = {voice: rng.choice(ACCENTS[lang]) for voice in voices}
    recipes = []
    for index in range(num_utterances):
        voice = voices[index % len(voices)]
        recipes.append(
            Recipe(
                key=f"{lang}-{voice.replace(' ', '_')}-{index:05d}",
                lang=lang,
                digits=tuple(rng.randrange(10) for _ in range(rng.randint(3, 7))),
                voice=f"{accents[voice]}+{voice}",
                rate=rng.randint(90, 180),
                pitch=rng.randint(20, 80),
                pitch_range=rng.randint(20, 80),
                word_gap=rng.randint(0, 20),
            )
        )
    return recipes


def say(recipe: Recipe) -> Speech:
    """Synthesise one recipe; spaces keep espeak-ng from reading the digits as one number."""
    return speak(
        " ".join(DIGITS[recipe.lang][d] for d in recipe.digits),
        recipe.voice,
        rate=recipe.rate,
        pitch=recipe.pitch,
        pitch_range=recipe.pitch_range,
        word_gap=recipe.word_gap,
    )


def write_flac(recipe: Recipe, folder: Path) -> float:
    """Make `folder`/key.flac unless it is there; return its seconds."""
    path = folder / f"{recipe.key}.flac"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        soundfile.write(part, say(recipe).samples, SAMPLE_RATE, "PCM_16", format="FLAC")
        part.replace(path)
    return soundfile.info(path).duration


def write_text(path: Path, text: str) -> None:
    """Write `path` in one piece."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def make_speech(out_dir: Path, lang: str, num_utterances: int, seed: int, num_workers: int) -> None:
    """Make the three splits under `out_dir`, or what is missing of them."""
    settings = {"lang": lang, "num_utterances": num_utterances, "seed": seed}
    voices = {"train": train_voices(), "dev": DEV_VOICES, "test": TEST_VOICES}
    settings["espeakng_loader"] = version("espeakng_loader")
    out_dir.mkdir(parents=True, exist_ok=True)
    stamp = out_dir / "speech.json"
    if not stamp.exists():
        write_text(stamp, json.dumps(settings, indent=2) + "\n")
    elif (found := json.loads(stamp.read_text())) != settings:
        raise SystemExit(
            f"error: {out_dir} holds speech of other settings, {found}, asked for {settings}: "
            "remove the folder or name another"
        )

    num_held_out = max(1, round(HELD_OUT * num_utterances))
    counts = {"dev": num_held_out, "test": num_held_out, "train": num_utterances - 2 * num_held_out}
    began = time.perf_counter()
    # spawn: forking a process whose libraries run threads is unsafe
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        for split, count in counts.items():
            recipes = plan(lang, voices[split], count, seed)
            folder = out_dir / split / "wav"
            folder.mkdir(parents=True, exist_ok=True)
            seconds = sum(pool.map(write_flac, recipes, repeat(folder), chunksize=8))
            lines = [
                json.dumps(
                    {"key": r.key, "wav": f"wav/{r.key}.flac", "txt": r.text}, ensure_ascii=False
                )
                for r in recipes
            ]
            write_text(out_dir / split / "data.list", "\n".join(lines) + "\n")
            print(
                f"{split}: {count} utterances, {seconds / 60:.1f} min, "
                f"{min(count, len(voices[split]))} voices: {out_dir / split / 'data.list'}"
            )
    print(f"speech made in {time.perf_counter() - began:.1f} s")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and make the corpus."""
    parser = argparse.ArgumentParser(
        description="Make a small corpus of spoken digits with espeak-ng (train, dev and test "
        "by voice), 16 kHz FLAC with WeNet data.list files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out_dir", type=Path, help="folder to make; re-running resumes")
    parser.add_argument("--lang", choices=list(DIGITS), default="en", help="language")
    parser.add_argument("--num_utterances", type=int, default=600, help="of all three splits")
    parser.add_argument("--seed", type=int, default=0, help="draws digits, accents, rates, pitches")
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count() or 1, help="processes that speak"
    )
    args = parser.parse_args(argv)
    if args.num_utterances < 3:
        parser.error(f"--num_utterances {args.num_utterances}: three splits need at least 3")
    make_speech(args.out_dir, args.lang, args.num_utterances, args.seed, args.num_workers)


if __name__ == "__main__":
    main()
