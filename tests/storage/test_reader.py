"""Readers: through the index, without it, across processes, of files made by others."""

import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2distil.errors import DataError
from k2distil.storage import CodebookReader, EmbeddingReader, UtteranceReader
from k2distil.storage.array_file import ArrayFile
from k2distil.storage.links_made import links_made
from k2distil.storage.offsets import find_offsets, index_path, read_offsets, write_offsets
from k2distil.storage.utterance_h5 import (
    copy_dataset,
    create_h5,
    write_attributes,
    write_dataset,
)
from tests.storage.arrays import ATTRIBUTES, make_h5, some_arrays

Arrays = dict[str, np.ndarray]


@pytest.fixture
def arrays() -> Arrays:
    return some_arrays(20)


@pytest.fixture
def codes(tmp_path: Path, arrays: Arrays) -> Path:
    return make_h5(tmp_path / "codes.h5", arrays)


def assert_reads(reader: UtteranceReader, arrays: Arrays) -> None:
    assert len(reader) == len(arrays)
    assert set(reader) == set(arrays)
    for key, expected in arrays.items():
        assert key in reader
        values = reader[key]
        assert values.dtype == expected.dtype
        assert values.flags.writeable
        assert np.array_equal(values, expected)
        assert reader.num_frames(key) == len(expected)
    for absent in ("", "absent", "utt"):
        assert absent not in reader
        with pytest.raises(KeyError):
            reader[absent]
    assert 7 not in reader
    with pytest.raises(KeyError):
        reader.num_frames("absent")
    assert reader.get("absent") is None


def test_arrays_are_the_same_with_the_index_and_without(codes: Path, arrays: Arrays) -> None:
    reader = CodebookReader(codes)
    assert_reads(reader, arrays)
    assert list(reader) == list(arrays)
    index_path(codes).unlink()
    plain = CodebookReader(str(codes))
    assert_reads(plain, arrays)
    assert list(plain) == list(arrays) != sorted(arrays)


def test_hdf5_is_not_asked_when_there_is_an_index(
    codes: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = CodebookReader(codes)
    monkeypatch.setattr(ArrayFile, "_file", None)
    assert_reads(reader, arrays)


def test_meta_has_the_root_attributes_as_python_values(codes: Path) -> None:
    meta = CodebookReader(codes).meta
    assert {name: meta[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert [type(meta[name]) for name in ("kind", "num_codebooks", "frame_shift")] == [
        str,
        int,
        float,
    ]


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/."), min_size=1),
        st.integers(0, 5),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["uint8", "int16", "int32", "float16", "float32"]),
    st.integers(1, 5),
)
def test_whatever_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, lengths: dict[str, int], dtype: str, width: int
) -> None:
    arrays = {
        key: np.arange(length * width).reshape(length, width).astype(dtype)
        for key, length in lengths.items()
    }
    path = make_h5(tmp_path_factory.mktemp("h") / "a.h5", arrays)
    reader = UtteranceReader(path)
    assert list(reader) == list(arrays)
    for key, expected in arrays.items():
        assert reader[key].dtype == expected.dtype
        assert np.array_equal(reader[key], expected)


def test_a_file_of_others_is_read(tmp_path: Path) -> None:
    arrays = some_arrays(5, "float32", 16)
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        for key, values in arrays.items():
            file[key] = values
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        for key, values in arrays.items():
            file.create_dataset(key, data=values, compression="gzip")
        file.attrs["comment"] = np.bytes_("bytes")
    for name, meta in (("plain.h5", {}), ("packed.h5", {"comment": "bytes"})):
        reader = EmbeddingReader(tmp_path / name)
        assert_reads(reader, arrays)
        assert reader.meta == meta


def test_an_index_for_a_file_of_others_serves_until_that_changes(
    tmp_path: Path, arrays: Arrays
) -> None:
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values
    with h5py.File(path) as file:
        offsets = find_offsets(file, file)
    assert offsets is not None
    write_offsets(path, offsets, "")
    assert read_offsets(path, "") is not None
    assert_reads(UtteranceReader(path), arrays)
    changed = path.stat().st_mtime_ns
    with path.open("ab") as file:
        file.write(b"more")
    os.utime(path, ns=(changed, changed))  # as of a copy that keeps times
    assert read_offsets(path, "") is None
    os.truncate(path, path.stat().st_size - 4)
    os.utime(path, ns=(changed, changed))
    assert read_offsets(path, "") is not None
    os.utime(path, ns=(1, 1))
    assert read_offsets(path, "") is None


def test_no_index_is_made_of_compressed_grouped_or_mixed_datasets(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["plain"] = np.zeros((2, 3))
        file["one"] = np.zeros(3)
        file["other"] = np.zeros((2, 4))
        file.create_dataset("packed", data=np.zeros((2, 3)), compression="gzip")
        file.create_dataset("unwritten", shape=(2, 3), dtype="f8")
        file.create_group("group")
        for odd in ("one", "other", "packed", "unwritten", "group"):
            assert find_offsets(file, ["plain", odd]) is None
        assert find_offsets(file, ["plain"]) is not None
        assert find_offsets(file, []) is None


def test_a_group_is_a_clear_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b"] = np.zeros((2, 3))
    reader = UtteranceReader(tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"a\.h5\[a\]: a group"):
        reader["a"]


def test_a_single_value_has_no_length_and_is_a_clear_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["one"] = 3
        file["none"] = h5py.Empty("u1")
    reader = UtteranceReader(tmp_path / "a.h5")
    for key in reader:
        with pytest.raises(DataError, match=rf"a\.h5\[{key}\]: no array; expected"):
            reader.num_frames(key)


def test_an_index_of_another_file_is_not_used(
    tmp_path: Path, codes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = {key: values[::-1].copy() for key, values in some_arrays(20).items()}
    other = make_h5(tmp_path / "other.h5", others)
    assert other.stat().st_size == codes.stat().st_size
    shutil.copy2(other, codes)
    assert_reads(CodebookReader(codes), others)
    assert "codes.h5.idx.npz is stale" in caplog.text
    with codes.open("ab") as file:
        file.write(b"x")
    assert read_offsets(codes, "") is None


def test_a_copy_of_a_file_with_its_index_is_read_through_it(tmp_path: Path, codes: Path) -> None:
    (tmp_path / "to").mkdir()
    for path in (codes, index_path(codes)):
        shutil.copy(path, tmp_path / "to" / path.name)
    assert ArrayFile(tmp_path / "to" / "codes.h5")._offsets is not None


def swap(path: Path, first: str, second: str) -> None:
    with h5py.File(path, "r+") as file:
        file.move(first, "aside")
        file.move(second, first)
        file.move("aside", second)


def remake(path: Path, first: str, second: str) -> None:
    """As h5repack does, but with two datasets in each other's place."""
    with h5py.File(path) as old, create_h5(path.with_name("new.h5")) as new:
        write_attributes(new, dict(old.attrs))
        for key in old:
            copy_dataset(old, new, {first: second, second: first}.get(key, key))
    path.with_name("new.h5").replace(path)


def remove(path: Path, first: str, _second: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[first]


@pytest.mark.parametrize(("num", "change"), [(200, swap), (20, remake), (20, remove)])
def test_an_index_of_changed_names_is_not_used(
    tmp_path: Path, num: int, change: Callable[[Path, str, str], None]
) -> None:
    path = make_h5(tmp_path / "codes.h5", some_arrays(num))
    first, second, *_ = some_arrays(num)
    size = path.stat().st_size
    change(path, first, second)
    assert path.stat().st_size == size
    os.utime(path, ns=(1, 1))
    with h5py.File(path) as file:
        expected = {key: values[()] for key, values in file.items()}
    assert_reads(CodebookReader(path), expected)


def test_the_links_of_an_h5_are_counted(tmp_path: Path, codes: Path) -> None:
    assert links_made(codes) == 20
    swap(codes, *list(some_arrays(20))[:2])
    assert links_made(codes) == 23
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.zeros((2, 3))
    assert links_made(tmp_path / "other.h5") is None


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", None])
def test_a_damaged_index_is_passed_over(
    codes: Path, arrays: Arrays, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    whole = index_path(codes).read_bytes()
    index_path(codes).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert_reads(CodebookReader(codes), arrays)
    assert "damaged" in caplog.text


def test_the_wrong_kind_and_version_name_file_and_remedy(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(DataError, match=r"codes\.h5: it holds codes, expected embedding; save_emb"):
        EmbeddingReader(codes)
    embedding = make_h5(tmp_path / "embedding.h5", some_arrays(2, "float16"), kind="embedding")
    with pytest.raises(DataError, match=r"holds embedding, expected codes; save_codebook\.sh"):
        CodebookReader(embedding)
    assert len(UtteranceReader(embedding)) == 2
    with h5py.File(codes, "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(DataError, match="format version 2, this k2distil reads 1; update it"):
        CodebookReader(codes)


def test_files_that_cannot_be_opened_name_the_remedy(tmp_path: Path, codes: Path) -> None:
    (tmp_path / "text.h5").write_text("text")
    os.truncate(codes, codes.stat().st_size // 2)
    for path in (tmp_path / "absent.h5", tmp_path / "text.h5", codes, tmp_path):
        with pytest.raises(
            DataError, match=rf"{path}: cannot be opened as h5 .*make the file anew"
        ):
            CodebookReader(path)


def test_a_file_that_is_cut_while_it_is_open_is_a_clear_error(codes: Path, arrays: Arrays) -> None:
    reader = CodebookReader(codes)
    os.truncate(codes, 100)
    with pytest.raises(DataError, match="the file ends within it"):
        reader[next(iter(arrays))]


def checks(reader: UtteranceReader, arrays: Arrays) -> bool:
    return all(np.array_equal(reader[key], arrays[key]) for key in arrays)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("with_index", [True, False])
def test_a_reader_serves_in_other_processes(
    codes: Path, arrays: Arrays, method: str, with_index: bool
) -> None:
    if not with_index:
        index_path(codes).unlink()
    reader = CodebookReader(codes)
    assert checks(reader, arrays)  # open here before the others start
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(checks, [(reader, arrays)] * 4) == [True] * 4
    assert checks(reader, arrays)


@pytest.mark.parametrize("with_index", [True, False])
def test_forked_processes_share_a_reader_without_pickling_it(
    codes: Path, arrays: Arrays, with_index: bool
) -> None:
    if not with_index:
        index_path(codes).unlink()
    reader = CodebookReader(codes)
    assert checks(reader, arrays)
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            good = all(checks(reader, arrays) for _ in range(50))
            os._exit(0 if good else 1)
        children.append(pid)
    assert all(checks(reader, arrays) for _ in range(50))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]


def test_others_may_have_the_file_open_in_the_same_process(codes: Path, arrays: Arrays) -> None:
    index_path(codes).unlink()
    with h5py.File(codes) as file:
        reader = CodebookReader(codes)
        assert checks(reader, arrays)
        assert len(file) == len(arrays)
    with h5py.File(codes) as file:
        assert len(file) == len(arrays)


def test_a_pickle_holds_no_arrays_and_opens_again(codes: Path, arrays: Arrays) -> None:
    data = pickle.dumps(CodebookReader(codes))
    assert len(data) < 1000
    again = pickle.loads(data)
    assert type(again) is CodebookReader
    assert checks(again, arrays)


def test_readers_close_their_files(codes: Path) -> None:
    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = num_open()
    readers = [CodebookReader(codes) for _ in range(20)]
    assert num_open() == before + 20
    readers.clear()
    assert num_open() == before


def test_an_h5_can_be_read_by_a_program_that_knows_only_hdf5_1_8(codes: Path) -> None:
    with h5py.File(codes) as file:
        assert file.id.get_create_plist().get_version()[0] == 2  # the superblock of 1.8


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("dtype", [">i2", ">f2", ">f4", "<i4"])
def test_arrays_come_in_the_byte_order_of_the_machine(
    tmp_path: Path, dtype: str, with_index: bool
) -> None:
    path = tmp_path / "a.h5"
    values = np.arange(12, dtype=dtype).reshape(3, 4)
    with create_h5(path) as file:
        write_dataset(file, "a", values)
    with h5py.File(path) as file:
        assert file["a"].dtype == values.dtype
        offsets = find_offsets(file, file)
    assert offsets is not None
    if with_index:
        write_offsets(path, offsets, "")
    read = UtteranceReader(path)["a"]
    assert read.dtype.isnative
    assert read.flags.writeable
    assert np.array_equal(read, values)
