"""Two processes that torchrun starts on the CPU train the quantizer that one process trains."""

import csv
import signal
import subprocess
import sys

import h5py
import pytest

from k2distil.quantizer import load_quantizer
from tests.quantizer.conftest import power_law_frames
from tests.scripts.conftest import ROOT, WENET_TEACHER, environment, interrupt, run, succeed

SIZES = ["--quantizer_out_dim", 2, "--quantizer_codebook_size", 16, "--quantizer_batch_size", 161]


@pytest.fixture
def embeddings(tmp_path):
    """An h5 as others write it: 20 utterances of 100 frames, D = 16."""
    path = tmp_path / "e.h5"
    with h5py.File(path, "w") as file:
        for index, frames in enumerate(power_law_frames(2000, 16).split(100)):
            file[f"utt{index:02}"] = frames.numpy()
    return path


def of_two(*flags):
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "k2distil", "train_quantizer", "--gpu", "cpu", "--num_workers", "0"),
        *map(str, flags),
    ]


def run_two(*flags):
    return subprocess.run(
        of_two(*flags), capture_output=True, text=True, env=environment(PYTHONPATH=str(ROOT))
    )


@pytest.mark.parametrize("quantizer_type", ["product", "additive"])
def test_two_processes_train_what_one_does_even_when_stopped(quantizer_type, embeddings, tmp_path):
    flags = ["--embedding_path", embeddings, "--quantizer_type", quantizer_type, *SIZES]
    succeed("train_quantizer_offline.sh", *flags, "--save_path", tmp_path / "one.pt")

    flags += ["--save_path", tmp_path / "two.pt"]
    checkpoint = tmp_path / "two.pt.training.pt"
    slowly = of_two(*flags, "--checkpoint_seconds", "0.02")
    status, log = interrupt(slowly, checkpoint.exists, signal.SIGTERM, PYTHONPATH=str(ROOT))
    assert status != 0, log
    assert "fault of k2distil" not in log
    assert not (tmp_path / "two.pt").exists()
    done = run_two(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resuming at step") == 1  # the first process speaks
    assert not checkpoint.exists()

    assert load_quantizer(tmp_path / "one.pt").id == load_quantizer(tmp_path / "two.pt").id


def test_two_processes_embed_half_of_the_audio_each(corpus, tmp_path):
    for index in (3, 20):  # one of either process
        (corpus.folder / f"utt{index:02}.wav").write_bytes(b"not audio")
    flags = ["--train_quantizer_online", *WENET_TEACHER, "--train_data", corpus.path, *SIZES]
    flags += ["--part_utterances", 5, "--num_audio_from", "first"]
    one = ["train_quantizer_offline.sh", *flags, "--save_path", tmp_path / "one.pt"]
    one = run(*one, by_script=True)
    two = run_two(*flags, "--save_path", tmp_path / "two.pt")
    assert one.returncode == two.returncode == 1, two.stderr  # done, but for some utterances
    rejected = [(tmp_path / f"{name}.pt.failed.tsv").read_text() for name in ("one", "two")]
    assert rejected[0] == rejected[1]
    assert [
        row["key"] for row in csv.DictReader(rejected[0].splitlines(), dialect="excel-tab")
    ] == ["utt03", "utt20"]
    assert load_quantizer(tmp_path / "one.pt").id == load_quantizer(tmp_path / "two.pt").id


def test_a_users_error_is_told_once(embeddings, tmp_path):
    done = run_two("--embedding_path", embeddings, "--quantizer_in_dim", 4, "--save_path", tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: --quantizer_in_dim 4: the embeddings have 16") == 1
    assert "terminated" not in done.stderr
