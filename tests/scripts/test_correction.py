"""An additive quantizer that the script trains corrects what it decodes, where that brings it."""

import json
import re
import signal

import h5py
import pytest
import torch

from k2distil.quantizer import load_quantizer
from tests.quantizer.test_correction import curved_frames
from tests.scripts.conftest import ROOT, interrupt, run, succeed

SIZES = ["--quantizer_out_dim", 3, "--quantizer_codebook_size", 16]


def write(frames: torch.Tensor, folder):
    """An h5 of 100 utterances, as others write it."""
    with h5py.File(folder / "e.h5", "w") as file:
        for index, part in enumerate(frames.chunk(100)):
            file[f"utt{index:02}"] = part.numpy()


def command(folder, *flags):
    """A training on it."""
    paths = ["--embedding_path", folder / "e.h5", "--gpu", "cpu"]
    return ["train_quantizer_offline.sh", *paths, *SIZES, *flags]


def train(frames: torch.Tensor, folder, *flags):
    """Its log."""
    write(frames, folder)
    return succeed(*command(folder, *flags, "--save_path", folder / "q.pt"))


def test_frames_on_a_curved_sheet_gain_by_a_correction(tmp_path):
    log = train(curved_frames(150_000, seed=1), tmp_path, "--quantizer_type", "additive")
    figures = json.loads((tmp_path / "q.pt.summary.json").read_text())["held_out"]
    before = figures["error_by_num_codebooks"][-1]
    assert figures["relative_error"] < 0.75 * before
    assert f"without its correction of decoded frames: relative error {before:.3g}\n" in log
    assert "relative error of the first 1 to 3 codebooks, uncorrected: " in log

    quantizer, frames = load_quantizer(tmp_path / "q.pt"), curved_frames(2000, seed=2)
    codes = quantizer.encode(frames)
    errors = [(quantizer.decode(codes, each) - frames).square().sum() for each in (True, False)]
    assert errors[0] < 0.75 * errors[1]


def test_a_training_that_ends_while_it_learns_a_correction_goes_on_from_there(tmp_path):
    flags = ["--quantizer_type", "additive", "--checkpoint_seconds", 1000]
    write(curved_frames(50_000, seed=1), tmp_path)
    whole = succeed(*command(tmp_path, *flags, "--save_path", tmp_path / "whole.pt"))
    assert "without its correction" in whole

    checkpoint = tmp_path / "q.pt.training.pt"  # written as the training ends, before it learns
    script, *rest = command(tmp_path, *flags, "--save_path", tmp_path / "q.pt")
    status, _ = interrupt([str(ROOT / script), *map(str, rest)], checkpoint.exists, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not (tmp_path / "q.pt").exists()
    log = succeed(script, *rest)
    num_steps = re.search(r"resuming at step (\d+) of (\d+)", log)
    assert num_steps[1] == num_steps[2]
    assert not checkpoint.exists()
    one, other = (load_quantizer(tmp_path / name) for name in ("whole.pt", "q.pt"))
    assert one.id == other.id
    for name, tensor in one.correction.state_dict().items():
        assert torch.equal(other.correction.state_dict()[name], tensor)


@pytest.mark.parametrize(("quantizer_type", "is_told"), [("additive", True), ("product", False)])
def test_what_brings_nothing_is_left_out(tmp_path, quantizer_type, is_told):
    noise = torch.randn(6000, 16, generator=torch.Generator().manual_seed(0))
    log = train(noise, tmp_path, "--quantizer_type", quantizer_type)
    assert ("no correction of decoded frames" in log) == is_told
    assert load_quantizer(tmp_path / "q.pt").correction is None


def test_a_file_that_is_none_of_ours_is_told_with_what_helps(tmp_path):
    frames = torch.randn(6000, 16, generator=torch.Generator().manual_seed(0))
    foreign = tmp_path / "q.pt.training.pt"
    torch.save({"a": 1}, foreign)
    log = train(frames, tmp_path)
    assert f"{foreign}: damaged, training from the start: KeyError" in log
    (tmp_path / "q.pt").write_bytes((tmp_path / "q.pt").read_bytes()[:3000])
    script, *rest = command(tmp_path, "--save_path", tmp_path / "q.pt", "--force")
    done = run(script, *rest)
    assert done.returncode == 2
    assert "a damaged one" in done.stderr
    assert "remove it, or give another --save_path" in done.stderr
