"""Changed settings between runs, and inputs of the wrong kind: nothing stale, nothing destroyed."""

import json
import re
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest
import soundfile

from k2distil.quantizer import load_quantizer
from k2distil.storage import EmbeddingReader
from tests.scripts.conftest import (
    GOLDEN,
    WENET_TEACHER,
    command,
    environment,
    k2distil,
    run,
    speech,
    succeed,
)
from tests.scripts.test_bad_input import refused

SMALL = ["--quantizer_out_dim", 2, "--quantizer_codebook_size", 8]


@pytest.fixture
def embeddings(corpus, tmp_path):
    path = tmp_path / "e.h5"
    succeed("save_embedding.sh", *WENET_TEACHER, "--train_data", corpus.path, "--save_path", path)
    return path


def train(embeddings, save_path, *flags):
    paths = ["--embedding_path", embeddings, "--save_path", save_path]
    return ["train_quantizer_offline.sh", *paths, *SMALL, *flags]


def test_a_quantizer_is_made_once_and_anew_only_for_other_settings_with_force(embeddings, tmp_path):
    path = tmp_path / "q.pt"
    succeed(*train(embeddings, path))
    first = load_quantizer(path).id
    (tmp_path / "q.pt.summary.json").unlink()  # the file itself says how it was made
    assert "complete already" in succeed(*train(embeddings, path))
    assert "complete already" in succeed(*train(embeddings, path, "--force"))
    errors = refused(*train(embeddings, path, "--seed", 5))
    assert "q.pt: made with other settings (seed: 0 there, 5 now)" in errors
    assert load_quantizer(path).id == first
    assert "seed: 0" in (tmp_path / "q.pt.config.yaml").read_text()
    succeed(*train(embeddings, path, "--seed", 5, "--force"))
    assert load_quantizer(path).id != first


def test_a_quantizer_of_remade_embeddings_is_not_taken_for_done(embeddings, corpus, tmp_path):
    path = tmp_path / "q.pt"
    succeed(*train(embeddings, path))
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", embeddings]
    succeed("save_embedding.sh", *flags, "--long_audio", "skip", "--middle_layer", 2, "--force")
    assert "made with other settings" in refused(*train(embeddings, path))


def test_online_training_from_another_channel_is_not_taken_for_done(empty_corpus, tmp_path):
    for index in range(12):
        both = np.stack([speech(1, index), speech(1, index + 100)], axis=1)
        empty_corpus.add(f"utt{index}", both)
    path = tmp_path / "q.pt"
    flags = [*WENET_TEACHER, "--train_data", empty_corpus.path, "--train_quantizer_online", *SMALL]
    succeed("train_quantizer_offline.sh", *flags, "--save_path", path)
    errors = refused("train_quantizer_offline.sh", *flags, "--save_path", path, "--channel", 1)
    assert "channel: 0 there, 1 now" in errors


def test_the_failed_ones_of_an_online_training_are_listed_even_when_all_fail(
    empty_corpus, tmp_path
):
    for index in range(12):
        empty_corpus.list(f"utt{index}", f"missing{index}.wav")
    flags = [*WENET_TEACHER, "--train_data", empty_corpus.path, "--train_quantizer_online", *SMALL]
    errors = refused("train_quantizer_offline.sh", *flags, "--save_path", tmp_path / "q.pt")
    assert "too few utterances gave frames" in errors
    assert len((tmp_path / "q.pt.failed.tsv").read_text().splitlines()) == 13


@pytest.mark.parametrize("num_good", [1, 6])
def test_audio_that_is_missing_counts_in_neither_way_of_training(empty_corpus, tmp_path, num_good):
    for index in range(num_good):
        empty_corpus.add(f"utt{index}", speech(6 / num_good, index))
    for index in range(12 - num_good):
        empty_corpus.list(f"missing{index}", f"missing{index}.wav")
    flags = [*WENET_TEACHER, "--train_data", empty_corpus.path, "--save_path"]
    for path, script, *more in (
        (tmp_path / "online.pt", "train_quantizer_offline.sh", "--train_quantizer_online", *SMALL),
        (tmp_path / "e.h5", "save_embedding.sh"),
    ):
        done = run(script, *flags, path, *more)
        assert done.returncode == 1, done.stderr
    succeed(*train(tmp_path / "e.h5", tmp_path / "offline.pt"))
    found = [load_quantizer(tmp_path / f"{name}.pt") for name in ("online", "offline")]
    assert found[0].id == found[1].id
    assert found[0].figures["num_frames"] == found[1].figures["num_frames"] == 30


def test_a_step_of_more_frames_than_there_are_is_warned_of(embeddings, tmp_path):
    log = succeed(*train(embeddings, tmp_path / "q.pt", "--quantizer_batch_size", 3000))
    number = re.search(r"(\d+) frames to train on", log)[1]
    assert f"--quantizer_batch_size 3000, but {number} frames: each step takes all of them" in log
    assert "--quantizer_batch_size" not in succeed(*train(embeddings, tmp_path / "again.pt"))


def test_a_quantizer_is_not_made_in_a_file_for_a_folder(embeddings):
    errors = refused(*train(embeddings, embeddings))
    assert f"{embeddings}: a file, where a folder is needed; give a --save_path with" in errors


def test_force_does_not_redo_what_is_done_with_the_same_settings(embeddings, corpus):
    stamp = embeddings.stat().st_mtime_ns
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", embeddings, "--force"]
    assert "complete already" in succeed("save_embedding.sh", *flags)
    assert embeddings.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_input_or_a_foreign_file_is_never_overwritten(force, corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, *force]
    before = corpus.path.read_text()
    errors = refused("save_embedding.sh", *flags, "--save_path", corpus.path)
    assert "an input of this command" in errors
    assert corpus.path.read_text() == before
    (tmp_path / "thesis.txt").write_text("years of work")
    errors = refused("save_embedding.sh", *flags, "--save_path", tmp_path / "thesis.txt")
    assert "thesis.txt" in errors
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert "a folder" in refused("save_embedding.sh", *flags, "--save_path", tmp_path)


def test_the_same_command_tries_again_what_had_failed(corpus, tmp_path):
    corpus.list("late", "late.wav")
    corpus.list("never", "never.wav")
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", tmp_path / "e.h5"]
    assert run("save_embedding.sh", *flags).returncode == 1
    with h5py.File(tmp_path / "e.h5") as file:
        before = {key: dataset[:] for key, dataset in file.items()}
    assert len(before) == 24
    soundfile.write(corpus.folder / "late.wav", speech(1.0), 16000)
    stamp = (tmp_path / "e.h5").stat().st_mtime_ns
    (corpus.folder / "late.wav").rename(tmp_path / "late.wav")
    assert run("save_embedding.sh", *flags).returncode == 1  # both fail again
    assert (tmp_path / "e.h5").stat().st_mtime_ns == stamp
    (tmp_path / "late.wav").rename(corpus.folder / "late.wav")
    done = run("save_embedding.sh", *flags)
    assert done.returncode == 1
    assert "25 written, 1 failed" in done.stderr
    assert list(EmbeddingReader(tmp_path / "e.h5")) == [*sorted(before), "late"]
    with h5py.File(tmp_path / "e.h5") as file:
        for key, values in before.items():
            np.testing.assert_array_equal(file[key][:], values)
        assert file["late"].shape == (50, 64)
    rows = (tmp_path / "e.h5.failed.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["key", "never"]
    soundfile.write(corpus.folder / "never.wav", speech(0.5), 16000)
    assert "26 written" in succeed("save_embedding.sh", *flags)
    assert not (tmp_path / "e.h5.failed.tsv").exists()
    assert "complete already" in succeed("save_embedding.sh", *flags)
    summary = json.loads((tmp_path / "e.h5.summary.json").read_text())
    assert (summary["written"], summary["failed"]) == (26, 0)
    assert summary["audio_seconds"] == pytest.approx(sum(0.5 + 0.05 * n for n in range(24)) + 1.5)


def test_a_corrected_list_that_has_grown_too_is_gone_on_with_by_two_processes(corpus, tmp_path):
    corpus.list("late", "typo.wav")
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", tmp_path / "e.h5"]
    flags += ["--part_utterances", 1]
    assert run("save_embedding.sh", *flags).returncode == 1
    del corpus.lines[-1]
    for index in range(12):
        (corpus.folder / f"utt{index:02}.wav").rename(corpus.folder / f"new{index}.wav")
        corpus.list(f"new{index}", f"new{index}.wav")
    (corpus.folder / "utt23.wav").rename(corpus.folder / "late.wav")
    corpus.list("late", "late.wav")
    assert corpus.path.exists()  # written anew
    words = command("save_embedding.sh", *flags, "--gpu", "cpu", "--num_workers", 0)
    both = [subprocess.Popen(words, env=environment()) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    summary = json.loads((tmp_path / "e.h5.summary.json").read_text())
    assert (summary["written"], summary["failed"]) == (37, 0)
    assert summary["fingerprint"]["utterances"] == 37
    assert len(EmbeddingReader(tmp_path / "e.h5")) == 37
    assert not (tmp_path / "e.h5.failed.tsv").exists()
    k2distil("verify", "--embedding_path", tmp_path / "e.h5")
    corpus.lines[0] = corpus.lines[0].replace("utt00.wav", "new0.wav")
    assert corpus.path.exists()
    errors = refused("save_embedding.sh", *flags)
    assert "other audio or segments for utterances in it" in errors


def test_a_second_run_takes_over_from_a_first_that_stands_still(corpus, tmp_path):
    for index in range(40):
        corpus.list(f"more{index}", "utt23.wav")
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", tmp_path / "e.h5"]
    flags += ["--part_utterances", 1, "--lease_seconds", 1]
    done = tmp_path / "e.h5.parts" / "part-000000.json"
    first = subprocess.Popen(
        command("save_embedding.sh", *flags, "--gpu", "cpu"), env=environment()
    )
    while not done.exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    try:
        succeed("save_embedding.sh", *flags)
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    assert len(EmbeddingReader(tmp_path / "e.h5")) == 64


def test_embeddings_of_the_wrong_kind_are_refused_by_name(tmp_path):
    path = tmp_path / "x.h5"
    assert "--embedding_path: missing" in refused(
        "train_quantizer_offline.sh", "--save_path", tmp_path / "q.pt"
    )
    with h5py.File(path, "w") as file:
        file["utt1"] = np.zeros((50, 8), np.uint8)
    assert "is it a file of codes?" in refused(*train(path, tmp_path / "q.pt"))
    with h5py.File(path, "w") as file:
        for index in range(12):
            file[f"utt{index:02}"] = np.full((50, 8), np.nan if index == 5 else 1, np.float32)
    assert f"{path}[utt05]: NaN, inf or values beyond float32; correct" in refused(
        *train(path, tmp_path / "q.pt")
    )
    with h5py.File(path, "w") as file:
        file["utt1"] = np.zeros((1, 50, 8), np.float32)
    assert "got float32 (1, 50, 8); make it anew" in refused(*train(path, tmp_path / "q.pt"))
    (tmp_path / "text.h5").write_text("no h5")
    assert "text.h5" in refused(*train(tmp_path / "text.h5", tmp_path / "q.pt"))


def test_embeddings_made_by_others_train_a_quantizer(tmp_path):
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for index in range(20):
            file[f"utt{index}"] = generator.standard_normal((50, 8)).astype(np.float32)
    succeed(*train(tmp_path / "x.h5", tmp_path / "q.pt"))
    assert load_quantizer(tmp_path / "q.pt").dim == 8


def test_too_few_frames_for_the_codebooks_are_refused_before_the_training(embeddings, tmp_path):
    errors = refused(
        *("train_quantizer_offline.sh", "--embedding_path", embeddings),
        *("--save_path", tmp_path / "q.pt", "--quantizer_codebook_size", 4096),
    )
    assert "frames to train 4096 entries a codebook on" in errors
    assert not (tmp_path / "q.pt").exists()


def test_the_resolved_config_of_a_wenet_yaml_repeats_the_run(corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--num_audio", 2]
    wenet = ["--config", GOLDEN / "wenet_conv1d2" / "train.yaml"]
    wenet += ["--override_config", "dataset_conf.filter_conf.max_length 100"]
    succeed("save_embedding.sh", *flags, *wenet, "--save_path", tmp_path / "a.h5")
    config = tmp_path / "a.h5.config.yaml"
    assert "complete already" in succeed("save_embedding.sh", "--config", config)


def test_another_part_size_is_refused_while_parts_are_there(corpus, tmp_path):
    path = tmp_path / "e.h5"
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", path]
    succeed("save_embedding.sh", *flags, "--part_utterances", 10)
    parts = tmp_path / "e.h5.parts"
    assert not parts.exists()
    path.rename(tmp_path / "kept.h5")
    corpus.add("broken", speech(1))  # another list: a run that stops before its merge
    (tmp_path / "e.h5.parts").mkdir()
    (parts / "plan.json").write_text('{"part_utterances": 10}')
    assert "part_utterances: 10 there, 9 now" in refused(
        "save_embedding.sh", *flags, "--part_utterances", 9
    )
