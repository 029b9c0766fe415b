"""What is ours in transformers' Trainer, without a training."""

import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from k2distil.distil import trainer as trainer_module
from k2distil.distil.trainer import DistilTrainer, FiniteLoss, Pace, StopOnSignal
from k2distil.errors import DataError


def test_a_training_that_goes_on_tests_and_saves_as_often_as_asked_now():
    asked = SimpleNamespace(eval_steps=5, save_steps=7, logging_steps=2)
    saved = SimpleNamespace(eval_steps=500, save_steps=500, logging_steps=50)
    Pace().on_train_begin(asked, saved, None)
    assert saved == asked


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trainer = DistilTrainer.__new__(DistilTrainer)
    trainer.model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(trainer.model.bias, float("nan"))
    trainer.args = SimpleNamespace(output_dir=str(tmp_path))
    trainer.state = SimpleNamespace(global_step=3)
    with pytest.raises(DataError, match="a weight is not a number at step 3"):
        trainer._save_checkpoint(trainer.model, None)


@pytest.mark.parametrize(
    ("scale", "norm", "stops"),
    [
        (None, float("nan"), True),
        (None, 3.0, False),
        (2.0**16, float("nan"), False),  # float16's first steps look for a scale
        (2.0**-11, float("nan"), True),
        (2.0**-11, 3.0, False),
    ],
)
def test_a_gradient_that_stays_no_number_ends_the_training(scale, norm, stops):
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    if scaler is not None:
        scaler.scale(torch.ones(()))  # as every step does
    loss = FiniteLoss(SimpleNamespace(accelerator=SimpleNamespace(scaler=scaler)))
    args, state = SimpleNamespace(output_dir="exp/student"), SimpleNamespace(global_step=40)
    context = pytest.raises(DataError, match="at step 40") if stops else nullcontext()
    with context:
        loss.on_log(args, state, None, {"grad_norm": norm})


def test_a_later_signal_ends_a_step_that_does_not(monkeypatch):
    ended = []
    stop = StopOnSignal({signal.SIGTERM: lambda number, frame: ended.append(number)})
    before = signal.signal(signal.SIGTERM, stop)
    try:
        for _ in range(2):  # of torchrun and of the group, at the same time
            signal.raise_signal(signal.SIGTERM)
        assert (stop.received, ended) == (signal.SIGTERM, [])
        monkeypatch.setattr(trainer_module, "SIGNALS_TOGETHER", 0.0)
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
