"""Additive quantizers that start otherwise than from product codes, for `quantizer.py` to compare.

They grow codebook by codebook, each from k-means on what those before it leave, with the entries of
all learnt again after every one (as in Martinez et al., "Stacked quantizers", 2014). All of them
grow, or half: the others are those of a product quantizer. From there they are trained as ours are.
"""

from collections.abc import Iterator

import torch
from coders import ADDITIVE, CODEBOOK_SIZE, PRODUCT, Task, Train, Trained, new_trainer, run
from torch import Tensor

from k2distil.quantizer import AdditiveQuantizer, FrameReservoir, QuantizerTrainer, finish
from k2distil.quantizer.training.schedule import TRAINING_SEARCH
from k2distil.quantizer.training.seeding import seed_entries
from k2distil.quantizer.training.statistics import CodeSums
from k2distil.quantizer.training.updates import update_additive

ROUND, NUM_ROUNDS = 20_000, 2  # frames of a round; after each new codebook
NUM_MEANS = 8  # rounds of k-means
SEARCH = {"beam": 4, "num_sweeps": 2}
PIECE = 4096  # frames summed at a time
FADE = 0.8  # of the sums of the round before


def train_grown(kept: float) -> Train:
    """kept: the share of codebooks that are a product quantizer's; -> a method."""

    def train(frames: FrameReservoir, task: Task) -> Trained:
        num_kept = int(kept * task.num_codebooks)
        first = new_trainer(PRODUCT, frames, max(num_kept, 1), task)
        last_step = first.num_steps if num_kept else first.schedule.gather_steps
        run(first, frames, last_step)
        start = first.quantizer.entries()
        start["table"] = start["table"][:num_kept]
        generator = torch.Generator(task.device).manual_seed(task.seed)
        while len(start["table"]) < task.num_codebooks:
            start["table"] = _grow(start, _rounds(frames, len(start["table"])), generator)
        trainer = new_trainer(ADDITIVE, frames, task.num_codebooks, task)
        trainer.load_state_dict(_at_additive(trainer, start))
        run(trainer, frames, trainer.num_steps)
        return Trained(finish(trainer.quantizer, frames, task.held_out, task.seed))

    return train


GROWN: dict[str, Train] = {
    "additive, half grown": train_grown(0.5),
    "additive, grown": train_grown(0.0),
}


def _rounds(frames: FrameReservoir, num_codebooks: int) -> Iterator[Tensor]:
    """Frames for one codebook more: to begin it with, and a round each."""
    first = num_codebooks * (NUM_ROUNDS + 1)
    return (frames.batch(first + index, ROUND) for index in range(NUM_ROUNDS + 1))


def _grow(start: dict[str, Tensor], rounds: Iterator[Tensor], generator: torch.Generator) -> Tensor:
    """start: entries of n codebooks, a mean and a scale -> (n + 1, K, D)."""
    quantizer = AdditiveQuantizer(**start, **SEARCH) if len(start["table"]) else None
    mean, scale = start["mean"], start["scale"]
    left = []
    for piece in next(rounds).split(PIECE):
        if quantizer is None:
            left.append(((piece.to(mean.device) - mean) / scale).float())
        else:
            left.append(quantizer.residuals(piece, quantizer.encode(piece)))
    table = torch.cat([start["table"], _means(torch.cat(left), generator).unsqueeze(0)])
    sums = CodeSums.zeros(table, with_pairs=True, dtype=torch.float32)
    for frames in rounds:
        quantizer = AdditiveQuantizer(table, mean, scale, **SEARCH)
        fresh = CodeSums.zeros(table, with_pairs=True)
        for piece in frames.split(PIECE):
            codes = quantizer.encode(piece).to(table.device)
            errors = quantizer.residuals(piece, codes).square().sum(1)
            fresh.add(quantizer.normalise(piece), codes, errors, CODEBOOK_SIZE)
        sums.merge(fresh, FADE)
        table = update_additive(sums, table)
    return table


def _means(points: Tensor, generator: torch.Generator) -> Tensor:
    """k-means; (M, D) -> (K, D)."""
    entries = seed_entries(points, CODEBOOK_SIZE, generator)
    for _ in range(NUM_MEANS):
        bias = -entries.square().sum(1) / 2
        nearest = torch.addmm(bias, points, entries.T).argmax(1)
        counts = torch.bincount(nearest, minlength=len(entries)).unsqueeze(1)
        sums = torch.zeros_like(entries).index_add_(0, nearest, points)
        entries = torch.where(counts > 0, sums / counts.clamp(min=1), entries)
    return entries


def _at_additive(trainer: QuantizerTrainer, entries: dict[str, Tensor]) -> dict[str, object]:
    """The state of a training whose additive rounds begin, with these entries."""
    table = entries["table"]
    rounds = {
        "type": ADDITIVE,
        "settings": TRAINING_SEARCH,
        "entries": entries,
        "running": CodeSums.zeros(table, with_pairs=True, dtype=torch.float32).tensors(),
        "fresh": CodeSums.zeros(table, with_pairs=True).tensors(),
        "solved": table,
    }
    steps_done = trainer.schedule.start_of_additive
    return trainer.state_dict() | {"steps_done": steps_done, "rounds": rounds}
