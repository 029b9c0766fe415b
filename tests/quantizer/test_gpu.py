"""On a CUDA device: the same codes, as good a quantizer, and a training that resumes."""

import io

import pytest
import torch

from k2distil.errors import CheckpointError
from k2distil.quantizer import (
    AdditiveQuantizer,
    QuantizerTrainer,
)
from k2distil.quantizer.metrics import relative_error
from k2distil.quantizer.training.correction_training import add_correction
from tests.quantizer.conftest import batch, power_law_frames, trained
from tests.quantizer.test_correction import curved_frames

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_gpu(quantizer_type, frames, steps=None, state=None):
    """A trainer on the GPU after so many steps (None: all), of a state where one is given."""
    trainer = QuantizerTrainer(quantizer_type, frames.shape[1], 3, 16, device="cuda")
    if state is not None:
        trainer.load_state_dict(state)
    while not trainer.done and trainer.steps_done != steps:
        trainer.step(batch(frames, trainer.steps_done))
    return trainer


def through_a_file(state, map_location):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location=map_location, weights_only=True)


def test_codes_are_those_of_the_cpu(quantizer, frames):
    on_cpu = quantizer.encode(frames)
    codes = type(quantizer)(**quantizer.entries()).to("cuda").encode(frames.cuda())
    assert codes.device.type == "cuda"
    codes = codes.cpu()
    assert (codes == on_cpu).float().mean() > 0.999  # a tie may fall either way
    ours, theirs = (
        relative_error(quantizer, codes, frames),
        relative_error(quantizer, on_cpu, frames),
    )
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_training_is_as_good_as_on_the_cpu(quantizer_type):
    frames = power_law_frames(6000, 32)
    train, held_out = frames[:5000], frames[5000:]
    theirs = trained(train, quantizer_type, 3, 16)
    ours = on_gpu(quantizer_type, train).quantizer.cpu()
    errors = [relative_error(q, q.encode(held_out), held_out) for q in (ours, theirs)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


@pytest.mark.parametrize("map_location", ["cpu", "cuda"])
@pytest.mark.parametrize("stop", [0, 1, 40, 60])
@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_a_resumed_training_ends_like_an_undisturbed_one(
    quantizer_type, stop, map_location, frames
):
    undisturbed = on_gpu(quantizer_type, frames)
    state = through_a_file(on_gpu(quantizer_type, frames, steps=stop).state_dict(), map_location)
    resumed = on_gpu(quantizer_type, frames, state=state)
    assert resumed.steps_done == undisturbed.steps_done
    errors = [
        relative_error(q, q.encode(frames.cuda()), frames.cuda())
        for q in (resumed.quantizer, undisturbed.quantizer)
    ]
    # Sums on a GPU are added in any order, so the bits may differ.
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_a_correction_learnt_on_the_gpu_is_as_good_as_on_the_cpu():
    frames, held_out = curved_frames(20_000, seed=1), curved_frames(2000, seed=2)
    on_cpu = trained(frames, "additive", 3, 16)
    codes, errors = on_cpu.encode(held_out), []
    for device in ("cpu", "cuda"):
        quantizer = AdditiveQuantizer(**on_cpu.entries()).to(device)
        add_correction(quantizer, frames, held_out)
        assert quantizer.correction is not None
        assert quantizer.correction.inner.weight.device.type == device
        errors.append(relative_error(quantizer, codes, held_out))
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
    assert errors[1] < relative_error(on_cpu, codes, held_out)


def test_a_state_of_the_cpu_is_refused(frames):
    state = QuantizerTrainer("product", 16, 3, 16).state_dict()
    with pytest.raises(CheckpointError, match="device cpu, not cuda"):
        on_gpu("product", frames, state=state)
