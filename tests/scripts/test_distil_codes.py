"""train_distil.sh on codes of several outputs."""

from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from safetensors.torch import load_file

from k2distil.batch import Utterance
from k2distil.bin.main import main
from k2distil.pipeline.run.digests import ENTRIES, digest_of_entries, entries_as_text
from tests.scripts.conftest import Corpus, run, succeed
from tests.scripts.student_material import flags, losses

ATTRIBUTES = {"quantizer_id": "0123456789abcdef", "teacher_digest": "0123"}


def split(folder: Path, first: slice, second: slice) -> list[Path]:
    """codes.h5 as two files, each of the keys of a slice."""
    paths = [folder / "codes_a.h5", folder / "codes_b.h5"]
    with h5py.File(folder / "codes.h5") as whole:
        for path, part in zip(paths, (first, second), strict=True):
            with h5py.File(path, "w") as file:
                file.attrs.update({**whole.attrs, **ATTRIBUTES})
                for key in sorted(whole)[part]:
                    file[key] = whole[key][:]
    return paths


def with_codes(corpus: Corpus, paths: list[Path], *more: object) -> list[object]:
    given = flags(corpus, *more)
    place = given.index("--codebook_path")
    return [*given[: place + 1], *paths, *given[place + 2 :]]


@pytest.fixture
def of_both(material: Corpus, tmp_path: Path) -> list[Path]:
    """Two utterances are in both."""
    return split(tmp_path, slice(0, 11), slice(9, 20))


def test_several_outputs_make_the_student_that_one_makes(
    material: Corpus, tmp_path: Path, of_both: list[Path]
) -> None:
    of_one = succeed("train_distil.sh", *flags(material, "--save_path", tmp_path / "one"))
    two = with_codes(material, of_both, "--save_path", tmp_path / "two")
    of_two = succeed("train_distil.sh", *two)
    assert "2 keys are in several files of codes; those of the first count" in of_two
    assert "codes_a.h5: 11 utterances" in of_two
    assert "codes_b.h5: 11 utterances" in of_two
    assert losses(of_one) == losses(of_two) != []
    weights = [load_file(tmp_path / n / "last" / "model.safetensors") for n in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "complete already" in succeed("train_distil.sh", *two)

    yaml = tmp_path / "two" / "train_distil.config.yaml"
    again = ["--config", yaml, "--save_path", tmp_path / "two"]
    assert "complete already" in succeed("train_distil.sh", *again)

    with h5py.File(of_both[1], "a") as file:
        file.attrs["content_digest"] = "other"
    done = run("train_distil.sh", *two)
    assert done.returncode == 2
    assert "made with other settings (codes:" in done.stderr


@pytest.mark.parametrize(
    ("attributes", "more", "words"),
    [
        (
            {"quantizer_id": "fedcba9876543210"},
            [],
            ["quantizer_id is 0123456789abcdef in", "codes_a.h5, fedcba9876543210 in"],
        ),
        (  # of a quantizer that was not trained here, and takes any teacher of its width
            {"teacher_digest": "4567"},
            [],
            ["teacher_digest is 0123 in", "codes_a.h5, 4567 in"],
        ),
        ({"codebook_size": 256}, [], ["codebook_size is 16 in", "codes_a.h5, 256 in"]),
        ({"num_codebooks": 3}, [], ["codes_b.h5[utt09]: 2 codes a frame, 3 by its attributes"]),
        ({"frame_shift": 0.04}, [], ["frame_shift is 0.02 in", "codes_a.h5, 0.04 in"]),
        ({}, ["--codebook_size", 8], ["--codebook_size 8", "codes_a.h5 has 16"]),
    ],
)
def test_outputs_that_mean_other_codes_are_refused(
    attributes, more, words, material, tmp_path, of_both, capfd
) -> None:
    with h5py.File(of_both[1], "a") as file:
        file.attrs.update(attributes)
    assert main(["train_distil", *map(str, with_codes(material, of_both, *more))]) == 2
    log = capfd.readouterr().err
    assert "Traceback" not in log
    for word in words:
        assert word in log, log
    assert not (tmp_path / "student").exists()


def test_outputs_of_which_one_does_not_say_its_quantizer_go_together(
    material: Corpus, of_both: list[Path]
) -> None:
    with h5py.File(of_both[1], "a") as file:
        del file.attrs["quantizer_id"]
    assert "step 12 of 12" in succeed("train_distil.sh", *with_codes(material, of_both))


def test_each_output_is_compared_with_every_other_that_says_its_quantizer(
    material: Corpus, tmp_path: Path, of_both: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(of_both[1], "a") as file:
        file.attrs["quantizer_id"] = "fedcba9876543210"
    paths = [tmp_path / "codes.h5", *of_both]  # the first one does not say it
    assert main(["train_distil", *map(str, with_codes(material, paths))]) == 2
    log = capfd.readouterr().err
    assert "quantizer_id is 0123456789abcdef in" in log
    assert "codes_a.h5, fedcba9876543210 in" in log


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("attributes", "flag"),
    [
        ({"frame_shift": 0.02}, "codes_X.h5 does not say it: --codebook_size does"),
        ({"codebook_size": 16}, "codes_X.h5 does not say it: --frames_ratio does"),
    ],
)
def test_what_an_output_does_not_say_a_flag_says(
    attributes, flag, place, material, of_both, capfd
) -> None:
    with h5py.File(of_both[place], "a") as file:
        file.attrs.clear()
        file.attrs.update(attributes)
    if "frame_shift" not in attributes:
        with h5py.File(of_both[1 - place], "a") as file:
            file.attrs["frame_shift"] = 0.04
    assert main(["train_distil", *map(str, with_codes(material, of_both))]) == 2
    assert flag.replace("X", "ab"[place]) in capfd.readouterr().err


def test_one_key_for_two_utterances_is_refused(
    material: Corpus, tmp_path: Path, of_both: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(of_both[1], "a") as file:
        codes = file["utt10"][:-1]
        del file["utt10"]
        file["utt10"] = codes
    assert main(["train_distil", *map(str, with_codes(material, of_both))]) == 2
    log = capfd.readouterr().err
    assert f"utt10: 70 frames in {of_both[0]}, 69 in {of_both[1]}" in log
    assert "lists whose keys differ" in log


def test_a_key_in_three_outputs_is_counted_once(
    material: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = split(tmp_path, slice(0, 11), slice(9, 19))
    paths = [first, second, second]
    assert main(["train_distil", *map(str, with_codes(material, paths))]) == 2  # none has utt19
    assert any(each.startswith("10 keys are in several") for each in caplog.messages)


def test_what_no_output_has_is_told_of_all(
    material: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = split(tmp_path, slice(0, 8), slice(8, 19))
    assert main(["train_distil", *map(str, with_codes(material, paths))]) == 2
    log = capfd.readouterr().err
    assert f"{paths[0]}, {paths[1]}: no codes for 1 of 20 utterances" in log
    assert "utt19" in log


def test_a_list_of_other_segments_than_the_codes_were_made_of_is_told(
    material: Corpus, tmp_path: Path
) -> None:
    """Keys and lengths fit: nothing else tells."""
    whole = [Utterance(f"utt{n:02}", str(material.folder / f"utt{n:02}.wav")) for n in range(20)]
    words = "codes.h5: the list has other audio, segments or paths than it was made from"
    for first, is_told in ((whole[0], False), (replace(whole[0], start=0.0, end=0.9), True)):
        with h5py.File(tmp_path / "codes.h5", "a") as file:
            file.attrs[ENTRIES] = entries_as_text(digest_of_entries([first, *whole[1:]]))
        log = succeed("train_distil.sh", *flags(material, "--max_steps", 1, "--force"))
        assert (words in log) == is_told
