"""What train_distil.sh cannot use is named, before the training where that can be."""

import csv
import json
import tarfile

import h5py
import numpy as np
import pytest
import soundfile

from k2distil.bin.main import main
from tests.scripts.conftest import (
    Corpus,
    run,
    speech,
    succeed,
)
from tests.scripts.student_material import WAV2VEC2, YAML, flags


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
        (lambda c, p: change(c, 3, txt=" "), [], ["utt03", "its text is empty", "remove"]),
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
            [
                "no codes for 1 of 20",
                "utt07",
                "--train_data names all lists",
                "--missing_codes ignore",
            ],
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
        (
            lambda c, p: None,
            ["--channel", 1],
            ["in a row without audio", "no channel 1"],
        ),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").attrs.__setitem__("codebook_size", 15),
            ["--num_workers", 1],
            ["codes.h5[utt", "a code of 15, but codebooks of 15"],
        ),
        (
            lambda c, p: rewrite(p / "codes.h5", "utt02", np.full((50, 2), -1, np.int16)),
            [],
            ["codes.h5[utt02]: a code of -1; expected 0 and more, or -100", "anew"],
        ),
        (
            lambda c, p: rewrite(p / "codes.h5", "utt02", np.zeros((50, 3), np.uint8)),
            [],
            ["codes.h5[utt02]: (50, 3), expected (num_frames, 2)", "anew"],
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
        (  # no line of the log before the end
            lambda c, p: None,
            ["--learning_rate", 1e30, "--logging_steps", 50, "--save_steps", 50],
            ["not a number at step", "--learning_rate"],
        ),
        (
            lambda c, p: c.add("short", speech(0.0125)),
            ["--missing_codes", "ignore"],
            [
                "short",
                "too short for the student: 1 inputs, 1 frames of at least 2; remove it",
                "--bad_utterances skip",
            ],
        ),
        (
            lambda c, p: change(c, 4, wav="no.wav"),
            [],
            ["1 utterance whose audio", "utt04", "No such file", "--bad_utterances skip"],
        ),
        (
            lambda c, p: (
                (p / "codes.h5.dropped.tsv").write_text(
                    "key\twav\treason\nutt07\tutt07.wav\ttoo long\n"
                )
                and h5py.File(p / "codes.h5", "a").__delitem__("utt07")
            ),
            [],
            ["no codes for 1 of 20", "(1 are in TMP/codes.h5.dropped.tsv); remove these from the"],
        ),
        (
            lambda c, p: [rewrite(p / "codes.h5", f"utt{n:02}", CODES[:10]) for n in range(20)],
            ["--bad_utterances", "skip"],
            ["of no utterance that can be used the codes fit", "10 teacher frames", "text alone"],
        ),
        (lambda c, p: change(c, 3, txt="a <pad>"), [], ["utt03", "'<pad>' is CTC's blank"]),
        (lambda c, p: change(c, 3, txt="a | b"), [], ["utt03", "'|' stands for the space"]),
        (
            lambda c, p: change(c, 3, txt="a <unk>"),
            [],
            ["utt03", "'<unk>' is the token of what is"],
        ),
        (
            lambda c, p: change(c, 3, start=100.0, end=101.0),
            [],
            ["utt03", "its segment is empty, or not within the audio; correct its times"],
        ),
        (
            lambda c, p: [change(c, i, wav="no.wav") for i in range(20)],
            [],
            ["data.list: none of its audio can be read", "no.wav", "No such file"],
        ),
        (
            lambda c, p: rewrite(p / "codes.h5", "utt00", CODES.astype(np.float32)),
            [],
            ["codes.h5[utt00]: expected integers", "float32 (50, 2)", "not embeddings"],
        ),
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
    assert main(["train_distil", *map(str, flags(material, *more))]) == 2
    log = capfd.readouterr().err
    assert "Traceback" not in log
    for word in words:
        assert word.replace("TMP", str(tmp_path)) in log, log


def test_bad_utterances_can_be_left_out_and_are_listed(material, tmp_path):
    change(material, 3, txt="")
    change(material, 5, txt="one two three " * 4)
    with h5py.File(tmp_path / "codes.h5", "a") as file:
        del file["utt03"]
    rewrite(tmp_path / "codes.h5", "utt06", CODES[:10])  # of other audio
    rewrite(tmp_path / "codes.h5", "utt19", CODES[:10])  # which has no text
    (material.folder / "utt04.wav").write_bytes(b"RIFF no wav")
    more = ["--bad_utterances", "skip", "--missing_codes", "ignore"]
    done = run("train_distil.sh", *flags(material, *more))
    assert done.returncode == 1, done.stderr
    assert "17 utterances, " in done.stderr
    table = (tmp_path / "student" / "train_distil.failed.tsv").read_text()
    assert "utt04" in table
    with (tmp_path / "student" / "train_distil.dropped.tsv").open() as file:
        dropped = {row["key"]: row["reason"] for row in csv.DictReader(file, dialect="excel-tab")}
    ends = {"utt03": "codes alone", "utt05": "its codes can be used", "utt06": "its text can be us"}
    assert dropped.keys() == ends.keys() | {"utt19"}
    assert all(words in dropped[key] for key, words in ends.items())
    assert "can be used" not in dropped["utt03"] + dropped["utt19"]
    summary = json.loads((tmp_path / "student" / "train_distil.summary.json").read_text())
    assert (summary["utterances"], summary["labelled"]) == (17, 9)  # not 03, 04, 19; 05 by codes
    assert (tmp_path / "student" / "last" / "model.safetensors").exists()


def test_test_audio_that_cannot_be_used_is_listed_and_the_rest_is_tested(material, tmp_path):
    samples = speech(0.9)
    samples[100] = np.nan  # which decoding finds alone
    soundfile.write(material.folder / "torn.wav", samples, 16_000, subtype="FLOAT")
    lines = (tmp_path / "cv.list").read_text().splitlines()
    bad = [{"key": f"torn{n}", "wav": "data/torn.wav", "txt": "one"} for n in range(4)]
    bad.append({"key": "absent", "wav": "data/absent.wav", "txt": "one"})
    (tmp_path / "cv.list").write_text("\n".join([*lines, *map(json.dumps, bad)]))
    done = run("train_distil.sh", *flags(material, "--batch_seconds", 2))
    assert done.returncode == 1, done.stderr
    table = (tmp_path / "student" / "train_distil.failed.tsv").read_text()
    assert [line.split("\t")[0] for line in table.splitlines()] == [
        "key",
        "absent",
        *(f"torn{n}" for n in range(4)),
    ]
    summary = json.loads((tmp_path / "student" / "train_distil.summary.json").read_text())
    assert summary["failed"] == 5
    assert summary["last"]["wer"] > 0
    shared = "4 of 9 utterances of --cv_data are in --train_data too, such as utt00"
    assert shared in done.stderr


def test_long_audio_is_left_out_and_no_test_loses_an_utterance_by_its_codes(material, tmp_path):
    cv = [{"key": f"cv{n}", "wav": f"data/utt0{n}.wav", "txt": "one"} for n in range(2)]
    (tmp_path / "cv.list").write_text("\n".join(map(json.dumps, cv)))
    with h5py.File(tmp_path / "codes.h5", "a") as file:
        file["cv0"] = file["utt00"][:]
        file["cv1"] = CODES[:10]  # of other audio
    more = ["--max_seconds", 1.52]
    log = succeed("train_distil.sh", *flags(material, *more))
    assert "1 utterances have codes of other audio: they are tested by their text alone" in log
    assert "are in --train_data too" not in log
    assert "codebook_weight 4.583" in log  # of the second of 12 steps
    table = (tmp_path / "student" / "train_distil.dropped.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in table[1:]] == [f"utt{n}" for n in range(13, 20)]
    assert table[1].endswith("1.55 s, more than --max_seconds")
    summary = json.loads((tmp_path / "student" / "train_distil.summary.json").read_text())
    assert summary["utterances"] == 13
    assert summary["last"]["codebook_accuracy"] >= 0  # of cv0


def test_what_is_too_long_needs_no_codes_and_all_of_it_is_an_error(material, tmp_path, capfd):
    with h5py.File(tmp_path / "codes.h5", "a") as file:
        for number in range(14, 20):
            del file[f"utt{number}"]
    more = [str(each) for each in flags(material, "--max_seconds", 1.52)]
    with h5py.File(tmp_path / "codes.h5", "a") as file:
        codes = file["utt05"][:]
        del file["utt05"]
    assert main(["train_distil", *more]) == 2
    assert "no codes for 1 of 13 utterances" in capfd.readouterr().err
    with h5py.File(tmp_path / "codes.h5", "a") as file:
        file["utt05"] = codes
    succeed("train_distil.sh", *more)
    assert main(["train_distil", *map(str, flags(material, "--max_seconds", 0.2, "--force"))]) == 2
    assert "all of its audio is longer than --max_seconds 0.2" in capfd.readouterr().err


def test_a_training_that_would_go_on_with_fewer_nodes_is_refused_before_it_starts(
    material, tmp_path, capfd
):
    more = flags(material, "--nnodes", "1:2", "--rdzv_endpoint", "localhost:0")
    assert main(["train_distil", *map(str, more)]) == 2
    assert "--nnodes 1:2: the number of processes decides the batches" in capfd.readouterr().err


def test_a_student_that_masks_itself_needs_audio_as_long_as_a_mask(material, tmp_path):
    masks = WAV2VEC2.replace("mask_time_prob: 0.0", "mask_time_prob: 0.5\n  mask_time_length: 10")
    (tmp_path / "conf.yaml").write_text(masks + YAML[YAML.index("max_steps") :])
    material.add("short", speech(0.15))
    more = ["--missing_codes", "ignore", "--num_time_masks", 3]
    done = run("train_distil.sh", *flags(material, *more))
    assert done.returncode == 2, done.stderr
    assert "7 frames of at least 10" in done.stderr
    assert "not used: --num_time_masks; this student masks itself" in done.stderr


def test_codes_of_others_are_laid_out_by_frames_ratio(material, tmp_path):
    with h5py.File(tmp_path / "codes.h5", "a") as file:
        file.attrs.clear()
        for key in list(file):
            codes = file[key][::2]  # one for each of the student's 40 ms
            del file[key]
            file[key] = codes
    done = run("train_distil.sh", *flags(material, "--codebook_size", 16))
    assert "speed perturbation" in done.stderr
    more = ["--codebook_size", 16, "--frames_ratio", 1]
    log = run("train_distil.sh", *flags(material, *more)).stderr
    assert "2 codebooks of 16, 1 teacher frames per student frame" in log
    assert (tmp_path / "student" / "last").is_dir()


def test_codes_of_other_audio_are_found_in_a_tar_too(material, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for entry in map(json.loads, material.lines[:12]):
            text = material.folder / f"{entry['key']}.txt"
            text.write_text(entry["txt"])
            tar.add(material.folder / entry["wav"], entry["wav"])
            tar.add(text, text.name)
    (tmp_path / "shards.list").write_text("shard.tar\n")
    rewrite(tmp_path / "codes.h5", "utt05", CODES[:30])
    in_tar = [
        tmp_path / "shards.list" if each == material.path else each for each in flags(material)
    ]
    done = run("train_distil.sh", *in_tar)
    assert done.returncode == 2
    for word in ("utt05", "30 teacher frames", "--bad_utterances skip"):
        assert word in done.stderr, done.stderr
    log = run("train_distil.sh", *in_tar, "--bad_utterances", "skip").stderr
    assert "12 utterances" in log  # that one by its text
    assert "step 12 of 12" in log
    assert "its text can be used" in (tmp_path / "student" / "train_distil.dropped.tsv").read_text()
