"""What happens in a training besides its steps: the log, checkpoints, signals, losses of NaN."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from k2distil.errors import DataError
from k2distil.torchaudio_guard import hide_broken_torchaudio

hide_broken_torchaudio()
from transformers import (  # noqa: E402
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

if TYPE_CHECKING:
    from k2distil.distil.model import DistilModel

logger = logging.getLogger(__name__)

SIGNALS_TOGETHER = 5.0  # seconds
QUIET_SECONDS = 60.0  # between lines
LEAST_SCALE = 2.0**-10  # of float16's losses, begun at 2^16: each step that is no number halves it


class Pace(TrainerCallback):
    """The steps between tests, checkpoints and lines, as asked for now and not when it began."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Replace what a checkpoint says."""
        state.eval_steps, state.save_steps = args.eval_steps, args.save_steps
        state.logging_steps = args.logging_steps


class WeightOverSteps(TrainerCallback):
    """The weight of the codebook loss goes in a straight line from its value to another one."""

    def __init__(self, model: DistilModel, end: float) -> None:
        self.model, self.start, self.end = model, model.weight, end

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first step has the first value, the one after the last would have the other."""
        self.model.weight = self.start + (self.end - self.start) * (
            state.global_step / state.max_steps
        )


class MissedTest(TrainerCallback):
    """The test that a signal kept from its step comes before the next one."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint is loaded; what was logged up to it is known."""
        step = state.global_step
        tested = any(each["step"] == step and "eval_wer" in each for each in state.log_history)
        if step and not tested and step % args.eval_steps == 0:
            self.trainer.evaluate()


class StopOnSignal(TrainerCallback):
    """After a signal: finish the step, save, stop; all processes at the same step.

    before: the handlers of until now, which get another signal that comes later than what torchrun
        and schedulers send twice: a step whose audio never comes does not end.
    """

    def __init__(self, before: Mapping[signal.Signals, Any]) -> None:
        self.before = before
        self.received, self._since = 0, 0.0

    def __call__(self, signum: int, frame: object) -> None:
        """The signal's handler."""
        if not self.received:
            self.received, self._since = signum, time.monotonic()
        elif time.monotonic() - self._since > SIGNALS_TOGETHER:
            signal.signal(signum, self.before[signal.Signals(signum)])
            signal.raise_signal(signum)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a checkpoint and the end."""
        received = self.received
        if args.world_size > 1:
            all_received = torch.tensor(received, device=args.device)
            torch.distributed.all_reduce(all_received, torch.distributed.ReduceOp.MAX)
            received = int(all_received)
        if received:  # else one may have come meanwhile, which counts at the next step
            if not self.received:  # its own, if it comes, is of the same time
                self._since = time.monotonic()
            self.received = received
            control.should_save = control.should_training_stop = True
            control.should_evaluate = control.should_log = False


class Bar(ProgressCallback):
    """transformers' progress bar, without the figures: the log has them."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Nothing."""


class LogLines(TrainerCallback):
    """The Trainer's figures in our log, and how long it will take."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None  # when, and at which step
        self._told = 0.0  # when

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A training that goes on has steps behind it, which took no time of this run."""
        if self._began is None:
            self._told = time.monotonic()
            self._began = self._told, state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A sign of life where lines are far apart."""
        is_quiet = time.monotonic() - self._told > QUIET_SECONDS and not control.should_log
        if state.is_world_process_zero and is_quiet:
            self._tell(state, self._pace(state))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """One line; what each codebook does is for TensorBoard, the whole run for the summary."""
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        shown = [
            f"{name.removeprefix('eval_')} {value:.4g}"
            for name, value in logs.items()
            if not any(part.isdigit() for part in name.split("_"))
            and name not in {"epoch", "total_flos"}
        ]
        # A line of a test comes at the same step.
        self._tell(state, shown + (self._pace(state) if "loss" in logs else []))

    def _pace(self, state: Any) -> list[str]:
        if self._began is None or state.global_step == self._began[1]:
            return []
        since, done = time.monotonic() - self._began[0], state.global_step - self._began[1]
        left = timedelta(seconds=round(since / done * (state.max_steps - state.global_step)))
        return [f"{since / done:.3g} s a step", f"{left} left"]

    def _tell(self, state: Any, shown: list[str]) -> None:
        self._told = time.monotonic()
        logger.info("step %d of %d: %s", state.global_step, state.max_steps, ", ".join(shown))


class AtCheckpoints(TrainerCallback):
    """Calls a function, on every process, after each checkpoint."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call it."""
        self.function()


class FiniteLoss(TrainerCallback):
    """A loss that is no number any more is an error, not a line in the log."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Stop at NaN; of float16, whose scaler steps over those it can mend, when it cannot.

        Raises:
            DataError: naming the step and what helps.
        """
        norm = logs.get("grad_norm", 0.0)
        scaler = self.trainer.accelerator.scaler
        if norm != norm and (scaler is None or scaler.get_scale() < LEAST_SCALE):
            raise not_a_number("the gradient", args, state)


def not_a_number(what: str, args: Any, state: Any) -> DataError:
    """What to say where the training has come to nothing."""
    return DataError(
        f"{args.output_dir}: {what} is not a number at step {state.global_step}; train again with "
        f"a smaller --learning_rate{', or --dtype float32,' if args.fp16 else ''} and --force, or "
        "into another --save_path from best/ as --student_checkpoint"
    )
