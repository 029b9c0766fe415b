"""Killed, interrupted and terminated runs lose nothing that a part had finished."""

import signal

import h5py
import numpy as np
import pytest

from k2distil.quantizer import load_quantizer
from tests.scripts.conftest import WENET_TEACHER, command, interrupt, succeed

CPU = ["--num_workers", 1, "--gpu", "cpu"]


def embedding_flags(corpus, save_path):
    return [
        *(*WENET_TEACHER, "--train_data", corpus.path, "--save_path", save_path, *CPU),
        *("--part_utterances", 2, "--num_audio_from", "first"),
    ]


@pytest.mark.parametrize(
    ("signum", "status", "message"),
    [
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, "terminated; run the same command again to resume"),
        (signal.SIGINT, 130, "interrupted; run the same command again to resume"),
    ],
)
def test_an_interrupted_extraction_resumes_and_equals_an_undisturbed_one(
    signum, status, message, corpus, tmp_path
):
    for index in range(40):  # long enough to be caught in the middle
        corpus.list(f"more{index}", "utt23.wav")
    undisturbed, save_path = tmp_path / "a.h5", tmp_path / "b.h5"
    succeed("save_embedding.sh", *embedding_flags(corpus, undisturbed))

    parts = tmp_path / "b.h5.parts"

    def some_parts_are_done() -> bool:
        return len(list(parts.glob("part-*.json"))) >= 3

    flags = command("save_embedding.sh", *embedding_flags(corpus, save_path))
    returned, log = interrupt(flags, some_parts_are_done, signum)
    assert returned == status
    assert message in log
    assert "Traceback" not in log, log
    assert not save_path.exists()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("part-*.json")}
    assert 3 <= len(kept) < 32

    log = succeed("save_embedding.sh", *embedding_flags(corpus, save_path))
    assert f"resuming: {len(kept)} of 32 parts are done" in log
    assert not parts.exists()
    with h5py.File(undisturbed) as one, h5py.File(save_path) as other:
        assert len(one) == 64
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key][:], other[key][:])


def test_an_interrupted_training_resumes_to_the_same_quantizer(corpus, tmp_path):
    succeed(
        *("save_embedding.sh", *WENET_TEACHER, "--train_data", corpus.path),
        *("--save_path", tmp_path / "e.h5"),
    )
    flags = ["--embedding_path", tmp_path / "e.h5", "--gpu", "cpu"]
    flags += ["--quantizer_out_dim", 2, "--quantizer_batch_size", 4]
    flags += ["--quantizer_codebook_size", 16]
    succeed("train_quantizer_offline.sh", *flags, "--save_path", tmp_path / "one.pt")

    checkpoint = tmp_path / "two.pt.training.pt"
    running = command("train_quantizer_offline.sh", *flags, "--save_path", tmp_path / "two.pt")
    running += ["--checkpoint_seconds", "0.05"]
    status, log = interrupt(running, checkpoint.exists, signal.SIGTERM)
    assert status == 143, log
    assert not (tmp_path / "two.pt").exists()
    log = succeed("train_quantizer_offline.sh", *flags, "--save_path", tmp_path / "two.pt")
    assert "resuming at step" in log
    assert not checkpoint.exists()
    assert load_quantizer(tmp_path / "two.pt").id == load_quantizer(tmp_path / "one.pt").id
