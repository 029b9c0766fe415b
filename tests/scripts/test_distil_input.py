"""What train_distil.sh cannot use is named, before the training where that can be."""

import json

import h5py
import numpy as np
import pytest

from k2distil.bin.train_distil import main
from tests.scripts.conftest import (
    Corpus,
    run,
)
from tests.scripts.student_material import YAML, flags


def change(corpus: Corpus, index: int, **fields: str) -> None:
    corpus.lines[index] = json.dumps({**json.loads(corpus.lines[index]), **fields})


def rewrite(path, key: str, values: np.ndarray) -> None:
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = values


CODES = np.zeros((50, 2), np.uint8)


@pytest.mark.parametrize(
    ("spoil", "more", "words"),
    [
        (lambda c, p: change(c, 3, txt=" "), [], ["utt03", '"txt" is empty', "remove"]),
        (
            lambda c, p: (p / "units.txt").write_text("<blank> 0\n<unk> 1\n▁ 2\no 3\nn 4\ne 5\n"),
            ["--vocabulary", "TMP/units.txt"],
            ["utt01", "characters 'hrtw'", "not in the vocabulary"],
        ),
        (
            lambda c, p: change(c, 0, txt="one two three " * 4),
            [],
            ["utt00", "55 tokens", "the audio (0.90 s) gives 23"],
        ),
        (
            lambda c, p: rewrite(p / "codes.h5", "utt05", CODES[:30]),
            [],
            ["utt05", "30 teacher frames", "speed perturbation"],
        ),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").attrs.__setitem__("codebook_size", 8),
            [],
            ["codes.h5[utt", "a code of 15", "codebooks of 8"],
        ),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").__delitem__("utt07"),
            [],
            ["no codes for 1 of 20", "utt07", "--missing_codes ignore"],
        ),
        (
            lambda c, p: None,
            ["--codebook_weight", 0, "--codebook_weight_end", 5],
            ["--codebook_weight_end 5", "text alone"],
        ),
        (lambda c, p: None, ["--num_codebooks", 8], ["--num_codebooks 8", "has 2"]),
        (lambda c, p: None, ["--codebook_size", 256], ["--codebook_size 256", "has 16"]),
        (lambda c, p: None, ["--frames_ratio", 4], ["--frames_ratio 4", "it is 2"]),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").attrs.__setitem__("frame_shift", 0.03),
            [],
            ["every 30 ms", "every 40 ms", "no multiple"],
        ),
        (
            lambda c, p: [change(c, i, key=f"other{i}") for i in range(20)],
            [],
            ["codes for none of the 20", "'utt00'", "'other0'"],
        ),
        (lambda c, p: None, ["--codebook_path", "TMP/absent.h5"], ["absent.h5"]),
        (lambda c, p: None, ["--channel", 1], ["batches without audio", "no channel 1"]),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").attrs.__setitem__("codebook_size", 8),
            ["--num_workers", 1],
            ["codes.h5[utt", "a code of 15"],
        ),
        (
            lambda c, p: (p / "conf.yaml").write_text("encoder_conf: {}\ndataset_conf: {}\n"),
            [],
            ["a WeNet yaml describes a teacher"],
        ),
        (
            lambda c, p: (p / "conf.yaml").write_text("gpu: cpu\n"),
            ["--student_checkpoint", "TMP/student/best"],
            ["--student_checkpoint", "in --save_path"],
        ),
        (lambda c, p: None, ["--learning_rate", 1e30], ["not a number at step", "--learning_rate"]),
        (lambda c, p: None, ["--student_layer", 3], ["--student_layer 3", "2 layers"]),
        (
            lambda c, p: (p / "conf.yaml").write_text(YAML.format(dropout="hiden_size: 3")),
            [],
            ["student.encoder_config.hiden_size", "did you mean hidden_size"],
        ),
        (
            lambda c, p: (p / "conf.yaml").write_text("student: {model_type: whisper}\n"),
            ["--gpu", "cpu"],
            ["model_type whisper", "parakeet_ctc"],
        ),
    ],
)
def test_bad_input_is_named(spoil, more, words, material, tmp_path, capfd):
    spoil(material, tmp_path)
    more = [str(each).replace("TMP", str(tmp_path)) for each in more]
    assert main([str(each) for each in flags(material, *more)]) == 2
    log = capfd.readouterr().err
    assert "Traceback" not in log
    for word in words:
        assert word in log, log


def test_bad_utterances_can_be_left_out_and_are_listed(material, tmp_path):
    change(material, 3, txt="")
    (material.folder / "utt04.wav").write_bytes(b"RIFF no wav")
    done = run("train_distil.sh", *flags(material, "--bad_utterances", "skip"))
    assert done.returncode == 1, done.stderr
    table = (tmp_path / "student" / "train_distil.failed.tsv").read_text()
    assert "utt04" in table
    assert "utt03" in (tmp_path / "student" / "train_distil.dropped.tsv").read_text()
    assert (tmp_path / "student" / "last" / "model.safetensors").exists()
