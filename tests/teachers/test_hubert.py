import argparse
import functools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from k2distil.errors import CheckpointError, ConfigError
from k2distil.teachers import build_teacher, hubert_convolutions, packed_linear
from tests.teachers.oracles import difference, embed_alone, hubert_blocks, wave_of
from tests.teachers.tiny import (
    audio_batch,
    fairseq_tensors,
    make_fairseq_hubert,
    make_hf_hubert,
    to_bin,
    with_config,
)

PARITY = 1e-5  # of values up to 7; transformers' are as far from float64 themselves
BATCHING = 1e-5
AUDIO = audio_batch(16000, 16161, 40123, 8003)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hubert")


@pytest.mark.parametrize("do_normalize", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_every_layer_equals_transformers(folder, norm, do_normalize):
    check_every_layer(
        "hubert", make_hf_hubert(folder / f"{norm}{do_normalize}", norm, do_normalize)
    )


def check_every_layer(encoder_type, checkpoint):
    """Of a teacher of 3 layers; exact, since two float32 computations differ by both roundings."""
    theirs = [hubert_blocks(checkpoint, wave_of(AUDIO, row), torch.float64) for row in range(4)]
    for layer in (1, 2, 3, -1):
        teacher = build_teacher(encoder_type, checkpoint, middle_layer=layer)
        ours = dict(teacher.embed(AUDIO).unpadded())
        for row, key in enumerate(AUDIO.keys):
            assert difference(ours[key], theirs[row][teacher.layer - 1]) < PARITY


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_a_fairseq_checkpoint_of_before_torch_1_6_is_the_same(folder, fine_tuned, monkeypatch):
    new = make_fairseq_hubert(folder / f"new{fine_tuned}.pt", fine_tuned=fine_tuned)
    save = functools.partial(torch.save, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch, "save", save)
    old = make_fairseq_hubert(folder / f"old{fine_tuned}.pt", fine_tuned=fine_tuned)
    assert not zipfile.is_zipfile(old)
    assert build_teacher("hubert", old).digest == build_teacher("hubert", new).digest


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_float32_costs_no_more_than_in_transformers(folder, norm):
    checkpoint = make_hf_hubert(folder / f"exact{norm}", norm)
    teacher = build_teacher("hubert", checkpoint)
    of_ours, of_theirs = [], []
    for row in range(len(AUDIO.keys)):
        exact = hubert_blocks(checkpoint, wave_of(AUDIO, row), torch.float64)[-1]
        of_ours.append(embed_alone(teacher, AUDIO, row) - exact)
        of_theirs.append(hubert_blocks(checkpoint, wave_of(AUDIO, row))[-1] - exact)
    ours, theirs = (torch.cat(each).square().mean().sqrt() for each in (of_ours, of_theirs))
    assert 0 < ours < 1.1 * theirs < 5e-6


@pytest.mark.parametrize("layer", [1, -1])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_batched_equals_single(folder, norm, layer):
    teacher = build_teacher("hubert", make_hf_hubert(folder / norm, norm), middle_layer=layer)
    out = teacher.embed(AUDIO)
    assert out.num_frames.tolist() == [49, 50, 125, 24]
    for row, (_key, frames) in enumerate(out.unpadded()):
        assert difference(frames, embed_alone(teacher, AUDIO, row)) < BATCHING
        assert not out.embedding[row, len(frames) :].any()


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_batch_norm_before_the_positions_sees_no_padding(folder, norm):
    checkpoint = make_hf_hubert(folder / f"bn{norm}", norm, position_norm=True)
    teacher = build_teacher("hubert", checkpoint)
    for row, (_key, frames) in enumerate(teacher.embed(AUDIO).unpadded()):
        assert difference(frames, embed_alone(teacher, AUDIO, row)) < BATCHING
        assert difference(frames, hubert_blocks(checkpoint, wave_of(AUDIO, row))[-1]) < PARITY


@pytest.mark.parametrize("fine_tuned", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_fairseq_checkpoint_is_the_same_teacher(folder, norm, fine_tuned):
    hf = build_teacher("hubert", make_hf_hubert(folder / norm, norm))
    path = folder / f"{norm}{fine_tuned}.pt"
    fairseq = build_teacher("hubert", make_fairseq_hubert(path, norm, fine_tuned))
    assert fairseq.digest == hf.digest
    assert difference(fairseq.embed(AUDIO).embedding, hf.embed(AUDIO).embedding) == 0


def test_a_fine_tuned_folder_is_the_same_teacher(folder):
    checkpoint = make_hf_hubert(folder / "plain")
    plain = build_teacher("hubert", checkpoint)
    to_bin(checkpoint)
    path = Path(checkpoint, "pytorch_model.bin")
    tensors = torch.load(path, weights_only=True)
    ctc = {f"hubert.{name}": tensor for name, tensor in tensors.items()}
    ctc |= {"lm_head.weight": torch.zeros(9, 32), "lm_head.bias": torch.zeros(9)}
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):  # as saved long ago
        prefix = "hubert.encoder.pos_conv_embed.conv."
        ctc[prefix + old] = ctc.pop(f"{prefix}parametrizations.weight.{new}")
    torch.save(ctc, path)
    assert build_teacher("hubert", checkpoint).digest == plain.digest


def test_the_final_norm_after_a_middle_block(folder):
    checkpoint = make_hf_hubert(folder / "layer", "layer")
    raw = build_teacher("hubert", checkpoint, middle_layer=2)
    normed = build_teacher("hubert", checkpoint, middle_layer=2, middle_layer_norm="final")
    norm = build_teacher("hubert", checkpoint).encoder._exact.encoder.layer_norm
    expected = norm(embed_alone(raw, AUDIO, 0).clone())
    assert difference(embed_alone(normed, AUDIO, 0), expected) < PARITY
    with pytest.raises(ConfigError, match="no norm after its last block"):
        build_teacher(
            "hubert",
            make_hf_hubert(folder / "group"),
            middle_layer=2,
            middle_layer_norm="final",
        )


def test_do_normalize_is_never_guessed(folder):
    checkpoint = make_hf_hubert(folder / "unsaid")
    Path(checkpoint, "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="--do_normalize true"):
        build_teacher("hubert", checkpoint)
    given = build_teacher("hubert", checkpoint, do_normalize=True)
    assert build_teacher("hubert", checkpoint, do_normalize=False).digest != given.digest
    processor = {"feature_extractor": {"do_normalize": True}}  # how transformers 5 saves it
    Path(checkpoint, "processor_config.json").write_text(json.dumps(processor))
    half = {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}
    Path(checkpoint, "preprocessor_config.json").write_text(json.dumps(half))
    saved = build_teacher("hubert", checkpoint)
    assert difference(given.embed(AUDIO).embedding, saved.embed(AUDIO).embedding) == 0
    with pytest.raises(ConfigError, match=r"--do_normalize false: .* says true"):
        build_teacher("hubert", checkpoint, do_normalize=False)


def test_other_convolutions_are_refused(folder):
    checkpoint = make_hf_hubert(folder / "conv")
    path = Path(checkpoint, "config.json")
    config = json.loads(path.read_text()) | {"conv_stride": [5, 2, 2, 2, 2, 2, 4]}
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="only HuBERT's own"):
        build_teacher("hubert", checkpoint)
    path.write_text(json.dumps(config | {"conv_stride": [5]}))
    with pytest.raises(CheckpointError, match=r"config\.json is no HubertConfig"):
        build_teacher("hubert", checkpoint)


def test_a_fairseq_checkpoint_of_an_old_version_has_args(folder):
    args = argparse.Namespace(encoder_attention_heads=4, layer_norm_first=False, normalize=False)
    path = folder / "args.pt"
    torch.save({"args": args, "model": fairseq_tensors("group")}, path)
    hf = build_teacher("hubert", make_hf_hubert(folder / "group"))
    assert build_teacher("hubert", str(path)).digest == hf.digest


def test_a_fairseq_checkpoint_must_say_its_head_count(folder):
    path = folder / "no_heads.pt"
    torch.save({"args": None, "cfg": {}, "model": fairseq_tensors("group")}, path)
    with pytest.raises(CheckpointError, match="encoder_attention_heads, layer_norm_first"):
        build_teacher("hubert", str(path))


@pytest.mark.parametrize("lost", ["post_extract_proj.weight", "encoder.layers.1.fc2.bias"])
def test_a_fairseq_checkpoint_with_a_missing_tensor_is_refused(folder, lost):
    tensors = fairseq_tensors("group")
    del tensors[lost]
    cfg = {"encoder_attention_heads": 4, "layer_norm_first": False, "normalize": False}
    torch.save({"cfg": cfg, "model": tensors}, folder / "lost.pt")
    with pytest.raises(CheckpointError, match=lost):
        build_teacher("hubert", str(folder / "lost.pt"))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_convolutions_in_pieces_equal_transformers(folder, norm, packed, monkeypatch):
    if not packed:
        monkeypatch.setattr(packed_linear, "_can_pack", lambda: False)
    monkeypatch.setattr(hubert_convolutions, "CPU_PIECE", 7)
    checkpoint = make_hf_hubert(folder / f"pieces{norm}{packed}", norm)
    theirs = hubert_blocks(checkpoint, wave_of(AUDIO, 2))
    ours = embed_alone(build_teacher("hubert", checkpoint), AUDIO, 2)
    assert difference(ours, theirs[-1]) < PARITY


@pytest.mark.parametrize(
    "change",
    [
        {"do_stable_layer_norm": True},
        {"feat_extract_activation": "relu"},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 1e-2},
    ],
)
def test_what_no_tensor_shows_is_in_the_digest(folder, change):
    checkpoint = make_hf_hubert(folder / "digest")
    teacher = build_teacher("hubert", checkpoint)
    other = build_teacher("hubert", with_config(checkpoint, **change))
    assert difference(embed_alone(other, AUDIO, 0), embed_alone(teacher, AUDIO, 0)) > 1e-4
    assert other.digest != teacher.digest


def test_a_model_of_another_sample_rate_is_refused(folder):
    checkpoint = make_hf_hubert(folder / "narrow")
    path = Path(checkpoint, "preprocessor_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling_rate": 8000}))
    with pytest.raises(CheckpointError, match="trained on audio of 8000 Hz"):
        build_teacher("hubert", checkpoint)


def test_a_fairseq_checkpoint_that_contradicts_itself_is_asked_about(folder):
    settings = {"encoder_attention_heads": 4, "layer_norm_first": False}
    cfg = {"model": {"w2v_args": {"normalize": True}, **settings}, "task": {"normalize": False}}
    path = folder / "contradiction.pt"
    torch.save({"cfg": cfg, "model": fairseq_tensors("group")}, path)
    with pytest.raises(ConfigError, match="--do_normalize true"):
        build_teacher("hubert", str(path))
    assert build_teacher("hubert", str(path), do_normalize=True).num_layers == 3


@pytest.mark.parametrize(
    ("where", "setting", "message"),
    [
        ("task", {"sample_rate": 8000}, "trained on audio of 8000 Hz"),
        (
            "model",
            {"conv_feature_layers": "[(512,10,5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,1)]"},
            r"stride \[5, 2, 2, 2, 2, 2, 1\]; only HuBERT's own",
        ),
    ],
)
def test_a_fairseq_checkpoint_of_other_frames_is_refused(folder, where, setting, message):
    cfg = fairseq_settings()
    cfg[where] |= setting
    torch.save({"cfg": cfg, "model": fairseq_tensors("group")}, folder / "frames.pt")
    with pytest.raises(CheckpointError, match=message):
        build_teacher("hubert", str(folder / "frames.pt"))


def test_a_fairseq_checkpoint_says_its_activation(folder):
    checkpoint = make_hf_hubert(folder / "relu")
    cfg = fairseq_settings()
    cfg["model"] |= {
        "activation_fn": "relu",
        "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    }
    torch.save({"cfg": cfg, "model": fairseq_tensors("group")}, folder / "relu.pt")
    teacher = build_teacher("hubert", str(folder / "relu.pt"))
    assert teacher.digest != build_teacher("hubert", checkpoint).digest
    with_config(checkpoint, hidden_act="relu")
    assert teacher.digest == build_teacher("hubert", checkpoint).digest


def test_a_fairseq_checkpoint_may_hold_numpys_figures_and_paths(folder):
    others = {"best_loss": np.float64(3.2), "curve": np.arange(3), "from": Path("a")}
    path = folder / "figures.pt"
    torch.save(
        {"cfg": fairseq_settings(), "model": fairseq_tensors("group"), "extra_state": others}, path
    )
    hf = build_teacher("hubert", make_hf_hubert(folder / "group"))
    assert build_teacher("hubert", str(path)).digest == hf.digest


def fairseq_settings() -> dict[str, dict[str, object]]:
    return {
        "model": {"encoder_attention_heads": 4, "layer_norm_first": False},
        "task": {"normalize": False, "sample_rate": 16000},
    }


def test_a_wav2vec2_of_fairseq_is_told_as_such(folder):
    path = folder / "w2v.pt"
    tensors = fairseq_tensors("group") | {"quantizer.vars": torch.zeros(1, 4, 8)}
    torch.save({"cfg": {}, "model": tensors}, path)
    for encoder_type in ("hubert", "wav2vec2"):
        with pytest.raises(CheckpointError, match="a wav2vec2 as fairseq gives it"):
            build_teacher(encoder_type, str(path))
