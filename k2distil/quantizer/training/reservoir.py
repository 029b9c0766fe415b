"""A uniform sample of all frames seen, in bounded memory, and shuffled batches of it."""

from __future__ import annotations

import logging
import math
import sys

import torch
from torch import Tensor

from k2distil.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

MAX_FLOAT16 = torch.finfo(torch.float16).max
MAX_LOSS = 1e-4  # of the frames' variance; Whisper's frames lose 1e-7
ENOUGH = 5000  # frames to know their variance by: fewer may be silence, all nearly the same
MEASURED = 10 * ENOUGH  # frames of which the loss is measured: it takes longer than to keep them


class FrameReservoir:
    """Keeps `capacity` frames, each frame added so far with the same probability.

    Frames are stored as float16, as in embedding files, but as float32 where float16 cannot hold a
    value or loses more than MAX_LOSS of what came so far. It is decided after ENOUGH frames, or
    where they are read before, and may change to float32 later: for a value at any time, for the
    loss by the first MEASURED frames. Algorithm R of Vitter, "Random sampling with a reservoir",
    1985.

    Args:
        capacity: frames; memory is capacity * dim * 2 bytes when it is full, in float32 twice that.
    """

    def __init__(self, capacity: int, dim: int, seed: int) -> None:
        self.capacity, self.dim, self.seed = capacity, dim, seed
        self.num_seen = 0  # frames added so far
        # Until it is settled:
        self._frames = torch.empty(min(capacity, ENOUGH), dim, dtype=torch.float32)
        self._is_settled = False  # whether it is decided in which dtype to go on
        self._loss = RoundingLoss()
        self._generator = torch.Generator().manual_seed(seed)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)  # shuffled rows of `_epoch`

    def __len__(self) -> int:
        return min(self.num_seen, self.capacity)

    @property
    def frames(self) -> Tensor:
        """(len(self), dim) float16, or float32 (see above); a view."""
        if self.num_seen:
            self._settle()
        return self._frames[: len(self)]

    def add(self, frames: Tensor) -> None:
        """frames: (num_frames, dim) of any float dtype and device.

        Raises:
            DataError: another dimension, NaN, infinite values or values beyond float32.
        """
        if frames.ndim != 2 or frames.shape[1] != self.dim:
            raise DataError(
                f"frames {tuple(frames.shape)}: expected (num_frames, {self.dim}); "
                "is --quantizer_in_dim the teacher's dimension?"
            )
        frames = frames.detach().cpu()
        # NaN where there is one, inf where float32 ends.
        largest = float(frames.abs().max().float()) if len(frames) else 0.0
        if not math.isfinite(largest):
            raise DataError(
                "frames hold NaN, infinite values or values beyond float32: look at the audio"
            )
        if not self._is_settled or self._frames.dtype == torch.float16:
            self._loss.add(frames, largest)
            if self._is_settled and self._loss.reason:
                self._keep_float32()
        if self.num_seen + len(frames) >= ENOUGH:
            self._settle()
        num_free = min(max(self.capacity - self.num_seen, 0), len(frames))
        self._frames[self.num_seen : self.num_seen + num_free] = frames[:num_free]
        # A later frame, the i-th of all, replaces a random one with probability capacity / i.
        ordinals = torch.arange(self.num_seen + num_free, self.num_seen + len(frames)) + 1
        slots = (
            torch.rand(len(ordinals), generator=self._generator, dtype=torch.float64) * ordinals
        ).long()
        kept = (slots < self.capacity).nonzero().flatten().tolist()
        replaced = {int(slots[i]): num_free + i for i in kept}  # the last one to take a slot stays
        if replaced:
            self._frames[list(replaced)] = frames[list(replaced.values())].to(self._frames.dtype)
        self.num_seen += len(frames)
        self._epoch = -1

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Batch `step` of an endless run of shuffled epochs; -> (batch_size, dim) float32.

        Depends on the seed, the frames and the step alone, so that a training resumes anywhere.

        Raises:
            DataError: no frames were added.
        """
        if len(self) == 0:
            raise DataError("there are no frames to train on: every utterance failed or was empty")
        rows, position = [], step * batch_size
        end = position + batch_size
        while position < end:
            epoch, offset = divmod(position, len(self))
            order = self._shuffled(epoch)[offset : offset + end - position]
            rows.append(order)
            position += len(order)
        return self.frames[torch.cat(rows)].float()

    def sample(self, num_frames: int) -> Tensor:
        """`num_frames` of the frames, or all if they are fewer; -> (n, dim) float32, none twice.

        Raises:
            DataError: no frames were added.
        """
        return self.batch(0, min(num_frames, len(self)))

    def _shuffled(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            seed = (self.seed * 1_000_003 + epoch) % 2**63
            generator = torch.Generator().manual_seed(seed)
            self._order, self._epoch = torch.randperm(len(self), generator=generator), epoch
        return self._order

    def _settle(self) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        if self._loss.reason:
            self._keep_float32()
        else:
            self._make_room(torch.float16)

    def _keep_float32(self) -> None:
        logger.warning("%s: the sample is kept in float32", self._loss.reason)
        self._make_room(torch.float32)

    def _make_room(self, dtype: torch.dtype) -> None:
        """For as many frames as there may be: pages that are not written take no memory.

        Raises:
            ConfigError: this machine never has so much.
        """
        try:
            room = torch.empty(self.capacity, self.dim, dtype=dtype)
        except RuntimeError as error:
            num_bytes = self.capacity * self.dim * dtype.itemsize
            raise ConfigError(
                f"--reservoir_frames {self.capacity}: {num_bytes / 2**30:.0f} GiB for frames of "
                f"{self.dim} dimensions in {dtype} are more than this machine has; lower it"
            ) from error
        room[: len(self)] = self._frames[: len(self)]
        self._frames = room


class RoundingLoss:
    """What float16 loses of the first frames: the squared error, over the frames' variance."""

    def __init__(self) -> None:
        self._largest = 0.0
        self._origin = torch.empty(
            0, dtype=torch.float32
        )  # the first frame: differences from it are small, and exact
        self._num_frames = 0
        self._error = self._squares = 0.0
        self._sum = torch.zeros((), dtype=torch.float64)  # then (dim,)

    def add(self, frames: Tensor, largest: float) -> None:
        """frames: (num_frames, dim); those that are float16 lose nothing."""
        self._largest = max(self._largest, largest)
        if frames.dtype == torch.float16 or not len(frames) or self._largest > MAX_FLOAT16:
            return
        if self._num_frames >= MEASURED:
            return
        frames = frames.float()
        if self._num_frames == 0:
            self._origin = frames[:1].clone()
        self._num_frames += len(frames)
        self._error += float((frames.half().double() - frames.double()).square().sum())
        differences = (frames - self._origin).double()
        self._squares += float(differences.square().sum())
        self._sum = self._sum + differences.sum(0)

    @property
    def reason(self) -> str:
        """Why float16 will not do; "" where it does."""
        if self._largest > MAX_FLOAT16:
            return f"an embedding reaches {self._largest:.3g}, beyond float16"
        if self._num_frames < 2:
            return ""
        variance = self._squares - float(self._sum.square().sum()) / self._num_frames
        if self._error > MAX_LOSS * max(variance, 0.0):
            loss = self._error / max(variance, sys.float_info.min)
            return f"float16 would lose {loss:.2g} of the embeddings' variance"
        return ""
