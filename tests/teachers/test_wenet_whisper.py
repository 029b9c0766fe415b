import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from k2distil.errors import CheckpointError, ConfigError
from k2distil.teachers import build_teacher
from k2distil.teachers.whisper_encoder import CONV1D2, CONV2D
from tests.teachers.oracles import difference
from tests.teachers.tiny import (
    DIMS,
    GOLDEN,
    audio_batch,
    batch_of,
    make_openai,
    make_wenet,
    wenet_config,
)

PARITY = 5e-6
AUDIO = audio_batch(16000, 16161)
OUTPUTS = [(-1, "none", "last"), (3, "none", "last")] + [
    (layer, norm, f"{name}{layer}_")
    for layer in (1, 2)
    for norm, name in (("none", "block"), ("final", "normed"))
]


@pytest.mark.parametrize(("layer", "norm", "name"), OUTPUTS)
@pytest.mark.parametrize("golden", ["wenet_conv1d2", "wenet_conv2d"])
def test_every_layer_equals_wenets_own_output(golden, layer, norm, name):
    expected = np.load(GOLDEN / golden / "outputs.npz")
    waves = [torch.from_numpy(expected[f"wave{n}"]) for n in range(4)]
    teacher = build_teacher(
        "wenet-whisper",
        str(GOLDEN / golden / "final.pt"),
        middle_layer=layer,
        middle_layer_norm=norm,
    )
    for n, (_key, frames) in enumerate(teacher.embed(batch_of(waves)).unpadded()):
        assert difference(frames, torch.from_numpy(expected[f"{name}{n}"])) < PARITY


def test_training_settings_do_not_matter(tmp_path):
    checkpoint = make_wenet(tmp_path)
    plain = wenet_config()
    plain["dtype"] = "fp32"
    for key in ("spec_aug", "spec_sub", "spec_trim", "speed_perturb"):
        plain["dataset_conf"][key] = False
    plain["encoder_conf"] |= {"gradient_checkpointing": False, "dropout_rate": 0.0}
    noisy = wenet_config()
    for key in ("spec_aug", "spec_sub", "spec_trim", "speed_perturb"):
        noisy["dataset_conf"][key] = True
    noisy["encoder_conf"] |= {
        "gradient_checkpointing": True,
        "dropout_rate": 0.5,
        "use_dynamic_chunk": True,
        "use_dynamic_left_chunk": True,
    }
    outputs = [
        build_teacher("wenet-whisper", checkpoint, wenet_config=config).embed(AUDIO).embedding
        for config in (plain, noisy, noisy, None)
    ]
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])


@pytest.mark.parametrize(
    ("conf", "padding", "zeros"),
    [({"pad_or_trim": True}, "30s", 480_000 - 16_000), ({"padding": 4800}, "4800 samples", 4800)],
)
def test_padding_is_what_the_yaml_says_unless_a_flag_says_otherwise(tmp_path, conf, padding, zeros):
    checkpoint = make_wenet(tmp_path)
    config = wenet_config()
    config["dataset_conf"]["log_mel_spectrogram_conf"] |= conf
    teacher = build_teacher("wenet-whisper", checkpoint, wenet_config=config)
    assert teacher.padding == padding
    assert teacher.max_samples == 480_000 - conf.get("padding", 0)
    frames = teacher.embed(audio_batch(16000)).embedding[0]
    by_hand = batch_of([torch.cat([audio_batch(16000).samples[0], torch.zeros(zeros)])])
    unpadded = build_teacher(
        "wenet-whisper", checkpoint, wenet_config=config, whisper_padding="none"
    )
    assert unpadded.padding == "none"
    assert difference(frames, unpadded.embed(by_hand).embedding[0, :50]) < PARITY
    # openai-whisper's file under a WeNet config is padded alike
    openai = build_teacher("wenet-whisper", make_openai(tmp_path / "o.pt"), wenet_config=config)
    assert (openai.padding, openai.digest) == (teacher.padding, teacher.digest)


@pytest.mark.parametrize(
    ("subsampling", "least"), [(CONV1D2, 320), (CONV2D, 1120)], ids=[CONV1D2, CONV2D]
)
def test_padding_that_leaves_no_room_for_audio_is_refused(tmp_path, subsampling, least):
    checkpoint = make_wenet(tmp_path, replace(DIMS, subsampling=subsampling))
    config = yaml.safe_load((tmp_path / "train.yaml").read_text())
    conf = config["dataset_conf"]["log_mel_spectrogram_conf"]
    conf["padding"] = 480_000 - least
    teacher = build_teacher("wenet-whisper", checkpoint, wenet_config=config)
    assert teacher.max_samples == least
    assert len(teacher.embed(audio_batch(least)).embedding[0]) == 1
    for padding in (480_000 - least + 1, 480_000, 10**6):
        conf["padding"] = padding
        with pytest.raises(ConfigError, match=rf"conf\.padding of the train\.yaml is {padding}: "):
            build_teacher("wenet-whisper", checkpoint, wenet_config=config)
    for padding in (-1, "much", 0.5, True):
        conf["padding"] = padding
        with pytest.raises(ConfigError, match=rf"conf\.padding is {padding}; expected samples"):
            build_teacher("wenet-whisper", checkpoint, wenet_config=config)


def test_conv2d_needs_no_input_dim(tmp_path):
    checkpoint = make_wenet(tmp_path, replace(DIMS, subsampling=CONV2D))
    config = yaml.safe_load((tmp_path / "train.yaml").read_text())
    del config["input_dim"]
    build_teacher("wenet-whisper", checkpoint, wenet_config=config)
    config["dataset_conf"]["log_mel_spectrogram_conf"]["num_mel_bins"] = 128
    with pytest.raises(CheckpointError, match=r"embed\.out\.0\.weight"):
        build_teacher("wenet-whisper", checkpoint, wenet_config=config)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("encoder_conf", {"attention_heads": 5}, "attention_heads is 5.* dimension 64"),
        ("encoder_conf", {"attention_heads": None}, "attention_heads is None"),
        ("encoder_conf", {"output_size": 512}, "output_size is 512, the weights have 64"),
        ("encoder_conf", {"num_blocks": 12}, "num_blocks is 12, the weights have 3"),
        ("encoder_conf", {"linear_units": 99}, "linear_units is 99, the weights have 256"),
        ("encoder_conf", {"input_layer": "conv2d"}, "input_layer is conv2d, the weights have con"),
        ("encoder_conf", {"activation_type": "relu"}, "activation_type is relu, only gelu"),
        ("encoder_conf", {"pos_enc_layer_type": "rel_pos"}, "only abs_pos_whisper is supported"),
        ("encoder_conf", {"static_chunk_size": 16}, "static_chunk_size is 16"),
        ("encoder_conf", {"static_chunk_size": "16"}, "static_chunk_size is 16"),
        ("encoder_conf", {"final_norm": False}, "final_norm is False, only True is supported"),
        ("dataset_conf", {"feats_type": "fbank"}, "feats_type is fbank"),
        ("dataset_conf", {"resample_conf": {"resample_rate": 8000}}, "resample_rate is 8000"),
        (None, {"encoder": "conformer"}, "encoder is conformer, only transformer"),
        (None, {"input_dim": 128}, "input_dim is 128, the weights have 80"),
    ],
)
def test_a_yaml_that_contradicts_the_weights_is_refused(tmp_path, section, change, message):
    checkpoint = make_wenet(tmp_path)
    config = wenet_config()
    (config[section] if section else config).update(change)
    with pytest.raises(ConfigError, match=message):
        build_teacher("wenet-whisper", checkpoint, wenet_config=config)


def test_train_yaml_is_looked_for_beside_the_checkpoint(tmp_path):
    checkpoint = make_wenet(tmp_path / "exp")
    assert build_teacher("wenet-whisper", checkpoint).num_layers == 3
    beside = tmp_path / "exp" / "train.yaml"
    beside.write_text(
        beside.read_text().replace("encoder_conf:\n", "encoder_conf:\n  norm_eps: 1e-5\n")
    )
    assert "norm_eps: 1e-5" in beside.read_text()
    assert build_teacher("wenet-whisper", checkpoint).num_layers == 3
    lonely = shutil.copy(checkpoint, tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path}/train.yaml: not found.*--config"):
        build_teacher("wenet-whisper", str(lonely))
    for text, fault in (("{", "not a yaml"), ("- a list", "expected"), ("a: 1\na: 2", "twice")):
        (tmp_path / "train.yaml").write_text(text)
        with pytest.raises(ConfigError, match=rf"train\.yaml: .*{fault}"):
            build_teacher("wenet-whisper", str(lonely))


def test_a_normalizing_encoder_is_refused(tmp_path):
    checkpoint = Path(make_wenet(tmp_path))
    tensors = torch.load(checkpoint, weights_only=True)
    torch.save(tensors | {"encoder.global_cmvn.mean": torch.zeros(80)}, checkpoint)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(global_cmvn\.mean\)"):
        build_teacher("wenet-whisper", str(checkpoint))


def test_another_wenet_encoder_is_refused(tmp_path):
    checkpoint = Path(make_wenet(tmp_path))
    tensors = torch.load(checkpoint, weights_only=True)
    del tensors["encoder.embed.pos_enc.pe"]
    torch.save(tensors, checkpoint)
    with pytest.raises(CheckpointError, match=r"no encoder\.embed\.pos_enc\.pe"):
        build_teacher("wenet-whisper", str(checkpoint))
