"""Students of several kinds: built, measured, saved, loaded; wrong configs are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from k2distil.batch import Utterance
from k2distil.distil.model import DistilModel
from k2distil.distil.pretrained import load_student
from k2distil.distil.student import (
    check_layer,
    make_student,
    restore_replaced,
    switch_off_layerdrop,
    transformers_is_old,
)
from k2distil.distil.student_config import DEFAULT_STUDENT, student_config, whole_tree
from k2distil.distil.vocabulary import characters_of, make_tokenizer
from k2distil.errors import CheckpointError, ConfigError
from k2distil.pipeline.student.dataset import DistilDataset
from k2distil.pipeline.student.text import fault_of_text
from k2distil.pipeline.student.transcribe import transcribe

pytestmark = pytest.mark.skipif(transformers_is_old(), reason="a newer transformers is needed")

WIDTHS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "layerdrop": 0.5,
}
PARAKEET = {
    "model_type": "parakeet_ctc",
    "encoder_config": {**WIDTHS, "subsampling_factor": 4, "subsampling_conv_channels": 8},
}
CONVOLUTIONS = {
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
KINDS = {
    "parakeet_ctc": PARAKEET,
    "wav2vec2": {"model_type": "wav2vec2", **WIDTHS, **CONVOLUTIONS},
    "hubert": {"model_type": "hubert", **WIDTHS, **CONVOLUTIONS},
    "wav2vec2-bert": {"model_type": "wav2vec2-bert", **WIDTHS},
    "data2vec-audio": {"model_type": "data2vec-audio", **WIDTHS, **CONVOLUTIONS},
}
TOKENIZER = make_tokenizer(characters_of(["one two"]))


def audio(*seconds: float) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [0.1 * generator.standard_normal(int(16000 * s), np.float32) for s in seconds]


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_layers_and_texts_of_a_student(kind, tmp_path):
    student = make_student(KINDS[kind], TOKENIZER, seed=0)
    assert switch_off_layerdrop(student)
    assert not switch_off_layerdrop(student)
    assert (student.num_layers, student.dim) == (2, 32)
    shift = 0.04 if kind == "parakeet_ctc" else 0.02
    assert student.frame_shift == pytest.approx(shift, rel=1e-3)
    inputs, num_inputs = student.features(audio(1.0, 1.73))
    num_frames = student.num_frames(num_inputs)
    student.model.train()
    output = student.model(**inputs, output_hidden_states=True)
    width = int(num_frames.max())
    if kind == "wav2vec2-bert":  # its extractor pads to an even number of frames of 10 ms
        width += 1
    assert output.logits.shape == (2, width, len(TOKENIZER))
    assert [each.shape for each in output.hidden_states] == [(2, width, 32)] * 3
    said = [0, *(index for each in student.encode_text("one two") for index in (each, each, 0))]
    logits = torch.nn.functional.one_hot(torch.tensor([said, said]), len(TOKENIZER)).float()
    assert student.decode(logits, torch.tensor([len(said), 7])) == ["one two", "on"]

    student.save(tmp_path / "s", {"metrics.json": b"{}"})
    student.save(tmp_path / "s", {"metrics.json": b"{}"})  # in the place of the first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]
    modes = {path.stat().st_mode for path in (tmp_path / "s").iterdir()}
    assert len(modes) == 1  # whoever may read the config may read the weights
    loaded = load_student(tmp_path / "s")
    assert loaded.model.config.inputs_to_logits_ratio == round(16000 * shift)
    student.model.eval()
    loaded.model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(**inputs).logits, student.model(**inputs).logits)
    assert loaded.encode_text("two  one") == student.encode_text("two one")


def test_a_saved_student_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("k2distil.distil.student.flush", lambda path: flushed.append(path.name))
    make_student(PARAKEET, TOKENIZER, seed=0).save(tmp_path / "best", {"metrics.json": b"{}"})
    *files, folder, above = flushed
    assert sorted(files) == sorted(each.name for each in (tmp_path / "best").iterdir())
    assert (folder, above) == (".best.new", tmp_path.name)


def test_a_student_whose_replacement_was_killed_comes_back(tmp_path):
    (tmp_path / ".best.old").mkdir()
    restore_replaced(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    (tmp_path / ".best.old").mkdir()
    restore_replaced(tmp_path / "best")  # the new one is there: nothing to bring back
    assert (tmp_path / ".best.old").exists()


def test_rotary_positions_of_a_trial_or_test_are_no_matter_to_training(tmp_path):
    config = {"model_type": "wav2vec2-conformer", "position_embeddings_type": "rotary"}
    student = make_student({**config, **WIDTHS, **CONVOLUTIONS}, TOKENIZER, seed=0)
    kept = [part for part in student.model.modules() if hasattr(part, "cached_sequence_length")]
    assert not student.padding_matters() or kept
    assert [part.cached_sequence_length for part in kept] == [None]  # it may go to another device
    soundfile.write(tmp_path / "a.wav", audio(0.5)[0], 16000, "FLOAT")
    utterances = [Utterance("a", str(tmp_path / "a.wav"), text="one")]
    dataset = DistilDataset(utterances, student, None)
    model = DistilModel(student.model, None, 1, 0.0, None)
    assert not transcribe(model, dataset, [[0]], 0, torch.device("cpu")).failed
    model.train()
    student.model(**student.features(audio(0.5))[0]).logits.sum().backward()  # as long


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_where_padding_matters_is_measured(kind, norm):
    config = KINDS[kind] if kind == "parakeet_ctc" else KINDS[kind] | {"feat_extract_norm": norm}
    if kind in {"parakeet_ctc", "wav2vec2-bert", "data2vec-audio"}:
        config = KINDS[kind]
    student = make_student(config, TOKENIZER, seed=0)
    exact = {"parakeet_ctc", "wav2vec2-bert"} | (
        {"wav2vec2", "hubert"} if norm == "layer" else set()
    )
    assert student.padding_matters() == (kind not in exact)
    assert student.model.training


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pad_token_id", 3, "the blank is 0 in its tokenizer, 3 in its model"),
        ("vocab_size", 6, "its tokenizer has 8 tokens, its model 6 outputs"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(key, value, words, tmp_path):
    student = make_student(KINDS["wav2vec2"], TOKENIZER, seed=0)
    setattr(student.model.config, key, value)
    if key == "vocab_size":
        student.model.lm_head = torch.nn.Linear(32, value)
    student.save(tmp_path / "s", {})
    with pytest.raises(CheckpointError, match=f"{words}; train it with .* --vocabulary"):
        load_student(tmp_path / "s")
    mended = load_student(tmp_path / "s", TOKENIZER, seed=0).model.config  # as the message says
    assert (mended.vocab_size, mended.pad_token_id) == (len(TOKENIZER), TOKENIZER.pad_token_id)


def test_special_tokens_may_lie_behind_the_outputs(tmp_path):
    """As transformers 5 adds "|" to a vocabulary of Chinese without spaces."""
    student = make_student(KINDS["wav2vec2"], make_tokenizer(characters_of(["三"])), seed=0)
    student.save(tmp_path / "s", {})
    tokens = {"三": 0, "四": 1, "[UNK]": 2, "[PAD]": 3}
    for path in (tmp_path / "s").glob("*token*"):
        path.unlink()
    (tmp_path / "s" / "vocab.json").write_text(json.dumps(tokens))
    (tmp_path / "s" / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "Wav2Vec2CTCTokenizer", "unk_token": "[UNK]", "pad_token": "[PAD]"}
        )
    )
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    (tmp_path / "s" / "config.json").write_text(json.dumps(config | {"pad_token_id": 3}))
    loaded = load_student(tmp_path / "s")
    assert len(loaded.tokenizer) > loaded.model.config.vocab_size == 4
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 0, 3, 1]]), 4).float()
    assert loaded.decode(logits, torch.tensor([4])) == ["三四"]
    fault = "'|' is token 6, but the student has 4"
    assert fault in str(fault_of_text("三 四", 1.0, 50, loaded))


def test_the_seed_decides_the_weights():
    one, two, other = (make_student(PARAKEET, TOKENIZER, seed).model for seed in (1, 1, 2))
    name = "ctc_head.weight"
    assert torch.equal(one.state_dict()[name], two.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "parakeet"}, "model_type parakeet: expected one with a CTC model"),
        ({}, "model_type None"),
        ({**PARAKEET, "vocab_size": 9}, "vocab_size: the tokenizer decides"),
        ({"model_type": "hubert", "hiden_size": 3}, "student.hiden_size: unknown key of hubert"),
        ({"model_type": "parakeet_ctc", "encoder_config": {"hidden_size": "x"}}, "hidden_size"),
        ({"model_type": "parakeet_ctc", 1: 2}, "student.1: unknown key"),
        (
            {"model_type": "parakeet_ctc", "hidden_size": 32},
            "did you mean student.encoder_config.hidden_size",
        ),
        (
            {"model_type": "wav2vec2", "encoder_config": {}},
            "has keys of another model_type (parakeet_ctc",
        ),
        (
            {"model_type": "wav2vec2", **WIDTHS, "hidden_size": 100, "num_attention_heads": 12},
            "wav2vec2 does not take these values",
        ),
        ({"model_type": "wav2vec2", **WIDTHS, "hidden_act": "foo"}, "not take these values"),
        (
            {"model_type": "wav2vec2", **WIDTHS, **CONVOLUTIONS, "num_hidden_layers": 0},
            "num_hidden_layers",
        ),
    ],
)
def test_a_wrong_config_is_named(config, words):
    with pytest.raises(ConfigError) as error:
        make_student(config, TOKENIZER, 0)
    assert words in str(error.value)


SEW = {"conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_kernel": [10, 3, 3, 3, 3, 2, 2]}


@pytest.mark.parametrize(
    ("kind", "config"),
    [("sew", WIDTHS | CONVOLUTIONS | SEW), ("lasr_ctc", {"encoder_config": WIDTHS})],
)
def test_a_kind_that_cannot_be_trained_shows_at_once(kind, config):
    config = {"model_type": kind, **config}
    with pytest.raises(ConfigError, match=f"{kind} cannot be trained here"):
        make_student(config, TOKENIZER, 0)


def test_a_layer_that_is_not_there_is_named():
    student = make_student(PARAKEET, TOKENIZER, 0)
    assert [check_layer(student, layer) for layer in (1, 2, -1)] == [1, 2, 2]
    for layer in (0, 3, -2):
        with pytest.raises(ConfigError, match="the student has 2 layers"):
            check_layer(student, layer)


def test_a_folder_without_a_student_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        load_student(tmp_path)


def test_the_default_student_is_the_one_of_conf():
    conf = yaml.safe_load((Path(__file__).parents[2] / "conf" / "train_distil.yaml").read_text())
    assert conf["student"] == DEFAULT_STUDENT


def test_a_student_without_a_model_type_changes_the_default_one():
    changed = whole_tree({"encoder_config": {"hidden_size": 96}})
    assert changed["encoder_config"] == {**DEFAULT_STUDENT["encoder_config"], "hidden_size": 96}
    assert whole_tree(None) == DEFAULT_STUDENT
    assert whole_tree(PARAKEET) == PARAKEET
    assert whole_tree({"encoder_config": None}) == DEFAULT_STUDENT  # a section without a key


def test_a_section_without_a_key_is_as_none_was_there():
    tree = {"model_type": "parakeet_ctc", "encoder_config": None}
    student_config(tree, vocab_size=5, blank=0)


@pytest.mark.parametrize("value", [5, [5], "wide"])
def test_a_section_of_a_student_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match=r"student.encoder_config: expected a section of keys"):
        student_config(whole_tree({"encoder_config": value}), vocab_size=5, blank=0)


def test_a_subsampling_that_parakeet_would_round_is_refused():
    tree = whole_tree({"encoder_config": {"subsampling_factor": 3}})
    with pytest.raises(ConfigError, match="subsampling_factor: expected a power of 2, got 3"):
        student_config(tree, vocab_size=5, blank=0)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_student_that_masks_its_frames_needs_as_many_as_a_mask(kind):
    student = make_student(KINDS[kind], TOKENIZER, 0)
    assert student.least_frames == (2 if kind == "parakeet_ctc" else 10)
    if kind != "parakeet_ctc":
        student.model.config.mask_time_prob = 0.0
        assert student.least_frames == (2 if "batch_norm" in repr(student.model) else 1)


def test_a_package_that_transformers_lacks_is_named(monkeypatch, tmp_path):
    from transformers import ParakeetFeatureExtractor

    def lacking(self, *args, **options):
        raise ImportError("\nParakeetFeatureExtractor requires the librosa library.\nRead on.\n")

    make_student(PARAKEET, TOKENIZER, 0).save(tmp_path / "student", {})
    monkeypatch.setattr(ParakeetFeatureExtractor, "__init__", lacking)
    for open_student in (
        lambda: make_student(PARAKEET, TOKENIZER, 0),
        lambda: load_student(tmp_path / "student"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match="requires the librosa library"):
            open_student()
    monkeypatch.setattr("k2distil.distil.student.version", lambda name: "4.57.1")
    with pytest.raises(ConfigError, match=r"transformers is 4\.57\.1 here, take 5\.23 or newer"):
        make_student(PARAKEET, TOKENIZER, 0)
