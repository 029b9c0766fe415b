"""An additive quantizer that the script trains corrects what it decodes, where that brings it."""

import json

import h5py
import pytest
import torch

from k2distil.quantizer import load_quantizer
from tests.quantizer.test_correction import curved_frames
from tests.scripts.conftest import succeed

SIZES = ["--quantizer_out_dim", 3, "--quantizer_codebook_size", 16]


def train(frames: torch.Tensor, folder, *flags):
    """The log of a training on an h5 of 100 utterances, as others write it."""
    with h5py.File(folder / "e.h5", "w") as file:
        for index, part in enumerate(frames.chunk(100)):
            file[f"utt{index:02}"] = part.numpy()
    flags = ["--embedding_path", folder / "e.h5", *SIZES, *flags]
    return succeed("train_quantizer_offline.sh", *flags, "--save_path", folder / "q.pt")


def test_frames_on_a_curved_sheet_gain_by_a_correction(tmp_path):
    log = train(curved_frames(150_000, seed=1), tmp_path, "--quantizer_type", "additive")
    figures = json.loads((tmp_path / "q.pt.summary.json").read_text())["held_out"]
    before = figures["error_by_num_codebooks"][-1]
    assert figures["relative_error"] < 0.75 * before
    told = f"a correction of decoded frames: error {figures['relative_error']:.3g}, {before:.3g}"
    assert f"{told} without it" in log
    assert "relative error of the first 1 to 3 codebooks, uncorrected: " in log

    quantizer, frames = load_quantizer(tmp_path / "q.pt"), curved_frames(2000, seed=2)
    codes = quantizer.encode(frames)
    errors = [(quantizer.decode(codes, each) - frames).square().sum() for each in (True, False)]
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize(("quantizer_type", "is_told"), [("additive", True), ("product", False)])
def test_what_brings_nothing_is_left_out(tmp_path, quantizer_type, is_told):
    noise = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    log = train(noise, tmp_path, "--quantizer_type", quantizer_type)
    assert ("no correction of decoded frames" in log) == is_told
    assert load_quantizer(tmp_path / "q.pt").correction is None
