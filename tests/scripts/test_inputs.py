"""save_embedding.sh on lists of every kind: the same audio, the same embeddings."""

import csv
import os
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest
import yaml

from k2distil.pipeline.run.rejections import read_rejections
from tests.scripts.conftest import WENET_TEACHER, environment, run, speech, succeed


@pytest.fixture
def corpus(empty_corpus):
    for index in range(4):
        empty_corpus.add(f"utt{index}", speech(0.5 + 0.1 * index, seed=index))
    return empty_corpus


def embeddings(path):
    with h5py.File(path) as file:
        return {key: file[key][:] for key in file}


def test_every_kind_of_list_gives_the_same_embeddings(corpus, tmp_path):
    path, folder = corpus.path, corpus.folder
    wavs = {f"utt{index}": folder / f"utt{index}.wav" for index in range(4)}
    scp = tmp_path / "wav.scp"
    scp.write_text(f"utt1 {wavs['utt1']}\nutt2 cat {wavs['utt2']} |\n")
    first = tmp_path / "first.list"
    first.write_text(path.read_text().splitlines()[0].replace("utt0.wav", str(wavs["utt0"])) + "\n")
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "0.tar", "w") as tar:
        tar.add(wavs["utt3"], "utt3.wav")
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    one, several = tmp_path / "one" / "e.h5", tmp_path / "several" / "e.h5"
    succeed("save_embedding.sh", *WENET_TEACHER, "--train_data", path, "--save_path", one)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        shards = tmp_path / "shards.list"
        shards.write_text(f"http://127.0.0.1:{server.server_port}/0.tar\n")
        flags = ["--train_data", first, scp, shards, "--save_path", several]
        succeed("save_embedding.sh", *WENET_TEACHER, *flags, "--allow_pipes")
        server.shutdown()
    expected, found = embeddings(one), embeddings(several)
    assert list(found) == list(expected)
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])
    assert [each.name[17:] for each in (several.parent / "shards_cache").glob("*.tar")] == ["0.tar"]

    resolved = several.with_name("e.h5.config.yaml")
    assert yaml.safe_load(resolved.read_text())["train_data"] == [str(first), str(scp), str(shards)]
    log = succeed("save_embedding.sh", "--config", resolved)  # the server is gone, the cache is not
    assert "complete already" in log


def test_names_that_are_not_utf_8_are_read_and_told(corpus, tmp_path):
    names = [os.fsdecode(name) for name in (b"\xd6\xd0.wav", b"\xb9\xfa.wav")]  # GBK
    (corpus.folder / "utt1.wav").rename(corpus.folder / names[0])
    (corpus.folder / names[1]).write_bytes(b"words")
    corpus.list("gbk", names[0])
    corpus.list("words", names[1])
    corpus.list("half", "\ud800.wav")
    save_path = tmp_path / "e.h5"
    done = run(
        *("save_embedding.sh", *WENET_TEACHER, "--train_data", corpus.path),
        *("--save_path", save_path),
    )
    assert done.returncode == 1, done.stderr
    assert len(embeddings(save_path)["gbk"]) == 30
    failed = {row["key"]: row for row in read_rejections(save_path, "failed")}
    assert failed.keys() == {"utt1", "words", "half"}
    assert failed["words"]["wav"].endswith(r"\udcb9\udcfa.wav")
    assert r"\udcb9\udcfa.wav: utterance words: nothing here" in failed["words"]["reason"]
    assert r"\ud800.wav: utterance half: no file can have that name" in failed["half"]["reason"]
    (corpus.folder / names[0]).unlink()
    verify = [sys.executable, "-m", "k2distil", "verify", "--embedding_path", str(save_path)]
    told = subprocess.run(
        [*verify, "--train_data", str(corpus.path)],
        capture_output=True,
        text=True,
        env=environment(PYTHONIOENCODING="utf-8:strict"),
    )
    assert told.returncode == 1, told.stderr
    assert r"\udcd6\udcd0.wav: utterance gbk: cannot be read" in told.stdout


def test_a_command_that_fails_is_a_failed_utterance(corpus, tmp_path):
    wav = corpus.folder / "utt0.wav"
    (tmp_path / "wav.scp").write_text(f"good {wav}\nbad cat {tmp_path / 'absent.sph'} |\n")
    flags = ["--train_data", tmp_path, "--save_path", tmp_path / "e.h5"]
    refused = run("save_embedding.sh", *WENET_TEACHER, *flags)
    assert refused.returncode == 2
    assert "line 2: " in refused.stderr
    assert "--allow_pipes" in refused.stderr
    done = run("save_embedding.sh", *WENET_TEACHER, *flags, "--allow_pipes")
    assert done.returncode == 1
    (row,) = csv.DictReader((tmp_path / "e.h5.failed.tsv").open(), dialect="excel-tab")
    assert row["key"] == "bad"
    assert "cat failed with status 1" in row["reason"]
    assert row["reason"].endswith("absent.sph: No such file or directory")
    assert list(embeddings(tmp_path / "e.h5")) == ["good"]
