"""k2distil inspect, on real files."""

import gzip
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from k2distil.config import InspectConfig
from k2distil.errors import CheckpointError, DataError
from k2distil.pipeline import inspect as module
from k2distil.pipeline.outputs import contents
from k2distil.quantizer import Correction, ProductQuantizer, save_quantizer
from tests.pipeline.outputs import EMBEDDING, random_codes, random_embedding, write_output

ROOT = Path(__file__).parents[2]


def inspect(path: Path) -> str:
    return module.inspect(InspectConfig(path=path)).report


def test_codes_are_described_by_attributes_size_usage_and_a_few_utterances(tmp_path: Path) -> None:
    codes = random_codes()
    for values in codes.values():
        values[:, 0] = 7  # one entry only
        values[:, 1] = np.arange(len(values)) % 2  # two, about alike
    text = inspect(write_output(tmp_path / "codes.h5", codes, versions='{"torch": "2.6"}'))
    assert text.startswith(f"{tmp_path / 'codes.h5'}\n\n")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"kind codes", "teacher exp/final.pt", "versions torch 2.6"} <= set(lines)
    assert {"utterances 4", "frames 132", "array of an utterance (num_frames, 4) uint8"} <= set(
        lines
    )
    assert "bytes per hour 720,000" in lines  # 50 frames a second of 4 bytes
    assert "of all utterances:" in lines
    assert "0 0.005 199" in lines
    assert "1 0.010 198" in lines
    assert {"a 20 0.40", "b 35 0.70", "c 50 1.00"} <= set(lines)
    assert "d 27 0.54" not in lines
    assert "fingerprint" not in text


def test_several_files_are_described_as_one(tmp_path: Path) -> None:
    one = inspect(write_output(tmp_path / "one.h5", random_codes()))
    hours = 60 * 0.02 / 3600
    several = inspect(write_output(tmp_path / "codes.h5", random_codes(), shard_hours=hours))
    lines = [" ".join(line.split()) for line in several.splitlines()]
    assert "files 3: codes-00000.h5 to codes-00002.h5" in lines
    assert "codes-00001.h5" not in several
    assert several.split("of all utterances:")[1] == one.split("of all utterances:")[1]


def test_perplexity_and_dead_entries_are_those_of_all_frames(tmp_path: Path) -> None:
    codes = random_codes()
    text = inspect(write_output(tmp_path / "codes.h5", codes))
    counts = np.bincount(np.concatenate(list(codes.values()))[:, 2], minlength=200)
    shares = counts / counts.sum()
    entropy = -sum(share * np.log(share) for share in shares if share)
    expected = f"2 {np.exp(entropy) / 200:.3f} {(counts == 0).sum()}"
    assert expected in [" ".join(line.split()) for line in text.splitlines()]


def test_of_a_big_file_a_sample_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_VALUES", 300)  # of 4 * 132
    text = inspect(write_output(tmp_path / "codes.h5", random_codes()))
    assert "of one utterance in 2:" in text


def test_embeddings_are_described_by_their_moments(tmp_path: Path) -> None:
    arrays = random_embedding("float32")
    path = write_output(tmp_path / "e.h5", arrays, {**EMBEDDING, "embedding_dtype": "float32"})
    lines = [" ".join(line.split()) for line in inspect(path).splitlines()]
    values = np.concatenate(list(arrays.values()))
    assert f"standard deviation {values.std():.4g}" in lines
    assert f"largest absolute value {np.abs(values).max():.4g}" in lines
    assert "bytes per hour 11,520,000" in lines


def test_a_quantizer_is_described_by_its_sizes_origin_and_figures(tmp_path: Path) -> None:
    quantizer = ProductQuantizer(torch.randn(2, 16, 6), torch.zeros(6), torch.ones(()))
    quantizer.provenance = {"teacher_digest": "abc", "middle_layer": 3}
    quantizer.figures = {"relative_error": 0.25, "usage": [0.5, 0.75]}
    path = save_quantizer(quantizer, tmp_path / "quantizer.pt")
    for given in (path, tmp_path):
        lines = [" ".join(line.split()) for line in inspect(given).splitlines()]
        assert lines[0] == str(path)
        assert {f"id {quantizer.id}", "codebooks 2", "entries a codebook 16"} <= set(lines)
        assert {"middle_layer 3", "relative_error 0.25", "usage 0.5 0.75"} <= set(lines)
        assert "correction no" in lines
    quantizer.correction = Correction(6)
    save_quantizer(quantizer, path)
    assert "correction yes, of decoded frames" in " ".join(inspect(path).split())


def test_files_of_others_are_described_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.array([[0, 3], [2, 1]], np.int64)
    lines = [" ".join(line.split()) for line in inspect(tmp_path / "other.h5").splitlines()]
    assert {"utterances 1", "0 0.500 2", "1 0.500 2", "utterance frames", "a 2"} <= set(lines)


def test_what_cannot_be_described_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        inspect(tmp_path / "absent.h5")
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(DataError, match="no utterances"):
        inspect(tmp_path / "empty.h5")
    codes = random_codes()
    codes["b"][3, 1] = 201
    with pytest.raises(DataError, match="codes out of range; see k2distil verify"):
        inspect(write_output(tmp_path / "codes.h5", codes))
    below = {"a": np.full((5, 4), -1, np.int16)}
    with pytest.raises(DataError, match="codes out of range; see k2distil verify"):
        inspect(write_output(tmp_path / "below.h5", below))
    (tmp_path / "text.pt").write_text("words")
    with pytest.raises(CheckpointError, match=r"text\.pt: not a quantizer.*; --path takes"):
        inspect(tmp_path / "text.pt")
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(
        CheckpointError, match=r"cuts\.jsonl\.gz: a gzip file, .*; --path takes codes"
    ):
        inspect(tmp_path / "cuts.jsonl.gz")
    with pytest.raises(DataError, match=f"{tmp_path}: a folder without quantizer.*; --path takes"):
        inspect(tmp_path)


def test_the_command_prints_to_stdout(tmp_path: Path) -> None:
    path = write_output(tmp_path / "codes.h5", random_codes())
    command = [sys.executable, "-m", "k2distil", "inspect", "--path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, inspect(path) + "\n")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    h5py.File(tmp_path / "theirs.h5", "w").close()
    monkeypatch.setattr(
        "os.access", lambda path, mode: False
    )  # of a test's root nothing is refused
    with pytest.raises(DataError, match=r"theirs\.h5: no right to read it"):
        inspect(tmp_path / "theirs.h5")
