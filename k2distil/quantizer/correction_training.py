"""Learn the correction of an additive quantizer, when its training is done (correction.py)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from k2distil.quantizer.correction import CHUNK, Correction
from k2distil.quantizer.model import AdditiveQuantizer
from k2distil.quantizer.trainer import TRAINING_SEARCH

BATCH_SIZE = 512
MAX_STEPS = 1600
MAX_PASSES = 6  # over the frames: a network comes to know few frames by heart
RATE = 2e-3  # of Adam at its highest


def num_correction_steps(num_frames: int) -> int:
    """Steps that `learn_correction` takes; 0: the frames are too few for any."""
    return min(MAX_STEPS, MAX_PASSES * num_frames // BATCH_SIZE)


def learn_correction(
    quantizer: AdditiveQuantizer,
    frames: Tensor,
    seed: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> Correction:
    """Learn what the sums leave of the frames that trained the quantizer.

    The same frames and seed give the same correction on the same device.

    Args:
        quantizer: trained; it stays as it is.
        frames: (num_frames, D) of any float dtype, at least one.
        seed: of the network's start and of the order of the frames.
        on_step: called `num_correction_steps(num_frames)` times.
    """
    # What this search leaves is as good a lesson as what a wide one leaves, in a third of the time.
    entries = (quantizer.table, quantizer.mean, quantizer.scale)
    searcher = AdditiveQuantizer(*entries, **TRAINING_SEARCH)
    codes = torch.cat([searcher.encode(part.float()) for part in frames.split(CHUNK)])
    num_steps = num_correction_steps(len(frames))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        correction = Correction(quantizer.dim).to(quantizer.table.device)
    optimizer = torch.optim.Adam(correction.parameters(), RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, max(num_steps, 1), pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(num_steps):
        while len(order) < BATCH_SIZE:
            order = torch.cat([order, torch.randperm(len(frames), generator=generator)])
        rows, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        sums = quantizer.normalise(quantizer.decode(codes[rows], corrected=False))
        left = quantizer.normalise(frames[rows]) - sums
        loss = (correction(sums) - left).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        on_step()
    return correction.requires_grad_(False)
