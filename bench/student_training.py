"""Train one student of `students.py` and test it."""

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jiwer
import torch
import torch.nn.functional as F
from digits import DataSettings, Digits, DigitSet
from student import RATIO, CodebookHead, Student
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

CODEBOOK_SIZE = 256
BATCH = 8  # labelled utterances of a step, and as many unlabelled ones
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 3e-3, 0.01, 0.1
MAX_NORM = 5.0  # of the gradient
FREQUENCY_MASKS, FREQUENCY_WIDTH = 2, 10  # SpecAugment; bins at most
TIME_MASKS, TIME_WIDTH = 2, 10  # SpecAugment; frames of 10 ms at most
CURVE_POINTS = 8


@dataclass(frozen=True)
class Settings:
    """What decides a run beside method, steps and seed."""

    data: DataSettings = field(default_factory=DataSettings)
    num_codebooks: int = 8
    num_labelled: int = 160  # training utterances, of 480
    tokens: str = "letters"
    weight: float = 5.0  # of the codebook loss
    mq_seconds: float = 360.0  # CPU time of multi_quantization's training


def batches(
    digits: Digits, num_labelled: int, num_steps: int, rng: random.Random
) -> Iterator[list[int]]:
    """Utterances of each step: BATCH labelled ones, then BATCH unlabelled, all of similar length.

    An epoch has every unlabelled utterance once, and labelled ones as many.
    """
    lengths = [len(each) for each in digits.train.features]
    labelled, unlabelled = digits.order[:num_labelled], digits.order[num_labelled:]
    per_epoch = len(unlabelled) // BATCH
    done = 0
    pool: list[int] = []
    while done < num_steps:
        halves = []
        while len(pool) < per_epoch * BATCH:
            pool += rng.sample(labelled, len(labelled))
        for members in (pool[: per_epoch * BATCH], rng.sample(unlabelled, per_epoch * BATCH)):
            ordered = sorted(members, key=lambda i: lengths[i] * rng.uniform(0.8, 1.25))
            halves.append([ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)])
        pool = pool[per_epoch * BATCH :]
        epoch = [one + other for one, other in zip(*halves, strict=True)]
        rng.shuffle(epoch)
        yield from epoch[: num_steps - done]
        done += len(epoch)


def mask(features: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment; features: (B, T, 80), of zero mean."""
    batch, num_frames, num_bins = features.shape
    for count, longest, size, shape in (
        (TIME_MASKS, TIME_WIDTH, num_frames, (batch, num_frames, 1)),
        (FREQUENCY_MASKS, FREQUENCY_WIDTH, num_bins, (batch, 1, num_bins)),
    ):
        for _ in range(count):
            width = torch.randint(longest + 1, (batch, 1), generator=generator)
            start = (torch.rand(batch, 1, generator=generator) * (size - width)).long()
            place = torch.arange(size)
            masked = (place >= start) & (place < start + width)
            features = features.masked_fill(masked.view(shape), 0.0)
    return features


def align(codes: Sequence[Tensor], num_frames: int) -> Tensor:
    """(T, N) each at the teacher's rate -> (B, num_frames, RATIO * N); -100 where there is none."""
    padded = pad_sequence(list(codes), batch_first=True, padding_value=-100)
    padded = F.pad(padded, (0, 0, 0, num_frames * RATIO - padded.shape[1]), value=-100)
    return padded.reshape(len(codes), num_frames, -1)


def train_student(
    digits: Digits, codes: Sequence[Tensor] | None, num_steps: int, seed: int, settings: Settings
) -> dict[str, Any]:
    """Train and test one student; -> figures of it."""
    torch.manual_seed(seed)
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    student, train = Student(settings.tokens), digits.train
    modules: list[torch.nn.Module] = [student]
    if codes is not None:
        head = CodebookHead(student.dim, RATIO * codes[0].shape[1], CODEBOOK_SIZE)
        modules.append(head)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        LEARNING_RATE,
        num_steps,
        pct_start=WARM_UP,
        cycle_momentum=False,
        final_div_factor=1e6,
    )
    targets = [student.encode_text(text) for text in train.texts]
    curve: list[dict[str, float]] = []
    losses: dict[str, list[float]] = {"ctc": [], "codebook": []}
    seconds = 0.0
    for step, chosen in enumerate(batches(digits, settings.num_labelled, num_steps, rng), start=1):
        started = time.process_time()
        rows = chosen if codes is not None else chosen[:BATCH]
        features = pad_sequence([train.features[i] for i in rows], batch_first=True)
        lengths = torch.tensor([len(train.features[i]) for i in rows])
        hidden, lengths = student(mask(features, generator), lengths)
        text = [targets[i] for i in rows[:BATCH]]
        loss = F.ctc_loss(
            student.log_probs(hidden[:BATCH]).transpose(0, 1),
            torch.cat(text),
            lengths[:BATCH],
            torch.tensor([len(each) for each in text]),
            zero_infinity=True,
        )
        losses["ctc"].append(float(loss.detach()))
        if codes is not None:
            wanted = align([codes[i] for i in rows], hidden.shape[1])
            codebook = head(hidden, lengths, wanted)
            losses["codebook"].append(float(codebook.detach()))
            loss = loss + settings.weight * codebook
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - started
        if step * CURVE_POINTS // num_steps > (step - 1) * CURVE_POINTS // num_steps:
            curve.append({"step": step} | test(student, digits))
    last = max(1, num_steps // CURVE_POINTS)
    return {
        "seen": curve[-1]["seen"],
        "unseen": curve[-1]["unseen"],
        "student_seconds": seconds,
        "parameters": sum(p.numel() for p in student.parameters()),
        "losses": {key: statistics.mean(all_[-last:]) for key, all_ in losses.items() if all_},
        "curve": curve,
    }


@torch.inference_mode()
def test(student: Student, digits: Digits) -> dict[str, float]:
    """Word error rates in percent."""
    student.eval()
    rates = {name: _word_errors(student, getattr(digits, name)) for name in ("seen", "unseen")}
    student.train()
    return rates


def _word_errors(student: Student, tested: DigitSet) -> float:
    by_length = sorted(range(len(tested.texts)), key=lambda i: len(tested.features[i]))
    references, found = [], []
    for start in range(0, len(by_length), 40):
        rows = by_length[start : start + 40]
        features = pad_sequence([tested.features[i] for i in rows], batch_first=True)
        lengths = torch.tensor([len(tested.features[i]) for i in rows])
        hidden, lengths = student(features, lengths)
        found += student.decode(hidden, lengths)
        references += [tested.texts[i] for i in rows]
    return 100 * jiwer.wer(references, found)
