"""What decides a student, and what does not."""

import os

import h5py
import numpy as np

from k2distil.batch import Utterance
from k2distil.config import TrainDistilConfig, load_config
from k2distil.pipeline.student.codes import Codes
from k2distil.pipeline.student.fingerprint import fingerprint_of
from k2distil.storage import CodebookReader, JoinedReader


def test_a_vocabulary_or_text_that_changes_is_another_training(tmp_path):
    units = tmp_path / "units.txt"
    given = {"train_data": ("a.list",), "save_path": tmp_path / "s", "codebook_weight": 0.0}
    given["vocabulary"] = units
    config = load_config(TrainDistilConfig, None, [], given)
    utterances, found = [Utterance("a", "a.wav", text="xy")], []
    for tokens in ("xy", "yx", "xy"):
        units.write_text(f"<blank> 0\n<unk> 1\n{tokens[0]} 2\n{tokens[1]} 3\n")
        found.append(fingerprint_of(config, utterances, None, 1, "float32"))
    assert found[0] == found[2] != found[1]
    other = [Utterance("a", "a.wav", text="yx")]
    assert found[2] != fingerprint_of(config, other, None, 1, "float32")


def test_a_student_whose_weights_change_is_another_one_to_go_on_from(tmp_path):
    folder, found = tmp_path / "best", []
    folder.mkdir()
    given = {"train_data": ("a.list",), "save_path": tmp_path / "s", "codebook_weight": 0.0}
    config = load_config(TrainDistilConfig, None, [], {**given, "student_checkpoint": folder})
    for weights in ("1", "2", "1"):
        (folder / "model.safetensors").write_text(weights)
        found.append(
            fingerprint_of(config, [Utterance("a", "a.wav", text="x")], None, 1, "float32")
        )
    assert found[0] == found[2] != found[1]


def test_codes_of_others_that_change_in_place_are_other_codes(tmp_path):
    path, found = tmp_path / "codes.h5", []
    given = {"train_data": ("a.list",), "save_path": tmp_path / "s", "codebook_path": (path,)}
    config = load_config(TrainDistilConfig, None, [], given)
    for age, value in enumerate((1, 2)):
        with h5py.File(path, "w") as file:
            file["a"] = np.full((5, 2), value, np.uint8)
        os.utime(path, (age, age))
        codes = Codes(JoinedReader([CodebookReader(path)]), 2, 16, 1)
        found.append(
            fingerprint_of(config, [Utterance("a", "a.wav", text="x")], codes, 1, "float32")
        )
    assert found[0] != found[1]


def test_how_an_option_was_given_decides_nothing(tmp_path):
    given = {"train_data": ("a.list",), "save_path": tmp_path / "s", "codebook_weight": 0.0}
    utterances, yaml = [Utterance("a", "a.wav", text="x")], tmp_path / "c.yaml"
    yaml.write_text("max_steps: 5\n")
    by_flag = load_config(TrainDistilConfig, None, [], {**given, "max_steps": 5})
    by_yaml = load_config(TrainDistilConfig, yaml, [], given)
    assert fingerprint_of(by_flag, utterances, None, 1, "float32") == fingerprint_of(
        by_yaml, utterances, None, 1, "float32"
    )
