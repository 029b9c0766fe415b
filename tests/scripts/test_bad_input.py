"""What each kind of bad input gets: one clear error, exit status 2 (or 1), nothing lost."""

import json
import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.scripts.conftest import (
    WENET,
    WENET_TEACHER,
    command,
    environment,
    interrupt,
    run,
    speech,
    succeed,
)
from tests.teachers.tiny import make_hf_hubert, make_hf_whisper, make_openai


def refused(script: str, *flags: object) -> str:
    """Run a script that must leave with status 2 and one-line errors; -> those."""
    done = run(script, *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors, done.stderr
    return "\n".join(errors)


@pytest.fixture
def embed(corpus, tmp_path):
    """Run save_embedding.sh on the corpus, or another list, with flags; it must be refused."""

    def run_it(*flags: object, train_data: Path | None = None) -> str:
        standard = [*WENET_TEACHER, "--train_data", train_data or corpus.path]
        standard += ["--save_path", tmp_path / "e.h5"]
        errors = refused("save_embedding.sh", *standard, *flags)
        assert not (tmp_path / "e.h5").exists()
        return errors

    return run_it


# --- lists


def test_a_missing_list_is_named(embed, tmp_path):
    assert f"{tmp_path}/no.list" in embed(train_data=tmp_path / "no.list")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a", "wav": ', "line 25: "),
        ('{"key": "a"}', "line 25: "),
        ('{"key": "utt00", "wav": "utt01.wav"}', "line 25: key 'utt00' is on line 1 too"),
        ('{"key": "a/b", "wav": "utt01.wav"}', "line 25: key 'a/b'"),
        ('{"key": "", "wav": "utt01.wav"}', "line 25: key ''"),
        ('{"key": "a", "wav": "utt01.wav", "start": 2, "end": 1}', "line 25: "),
    ],
)
def test_a_broken_line_is_named_by_its_number_before_any_model_is_loaded(
    line, message, corpus, embed
):
    corpus.lines.append(line)
    errors = embed("--checkpoint", "/does/not/exist.pt")
    assert "data.list: 1 bad entry" in errors
    assert message in errors


def test_an_empty_list_is_refused(embed, tmp_path):
    (tmp_path / "empty.list").touch()
    assert "empty.list: no utterances in it" in embed(train_data=tmp_path / "empty.list")


# --- audio


def test_every_kind_of_bad_audio_is_listed_and_the_rest_is_done(corpus, tmp_path):
    folder = corpus.folder
    bad = {"missing", "empty", "truncated", "nan", "tiny", "text", "too_long"}
    corpus.list("missing", "missing.wav")
    (folder / "empty.wav").touch()
    corpus.list("empty", "empty.wav")
    whole = corpus.add("truncated", speech(1.0)).read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    corpus.add("nan", np.where(np.arange(16000) == 9, np.nan, speech(1.0)), subtype="FLOAT")
    corpus.add("tiny", speech(0.01))
    corpus.add("too_long", speech(31.0))
    (folder / "text.wav").write_text("this is no audio\n" * 50)
    corpus.list("text", "text.wav")
    good = {"silent", "eight_bit", "five_channels", "low_rate", "high_rate"}
    corpus.add("silent", np.zeros(16000))
    corpus.add("eight_bit", speech(1.0), subtype="PCM_U8")
    corpus.add("five_channels", np.tile(speech(1.0)[:, None], 5))
    corpus.add("low_rate", speech(1.0, rate=8000), rate=8000)
    corpus.add("high_rate", speech(1.0, rate=44100), rate=44100)
    save_path = tmp_path / "e.h5"
    done = run(
        *("save_embedding.sh", *WENET_TEACHER, "--train_data", corpus.path),
        *("--save_path", save_path, "--part_utterances", 5),
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"29 written, 7 failed: {save_path}.failed.tsv" in done.stderr
    header, *rows = (tmp_path / "e.h5.failed.tsv").read_text().splitlines()
    assert header.split("\t") == ["key", "wav", "reason"]
    reasons = {row.split("\t")[0]: row for row in rows}
    assert reasons.keys() == bad
    for key, row in reasons.items():
        assert f"{folder / key}.wav" in row.split("\t")[1]
    assert "31 s is longer than the teacher's 30 s" in reasons["too_long"]
    assert "0.0100 s is too short" in reasons["tiny"]
    with h5py.File(save_path) as file:
        assert file.keys() == {f"utt{n:02}" for n in range(24)} | good
        assert all(len(file[key]) == 50 for key in good)
        assert all(np.isfinite(dataset[:]).all() for dataset in file.values())
        five = [file["five_channels"][:], file["eight_bit"][:]]
        assert np.abs(five[0].astype(float) - five[1]).mean() < 0.1  # the first channel, unmixed
    summary = json.loads((tmp_path / "e.h5.summary.json").read_text())
    assert (summary["written"], summary["failed"]) == (29, 7)


# --- teachers


def test_a_missing_checkpoint_is_named(embed):
    assert "/no/final.pt: no such file" in embed("--checkpoint", "/no/final.pt")


@pytest.mark.parametrize(
    ("make", "given", "right"),
    [
        (make_openai, "hubert", "huggingface-whisper"),
        (make_hf_whisper, "hubert", "huggingface-whisper"),
        (make_hf_whisper, "wenet-whisper", "huggingface-whisper"),
        (make_hf_hubert, "huggingface-whisper", "hubert"),
    ],
)
def test_the_wrong_encoder_type_is_answered_with_the_right_one(make, given, right, embed, tmp_path):
    checkpoint = make(tmp_path / "teacher")
    errors = embed("--checkpoint", checkpoint, "--encoder_type", given)
    assert str(checkpoint) in errors
    assert f"--encoder_type {right}" in errors or f"or {right}" in errors


def test_a_missing_tensor_is_named(embed, tmp_path):
    state = torch.load(WENET / "final.pt", weights_only=True)
    del state["encoder.encoders.1.norm2.weight"]
    torch.save(state, tmp_path / "final.pt")
    shutil.copy(WENET / "train.yaml", tmp_path)
    errors = embed("--checkpoint", tmp_path / "final.pt")
    assert "final.pt" in errors
    assert "1 missing (encoders.1.norm2.weight)" in errors


def test_an_evil_pickle_is_refused_and_not_run(embed, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'was_run'}",)

    torch.save({"encoder.after_norm.weight": Evil()}, tmp_path / "evil.pt")
    assert "evil.pt" in embed("--checkpoint", tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    assert "raw.pt" in embed("--checkpoint", tmp_path / "raw.pt")
    assert not (tmp_path / "was_run").exists()


def test_a_folder_of_a_lora_adapter_asks_for_the_merge(embed, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    flags = ["--checkpoint", tmp_path / "lora", "--encoder_type", "huggingface-whisper"]
    assert "merge_and_unload" in embed(*flags)


@pytest.mark.parametrize("layer", [0, -2, 4])
def test_a_layer_that_is_not_there_is_answered_with_their_number(layer, embed):
    assert f"--middle_layer {layer}: this teacher has 3 layers" in embed("--middle_layer", layer)


# --- quantizers


@pytest.fixture
def quantizer(corpus, tmp_path) -> Path:
    path = tmp_path / "q.pt"
    succeed(
        *("train_quantizer_offline.sh", *WENET_TEACHER, "--train_data", corpus.path),
        *("--train_quantizer_online", "--save_path", path),
        *("--quantizer_out_dim", 2, "--quantizer_codebook_size", 8),
    )
    return path


@pytest.fixture
def encode(corpus, tmp_path):
    """The flags of save_codebook.sh on the corpus."""
    path = tmp_path / "c.h5"
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_codebook", "--save_path", path]
    return ["save_codebook.sh", *flags]


def test_a_wrong_quantizer_in_dim_names_both_numbers(corpus, tmp_path):
    errors = refused(
        *("train_quantizer_offline.sh", *WENET_TEACHER, "--train_data", corpus.path),
        *("--train_quantizer_online", "--save_path", tmp_path / "q.pt"),
        *("--quantizer_in_dim", 1280),
    )
    assert "--quantizer_in_dim 1280: the embeddings have 64 dimensions" in errors
    assert not (tmp_path / "q.pt").exists()


def test_a_missing_or_foreign_quantizer_is_named(encode, tmp_path):
    assert "--quantizer_path: missing" in refused(*encode)
    assert "no.pt" in refused(*encode, "--quantizer_path", tmp_path / "no.pt")
    assert "final.pt" in refused(*encode, "--quantizer_path", WENET / "final.pt")


def test_flags_that_contradict_the_quantizer_are_refused(encode, quantizer):
    errors = refused(
        *(*encode, "--quantizer_path", quantizer, "--quantizer_in_dim", 80),
        *("--quantizer_out_dim", 8, "--quantizer_codebook_size", 256),
    )
    assert "--quantizer_in_dim 80" in errors
    assert "--quantizer_out_dim 8" in errors
    assert "--quantizer_codebook_size 256" in errors
    assert "64" in errors


def test_a_quantizer_of_another_teacher_is_refused_even_with_force(encode, quantizer, tmp_path):
    other = ["--checkpoint", make_openai(tmp_path / "teacher"), "--quantizer_path", quantizer]
    for flags in (other, [*other, "--force"]):
        assert f"trained for {WENET / 'final.pt'} (digest " in refused(*encode, *flags)


def test_a_quantizer_of_another_layer_padding_or_dtype_needs_force(encode, quantizer, tmp_path):
    other = ["--quantizer_path", quantizer, "--middle_layer", 2, "--whisper_padding", "30s"]
    other += ["--dtype", "bfloat16", "--override_config", "num_audio 2"]
    errors = refused(*encode, *other)
    assert "middle_layer 3, asked 2; use --middle_layer as then, or --force" in errors
    assert "whisper_padding none, asked 30s" in errors
    assert "dtype float32, asked bfloat16" in errors
    assert "going on because of --force" in succeed(*encode, *other, "--force")


# --- devices, flags, folders


def test_a_gpu_that_is_not_there_is_refused_and_the_default_falls_back(corpus, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--num_audio", 1]
    flags += ["--save_path", tmp_path / "e.h5"]
    assert "--gpu 7: no such device" in refused("save_embedding.sh", *flags, "--gpu", 7)
    assert "--gpu x: expected" in refused("save_embedding.sh", *flags, "--gpu", "x")
    done = subprocess.run(
        command("save_embedding.sh", *flags),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no CUDA device: using the CPU") == 1


def test_an_unknown_flag_and_an_unknown_yaml_key_name_the_nearest(embed, tmp_path):
    assert "did you mean --middle_layer?" in embed("--midle_layer", 3)
    (tmp_path / "a.yaml").write_text("btach_seconds: 3\n")
    errors = embed("--config", tmp_path / "a.yaml")
    assert "a.yaml: btach_seconds: unknown key; did you mean batch_seconds?" in errors


def test_a_folder_that_cannot_be_written_is_named_before_the_work(embed, tmp_path):
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file" in embed("--save_path", tmp_path / "file" / "e.h5")
    (tmp_path / "link.h5").symlink_to("big/e.h5")
    assert (
        "link.h5: a link, which the output would replace; give the path that it leads to: big/"
        in (embed("--save_path", tmp_path / "link.h5"))
    )


def test_an_existing_output_of_other_settings_is_refused_by_name(corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", tmp_path / "e.h5"]
    succeed("save_embedding.sh", *flags, "--num_audio", 3)
    stamp = (tmp_path / "e.h5").stat().st_mtime_ns
    errors = refused("save_embedding.sh", *flags, "--num_audio", 3, "--middle_layer", 2)
    assert f"{tmp_path}/e.h5" in errors
    assert "middle_layer" in errors
    assert "--force" in errors
    assert (tmp_path / "e.h5").stat().st_mtime_ns == stamp
    other = [*flags, "--num_audio", 24, "--middle_layer", 2, "--force"]
    parts = tmp_path / "e.h5.parts"
    status, _ = interrupt(
        command("save_embedding.sh", *other, "--gpu", "cpu", "--part_utterances", 1),
        lambda: len(list(parts.glob("part-*.json"))) >= 1,
        signal.SIGKILL,
    )
    assert status == -9
    assert (tmp_path / "e.h5").stat().st_mtime_ns == stamp  # the old one until the new is whole
    log = succeed("save_embedding.sh", *other, "--part_utterances", 1)
    assert "of 24 parts are done" in log
    with h5py.File(tmp_path / "e.h5") as file:
        assert file.attrs["middle_layer"] == 2


def test_a_full_disk_loses_no_finished_part_and_resumes_with_room(corpus, small_disk, resize):
    resize("160k")
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", small_disk / "e.h5"]
    flags += ["--part_utterances", 2]
    errors = refused("save_embedding.sh", *flags)
    assert str(small_disk) in errors
    assert "No space left on device" in errors
    finished = len(list(small_disk.glob("e.h5.parts/part-*.json")))
    assert finished > 0
    resize("4m")
    log = succeed("save_embedding.sh", *flags)
    assert f"resuming: {finished} of 12 parts are done" in log
    with h5py.File(small_disk / "e.h5") as file:
        assert len(file) == 24
