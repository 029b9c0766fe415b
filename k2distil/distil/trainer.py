"""transformers' Trainer with our batches, loss and test; all else is its own."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from k2distil.atomic import flush, replacing
from k2distil.batch import Rejection, in_words
from k2distil.distil.averaging import WEIGHTS
from k2distil.distil.callbacks import not_a_number
from k2distil.distil.model import Batch, count_items
from k2distil.torchaudio_guard import hide_broken_torchaudio

hide_broken_torchaudio()
from transformers import Trainer, TrainingArguments  # noqa: E402

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"  # the Trainer writes it last
TORCH_FILES = {".bin", ".pt", ".pth"}
TO_GO_ON = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")  # beside the weights
NOT_WHOLE = (  # no other OSError: a disk that answers again may show it whole
    *(FileNotFoundError, NotADirectoryError, ValueError, KeyError),
    safetensors.SafetensorError,
)
PARTS = {"loss": "loss", "ctc": "ctc_loss", "codebook": "codebook_loss"}  # output: in the log


class DistilTrainer(Trainer):
    """Trains a `DistilModel`.

    Args:
        model: a DistilModel.
        args: transformers'.
        batches: of training; one pass over it is the whole training.
        keep_checkpoints: the latest ones that stay.
        test: the model -> figures, of all processes together; None: no tests.
        on_test: called with step and figures by the first process.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        batches: DataLoader,
        keep_checkpoints: int,
        test: Callable[[nn.Module], dict[str, float]] | None,
        on_test: Callable[[int, dict[str, float]], None],
    ) -> None:
        super().__init__(model, args, eval_dataset=[])  # [] for its check; `test` has the data
        self.batches, self.keep_checkpoints = batches, keep_checkpoints
        self.test, self.on_test = test, on_test
        self.model_accepts_loss_kwargs = True  # so that it does not divide the loss once more
        # Since the last line: sums over steps, and how many of these had anything of that part.
        self._parts, self._num_steps = torch.zeros(2, 3, device=args.device)
        self.tested_step: int | None = None
        self.failed: dict[str, Rejection] = {}  # what this process could not decode

    def get_train_dataloader(self) -> DataLoader:
        """The batches as they are: they know of ranks, so accelerate need not share them out."""
        return self.batches

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """The batches of a step, and how many texts and codes all processes have in theirs."""
        found = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = [count_items(batch["parts"]) for batch in found]
        items = sum(counts, torch.zeros(2, dtype=torch.long))
        if self.args.world_size > 1:
            items = self.accelerator.reduce(items.to(device), "sum")
        items = items.to(device)
        self._num_steps += torch.cat([torch.ones_like(items[:1]), items > 0])
        return found, items

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
                logger.warning("left out: %s", in_words(row))
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
            parts = self.accelerator.reduce(self._parts, "sum") / self._num_steps.clamp(min=1)
            logs = {**logs, **dict(zip(PARTS.values(), parts.tolist(), strict=True))}
            self._parts, self._num_steps = torch.zeros(2, 3, device=parts.device)
            model = self.accelerator.unwrap_model(self.model)
            logs["codebook_weight"] = model.weight  # of the last step: `loss` falls with it
            if model.codebook_loss is None:
                del logs["codebook_weight"], logs[PARTS["codebook"]]
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
            raise not_a_number("a weight or a statistic", self.args, self.state)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        super()._save_checkpoint(model, trial)
        if self.args.world_size > 1:
            torch.distributed.barrier()  # each process writes its random state
        if not self.args.should_save:
            return
        folder = Path(str(self.args.output_dir))
        new = folder / f"checkpoint-{self.state.global_step}"
        for path in (*new.iterdir(), new, folder):  # before those that it replaces go
            flush(path)
        kept = {new, *(path for _, path in checkpoints(folder)[-self.keep_checkpoints :])}
        for old in set(folder.glob("checkpoint-*")) - kept:  # those that are not whole, too
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of those whose files are whole, the weights among them, by step."""
    found = []
    for each in folder.glob("checkpoint-*"):
        try:
            state = json.loads((each / STATE_FILE).read_text("utf-8"))
            step = int(state["global_step"])
            for path in (each / WEIGHTS, *each.glob("[!.]*")):
                _check_whole(path)
        except NOT_WHOLE as error:
            logger.warning("%s: not whole, not used (%s)", each, error)
        else:
            found.append((step, each))
    return sorted(found)


def _check_whole(path: Path) -> None:
    """A disk that was full, or lost power, may have cut a file.

    Raises:
        ValueError, SafetensorError: it has.
    """
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt"):  # compares its header with its length
            return
    if path.stat().st_size == 0 or (path.suffix in TORCH_FILES and not zipfile.is_zipfile(path)):
        raise ValueError(f"{path.name} is damaged")


def last_checkpoint(folder: Path) -> Path | None:
    """The latest that is whole and has all that a training goes on with."""
    for _, path in reversed(checkpoints(folder)):
        missing = [name for name in TO_GO_ON if not any(path.glob(name))]
        if not missing:
            return path
        logger.warning("%s: has no %s, not gone on from", path, " and no ".join(missing))
    return None
