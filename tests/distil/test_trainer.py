"""What is ours in transformers' Trainer, without a training."""

import errno
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from k2distil.distil import callbacks
from k2distil.distil import trainer as trainer_module
from k2distil.distil.callbacks import FiniteLoss, Pace, StopOnSignal
from k2distil.distil.trainer import (
    STATE_FILE,
    DistilTrainer,
    Trainer,
    checkpoints,
    last_checkpoint,
)
from k2distil.errors import DataError
from tests.distil.checkpoint import write_checkpoint


def test_a_training_that_goes_on_tests_and_saves_as_often_as_asked_now():
    asked = SimpleNamespace(eval_steps=5, save_steps=7, logging_steps=2)
    saved = SimpleNamespace(eval_steps=500, save_steps=500, logging_steps=50)
    Pace().on_train_begin(asked, saved, None)
    assert saved == asked


@pytest.mark.parametrize(("name", "fp16"), [("weight", False), ("running_mean", True)])
def test_weights_and_statistics_that_are_no_numbers_are_not_saved(name, fp16, tmp_path):
    trainer = DistilTrainer.__new__(DistilTrainer)
    trainer.model = torch.nn.BatchNorm1d(1)
    trainer.model.state_dict()[name].fill_(float("nan"))
    trainer.args = SimpleNamespace(output_dir=str(tmp_path), fp16=fp16, world_size=1)
    trainer.state = SimpleNamespace(global_step=3)
    words = "a weight or a statistic is not a number at step 3; train again with a smaller --learn"
    with pytest.raises(DataError, match=words) as raised:
        trainer._save_checkpoint(trainer.model, None)
    assert ("--dtype float32" in str(raised.value)) == fp16


def check_in_one_of_two(rank, folder):
    """BatchNorm's statistics are each process' own until they are checked."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    trainer = DistilTrainer.__new__(DistilTrainer)
    trainer.model = torch.nn.BatchNorm1d(1)
    trainer.model.running_mean.fill_(rank)
    trainer.args = SimpleNamespace(world_size=2)
    trainer.check_weights()
    (folder / str(rank)).write_text(str(float(trainer.model.running_mean)))
    torch.distributed.destroy_process_group()


def test_two_processes_test_and_save_the_statistics_of_the_first(tmp_path):
    torch.multiprocessing.spawn(check_in_one_of_two, (tmp_path,), nprocs=2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["0.0", "0.0"]


@pytest.mark.parametrize("keep", ["nothing", "half"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", STATE_FILE]
)
def test_a_checkpoint_of_which_a_file_is_cut_is_not_used(name, keep, tmp_path, caplog):
    good, bad = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == bad
    (bad / f".{name}.tmp").touch()  # of a killed process
    assert last_checkpoint(tmp_path) == bad
    content = (bad / name).read_bytes()
    (bad / name).write_bytes(content[: len(content) // 2 if keep == "half" else 0])
    assert last_checkpoint(tmp_path) == good
    assert "checkpoint-10: not whole, not used" in caplog.text


def test_a_checkpoint_that_the_disk_does_not_show_just_now_counts_as_neither_whole_nor_damaged(
    monkeypatch, tmp_path
):
    write_checkpoint(tmp_path, 9)

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(trainer_module, "_check_whole", stale)
    with pytest.raises(OSError, match="Stale"):
        checkpoints(tmp_path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", STATE_FILE]
)
def test_a_checkpoint_that_lacks_a_file_is_not_gone_on_from(name, tmp_path, caplog):
    good, bad = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    (bad / name).unlink()
    assert last_checkpoint(tmp_path) == good
    assert "checkpoint-10: " in caplog.text
    still_has_weights = name not in ("model.safetensors", STATE_FILE)  # for `average`
    assert [step for step, _ in checkpoints(tmp_path)] == [9, 10][: 1 + still_has_weights]


def test_a_checkpoint_is_on_disk_before_older_ones_go(monkeypatch, tmp_path):
    trainer = DistilTrainer.__new__(DistilTrainer)
    trainer.model, trainer.keep_checkpoints = torch.nn.Linear(1, 1), 2
    trainer.args = SimpleNamespace(output_dir=str(tmp_path), world_size=1, should_save=True)
    trainer.state = SimpleNamespace(global_step=10)
    for step in (7, 8, 9):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-7" / "optimizer.pt").write_bytes(b"")
    monkeypatch.setattr(
        Trainer, "_save_checkpoint", lambda self, model, trial: write_checkpoint(tmp_path, 10)
    )
    flushed = []

    def note(path):
        assert (tmp_path / "checkpoint-8").exists()
        flushed.append(path)

    monkeypatch.setattr(trainer_module, "flush", note)
    trainer._save_checkpoint(trainer.model, None)
    assert [step for step, _ in checkpoints(tmp_path)] == [9, 10]
    assert len(list(tmp_path.iterdir())) == 2
    new = tmp_path / "checkpoint-10"
    assert set(flushed) == {*new.iterdir(), new, tmp_path}


def test_a_step_without_text_does_not_count_in_the_mean_of_ctc(monkeypatch):
    trainer = DistilTrainer.__new__(DistilTrainer)
    trainer.args = SimpleNamespace(world_size=1)
    trainer._parts, trainer._num_steps = torch.zeros(2, 3)
    trainer.model = SimpleNamespace(weight=5.0, codebook_loss=object())
    trainer.accelerator = SimpleNamespace(
        reduce=lambda values, how: values, unwrap_model=lambda model: model
    )
    logged = []
    monkeypatch.setattr(Trainer, "log", lambda self, logs, start_time: logged.append(logs))
    text, none = torch.tensor([[3], [4]]), torch.full((2, 1), -100)
    ctc, codes = 4.0, 2.0
    for labels in (text, none, none, text):
        batch = {"parts": [{"labels": labels, "codes": text}]}
        trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        has_text = float(labels[0, 0] >= 0)
        trainer._parts += torch.tensor([ctc * has_text + codes, ctc * has_text, codes])
    trainer.log({"loss": float("nan")})
    (line,) = logged
    assert (line["loss"], line["ctc_loss"], line["codebook_loss"]) == (4.0, 4.0, 2.0)
    assert float(trainer._num_steps.sum()) == 0
    trainer.model.codebook_loss = None
    trainer.log({"loss": 1.0})
    assert logged[1].keys() == {"loss", "ctc_loss"}  # no codes that cost 0


def test_a_checkpoint_goes_before_the_test_of_its_step_and_knows_of_it(monkeypatch, tmp_path):
    """Or a signal that comes in a test, and waits for its end, would cost the steps before it."""
    from transformers.trainer_callback import CallbackHandler

    done = []
    trainer = DistilTrainer.__new__(DistilTrainer)
    trainer.model = trainer.model_wrapped = torch.nn.Linear(1, 1)
    trainer.args = SimpleNamespace(world_size=1, output_dir=str(tmp_path))
    (tmp_path / "checkpoint-3").mkdir()
    trainer.state = callbacks.TrainerState(global_step=3)
    trainer.on_test = lambda step, figures: None
    trainer.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    trainer.callback_handler = CallbackHandler([], trainer.model, None, None, None)
    trainer.control = callbacks.TrainerControl(should_save=True)
    trainer.test = lambda model: done.append("tested") or {"wer": 0.5}
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: True)
    monkeypatch.setattr(trainer, "log", lambda logs: done.append(logs) or history.append(logs))
    history = trainer.state.log_history
    monkeypatch.setattr(trainer, "_save_checkpoint", lambda model, trial: done.append("saved"))
    for _ in range(2):
        trainer.evaluate()
    assert done == ["saved", "tested", {"eval_wer": 0.5}, "tested", {"eval_wer": 0.5}]
    (state,) = (tmp_path / "checkpoint-3").iterdir()
    assert '"eval_wer": 0.5' in state.read_text()


def test_a_loss_that_was_no_number_once_is_one_again_in_the_next_line(monkeypatch):
    lines = []
    monkeypatch.setattr(trainer_module.Trainer, "log", lambda self, logs, start: lines.append(logs))
    trainer = DistilTrainer.__new__(DistilTrainer)
    trainer.accelerator = SimpleNamespace(
        reduce=lambda tensor, how: tensor, unwrap_model=lambda model: model
    )
    trainer.model = SimpleNamespace(weight=4.5, codebook_loss=object())
    trainer._parts, trainer._num_steps = torch.zeros(2, 3)
    for loss in (float("nan"), 6.0):
        trainer._parts += torch.tensor([loss, 1.0, 5.0])
        trainer._num_steps += 2
        trainer.log({"loss": float("nan"), "grad_norm": 1.0})
    parts = {"ctc_loss": 0.5, "codebook_loss": 2.5, "codebook_weight": 4.5}
    assert lines[1] == {"loss": 3.0, "grad_norm": 1.0, **parts}
    assert lines[0]["loss"] != lines[0]["loss"]


def test_a_signal_that_comes_while_processes_agree_counts_at_the_next_step(monkeypatch):
    stop = StopOnSignal({})
    args = SimpleNamespace(world_size=2, device=torch.device("cpu"))

    def all_reduce(tensor, op):  # no other process has had a signal
        if not stop.received:
            stop(signal.SIGTERM, None)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    stops = []
    for _ in range(2):
        control = callbacks.TrainerControl()
        stop.on_step_end(args, None, control)
        stops.append((control.should_training_stop, control.should_save))
    assert stops == [(False, False), (True, True)]


def test_a_signal_that_others_had_first_is_the_same_one(monkeypatch):
    ended = []
    stop = StopOnSignal({signal.SIGTERM: lambda number, frame: ended.append(number)})
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda tensor, op: tensor.fill_(signal.SIGTERM)
    )
    args = SimpleNamespace(world_size=2, device=torch.device("cpu"))
    stop.on_step_end(args, None, callbacks.TrainerControl())
    before = signal.signal(signal.SIGTERM, stop)
    try:
        signal.raise_signal(signal.SIGTERM)  # while the checkpoint is written
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (stop.received, ended) == (signal.SIGTERM, [])


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
    args = SimpleNamespace(output_dir="exp/student", fp16=scale is not None)
    state = SimpleNamespace(global_step=40)
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
        monkeypatch.setattr(callbacks, "SIGNALS_TOGETHER", 0.0)
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_line_tells_how_long_it_will_take(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    caplog.set_level("INFO")
    state = SimpleNamespace(global_step=20, max_steps=4000, is_world_process_zero=True)
    lines = callbacks.LogLines()
    control = SimpleNamespace(should_log=False)
    lines.on_log(None, state, control, {"loss": 3.0})
    lines.on_step_begin(None, state, control)
    for step, seconds in ((30, 130.0), (33, 161.0), (40, 180.0)):
        state.global_step, now[0] = step, seconds
        lines.on_step_begin(None, state, control)
        lines.on_step_end(None, state, control)
    now[0], control.should_log = 300.0, True  # a line comes anyway
    lines.on_step_end(None, state, control)
    now[0], state.global_step = 160.0, 40
    lines.on_log(None, state, None, {"loss": 2.0})
    lines.on_log(None, state, None, {"eval_wer": 0.5})
    assert [record.message for record in caplog.records] == [
        "step 20 of 4000: loss 3",
        "step 33 of 4000: 4.69 s a step, 5:10:14 left",
        "step 40 of 4000: loss 2, 3 s a step, 3:18:00 left",
        "step 40 of 4000: wer 0.5",
    ]
