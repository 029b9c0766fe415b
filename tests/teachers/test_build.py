import functools
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from k2distil.errors import CheckpointError, ConfigError, DataError
from k2distil.teachers import build_teacher
from k2distil.teachers.whisper_encoder import CONV2D
from tests.teachers.oracles import difference
from tests.teachers.tiny import (
    DIMS,
    audio_batch,
    batch_of,
    make_fairseq_hubert,
    make_hf_hubert,
    make_hf_whisper,
    make_openai,
    make_wenet,
    to_bin,
    with_config,
)

HF = "huggingface-whisper"
WENET = "wenet-whisper"
AUDIO = audio_batch(16000, 16161)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One checkpoint of every format."""
    folder = tmp_path_factory.mktemp("made")
    return {
        "openai": make_openai(folder / "openai.pt"),
        "wenet": make_wenet(folder / "wenet"),
        "conv2d": make_wenet(folder / "conv2d", replace(DIMS, subsampling=CONV2D)),
        "hf": make_hf_whisper(folder / "hf"),
        "hubert": make_hf_hubert(folder / "hubert"),
        "fairseq": make_fairseq_hubert(folder / "fairseq.pt"),
    }


def test_the_same_weights_have_the_same_digest_in_every_format(made, tmp_path):
    shards = make_hf_whisper(tmp_path / "shards", max_shard_size="100KB")
    assert len(list(Path(shards).glob("model-*.safetensors"))) > 2
    teachers = [
        build_teacher(WENET, made["openai"]),
        build_teacher(HF, made["openai"]),
        build_teacher(WENET, made["wenet"]),
        build_teacher(HF, made["hf"]),
        build_teacher(HF, shards),
        build_teacher(HF, to_bin(make_hf_whisper(tmp_path / "bin"))),
        build_teacher(HF, to_bin(make_hf_whisper(tmp_path / "bins"), num_shards=3)),
    ]
    assert len({teacher.digest for teacher in teachers}) == 1
    first = teachers[0].embed(AUDIO).embedding
    for teacher in teachers:
        assert torch.equal(teacher.embed(AUDIO).embedding, first)
    other = build_teacher(WENET, make_openai(tmp_path / "other.pt", seed=1))
    assert other.digest != teachers[0].digest
    content = torch.load(made["openai"])
    content["dims"]["n_audio_head"] //= 2
    torch.save(content, tmp_path / "heads.pt")
    assert build_teacher(WENET, str(tmp_path / "heads.pt")).digest != teachers[0].digest
    assert build_teacher(HF, made["hf"], middle_layer=1).digest == teachers[0].digest


@pytest.mark.parametrize("family", ["openai", "hf", "hubert"])
def test_a_float16_checkpoint_is_computed_in_float32(tmp_path, family):
    make, encoder_type = {
        "openai": (make_openai, HF),
        "hf": (make_hf_whisper, HF),
        "hubert": (make_hf_hubert, "hubert"),
    }[family]
    half = build_teacher(encoder_type, make(tmp_path / "half", dtype=torch.float16))
    exact = build_teacher(encoder_type, make(tmp_path / "exact"))
    assert {p.dtype for p in half.encoder._exact.parameters()} == {torch.float32}
    error = difference(half.embed(AUDIO).embedding, exact.embed(AUDIO).embedding)
    assert 0 < error < 0.02  # the weights were rounded, nothing else


@pytest.mark.parametrize(
    ("given", "encoder_type", "fits"),
    [
        ("openai", "hubert", "wenet-whisper or huggingface-whisper"),
        ("wenet", HF, "wenet-whisper"),
        ("wenet", "hubert", "wenet-whisper"),
        ("hf", WENET, "huggingface-whisper"),
        ("hf", "hubert", "huggingface-whisper"),
        ("hubert", HF, "hubert"),
        ("hubert", WENET, "hubert"),
        ("fairseq", WENET, "hubert"),
    ],
)
def test_a_checkpoint_of_another_family_is_told_what_fits(made, given, encoder_type, fits):
    with pytest.raises(CheckpointError) as caught:
        build_teacher(encoder_type, made[given])
    assert str(caught.value).startswith(made[given])
    assert str(caught.value).endswith(f"use --encoder_type {fits}")


@pytest.mark.parametrize("middle_layer", [0, -2, 4])
@pytest.mark.parametrize("given", ["openai", "hubert"])
def test_a_layer_that_is_not_there_is_refused(made, given, middle_layer):
    encoder_type = "hubert" if given == "hubert" else HF
    with pytest.raises(ConfigError, match=f"--middle_layer {middle_layer}: .* has 3 layers"):
        build_teacher(encoder_type, made[given], middle_layer=middle_layer)


@pytest.mark.parametrize("given", ["openai", "conv2d", "hubert"])
def test_the_last_layer_by_number_is_the_last_layer(made, given):
    encoder_type = "hubert" if given == "hubert" else WENET
    last = build_teacher(encoder_type, made[given])
    third = build_teacher(encoder_type, made[given], middle_layer=3)
    assert (third.layer, third.digest) == (last.layer, last.digest) == (3, last.digest)
    assert torch.equal(third.embed(AUDIO).embedding, last.embed(AUDIO).embedding)


@pytest.mark.parametrize(
    ("given", "frames"),
    [
        ("openai", {200: None, 201: 1, 399: 1, 400: 1, 480_000: 1500, 480_001: None}),
        ("conv2d", {1119: None, 1120: 1, 480_000: 749, 480_001: None}),
        ("hubert", {200: None, 399: None, 400: 1, 719: 1, 720: 2, 480_000: 1499, 480_001: 1499}),
    ],
)
def test_frames_at_the_limits_of_length(made, given, frames):
    teacher = build_teacher("hubert" if given == "hubert" else WENET, made[given])
    for num_samples, expected in frames.items():
        batch = audio_batch(num_samples)
        if expected is None:
            with pytest.raises(DataError, match=r"a: .* s of audio is too (short|long)"):
                teacher.embed(batch)
            longest = teacher.max_samples or num_samples
            assert not teacher.min_samples <= num_samples <= longest
        else:
            assert teacher.num_frames(num_samples) == expected
            assert teacher.embed(batch).embedding.shape == (1, expected, teacher.dim)


def test_too_little_audio_has_no_frames(made):
    assert build_teacher(WENET, made["conv2d"]).num_frames(100) == 0
    assert build_teacher("hubert", made["hubert"]).num_frames(100) == 0


def test_nan_stays_in_its_own_utterance(made):
    for encoder_type, given in ((WENET, "openai"), (WENET, "conv2d"), ("hubert", "hubert")):
        teacher = build_teacher(encoder_type, made[given])
        good, bad = AUDIO.samples[0, :16000], torch.full((9000,), torch.nan)
        out = dict(teacher.embed(batch_of([good, bad])).unpadded())
        assert difference(out["a"], teacher.embed(batch_of([good])).embedding[0]) < 1e-5
        assert not out["b"].isfinite().any()


@pytest.mark.parametrize("given", ["openai", "wenet", "hf", "hubert"])
def test_missing_and_unexpected_tensors_are_named(made, tmp_path, given):
    """transformers would fill what is missing with random numbers and go on."""
    encoder_type, make, block = {
        "openai": (HF, lambda p: make_openai(p / "o.pt"), "encoder.blocks.1.mlp.0.weight"),
        "wenet": (WENET, make_wenet, "encoder.encoders.1.feed_forward.w_1.weight"),
        "hf": (HF, lambda p: to_bin(make_hf_whisper(p)), "model.encoder.layers.1.fc1.weight"),
        "hubert": (
            "hubert",
            lambda p: to_bin(make_hf_hubert(p)),
            "encoder.layers.1.feed_forward.intermediate_dense.weight",
        ),
    }[given]
    checkpoint = make(tmp_path)
    path = Path(checkpoint, "pytorch_model.bin") if Path(checkpoint).is_dir() else Path(checkpoint)
    content = torch.load(path, weights_only=True)
    tensors = content.get("model_state_dict", content)
    weight = tensors.pop(block)
    tensors[block.replace("1", "1.extra", 1)] = weight
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="1 missing") as caught:
        build_teacher(encoder_type, checkpoint)
    named = block.removeprefix("model.").removeprefix("encoder.")
    assert named in str(caught.value)
    assert "1 unexpected" in str(caught.value)
    assert "extra" in str(caught.value)
    del tensors[block.replace("1", "1.extra", 1)]
    tensors[block] = weight[:-1]
    torch.save(content, path)
    with pytest.raises((CheckpointError, ConfigError), match="wrong shape"):
        build_teacher(encoder_type, checkpoint)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"dims": {}, "model_state_dict": Evil()}, tmp_path / "evil.pt")
    old = functools.partial(torch.save, _use_new_zipfile_serialization=False)
    old({"dims": {}, "model_state_dict": Evil()}, tmp_path / "old.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    folder = to_bin(make_hf_whisper(tmp_path / "hf"))
    torch.save({"model.encoder.conv1.weight": Evil()}, Path(folder, "pytorch_model.bin"))
    files = [str(tmp_path / name) for name in ("evil.pt", "old.pt", "raw.pt")]
    for checkpoint in (*files, folder):
        with pytest.raises(CheckpointError, match=r"refused.*state_dict"):
            build_teacher(HF, checkpoint)
    assert not (tmp_path / "owned").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path, made):
    text = tmp_path / "text.pt"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(Path(made["openai"]).read_bytes()[:5000])
    listed = tmp_path / "list.pt"
    torch.save([torch.zeros(2)], listed)
    other = tmp_path / "other.pt"
    torch.save({"layers.0.weight": torch.zeros(2)}, other)
    safe = Path(made["hf"], "model.safetensors")
    for path, message in (
        (safe, "give the folder"),
        (text, "refused"),
        (cut, "refused|not a readable"),
        (listed, "holds a list"),
        (other, r"it holds layers\.0\.weight"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            build_teacher(WENET, str(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"Q" * 9, b"\x80\x02}r\x00", b""], ids=["IndexError", "struct.error", "EOFError"]
)
def test_a_damaged_pickle_is_refused_whatever_torch_raises(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable checkpoint .*again"):
        build_teacher(WENET, str(tmp_path / "a.pt"))


@pytest.mark.parametrize("where", [None, "model", "model_state_dict"])
def test_keys_that_are_no_names_are_refused(tmp_path, where):
    content = {0: torch.zeros(2)}
    if where:
        content = {where: content, **({"dims": {}} if where == "model_state_dict" else {})}
    torch.save(content, tmp_path / "a.pt")
    folder = to_bin(make_hf_whisper(tmp_path / "hf"))
    torch.save({0: torch.zeros(2)}, Path(folder, "pytorch_model.bin"))
    for encoder_type, checkpoint in ((WENET, str(tmp_path / "a.pt")), (HF, folder)):
        with pytest.raises(CheckpointError, match=r"under 0, which is no name.*state_dict"):
            build_teacher(encoder_type, checkpoint)


def test_a_checkpoint_that_torch_wrote_long_ago_is_read(made, tmp_path):
    old = tmp_path / "old.pt"
    content = torch.load(made["openai"], weights_only=True)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    assert build_teacher(WENET, str(old)).digest == build_teacher(WENET, made["openai"]).digest


@pytest.mark.parametrize("broken", [{"n_mels": 80}, {}, None])
def test_openai_dims_that_lack_a_number_are_refused(made, tmp_path, broken):
    content = torch.load(made["openai"], weights_only=True) | {"dims": broken}
    torch.save(content, tmp_path / "dims.pt")
    with pytest.raises(CheckpointError, match="`dims` lacks a usable"):
        build_teacher(WENET, str(tmp_path / "dims.pt"))
    torch.save({"dims": {}}, tmp_path / "dims.pt")
    with pytest.raises(CheckpointError, match="without `model_state_dict`"):
        build_teacher(WENET, str(tmp_path / "dims.pt"))


def test_unmerged_lora_is_refused(made, tmp_path):
    for given, block, encoder_type in (
        ("wenet", "encoder.encoders.0.self_attn.linear_q.lora_A", WENET),
        ("openai", "encoder.blocks.0.attn.query.lora_A", HF),
        ("hf", "model.encoder.layers.0.self_attn.q_proj.lora_A.weight", HF),
    ):
        if given == "hf":
            checkpoint = to_bin(make_hf_whisper(tmp_path / "lora"))
            path = Path(checkpoint, "pytorch_model.bin")
        else:
            checkpoint = str(tmp_path / f"{given}.pt")
            path = Path(checkpoint)
            path.write_bytes(Path(made[given]).read_bytes())
        content = torch.load(path, weights_only=True)
        content.get("model_state_dict", content)[block] = torch.zeros(2, 2)
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"LoRA .*merge the adapter"):
            build_teacher(encoder_type, checkpoint)


def test_settings_of_another_family_are_refused(made):
    with pytest.raises(ConfigError, match="--encoder_type wav2vec: expected one of wenet-whisper"):
        build_teacher("wav2vec", made["openai"])
    with pytest.raises(ConfigError, match="--whisper_padding 10s: expected one of none, 30s"):
        build_teacher(HF, made["openai"], whisper_padding="10s")
    with pytest.raises(ConfigError, match="--middle_layer_norm pre: expected one of none, final"):
        build_teacher(HF, made["openai"], middle_layer_norm="pre")
    with pytest.raises(ConfigError, match="--whisper_padding: hubert"):
        build_teacher("hubert", made["hubert"], whisper_padding="30s")
    with pytest.raises(ConfigError, match="--do_normalize: huggingface-whisper has no such"):
        build_teacher(HF, made["openai"], do_normalize=True)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (make_hf_whisper, {"encoder_attention_heads": 5}, "5 attention heads do not divide .* 64"),
        (make_hf_whisper, {"encoder_attention_heads": 0}, "0 attention heads"),
        (make_hf_whisper, {"max_source_positions": -1}, "RuntimeError"),
        (make_hf_hubert, {"num_attention_heads": 5}, "divisible by num_heads"),
        (make_hf_hubert, {"num_attention_heads": 0}, "ZeroDivisionError"),
        (make_hf_hubert, {"hidden_act": "foo"}, "KeyError: 'foo'"),
    ],
)
def test_settings_of_no_encoder_are_refused(tmp_path, make, change, message):
    checkpoint = with_config(make(tmp_path), **change)
    with pytest.raises(CheckpointError, match=rf"^{checkpoint}: .*config\.json.*{message}"):
        build_teacher(HF if make is make_hf_whisper else "hubert", checkpoint)


def test_openai_heads_that_do_not_divide_the_dimension_are_refused(made, tmp_path):
    content = torch.load(made["openai"], weights_only=True)
    content["dims"]["n_audio_head"] = 5
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: .*5 attention heads do not divide"):
        build_teacher(WENET, str(tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("value", "what"), [("text", "a str"), (torch.ones(64, 80, 3).to_sparse(), "sparse")]
)
def test_what_is_no_plain_tensor_under_a_name_of_the_encoder_is_refused(
    made, tmp_path, value, what
):
    content = torch.load(made["openai"], weights_only=True)
    content["model_state_dict"]["encoder.conv1.weight"] = value
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"conv1\.weight is {what}, expected \(64, 80, 3\)"):
        build_teacher(WENET, str(tmp_path / "a.pt"))


def test_other_model_types_are_refused(made, tmp_path):
    config = {"model_type": "sew"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="model_type sew; a teacher is a Whisper"):
        build_teacher("hubert", str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": []}')
    with pytest.raises(CheckpointError, match=r"model_type \[\]; a teacher is a Whisper"):
        build_teacher("hubert", str(tmp_path))
    checkpoint = with_config(make_hf_whisper(tmp_path / "relu"), activation_function="relu")
    with pytest.raises(CheckpointError, match="activation_function relu"):
        build_teacher(HF, checkpoint)


def test_what_a_checkpoint_looks_like_helps(tmp_path):
    with pytest.raises(CheckpointError, match="for a hub id --encoder_type huggingface-whisper"):
        build_teacher("wenet-whisper", "openai/whisper-large-v3")
    (tmp_path / "final.pt").touch()
    with pytest.raises(CheckpointError, match=f"a folder; give the file: {tmp_path}/final.pt"):
        build_teacher("wenet-whisper", str(tmp_path))
