"""k2distil verify, on real files that were damaged on purpose."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.config import VerifyConfig
from k2distil.data import read_list
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.run.digests import digest_of_entries, entries_as_text
from k2distil.pipeline.run.summary import Summary
from k2distil.pipeline.verify import verify
from k2distil.storage import CodebookReader
from k2distil.storage.convert import write_as
from k2distil.storage.keys import Keys
from k2distil.storage.offsets import find_offsets, index_path, write_offsets
from tests.pipeline.outputs import (
    EMBEDDING,
    random_codes,
    random_embedding,
    write_list,
    write_output,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_list(tmp_path: Path) -> Path:
    return write_list(tmp_path)


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return write_output(tmp_path / "codes.h5", random_codes())


def verify_codes(codes: Path, *lists: Path) -> Summary:
    return verify(VerifyConfig(codebook_path=codes, train_data=lists or None))


def test_a_file_that_is_all_right_is_one_line_with_its_counts(
    codes: Path, data_list: Path, tmp_path: Path
) -> None:
    counts = "4 utterances of 4 in the list, 0 dropped, 132 frames, 0.00 hours"
    assert verify_codes(codes, data_list) == Summary(report=f"{codes}: {counts}: all right")
    embedding = write_output(tmp_path / "e.h5", random_embedding(), EMBEDDING)
    found = verify(VerifyConfig(embedding_path=embedding, train_data=(data_list,)))
    assert found == Summary(report=f"{embedding}: {counts}: all right")
    index_path(codes).unlink()
    assert verify_codes(codes).report == f"{codes}: 4 utterances, 132 frames, 0.00 hours: all right"


def test_every_bit_of_the_arrays_counts(codes: Path) -> None:
    whole = codes.read_bytes()
    with h5py.File(codes) as file:
        places = [(key, file[key].id.get_offset(), file[key].size) for key in file]
    rng = np.random.default_rng(0)
    for key, offset, size in places:
        for place in (offset, offset + int(rng.integers(size)), offset + size - 1):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            codes.write_bytes(damaged)
            found = verify_codes(codes)
            assert found.num_failed, key
            assert "content: 1\n  not what was written" in found.report


def test_a_bit_flipped_in_what_describes_an_array_is_found(codes: Path) -> None:
    whole = codes.read_bytes()
    with h5py.File(codes) as file:
        headers = {key: h5py.h5o.get_info(file[key].id).addr for key in file}
    for place in range(6, 60, 9):
        damaged = bytearray(whole)
        damaged[headers["b"] + place] ^= 1
        codes.write_bytes(damaged)
        found = verify_codes(codes)
        assert found.num_failed
        assert "damaged arrays: 1\n  b: " in found.report
        assert "content: 1\n" in found.report


def test_a_bit_flipped_in_the_index_is_found(codes: Path) -> None:
    index = index_path(codes)
    damaged = bytearray(index.read_bytes())
    with np.load(index) as arrays:
        place = index.read_bytes().index(arrays["offset"].tobytes())
    damaged[place] ^= 4
    index.write_bytes(damaged)
    found = verify_codes(codes)
    assert found.num_failed == 1
    assert f"index: 1\n  {index}: damaged or of another file; remove it" in found.report


def test_an_index_of_other_places_is_found(codes: Path, tmp_path: Path) -> None:
    with h5py.File(codes) as file:
        offsets = find_offsets(file, file)
        digest = file.attrs["content_digest"]
    offsets.offset[:2] = offsets.offset[1::-1]
    write_offsets(codes, offsets, digest)
    assert f"{index_path(codes)}: not of these arrays; remove it" in verify_codes(codes).report
    keys = list(offsets.keys)
    twice = Keys.of([keys[0], *keys[:1], *keys[2:]])
    write_offsets(codes, replace(offsets, keys=twice), digest)
    assert "not of these arrays (it has a key twice)" in verify_codes(codes).report


def test_missing_and_extra_keys_are_named_with_why_they_failed(tmp_path: Path) -> None:
    data_list = write_list(tmp_path, "abc")
    arrays = random_codes()
    codes = write_output(tmp_path / "codes.h5", {key: arrays[key] for key in "ad"})
    (tmp_path / "codes.h5.failed.tsv").write_text("key\twav\treason\nb\tb.wav\ttoo short\n")
    found = verify_codes(codes, data_list)
    assert found.num_failed == 3
    assert "missing: 2\n  b: failed: too short\n  c\nnot in the list: 1\n  d" in found.report
    (tmp_path / "codes.h5.dropped.tsv").write_text("key\twav\treason\nc\tc.wav\ttoo long\n")
    found = verify_codes(codes, data_list)
    assert found.num_failed == 2
    assert "2 utterances of 3 in the list, 1 dropped" in found.report


def test_a_list_of_other_audio_with_the_same_lengths_is_warned_of(
    data_list: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = entries_as_text(digest_of_entries(read_list(data_list)))
    codes = write_output(tmp_path / "codes.h5", random_codes(), entries=entries)
    assert verify_codes(codes, data_list).report.endswith("all right")
    assert "other audio" not in caplog.text
    shutil.copyfile(tmp_path / "b.wav", tmp_path / "other.wav")
    data_list.write_text(data_list.read_text().replace("b.wav", "other.wav"))
    found = verify_codes(codes, data_list)
    assert (found.num_failed, found.report.endswith("all right")) == (0, True)
    assert f"{codes}: the list has other audio, segments or paths than it was" in caplog.text


def test_a_sample_is_compared_with_the_same_sample_of_the_list(tmp_path: Path) -> None:
    data_list = write_list(tmp_path)
    arrays = random_codes()
    codes = write_output(tmp_path / "codes.h5", {key: arrays[key] for key in "ab"})
    resolved = tmp_path / "codes.h5.config.yaml"
    resolved.write_text("num_audio: 2\nnum_audio_from: first\nseed: 0\n")
    assert "2 utterances of 2 in the list" in verify_codes(codes, data_list).report
    assert not verify_codes(codes, data_list).num_failed
    resolved.write_text("num_audio: 3\nnum_audio_from: first\nseed: 0\n")
    assert "missing: 1\n  c" in verify_codes(codes, data_list).report


def test_frames_that_do_not_fit_the_audio_are_found_beyond_three(tmp_path: Path) -> None:
    data_list = write_list(tmp_path)
    arrays = random_codes()
    arrays |= {"a": arrays["a"][:17], "b": arrays["b"][:31], "c": np.repeat(arrays["c"], 2, 0)}
    found = verify_codes(write_output(tmp_path / "codes.h5", arrays), data_list)
    assert found.num_failed == 2
    assert "  b: 31, expected about 35 for 0.70 s\n" in found.report
    assert "  c: 100, expected about 50 for 1.00 s" in found.report


def test_audio_that_cannot_be_read_is_told(codes: Path, data_list: Path) -> None:
    (data_list.parent / "b.wav").unlink()
    found = verify_codes(codes, data_list)
    assert found.num_failed == 1
    assert "audio: 1\n" in found.report
    assert "b.wav: utterance b: cannot be read" in found.report


def test_all_problems_are_told_and_the_examples_of_each_are_capped(tmp_path: Path) -> None:
    arrays = {f"utt{n}": np.full((5, 4), 200, np.uint8) for n in range(12)}
    arrays["utt3"] = np.zeros((5, 4), np.uint8)
    codes = write_output(tmp_path / "codes.h5", arrays, frame_shift=None, num_codebooks=5)
    found = verify_codes(codes)
    lines = found.report.splitlines()
    assert "attributes: 2" in lines
    assert "  frame_shift: missing" in lines
    assert "  num_codebooks: 5, but 4 in the fingerprint" in lines
    assert "codes out of range: 11" in lines
    assert "  utt0: 200 to 200, expected 0 to 199" in lines
    assert "  and 6 more" in lines
    assert "shape: 12" in lines
    assert "  utt0: expected (num_frames, 5), found (5, 4)" in lines
    assert found.num_failed == 25


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"codebook_size": None}, "codebook_size: missing"),
        ({"frame_shift": -0.02}, "frame_shift: expected more than 0, found -0.02"),
        ({"dim": "16"}, "dim: expected int, found '16'"),
        ({"versions": "{"}, "fingerprint or versions: not JSON"),
        ({"codebook_size": 300}, "a: expected int16, found uint8"),
        ({"kind": "embedding"}, "kind: expected codes, found 'embedding'"),
    ],
)
def test_attributes_are_complete_and_consistent(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    found = verify_codes(write_output(tmp_path / "codes.h5", random_codes(), **changed))
    assert found.num_failed
    assert words in found.report


def test_a_later_format_and_a_strange_digest_are_found(codes: Path) -> None:
    index_path(codes).unlink()
    with h5py.File(codes, "r+") as file:
        file.attrs["format_version"] = 2
        file.attrs["content_digest"] = "0"
        file.create_group("folder")
    text = verify_codes(codes).report
    assert "format_version: expected 1, found 2" in text
    assert "content: 1" in text
    assert "folder: expected an array (num_frames, width)" in text


def test_nan_and_infinite_embeddings_are_counted(tmp_path: Path) -> None:
    arrays = random_embedding()
    arrays["b"][3, 5] = np.nan
    arrays["b"][4, 5] = np.inf
    path = write_output(tmp_path / "e.h5", arrays, EMBEDDING)
    found = verify(VerifyConfig(embedding_path=path))
    assert "NaN or infinite: 1\n  b: 2 values" in found.report
    path = write_output(tmp_path / "f.h5", random_embedding("float32"), EMBEDDING)
    assert "a: expected float16, found float32" in verify(VerifyConfig(embedding_path=path)).report


def test_a_copy_in_another_dtype_is_all_right_until_a_bit_of_it_changes(
    codes: Path, data_list: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "codes.int16.h5"
    write_as(CodebookReader(codes), copy, np.dtype("int16"), "x")
    assert verify_codes(copy, data_list).report.endswith("all right")
    with h5py.File(copy, "r+") as file:
        file["b"][3, 1] ^= 1
    assert "not what was written (content_digest)" in verify_codes(copy).report


def test_a_file_of_others_a_cut_one_and_none(tmp_path: Path, codes: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = random_codes()["a"]
    assert "format_version: expected 1, found None" in verify_codes(tmp_path / "other.h5").report
    codes.write_bytes(codes.read_bytes()[:-100])
    assert "damaged file: 1" in verify_codes(codes).report
    with pytest.raises(DataError, match=r"absent\.h5: no such file"):
        verify_codes(tmp_path / "absent.h5")
    for config in (VerifyConfig(), VerifyConfig(codebook_path=codes, embedding_path=codes)):
        with pytest.raises(ConfigError, match="give one of them"):
            verify(config)


def test_the_command_prints_what_is_wrong_and_leaves_with_status_1(
    codes: Path, data_list: Path
) -> None:
    command = [sys.executable, "-m", "k2distil", "verify", "--codebook_path", str(codes)]
    command += ["--train_data", str(data_list)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.endswith("all right\n")
    with data_list.open("a") as file:
        file.write(json.dumps({"key": "e", "wav": "a.wav"}) + "\n")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout.endswith("missing: 1\n  e\n")
