"""transformers' Trainer with our batches, loss and test; all else is its own."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from k2distil.atomic import replacing
from k2distil.distil.model import Batch, DistilModel, count_items
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

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
PARTS = {"loss": "loss", "ctc": "ctc_loss", "codebook": "codebook_loss"}  # output: in the log
SIGNALS_TOGETHER = 5.0  # seconds
LEAST_SCALE = 2.0**-10  # of float16's losses, begun at 2^16: each step that is no number halves it


class DistilTrainer(Trainer):
    """Trains a `DistilModel`.

    Args:
        model: a DistilModel.
        args: transformers'.
        batches: of training; one pass over it is the whole training.
        test: the model -> figures, of all processes together; None: no tests.
        on_test: called with step and figures by the first process.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        batches: DataLoader,
        test: Callable[[nn.Module], dict[str, float]] | None,
        on_test: Callable[[int, dict[str, float]], None],
    ) -> None:
        super().__init__(model, args, eval_dataset=[])  # [] for its check; `test` has the data
        self.batches, self.test, self.on_test = batches, test, on_test
        self.model_accepts_loss_kwargs = True  # so that it does not divide the loss once more
        self._parts = torch.zeros(3, device=args.device)  # sums over steps since the last line
        self._num_steps = 0
        self.tested_step: int | None = None
        self.failed: dict[str, dict[str, str]] = {}  # what this process could not decode

    def get_train_dataloader(self) -> DataLoader:
        """The batches as they are: they know of ranks, so accelerate need not share them out."""
        return self.batches

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """The batches of a step, and how many texts and codes all processes have in theirs."""
        found = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        self._num_steps += 1
        counts = [count_items(batch["parts"]) for batch in found]
        items = sum(counts, torch.zeros(2, dtype=torch.long))
        if self.args.world_size > 1:
            items = self.accelerator.reduce(items.to(device), "sum")
        return found, items.to(device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This process' share of the loss of a step."""
        parts = inputs["parts"]
        for row in (row for part in parts for row in part["failed"]):
            if row["key"] not in self.failed:
                logger.warning("left out: %s", row["reason"])
            self.failed[row["key"]] = row
        plain = {"keys", "failed"}
        tensors = [{name: part[name] for name in part if name not in plain} for part in parts]
        outputs = model(tensors, num_items=num_items_in_batch)
        self._parts += torch.stack([outputs[each].detach() for each in PARTS])
        # DistributedDataParallel takes the mean of the gradients; shares have to be summed.
        loss = outputs["loss"] * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write the loss and both its parts into the line of the log."""
        if "loss" in logs:  # transformers' own stays NaN after the first one
            parts = self.accelerator.reduce(self._parts, "sum") / self._num_steps
            logs = {**logs, **dict(zip(PARTS.values(), parts.tolist(), strict=True))}
            self._parts, self._num_steps = torch.zeros_like(parts), 0
            weight = self.accelerator.unwrap_model(self.model).weight
            logs = {**logs, "codebook_weight": weight}  # of the last step: `loss` falls with it
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Test the student, and keep it if it is the best so far."""
        if self.test is None:
            return {}
        saves = self.control.should_save
        if saves:  # now: a signal has to wait for the end of a test
            self._save_checkpoint(self.model_wrapped, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        else:
            self.check_weights()
        model = self.accelerator.unwrap_model(self.model)
        figures = self.test(model)  # in float32, as `k2distil evaluate` does
        self.tested_step = self.state.global_step
        if self.is_world_process_zero():
            self.on_test(self.state.global_step, figures)
        logs = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(logs)
        if saves and self.is_world_process_zero():  # a run that goes on knows of the test
            path = Path(
                str(self.args.output_dir), f"checkpoint-{self.state.global_step}", STATE_FILE
            )
            with replacing(path) as temporary:
                self.state.save_to_json(str(temporary))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def check_weights(self) -> None:
        """Nothing that is not a number is tested or saved, BatchNorm's statistics included.

        Raises:
            DataError: naming the step and what helps.
        """
        assert self.model is not None
        if self.args.world_size > 1:  # BatchNorm's statistics are each process' own till here
            for each in self.model.buffers():
                torch.distributed.broadcast(each, 0)
        statistics = [each for name, each in self.model.named_buffers() if "running_" in name]
        tensors = [*self.model.parameters(), *statistics]
        finite = [each.detach().isfinite().all() for each in tensors]
        if not torch.stack(finite).all():
            raise _not_a_number("a weight or a statistic", self.args, self.state)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        super()._save_checkpoint(model, trial)


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
        """The first step has the first value, the one behind the last would have the other."""
        self.model.weight = self.start + (self.end - self.start) * (
            state.global_step / state.max_steps
        )


class MissedTest(TrainerCallback):
    """The test that a signal kept from its step comes before the next one."""

    def __init__(self, trainer: DistilTrainer) -> None:
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
    """The Trainer's figures in our log."""

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
        logger.info("step %d of %d: %s", state.global_step, state.max_steps, ", ".join(shown))


class AtCheckpoints(TrainerCallback):
    """Calls a function, on every process, behind each checkpoint."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call it."""
        self.function()


class FiniteLoss(TrainerCallback):
    """A loss that is no number any more is an error, not a line in the log."""

    def __init__(self, trainer: DistilTrainer) -> None:
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Stop at NaN; of float16, whose scaler steps over those it can mend, when it cannot.

        Raises:
            DataError: naming the step and what helps.
        """
        norm = logs.get("grad_norm", 0.0)
        scaler = self.trainer.accelerator.scaler
        if norm != norm and (scaler is None or scaler.get_scale() < LEAST_SCALE):
            raise _not_a_number("the gradient", args, state)


def _not_a_number(what: str, args: Any, state: Any) -> DataError:
    return DataError(
        f"{args.output_dir}: {what} is not a number at step {state.global_step}; train again with "
        f"a smaller --learning_rate{', or --dtype float32,' if args.fp16 else ''} and --force, or "
        "into another --save_path from best/ as --student_checkpoint"
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole: the Trainer writes its state last."""
    found = []
    for each in folder.glob("checkpoint-*"):
        try:
            found.append(
                (int(json.loads((each / STATE_FILE).read_text("utf-8"))["global_step"]), each)
            )
        except (OSError, ValueError, KeyError):
            logger.warning("%s: not whole, not used", each)
    return max(found)[1] if found else None
