"""Checkpoints that were saved in a wrapper, among other things, quantized, or for other audio."""

import json
from pathlib import Path

import pytest
import torch

from k2distil.errors import CheckpointError
from k2distil.teachers import build_teacher
from k2distil.teachers.pickle_file import load_pickle
from tests.teachers.tiny import (
    make_fairseq_hubert,
    make_hf_whisper,
    make_openai,
    make_wenet,
    to_bin,
)

HF = "huggingface-whisper"
WENET = "wenet-whisper"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize(
    ("make", "encoder_type", "within"),
    [
        (make_openai, HF, "model_state_dict"),
        (make_wenet, WENET, None),
        (lambda path: to_bin(make_hf_whisper(path)), HF, None),
        (make_fairseq_hubert, "hubert", "model"),
    ],
)
def test_a_model_that_was_saved_in_its_wrapper_is_the_same_teacher(
    tmp_path, make, encoder_type, within, prefix
):
    checkpoint = Path(make(tmp_path / "checkpoint"))
    file = checkpoint if checkpoint.is_file() else checkpoint / "pytorch_model.bin"
    digest = build_teacher(encoder_type, str(checkpoint)).digest
    content = load_pickle(file)
    own = content[within] if within else content
    tensors = {f"{prefix}{name}": each.clone() for name, each in own.items()}  # of a mapped file
    if within == "model":
        content = {"cfg": content["cfg"], "args": None}
    torch.save({**content, within: tensors} if within else tensors, file)
    assert build_teacher(encoder_type, str(checkpoint)).digest == digest


def test_a_wenet_model_among_other_things_is_found(tmp_path):
    content = {"epoch": 3, "state": torch.load(make_wenet(tmp_path / "wenet"))}
    torch.save(content, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"a WeNet model, but under 'state'; save it alone"):
        build_teacher(WENET, str(tmp_path / "more.pt"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_weights_are_refused(tmp_path, dtype):
    content = torch.load(make_openai(tmp_path / "openai.pt"))
    tensors = content["model_state_dict"]
    tensors["encoder.conv1.weight"] = tensors["encoder.conv1.weight"].to(dtype)
    torch.save(content, tmp_path / "quantized.pt")
    with pytest.raises(
        CheckpointError, match=rf"quantized weights \(conv1.weight is {dtype}, 1 in"
    ):
        build_teacher(HF, str(tmp_path / "quantized.pt"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("sampling_rate", 8000), ("hop_length", 80), ("n_fft", 512), ("feature_size", 128)],
)
def test_a_whisper_that_hears_something_else_is_refused(tmp_path, name, value):
    checkpoint = make_hf_whisper(tmp_path)
    Path(checkpoint, "preprocessor_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json has {name} {value}, "):
        build_teacher(HF, checkpoint)
