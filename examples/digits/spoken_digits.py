"""What the demo's teacher is trained on: espeak-ng's digits with phoneme labels, augmented."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from make_speech import Recipe, plan, say, train_voices
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from k2distil.batch import SAMPLE_RATE
from k2distil.teachers.log_mel import log_mel, num_mel_frames

FRAME_SHIFT = 0.02  # s, of the teacher's frames
SHARES = {"en": 0.6, "cmn": 0.2, "yue": 0.2}  # of the training utterances
FIRST_SEED = 1000  # the demo's own speech has seed 0
PAUSE = "_"


@dataclass(frozen=True)
class Spoken:
    """One utterance with its labels."""

    recipe: Recipe
    samples: np.ndarray  # (num_samples,) float32 in [-1, 1], 16 kHz
    starts: np.ndarray  # (num_phones,) float32, s
    phones: list[str]


def speak_recipe(recipe: Recipe) -> Spoken:
    """Synthesise one recipe, some 500 times faster than real time."""
    speech = say(recipe)
    starts = np.array([start for start, _ in speech.phones], dtype=np.float32)
    # 'E and ,E are E with stress; _ _: _| are pauses
    phones = [re.sub("^[',%=]+|^_.*", "", name) or PAUSE for _, name in speech.phones]
    return Spoken(recipe, speech.samples, starts, phones)


def training_recipes(num_utterances: int, seed: int) -> list[Recipe]:
    """Recipes of the training voices; each thousand gives the voices other accents."""
    voices = train_voices()
    recipes = []
    for lang, share in SHARES.items():
        left = round(share * num_utterances)
        while left > 0:
            seed += 1
            recipes += plan(lang, voices, min(left, 1000), FIRST_SEED + seed)
            left -= 1000
    return recipes


@dataclass(frozen=True)
class Batch:
    """B augmented utterances: M mel frames, T = ceil(M / 2) frames."""

    mel: Tensor  # (B, num_mels, M) float32
    num_mel: list[int]  # true lengths
    phones: Tensor  # (B, T) int64, -100 in the padding
    digits: Tensor  # (sum of num_digits,) int64
    num_digits: Tensor  # (B,) int64


def augment(samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Stretch (formants and pitch with it), gain and noise -> float32 samples, the stretch."""
    stretch = rng.uniform(0.87, 1.15)
    positions = np.arange(0, len(samples) - 1, 1 / stretch)
    x = np.interp(positions, np.arange(len(samples)), samples).astype(np.float32)
    x *= 10 ** rng.uniform(-1, 0.2)
    if rng.random() < 0.7:
        noise = rng.standard_normal(len(x), dtype=np.float32)
        if rng.random() < 0.5:
            noise = np.convolve(noise, np.ones(8, np.float32) / 8**0.5, "same")  # darker
        snr = rng.uniform(5, 40)  # dB
        x += noise * (np.sqrt(np.mean(x**2)) * 10 ** (-snr / 20))
    return np.clip(x, -1, 1), stretch


def mask_mel(mel: Tensor, rng: np.random.Generator) -> None:
    """SpecAugment without warping, in place: two bands of mels and two spans of time."""
    for dim, widest in ((0, 12), (1, 15)):
        for _ in range(2):
            width = int(rng.integers(0, widest + 1))
            start = int(rng.integers(0, max(1, mel.shape[dim] - width)))
            mel.narrow(dim, start, width).zero_()


def collate(
    spoken: list[Spoken], phone_ids: dict[str, int], filters: Tensor, rng: np.random.Generator
) -> Batch:
    """Augment and pad; phone_ids numbers the phonemes, filters: (num_mels, 201)."""
    samples, phones = [], []
    for item in spoken:
        x, stretch = augment(item.samples, rng)
        samples.append(torch.from_numpy(x))
        times = np.arange((num_mel_frames(len(x)) + 1) // 2) * FRAME_SHIFT
        index = np.searchsorted(item.starts * stretch, times, side="right") - 1
        ids = np.array([phone_ids[name] for name in item.phones])
        phones.append(torch.from_numpy(np.where(index < 0, phone_ids[PAUSE], ids[index])))
    num_samples = [len(x) for x in samples]
    num_mel = [num_mel_frames(length) for length in num_samples]
    mel = log_mel(pad_sequence(samples, batch_first=True), num_samples, filters)
    for row, length in zip(mel, num_mel, strict=True):
        mask_mel(row[:, :length], rng)
    return Batch(
        mel=mel,
        num_mel=num_mel,
        phones=pad_sequence(phones, batch_first=True, padding_value=-100),
        digits=torch.tensor([digit for item in spoken for digit in item.recipe.digits]),
        num_digits=torch.tensor([len(item.recipe.digits) for item in spoken]),
    )


def groups(spoken: list[Spoken], batch_size: int, seed: int) -> Iterator[list[Spoken]]:
    """Endless groups of similar lengths, in a new random order each epoch."""
    rng = random.Random(seed)
    while True:
        order = sorted(spoken, key=lambda item: len(item.samples) * rng.uniform(0.9, 1.1))
        epoch = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        rng.shuffle(epoch)
        yield from epoch


def seconds(spoken: list[Spoken]) -> float:
    """Audio in all."""
    return sum(len(item.samples) for item in spoken) / SAMPLE_RATE
