"""A training's state: taken, gone on from, refused."""

import copy
import io

import pytest
import torch

from k2distil.errors import CheckpointError
from k2distil.quantizer import QuantizerTrainer
from tests.quantizer.conftest import batch


@pytest.mark.parametrize("stop", [0, 1, 40, 60, -1])
def test_a_resumed_training_ends_like_an_undisturbed_one(quantizer, frames, stop):
    def new_trainer():
        return QuantizerTrainer(quantizer.type, 16, 3, 16)

    first = new_trainer()
    for step in range(stop if stop >= 0 else first.num_steps - 1):
        first.step(batch(frames, step))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = new_trainer()
    second.load_state_dict(torch.load(file, weights_only=True))
    while not second.done:
        second.step(batch(frames, second.steps_done))
    assert torch.equal(second.quantizer.table, quantizer.table)
    assert second.quantizer.id == quantizer.id


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_a_state_does_not_change_as_training_goes_on(quantizer_type, frames):
    trainer = QuantizerTrainer(quantizer_type, 16, 3, 16, batch_size=100)
    schedule = trainer.schedule
    start = schedule.gather_steps if quantizer_type == "product" else schedule.start_of_additive
    while trainer.steps_done < start + 5:
        trainer.step(batch(frames, trainer.steps_done)[:100])
    assert not schedule.round_ends(trainer.steps_done)  # there are fresh sums
    state = trainer.state_dict()
    before = copy.deepcopy(state)
    for _ in range(schedule.product_steps + schedule.additive_steps):
        trainer.step(frames[512:612])
    for name in ("entries", "running", "fresh"):
        for key, tensor in before["rounds"][name].items():
            assert torch.equal(state["rounds"][name][key], tensor), f"{name} {key}"
    assert torch.equal(state["rounds"]["solved"], before["rounds"]["solved"])
    assert torch.equal(state["rotation"], before["rotation"])


@pytest.mark.parametrize("stop", [0, 3, 40])
def test_a_trainer_that_goes_back_to_a_state_forgets_what_came_after(frames, stop):
    trainer = QuantizerTrainer("additive", 16, 3, 16, batch_size=100)  # gathers in 6 steps
    while trainer.steps_done < stop:
        trainer.step(batch(frames, trainer.steps_done))
    state = copy.deepcopy(trainer.state_dict())
    while not trainer.done:
        trainer.step(batch(frames, trainer.steps_done))
    first = trainer.quantizer.id
    trainer.load_state_dict(state)
    assert trainer.steps_done == stop
    if stop < 6:
        with pytest.raises(RuntimeError, match="no quantizer before step 6"):
            _ = trainer.quantizer
    while not trainer.done:
        trainer.step(batch(frames, trainer.steps_done))
    assert trainer.quantizer.id == first


def test_a_state_of_other_settings_is_refused():
    state = QuantizerTrainer("product", 16, 3, 16).state_dict()
    with pytest.raises(CheckpointError, match="codebook_size 16, not 32"):
        QuantizerTrainer("product", 16, 3, 32).load_state_dict(state)


def test_a_state_of_another_version_is_refused():
    state = QuantizerTrainer("product", 16, 3, 16).state_dict()
    del state["rounds"]  # of before they were in one place
    state |= dict.fromkeys(("type", "settings", "entries", "solved", "running", "fresh"))
    with pytest.raises(CheckpointError, match=r"another version \(no rounds\)"):
        QuantizerTrainer("product", 16, 3, 16).load_state_dict(state)


def test_a_state_with_other_rounds_is_refused():
    state = QuantizerTrainer("additive", 16, 3, 16).state_dict()
    state["schedule"]["product_rounds"] -= 1
    with pytest.raises(CheckpointError, match=r"another version \(other rounds\)"):
        QuantizerTrainer("additive", 16, 3, 16).load_state_dict(state)


def test_a_state_of_another_kind_of_device_is_refused():
    state = QuantizerTrainer("product", 16, 3, 16).state_dict()
    state["config"]["device"] = "cuda"
    with pytest.raises(CheckpointError, match="device cuda, not cpu"):
        QuantizerTrainer("product", 16, 3, 16).load_state_dict(state)
