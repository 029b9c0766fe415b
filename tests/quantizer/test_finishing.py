"""What is done to a quantizer once it is trained."""

import pytest
import torch

from k2distil.quantizer import FrameReservoir, OutlierError, finish, num_correction_steps
from k2distil.quantizer.metrics import num_dead_codes
from tests.quantizer.conftest import trained
from tests.quantizer.test_correction import DIM, curved_frames


@pytest.fixture(scope="module")
def reservoir():
    frames = FrameReservoir(6000, DIM, seed=0)
    frames.add(curved_frames(6000, seed=2))
    return frames


def test_an_additive_one_has_its_entries_used_and_a_correction(reservoir):
    quantizer = trained(reservoir.frames, "additive", 4, 16)
    table = quantizer.table.clone()
    table[1, 2:5] = table[1, 2]  # of equals only the first is ever chosen
    spoilt = type(quantizer)(table, quantizer.mean, quantizer.scale, **quantizer.settings)
    assert num_dead_codes(spoilt.encode(reservoir.frames), 16) >= 2
    steps = []
    held_out = curved_frames(3000, seed=3)
    done = finish(spoilt, reservoir, held_out, seed=4, on_step=lambda: steps.append(1))
    assert num_dead_codes(done.encode(reservoir.frames), 16) == 0
    assert done.correction is not None
    assert len(steps) == num_correction_steps(6000)
    assert finish(spoilt, reservoir, held_out, seed=4).id == done.id


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
@pytest.mark.parametrize("which", ["training", "held-out"])
def test_values_that_are_no_embeddings_are_refused(quantizer_type, which, reservoir):
    quantizer = trained(reservoir.frames, quantizer_type, 2, 4)
    broken = curved_frames(5000, seed=3)
    broken[4999, 0] = -1e25
    frames = FrameReservoir(6000, DIM, seed=0)
    frames.add(broken if which == "training" else broken[:4999])
    held_out = broken if which == "held-out" else broken[:4999]
    with pytest.raises(OutlierError, match=f"a value of the {which} frames .*look at the audio"):
        finish(quantizer, frames, held_out)


def test_a_product_one_stays_as_it_is(reservoir):
    quantizer = trained(reservoir.frames, "product", 4, 16)
    before = quantizer.id
    assert finish(quantizer, reservoir, torch.zeros(1, DIM)) is quantizer
    assert quantizer.id == before
