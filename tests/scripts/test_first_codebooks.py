"""Codes of fewer codebooks than were trained."""

import json

import h5py
import numpy as np
import pytest
import torch

from k2distil.quantizer import ProductQuantizer, load_quantizer, save_quantizer
from k2distil.storage import CodebookReader
from tests.scripts.conftest import WENET_TEACHER, succeed
from tests.scripts.test_bad_input import refused

SIZES = ["--quantizer_out_dim", 4, "--quantizer_codebook_size", 16]


@pytest.fixture(params=["product", "additive"])
def quantizer_path(request, corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, *SIZES, "--train_quantizer_online"]
    path = tmp_path / "q.pt"
    log = succeed(
        *("train_quantizer_offline.sh", *flags, "--quantizer_type", request.param),
        *("--save_path", path),
    )
    assert "relative error of the first 1 to 4 codebooks: " in log
    summary = json.loads((tmp_path / "q.pt.summary.json").read_text())
    errors = summary["held_out"]["error_by_num_codebooks"]
    assert len(errors) == 4
    assert errors == load_quantizer(path).figures["error_by_num_codebooks"]
    return path


def test_codes_of_the_first_codebooks_are_saved_and_resume(quantizer_path, corpus, tmp_path):
    teacher = [*WENET_TEACHER, "--train_data", corpus.path, "--save_codebook"]
    flags = ["save_codebook.sh", *teacher, "--quantizer_path", quantizer_path, "--save_path"]
    whole_path, path = tmp_path / "whole.h5", tmp_path / "codes.h5"
    succeed(*flags, whole_path)
    log = succeed(*flags, path, "--num_codebooks_used", 2)
    assert "the first 2 of 4 codebooks: relative error 0." in log
    quantizer = load_quantizer(quantizer_path)
    whole, codes = CodebookReader(whole_path), CodebookReader(path)
    assert (codes.meta["num_codebooks"], codes.meta["num_codebooks_trained"]) == (2, 4)
    assert codes.meta["quantizer_id"] == quantizer.first(2).id != quantizer.id
    with h5py.File(whole_path) as file:
        assert "num_codebooks_trained" not in file.attrs
    assert list(codes) == list(whole)
    for key in codes:
        assert codes[key].shape == (len(whole[key]), 2)
        if quantizer.type == "product":
            np.testing.assert_array_equal(codes[key], whole[key][:, :2])

    assert "complete already" in succeed(*flags, path, "--num_codebooks_used", 2)
    assert "complete already" in succeed(*flags, whole_path, "--num_codebooks_used", 4)
    errors = refused(*flags, path, "--num_codebooks_used", 3)
    assert "num_codebooks: 2 there, 3 now" in errors
    assert "num_codebooks_trained: 4 there, nothing now" in refused(*flags, path)
    succeed(*flags, path, "--num_codebooks_used", 3, "--force")
    assert CodebookReader(path)["utt00"].shape[1] == 3


def test_more_codebooks_than_were_trained_are_refused(quantizer_path, corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_codebook"]
    errors = refused(
        *("save_codebook.sh", *flags, "--quantizer_path", quantizer_path),
        *("--save_path", tmp_path / "codes.h5", "--num_codebooks_used", 9),
    )
    assert "--num_codebooks_used 9" in errors
    assert "q.pt has 4 codebooks" in errors
    assert not (tmp_path / "codes.h5").exists()


def test_a_part_in_the_place_of_the_whole_is_not_taken_for_it(corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, *SIZES, "--train_quantizer_online"]
    path = tmp_path / "q.pt"
    succeed("train_quantizer_offline.sh", *flags, "--save_path", path)
    save_quantizer(load_quantizer(path).first(2), path)
    errors = refused("train_quantizer_offline.sh", *flags, "--save_path", path)
    assert "quantizer_out_dim: 2 there, 4 now" in errors
    flags += ["--quantizer_out_dim", 2]
    errors = refused("train_quantizer_offline.sh", *flags, "--save_path", path)
    assert "first_of: 4 there, nothing now" in errors


def test_a_quantizer_without_figures_of_its_parts_is_taken_with_a_warning(corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--num_audio", 2]
    quantizer = ProductQuantizer(torch.randn(4, 16, 64), torch.zeros(64), torch.ones(()))
    log = succeed(
        *("save_codebook.sh", *flags, "--save_codebook", "--num_codebooks_used", 2),
        *("--quantizer_path", save_quantizer(quantizer, tmp_path / "old.pt")),
        *("--save_path", tmp_path / "codes.h5"),
    )
    assert "the quantizer was saved without being measured" in log
    assert CodebookReader(tmp_path / "codes.h5").meta["num_codebooks"] == 2
