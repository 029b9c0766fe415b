"""A quantizer of the multi_quantization package in the scripts."""

import h5py
import numpy as np
import pytest
import torch

from tests.scripts.conftest import WENET_TEACHER, succeed
from tests.scripts.test_bad_input import refused


@pytest.fixture
def package_path(tmp_path):
    """D = 64 as the tiny teacher, N = 4, K = 16."""
    multi_quantization = pytest.importorskip("multi_quantization")
    torch.manual_seed(0)
    package = multi_quantization.Quantizer(dim=64, codebook_size=16, num_codebooks=4)
    torch.save(package.state_dict(), tmp_path / "icefall.pt")
    return tmp_path / "icefall.pt"


def test_its_codes_are_saved_with_one_warning(corpus, package_path, tmp_path):
    multi_quantization = pytest.importorskip("multi_quantization")
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--num_audio", 3]
    codes_path, embedding_path = tmp_path / "codes.h5", tmp_path / "e.h5"
    log = succeed(
        *("save_codebook.sh", *flags, "--save_codebook", "--quantizer_path", package_path),
        *("--save_path", codes_path),
    )
    assert log.count("does not say which teacher it is for") == 1
    succeed(
        *("save_codebook.sh", *flags, "--save_path", embedding_path),
        *("--embedding_dtype", "float32"),
    )
    package = multi_quantization.Quantizer(dim=64, codebook_size=16, num_codebooks=4)
    package.load_state_dict(torch.load(package_path))
    with h5py.File(codes_path) as codes, h5py.File(embedding_path) as embeddings:
        assert codes.attrs["quantizer_type"] == "multi_quantization"
        assert codes.keys() == embeddings.keys()
        assert len(codes) == 3
        for key in codes:
            frames = torch.from_numpy(embeddings[key][:])
            with torch.no_grad():
                expected = package.encode(frames, as_bytes=False).numpy()
            assert np.mean(codes[key][:] == expected) >= 0.99


def test_its_first_codebooks_alone_are_refused(corpus, package_path, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_codebook"]
    errors = refused(
        *("save_codebook.sh", *flags, "--quantizer_path", package_path),
        *("--save_path", tmp_path / "codes.h5", "--num_codebooks_used", 2),
    )
    assert "icefall.pt is of multi_quantization" in errors


def test_training_never_replaces_it(corpus, package_path):
    before = package_path.read_bytes()
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--train_quantizer_online"]
    for force in ([], ["--force"]):
        errors = refused("train_quantizer_offline.sh", *flags, "--save_path", package_path, *force)
        assert "icefall.pt: a quantizer of multi_quantization, not made by k2distil" in errors
    assert package_path.read_bytes() == before
