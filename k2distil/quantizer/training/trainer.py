"""Train a quantizer from a stream of batches of frames.

    trainer = QuantizerTrainer("product", dim=1280, num_codebooks=8, codebook_size=256)
    while not trainer.done:
        trainer.step(reservoir.batch(trainer.steps_done, batch_size=512))
    quantizer = trainer.quantizer

First some steps only *gather*: these frames give centre, scale, the first rotation and entries
(starts.py). Then come *rounds*: a few thousand frames are encoded, their sums are merged with those
of earlier rounds (faded), and a new rotation and new entries follow from the sums. The sums fade
fast while the rotation is far off, slowly in the end, where averaging is all that is left to do. An
additive quantizer starts from product codes.

Several processes may train one quantizer (`share`): each is given the same batches, encodes its
part of them, and the sums of all are added up before a round ends. All else they do alike.

Additive rounds alternate between best codes and best entries, which alone creeps to its end. So
the entries go on in the direction of their last change: momentum (Polyak 1964), not in the last
rounds. The rotation of product quantizers gains nothing by it that further rounds do not.

docs/quantizer_measured.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from k2distil.errors import CheckpointError, DataError
from k2distil.quantizer.arithmetic import shielded
from k2distil.quantizer.model import (
    AdditiveQuantizer,
    ProductQuantizer,
    Quantizer,
)
from k2distil.quantizer.outliers import refuse_outliers
from k2distil.quantizer.search.slices import pad_axes
from k2distil.quantizer.sizes import check_sizes
from k2distil.quantizer.training.ordering import order_codebooks
from k2distil.quantizer.training.schedule import TRAINING_SEARCH, plan
from k2distil.quantizer.training.seeding import revive_entries
from k2distil.quantizer.training.shrinking import shrink_entries
from k2distil.quantizer.training.starts import best_start
from k2distil.quantizer.training.statistics import ALONE, CodeSums, Share
from k2distil.quantizer.training.updates import update_additive, update_product

SAME = 1e-7  # of the mean: a deviation that is rounding
TINIEST = 2.0**-149  # float32's least


@dataclass(frozen=True)
class StepStats:
    """What one step saw.

    relative_error: of this process' share of its frames, before they taught anything.
    """

    step: int
    phase: str  # gather, product, additive
    relative_error: float | None  # None while gathering, or of no frames


@dataclass
class _Rounds:
    """What there is once the gathering is over."""

    quantizer: Quantizer
    running: CodeSums  # of earlier rounds, faded
    fresh: CodeSums  # of this round
    solved: Tensor  # the last round's entries, before momentum

    @classmethod
    def start(cls, quantizer: Quantizer) -> _Rounds:
        """Empty sums and no momentum."""
        running = CodeSums.zeros(quantizer.table, quantizer.type == "additive", torch.float32)
        return cls(quantizer, running, cls._none(quantizer), quantizer.table)

    def forget_fresh(self) -> None:
        """A new round begins."""
        self.fresh = self._none(self.quantizer)

    @staticmethod
    def _none(quantizer: Quantizer) -> CodeSums:
        return CodeSums.zeros(quantizer.table, quantizer.type == "additive")

    def state_dict(self) -> dict[str, Any]:
        """Copies, as tensors and plain values."""
        return {
            "type": self.quantizer.type,
            "settings": self.quantizer.settings,
            "entries": _copies(self.quantizer.entries()),
            "running": _copies(self.running.tensors()),
            "fresh": _copies(self.fresh.tensors()),
            "solved": self.solved.clone(),
        }


class QuantizerTrainer:
    """Trains one quantizer; knows nothing of files. The same seed and frames give the same result.

    Args:
        quantizer_type: product | additive.
        batch_size: frames a step brings, about; it only shapes the schedule.
        share: this process' part, where several train together.

    Raises:
        ConfigError: no such quantizer can be built.
    """

    def __init__(
        self,
        quantizer_type: str,
        dim: int,
        num_codebooks: int,
        codebook_size: int,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        batch_size: int = 512,
        share: Share = ALONE,
    ) -> None:
        check_sizes(quantizer_type, dim, num_codebooks, codebook_size)
        self.config: dict[str, str | int] = {
            "quantizer_type": quantizer_type,
            "dim": dim,
            "num_codebooks": num_codebooks,
            "codebook_size": codebook_size,
            "seed": seed,
            "batch_size": batch_size,
            "device": torch.device(device).type,  # its generator and its sums are its own
        }
        self.dim, self.codebook_size = dim, codebook_size
        self.schedule = plan(quantizer_type, dim, num_codebooks, codebook_size, batch_size)
        self.steps_done = 0
        self.device = torch.device(device)
        self._share = share
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._gathered: list[Tensor] = []
        self._rounds: _Rounds | None = None  # none while gathering
        self._rotation = torch.eye(dim, dtype=torch.float32, device=self.device)
        small, num_large = divmod(dim, num_codebooks)
        self._sizes = [small + (n < num_large) for n in range(num_codebooks)]

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.schedule.num_steps

    @property
    def done(self) -> bool:
        """True when `quantizer` is final."""
        return self.steps_done >= self.num_steps

    @property
    def starts_next(self) -> bool:
        """True when the next step tries the starts, which takes longer than others."""
        return self.steps_done == self.schedule.gather_steps - 1

    @property
    def is_whole(self) -> bool:
        """True when `state_dict` holds all: within a round, other processes have sums of theirs."""
        gathering = self.steps_done <= self.schedule.gather_steps
        return self._share.size == 1 or gathering or self.schedule.round_ends(self.steps_done)

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer as it is now; there is none before the gathering steps end."""
        if self._rounds is None:
            raise RuntimeError(f"no quantizer before step {self.schedule.gather_steps}")
        return self._rounds.quantizer

    def step(self, frames: Tensor) -> StepStats:
        """Learn from one batch; frames: (B, dim) of any float dtype, B >= 1, all of the batch.

        Raises:
            DataError: no frames, another dimension, NaN or infinite values, or (OutlierError) a
                value so far from those gathered that float32 cannot hold its square.
        """
        if self.done:
            raise RuntimeError("the training is done")
        with shielded(self.device):
            return self._step(self._checked(frames))

    def _step(self, frames: Tensor) -> StepStats:
        phase, error = "gather", None
        rounds = self._rounds
        if rounds is None:
            self._gathered.append(frames.clone())  # the caller may fill the same memory again
        else:
            phase, error = rounds.quantizer.type, self._learn(rounds, frames)
        self.steps_done += 1
        if self.steps_done == self.schedule.gather_steps:
            self._start()
        elif rounds is not None and self.schedule.round_ends(self.steps_done):
            self._finish_round(rounds, frames)
        return StepStats(self.steps_done, phase, error)

    def _checked(self, frames: Tensor) -> Tensor:
        if frames.ndim != 2 or frames.shape[1] != self.dim or len(frames) == 0:
            raise DataError(
                f"frames {tuple(frames.shape)}: expected at least one frame of {self.dim} "
                "dimensions (--quantizer_in_dim)"
            )
        frames = frames.to(self.device, torch.float32)
        if not frames.isfinite().all():
            raise DataError(
                "the training frames hold NaN, infinite values or values beyond float32: "
                "look at the audio"
            )
        return frames

    def _start(self) -> None:
        """Centre, scale, rotation and entries, from the gathered frames."""
        frames = torch.cat(self._gathered)
        self._gathered = []
        mean = frames.double().mean(0)
        centred = frames - mean
        scale = centred.square().mean().sqrt()
        # Frames that float32 cannot tell apart have no scale.
        scale = torch.where(scale > (SAME * mean.abs().max()).clamp(min=TINIEST), scale, 1.0)
        frames = (centred / scale).float()
        table, self._rotation = best_start(
            frames, self._sizes, self.codebook_size, self.schedule.num_rotations, self._generator
        )
        self._rounds = _Rounds.start(self._product(table, mean, scale))

    def _product(self, table: Tensor, mean: Tensor, scale: Tensor) -> ProductQuantizer:
        """Until the last its slices are known; that one finds them as a reader of its file does."""
        axes = None if self.done else pad_axes(self._rotation.split(self._sizes))
        return ProductQuantizer(table, mean, scale, axes)

    def _learn(self, rounds: _Rounds, batch: Tensor) -> float | None:
        """Add this process' part of the batch to the round's sums; -> its relative error."""
        quantizer, part = rounds.quantizer, slice(self._share.rank, None, self._share.size)
        refuse_outliers(quantizer, batch, "training")  # of all: every process refuses alike
        frames = batch[part]
        if not len(frames):
            return None
        normalised, codes = quantizer.normalise(frames), quantizer.encode(frames)
        errors = quantizer.residuals(frames, codes).square().sum(1)
        rounds.fresh.add(normalised, codes, errors, self.codebook_size)
        total = normalised.square().sum()
        return float(errors.sum() / total) if total > 0 else 0.0

    def _finish_round(self, rounds: _Rounds, frames: Tensor) -> None:
        """New entries from the sums; then the next round's quantizer. frames: of the last step."""
        quantizer, running = rounds.quantizer, rounds.running
        rounds.fresh.add_up(self._share)
        running.merge(rounds.fresh, self.schedule.decay(self.steps_done))
        rounds.forget_fresh()
        if quantizer.type == "product":
            table = self._finish_product_round(quantizer.table, running)
        elif self.done:
            table = self._without_noise(quantizer, running, frames)
        else:
            table = self._finish_additive_round(rounds)
        mean, scale = quantizer.mean, quantizer.scale
        if self.done:
            counts = running.counts.view(table.shape[:2])
            table, mean, _ = order_codebooks(table, mean, scale, counts)
        if self.schedule.is_product(self.steps_done):
            rounds.quantizer = self._product(table, mean, scale)
            return
        search = {} if self.schedule.is_at_rest(self.steps_done) else TRAINING_SEARCH
        additive = AdditiveQuantizer(table, mean, scale, **search)
        if quantizer.type == "product":
            self._rounds = _Rounds.start(additive)
        else:
            rounds.quantizer = additive

    def _finish_product_round(self, table: Tensor, sums: CodeSums) -> Tensor:
        """-> (N, K, D)."""
        sizes, num_rotations = self._sizes, self.schedule.num_rotations
        table, self._rotation = update_product(sums, table, self._rotation, sizes, num_rotations)
        if not self.done:
            table, moved = self._revive(table, sums)
            sums.forget(moved)
            if moved.any():  # in any direction; but in its slice alone is an entry compared
                slices = zip(table, self._rotation.split(self._sizes), strict=True)
                table = torch.stack([one @ axes.T @ axes for one, axes in slices])
        return table

    def _finish_additive_round(self, rounds: _Rounds) -> Tensor:
        """-> (N, K, D)."""
        sums = rounds.running
        solved = update_additive(sums, rounds.quantizer.table)
        momentum = self.schedule.momentum(self.steps_done)
        table = solved + momentum * (solved - rounds.solved)
        # Sums of the living are kept: to forget them too, each round, costs more than it brings.
        dead = sums.counts < 1
        table, _ = self._revive(table, sums)
        sums.forget(dead)
        rounds.solved = torch.where(dead.view(*table.shape[:2], 1), table, solved)  # no momentum
        return table

    def _without_noise(self, quantizer: Quantizer, running: CodeSums, frames: Tensor) -> Tensor:
        """The entries drawn in; frames: whose residuals tell by how much; -> (N, K, D)."""
        residuals = quantizer.residuals(frames, quantizer.encode(frames))
        counts = running.counts.view(quantizer.table.shape[:2])
        return shrink_entries(quantizer.table, counts, residuals)

    def _revive(self, table: Tensor, sums: CodeSums) -> tuple[Tensor, Tensor]:
        counts, errors = sums.counts.view(table.shape[:2]), sums.errors.view(table.shape[:2])
        return revive_entries(table, counts, errors, self._generator)

    def state_dict(self) -> dict[str, Any]:
        """All of the training as tensors and plain values; loads with `weights_only=True`."""
        return {
            "config": dict(self.config),
            "schedule": asdict(self.schedule),
            "steps_done": self.steps_done,
            "generator": self._generator.get_state(),
            "gathered": list(self._gathered),
            "rotation": self._rotation,
            "rounds": None if self._rounds is None else self._rounds.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same results on the same device.

        Raises:
            CheckpointError: the state is of a training with other settings, or of an older version.
        """
        if missing := self.state_dict().keys() - state.keys():
            raise CheckpointError(
                f"the unfinished training is of another version (no {', '.join(sorted(missing))})"
            )
        for name, value in self.config.items():
            saved = state["config"].get(name)
            if saved != value:
                raise CheckpointError(
                    f"the unfinished training has {name} {saved}, not {value}: "
                    "give it the same settings"
                )
        if state["schedule"] != asdict(self.schedule):
            raise CheckpointError("the unfinished training is of another version (other rounds)")
        self.steps_done = state["steps_done"]
        self._generator.set_state(state["generator"].cpu())
        self._gathered = [frames.to(self.device) for frames in state["gathered"]]
        self._rotation = state["rotation"].to(self.device)
        rounds = state["rounds"]
        with shielded(self.device):
            self._rounds = None if rounds is None else self._rounds_of(rounds)

    def _rounds_of(self, state: Mapping[str, Any]) -> _Rounds:
        entries: dict[str, Any] = {**_copies(state["entries"], self.device)}
        quantizer: Quantizer
        if state["type"] == "product":
            quantizer = self._product(**entries)
        else:
            quantizer = AdditiveQuantizer(**entries, **state["settings"])
        running, fresh = (
            CodeSums.of(_copies(state[name], self.device)) for name in ("running", "fresh")
        )
        rounds = _Rounds(quantizer, running, fresh, state["solved"].to(self.device, copy=True))
        if self._share.rank > 0:  # the fresh ones are with the first process
            rounds.forget_fresh()
        return rounds


def _copies(tensors: Mapping[str, Tensor], device: torch.device | None = None) -> dict[str, Tensor]:
    """Tensors that the training can no longer change."""
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
