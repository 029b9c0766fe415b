"""How long a training takes and how fast it forgets, from type, K and batch size alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

EARLY_DECAY, LATE_DECAY = 0.5, 0.9  # how much the sums of earlier rounds count in the next
LATE = 0.7  # share of the product rounds after which LATE_DECAY holds
ADDITIVE_DECAY, RESTING_DECAY = 0.8, 0.95  # the same in additive rounds
MOMENTUM = 0.9  # how much of an additive round's change the next starts beyond it
ROUNDS_AT_REST = 12  # the last additive ones, without momentum
# Of the others; a wide beam makes entries that need one, in more than twice the time.
TRAINING_SEARCH: dict[str, Any] = {"beam": 1, "num_sweeps": 2}


@dataclass(frozen=True)
class Schedule:
    """How a training is laid out, decided before it starts."""

    gather_steps: int
    product_rounds: int
    product_steps: int  # of one round
    num_rotations: int  # Procrustes solutions a round
    additive_rounds: int
    additive_steps: int  # of one round

    @property
    def start_of_additive(self) -> int:
        """The step after which the quantizer is additive, if it becomes so."""
        return self.gather_steps + self.product_rounds * self.product_steps

    @property
    def num_steps(self) -> int:
        """All of them."""
        return self.start_of_additive + self.additive_rounds * self.additive_steps

    def round_ends(self, step: int) -> bool:
        """Whether a round ends with this step (counted from 1)."""
        if step <= self.start_of_additive:
            return step > self.gather_steps and (step - self.gather_steps) % self.product_steps == 0
        return (step - self.start_of_additive) % self.additive_steps == 0

    def decay(self, step: int) -> float:
        """How much earlier sums count when the round that ends with this step is merged."""
        if step > self.start_of_additive:
            return RESTING_DECAY if self.is_at_rest(step) else ADDITIVE_DECAY
        return LATE_DECAY if step > LATE * self.start_of_additive else EARLY_DECAY

    def is_product(self, step: int) -> bool:
        """Whether the quantizer is a product quantizer after this step."""
        return step < self.start_of_additive or not self.additive_rounds

    def is_at_rest(self, step: int) -> bool:
        """Whether the additive round that ends here only settles: what is left is averaging."""
        return step > self.num_steps - ROUNDS_AT_REST * self.additive_steps

    def momentum(self, step: int) -> float:
        """How far the additive round that ends here makes the next start beyond its solution."""
        return 0.0 if self.is_at_rest(step) else MOMENTUM


def plan(
    quantizer_type: str, dim: int, num_codebooks: int, codebook_size: int, batch_size: int
) -> Schedule:
    """A round shows each entry 20 frames (40, additive), fewer of the entries beyond 256."""
    num_weighted = min(codebook_size, 256) + max(codebook_size - 256, 0) / 5
    gather_frames = max(32 * min(codebook_size, 1024), 4 * codebook_size)
    additive = quantizer_type == "additive"
    return Schedule(
        gather_steps=math.ceil(gather_frames / batch_size),
        product_rounds=144,
        product_steps=math.ceil(20 * num_weighted / batch_size),
        # The time of one solution grows with dim^3, that of a round with dim.
        num_rotations=min(max(2048 // dim, 1), 4) if num_codebooks > 1 else 0,
        additive_rounds=60 if additive else 0,
        additive_steps=math.ceil(40 * num_weighted / batch_size) if additive else 0,
    )
