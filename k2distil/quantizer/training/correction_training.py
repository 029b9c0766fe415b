"""Learn the correction of an additive quantizer, when its training is done (correction.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from k2distil.quantizer.arithmetic import shielded
from k2distil.quantizer.correction import Correction
from k2distil.quantizer.metrics import relative_error
from k2distil.quantizer.model import AdditiveQuantizer
from k2distil.quantizer.training.schedule import TRAINING_SEARCH

BATCH_SIZE = 512
MIN_STEPS, MAX_STEPS = 50, 1600
MAX_PASSES = 6  # over the frames: a network comes to know few frames by heart
RATE = 2e-3  # of Adam at its highest


def num_correction_steps(num_frames: int) -> int:
    """Steps that `add_correction` takes; 0: the frames are too few to learn from."""
    num_steps = min(MAX_STEPS, MAX_PASSES * num_frames // BATCH_SIZE)
    return num_steps if num_steps >= MIN_STEPS else 0


def add_correction(
    quantizer: AdditiveQuantizer,
    frames: Tensor,
    held_out: Tensor,
    seed: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Give a quantizer a correction that learns what its sums leave, if held-out frames gain by it.

    The same frames and seed give the same correction on the same device.

    Args:
        quantizer: trained; its `correction` is replaced.
        frames: that trained it, (num_frames, D) of any float dtype.
        held_out: others, (num_held_out, D), which decide whether it is kept.
        seed: of the network's start and of the order of the frames.
        on_step: called `num_correction_steps(num_frames)` times.
    """
    quantizer.correction = None
    if num_correction_steps(len(frames)) == 0:
        return
    with shielded(quantizer.table.device):
        held_out = held_out.float()
        codes = quantizer.encode(held_out)
        before = relative_error(quantizer, codes, held_out)
        quantizer.correction = _learn(quantizer, frames, seed, on_step)
        if not relative_error(quantizer, codes, held_out) < before:  # nor where it is NaN
            quantizer.correction = None


def _learn(
    quantizer: AdditiveQuantizer, frames: Tensor, seed: int, on_step: Callable[[], None]
) -> Correction:
    # What this search leaves is as good a lesson as what a wide one leaves, in a third of the time.
    entries = (quantizer.table, quantizer.mean, quantizer.scale)
    searcher = AdditiveQuantizer(*entries, **TRAINING_SEARCH)
    device, num_steps = quantizer.table.device, num_correction_steps(len(frames))
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        correction = Correction(quantizer.dim).to(device)
    optimizer = torch.optim.Adam(correction.parameters(), RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, num_steps, pct_start=0.1, cycle_momentum=False
    )
    codes = torch.empty(len(frames), quantizer.num_codebooks, dtype=quantizer.code_dtype)
    is_known = torch.zeros(len(frames), dtype=torch.bool)
    for rows in _batches(len(frames), num_steps, seed):
        new = rows[~is_known[rows]]
        codes[new], is_known[new] = searcher.encode(frames[new].float()), True
        sums = quantizer.sum_entries(codes[rows].to(device, torch.int64))
        left = quantizer.residuals(frames[rows], codes[rows])
        with torch.enable_grad():
            loss = (correction(sums) - left).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        on_step()
    return correction.requires_grad_(False)


def _batches(num_frames: int, num_steps: int, seed: int) -> Iterator[Tensor]:
    """Rows of every step, (BATCH_SIZE,) int64, in shuffled passes over all frames."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(num_steps):
        while len(order) < BATCH_SIZE:
            order = torch.cat([order, torch.randperm(num_frames, generator=generator)])
        yield order[:BATCH_SIZE]
        order = order[BATCH_SIZE:]
