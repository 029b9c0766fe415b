"""Trainings of a quantizer that end as it is written, and what the next command finds."""

import json

import h5py
import numpy as np
import pytest
import torch

from k2distil.config import TrainQuantizerConfig
from k2distil.errors import DataError
from k2distil.pipeline import train_quantizer as pipeline
from k2distil.pipeline.train_quantizer import train_quantizer
from k2distil.quantizer import load_quantizer


class KilledError(BaseException):
    """Nothing catches it."""


def kill(*_args: object) -> None:
    raise KilledError


@pytest.fixture
def config(tmp_path):
    """Makes a config: a product quantizer of 20 utterances."""
    frames = np.random.default_rng(0).standard_normal((20, 60, 8)).astype("float32")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for index, each in enumerate(frames):
            file[f"utt{index:02}"] = each

    def make(**changes: object) -> TrainQuantizerConfig:
        options = {"quantizer_out_dim": 2, "quantizer_codebook_size": 16, **changes}
        paths = {"embedding_path": tmp_path / "e.h5", "save_path": tmp_path / "q.pt"}
        return TrainQuantizerConfig(gpu="cpu", **paths, **options)

    return make


def interrupted(config, name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, name, kill)
        with pytest.raises(KilledError):
            train_quantizer(config)


def test_what_describes_a_quantizer_is_of_the_one_that_is_there(config, tmp_path, monkeypatch):
    first = train_quantizer(config()).figures
    other = config(quantizer_codebook_size=8, force=True)
    interrupted(other, "evaluate", monkeypatch)
    assert "quantizer_codebook_size: 16" in (tmp_path / "q.pt.config.yaml").read_text()
    interrupted(other, "save_quantizer", monkeypatch)
    assert (
        json.loads((tmp_path / "q.pt.summary.json").read_text())["quantizer_id"]
        != (first["quantizer_id"])
    )
    again = train_quantizer(config()).figures
    assert again == json.loads((tmp_path / "q.pt.summary.json").read_text())
    for name in ("quantizer_id", "held_out", "fingerprint"):
        assert again[name] == first[name]


def test_the_state_of_a_finished_training_goes_and_that_of_another_stays(
    config, tmp_path, monkeypatch
):
    checkpoint = tmp_path / "q.pt.training.pt"
    often = {"checkpoint_seconds": 0.0}
    interrupted(config(**often), "evaluate", monkeypatch)
    unfinished = checkpoint.read_bytes()
    train_quantizer(config(**often))
    assert not checkpoint.exists()
    checkpoint.write_bytes(unfinished)
    train_quantizer(config())
    assert not checkpoint.exists()
    interrupted(config(**often, quantizer_codebook_size=8, force=True), "evaluate", monkeypatch)
    train_quantizer(config())
    assert checkpoint.exists()


def test_another_kind_of_device_does_not_go_on(config, tmp_path, monkeypatch, caplog):
    interrupted(config(checkpoint_seconds=0.0), "evaluate", monkeypatch)
    path = tmp_path / "q.pt.training.pt"
    state = torch.load(path, weights_only=True)
    state["state"]["config"]["device"] = "cuda"
    torch.save(state, path)
    with pytest.raises(DataError, match='device: "cuda" there, "cpu" now'):
        train_quantizer(config())
    caplog.set_level("INFO")
    train_quantizer(config(force=True))
    assert "resuming" not in caplog.text
    assert load_quantizer(tmp_path / "q.pt").figures["num_frames"] == 120


def test_a_state_of_before_starts_over(config, tmp_path, monkeypatch, caplog):
    interrupted(config(checkpoint_seconds=0.0), "evaluate", monkeypatch)
    path = tmp_path / "q.pt.training.pt"
    content = torch.load(path, weights_only=True)
    content["state"] |= content["state"].pop("rounds")  # they were beside the others
    torch.save(content, path)
    train_quantizer(config())
    assert "training from the start: the unfinished training is of another version" in caplog.text
    assert "no rounds" in caplog.text
    assert load_quantizer(tmp_path / "q.pt").figures["num_frames"] == 120
    assert not path.exists()


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
@pytest.mark.parametrize("key", ["utt01", "utt05"])  # held out, and of the training
def test_a_value_that_is_no_embeddings_is_found_in_its_file(config, tmp_path, quantizer_type, key):
    frames = np.random.default_rng(0).standard_normal((20, 60, 8)).astype("float32")
    frames[int(key[3:]), 7, 3] = -1e24
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for index, each in enumerate(frames):
            file[f"utt{index:02}"] = each
    message = rf"e\.h5\[{key}\], which reaches 1e\+24: a value of the .* frames is .*look at"
    sizes = {"quantizer_codebook_size": 4, "quantizer_batch_size": 32}
    with pytest.raises(DataError, match=message):
        train_quantizer(config(quantizer_type=quantizer_type, **sizes))
    assert not (tmp_path / "q.pt").exists()


def test_arrays_without_frames_do_not_count_among_every_ten(config, tmp_path):
    train_quantizer(config())
    whole = load_quantizer(tmp_path / "q.pt").id
    with h5py.File(tmp_path / "e.h5", "r+") as file:
        file["utt00a"] = file["utt03a"] = np.zeros((0, 8), "float32")
    train_quantizer(config(force=True))
    assert load_quantizer(tmp_path / "q.pt").id == whole


def test_one_frame_held_out_is_too_few(config, tmp_path):
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["a"] = np.random.default_rng(0).standard_normal((18, 8)).astype("float32")
    with pytest.raises(DataError, match=r"17 frames to train 16 .*, 1 held out"):
        train_quantizer(config())


def test_values_whose_squares_float32_lacks_are_measured_too(config, tmp_path):
    small = train_quantizer(config()).figures["held_out"]
    with h5py.File(tmp_path / "e.h5", "r+") as file:
        for key in list(file):
            file[key][:] = file[key][:] * np.float32(2.0**100)
    large = train_quantizer(config(force=True)).figures["held_out"]
    assert large["relative_error"] == pytest.approx(small["relative_error"], rel=0.05)
    assert large["probe_cross_entropy"] == pytest.approx(small["probe_cross_entropy"], rel=0.05)
