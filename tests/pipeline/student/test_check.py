"""What is found of a list before a student's first step, and what is only told."""

import logging

import h5py
import numpy as np
import pytest
import soundfile

from k2distil.batch import Utterance
from k2distil.config import TrainDistilConfig, load_config
from k2distil.data import PackedUtterances, command
from k2distil.distil.callbacks import MissedTest
from k2distil.distil.student import make_student, transformers_is_old
from k2distil.distil.vocabulary import characters_of, make_tokenizer
from k2distil.errors import DataError
from k2distil.pipeline.student.check import check_utterances
from k2distil.pipeline.student.codes import open_codes
from k2distil.pipeline.student.dataset import DistilDataset
from k2distil.pipeline.student.job import check_options

pytestmark = pytest.mark.skipif(transformers_is_old(), reason="a newer transformers is needed")
STUDENT = {
    "model_type": "hubert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def test_a_test_in_another_case_is_told(tmp_path, caplog):
    generator = np.random.default_rng(0)
    texts = {"a": "one two", "b": "ONE TWO", "c": "Three"}
    for key in texts:
        soundfile.write(tmp_path / f"{key}.wav", 0.1 * generator.standard_normal(16000), 16000)
    utterances = PackedUtterances(
        Utterance(key, str(tmp_path / f"{key}.wav"), text=texts[key]) for key in texts
    )
    student = make_student(STUDENT, make_tokenizer(characters_of(["one two three"])), 0)
    with caplog.at_level(logging.WARNING):
        assert len(check_utterances(utterances, student, None, for_training=False).rows) == 3
    assert "2 of 3 texts have characters that the student does not know" in caplog.text
    assert "(E N O T W)" in caplog.text
    reason = check_utterances(utterances, student, None).unfit[1]["reason"]
    assert reason == "characters 'T' are not in the vocabulary; write the text in lower case"


def test_a_command_that_does_not_end_costs_its_own_utterance(tmp_path):
    """Neither the check of the list nor a training waits for it."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(16000), 16000)
    late = tmp_path / "late"
    late.write_text(f"#!/bin/sh\n[ -e {tmp_path}/b ] && exec sleep 60\ncat {tmp_path}/a.wav\n")
    late.chmod(0o755)
    utterances = PackedUtterances(
        [
            Utterance("a", str(tmp_path / "a.wav"), text="one"),
            Utterance("b", f"{late} |", text="one", is_command=True),
        ]
    )
    student = make_student(STUDENT, make_tokenizer(characters_of(["one"])), 0)
    assert len(check_utterances(utterances, student, None, decode_timeout=60).rows) == 2
    dataset = DistilDataset(utterances, student, None, decode_timeout=0.5)
    command._outcome.cache_clear()
    (tmp_path / "b").touch()
    (part,) = dataset.__getitems__([[0, 1]])["parts"]
    assert part["keys"] == ["a"]
    (failed,) = part["failed"]
    assert failed["key"] == "b"
    assert "did not end in 0.5 s" in failed["reason"]
    (unreadable,) = check_utterances(utterances, student, None, decode_timeout=0.5).unreadable
    assert unreadable == failed


def test_all_characters_that_a_vocabulary_lacks_are_told_at_once(tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(16000), 16000)
    utterances = PackedUtterances(
        Utterance(str(number), str(tmp_path / "a.wav"), text=text)
        for number, text in enumerate(["一臺", "一", "灣臺A", "一|二", "灣" * 100])
    )
    student = make_student(STUDENT, make_tokenizer(characters_of(["一二"])), 0)
    assert len(check_utterances(utterances, student, None).unfit) == 4
    told = "3 texts with characters that are not in the vocabulary, 3 different ones: A灣臺"
    assert told in caplog.text


def test_spaces_between_chinese_characters_are_told(tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(16000), 16000)
    texts = ["我 爱 你", "我爱 new york", "我爱你", "我 爱\u3000你", None]
    utterances = PackedUtterances(
        Utterance(str(number), str(tmp_path / "a.wav"), text=text)
        for number, text in enumerate(texts)
    )
    student = make_student(STUDENT, make_tokenizer(characters_of(filter(None, texts))), 0)
    for is_training in (False, True):
        check_utterances(utterances, student, None, for_training=is_training)
        assert ("2 texts with spaces between Chinese" in caplog.text) == is_training


def test_a_warm_up_that_never_ends_is_told(tmp_path, caplog):
    flags = {"train_data": ("a.list",), "save_path": tmp_path / "s", "codebook_weight": 0.0}
    flags |= {"codebook_weight_end": 0.0}
    for max_steps, is_told in [(100, False), (10, True)]:
        caplog.clear()
        given = {**flags, "warmup_steps": 10, "max_steps": max_steps}
        check_options(load_config(TrainDistilConfig, None, [], given))
        assert ("the learning rate never gets to" in caplog.text) == is_told


class AtStep:
    """In the place of a trainer and its state, at a step."""

    def __init__(self, step: int, logs: list[dict]) -> None:
        self.global_step, self.log_history, self.eval_steps = step, logs, 4
        self.num_tests = 0

    def evaluate(self) -> None:
        self.num_tests += 1


def test_a_test_that_a_signal_prevented_is_made_up_for():
    tested, other = {"step": 8, "eval_wer": 0.5}, {"step": 8, "loss": 0.5}
    for step, logs, expected in [(0, [], 0), (7, [], 0), (8, [tested], 0), (8, [other], 1)]:
        trainer = AtStep(step, logs)
        MissedTest(trainer).on_train_begin(trainer, trainer, None)
        assert trainer.num_tests == expected


def test_codes_of_other_audio_cost_a_test_no_utterance(tmp_path, caplog):
    with h5py.File(tmp_path / "codes.h5", "w") as file:
        file.attrs.update(num_codebooks=1, codebook_size=16, frame_shift=0.02)
        for key, length in (("a", 50), ("b", 10)):
            soundfile.write(tmp_path / f"{key}.wav", 0.1 * np.ones(16000), 16000)
            file[key] = np.zeros((length, 1), np.uint8)
    utterances = PackedUtterances(
        Utterance(key, str(tmp_path / f"{key}.wav"), text="one") for key in "ab"
    )
    student = make_student(STUDENT, make_tokenizer(characters_of(["one"])), 0)
    given = {"train_data": [tmp_path], "save_path": tmp_path / "student"}
    config = load_config(TrainDistilConfig, None, [], given)
    codes = open_codes([tmp_path / "codes.h5"], config, student)
    assert len(check_utterances(utterances, student, codes, for_training=False).rows) == 2
    assert "1 utterances have codes of other audio" in caplog.text
    dataset = DistilDataset(utterances, student, codes, for_training=False, strict=False)
    (part,) = dataset.__getitems__([[0, 1]])["parts"]
    assert (part["codes"] >= 0).any(1).any(1).tolist() == [True, False]
    trained = check_utterances(utterances, student, codes)
    assert trained.unfit[0]["reason"].endswith("; its text can be used")
    with pytest.raises(DataError, match="b: 10 teacher frames"):
        DistilDataset(utterances, student, codes).__getitems__([[0, 1]])
