"""Entries of an additive quantizer that no frame chooses get a frame, when its training is done.

Only many frames can tell: of an entry that serves rare ones, a round of the training may see none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2distil.quantizer.metrics import unused_entries
from k2distil.quantizer.model import AdditiveQuantizer

TRIES = 5  # a frame may find other codes that are as good as those with the entry made for it
PIECE = 4096  # frames decoded at a time


def use_every_entry(
    quantizer: AdditiveQuantizer, frames: Tensor, seed: int = 0
) -> AdditiveQuantizer:
    """Move each entry that none of the frames chooses to where it takes half of one's error away.

    That frame and those like it then choose it, while no other entry moves. Frames are drawn in
    proportion to their errors, each for one entry: the worst ones are like no others.

    Args:
        quantizer: just trained, without a correction.
        frames: of the training, (num_frames, D) of any float dtype.
        seed: of the draw.

    Returns:
        The quantizer itself where nothing is unused; there may be unused entries left where there
        are hardly more frames than entries.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(TRIES):
        codes = quantizer.encode(frames)
        places = unused_entries(codes, quantizer.codebook_size).nonzero().tolist()
        if not places:
            break
        errors = torch.cat(
            [
                quantizer.residuals(piece, chosen).square().sum(1).cpu()
                for piece, chosen in zip(frames.split(PIECE), codes.split(PIECE), strict=True)
            ]
        )
        num_drawn = min(len(places), int((errors > 0).sum()))
        if num_drawn == 0:
            break
        drawn = torch.multinomial(errors, num_drawn, generator=generator)
        table = quantizer.table.clone()
        residuals = quantizer.residuals(frames[drawn], codes[drawn])
        for (n, k), chosen, residual in zip(places, codes[drawn].long(), residuals, strict=False):
            table[n, k] = quantizer.table[n, chosen[n]] + 0.5 * residual
        mean, scale = quantizer.mean, quantizer.scale
        quantizer = AdditiveQuantizer(table, mean, scale, **quantizer.settings)
    return quantizer
