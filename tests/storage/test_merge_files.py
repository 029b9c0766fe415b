"""Several files of one output: cut by hours, kept by a retry, never put over those of others."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2distil.errors import DataError
from k2distil.storage import (
    CodebookReader,
    PartFolder,
    check_finished,
    find_unmerged,
    note_for_merge,
)
from k2distil.storage.file_list import files_of, numbered
from k2distil.storage.merge import Written
from k2distil.storage.merge_files import _cut
from k2distil.storage.offsets import index_path
from tests.storage.arrays import ATTRIBUTES, FINGERPRINT, in_chunks, some_arrays
from tests.storage.several_files import HOUR, NEW, OLD, assert_holds, names, run, shard


def test_files_are_cut_by_hours_and_read_as_one(tmp_path: Path) -> None:
    arrays = some_arrays(20)
    path = tmp_path / "codes.h5"
    most = sum(map(len, arrays.values())) // 4 + 30
    shard(path, arrays, most)
    assert_holds(path, arrays)
    listed = files_of(path)
    assert names(tmp_path) == sorted(["codes.h5", *(each.name for each in listed)])
    assert [each.name for each in listed] == [f"codes-0000{i}.h5" for i in range(4)]
    assert sum(each.utterances for each in listed) == 20
    for each in listed:
        reader = CodebookReader(tmp_path / each.name)
        lengths = [reader.num_frames(key) for key in reader]
        assert (len(lengths), sum(lengths)) == (each.utterances, each.frames)
        assert sum(lengths) <= most
        assert reader.meta["fingerprint"] == CodebookReader(path).meta["fingerprint"]
    with h5py.File(path) as file:
        assert len(file) == 0
    assert not index_path(path).exists()
    check_finished(path, {**FINGERPRINT, "shard_hours": most / HOUR})
    with pytest.raises(DataError, match=r"shard_hours: .* there, nothing now"):
        check_finished(path, FINGERPRINT)


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_no_file_has_more_frames_than_it_may_and_none_is_left_open(
    lengths: list[int], most: int
) -> None:
    written = {str(i): Written(Path("p"), length, 0) for i, length in enumerate(lengths)}
    cut = list(_cut(list(written), written, most))
    assert [key for own in cut for key in own] == list(written)
    totals = [sum(written[key].num_frames for key in own) for own in cut]
    for own, total in zip(cut, totals, strict=True):
        assert own
        assert total <= most or len([key for key in own if written[key].num_frames]) == 1
    for total, following in zip(totals, cut[1:], strict=False):
        assert total + written[following[0]].num_frames > most


def test_an_utterance_longer_than_a_file_is_alone_in_it(tmp_path: Path) -> None:
    lengths = {"a": 3, "b": 30, "c": 4, "d": 5}
    arrays = {key: np.full((num, 8), num, np.uint8) for key, num in lengths.items()}
    shard(tmp_path / "codes.h5", arrays, 10)
    assert [each.frames for each in files_of(tmp_path / "codes.h5")] == [3, 30, 9]
    assert_holds(tmp_path / "codes.h5", arrays)


def test_without_any_arrays_the_list_is_empty(tmp_path: Path) -> None:
    run(tmp_path / "codes.h5", {}, 1.0, keys=["failed"])
    assert names(tmp_path) == ["codes.h5"]
    assert_holds(tmp_path / "codes.h5", {})


def test_a_retry_adds_a_file_and_leaves_the_others_alone(tmp_path: Path) -> None:
    arrays = some_arrays(20)
    path = tmp_path / "codes.h5"
    keys = list(arrays)
    failed = keys[3:5]
    run(path, {key: arrays[key] for key in keys if key not in failed}, 200 / HOUR, keys)
    before = files_of(path)
    contents = [(tmp_path / each.name).read_bytes() for each in before]
    run(path, arrays, 200 / HOUR)
    after = files_of(path)
    assert after[:-1] == before
    assert [(tmp_path / each.name).read_bytes() for each in before] == contents
    assert list(CodebookReader(tmp_path / after[-1].name)) == failed
    assert_holds(path, arrays, [key for key in keys if key not in failed] + failed)
    run(path, arrays, 200 / HOUR)
    assert files_of(path) == after


def test_one_file_in_the_place_of_several_leaves_none_of_them(tmp_path: Path) -> None:
    shard(tmp_path / "codes.h5", OLD, 200)
    run(tmp_path / "codes.h5", NEW, None)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["codes.h5", "codes.h5.idx.npz"]
    assert_holds(tmp_path / "codes.h5", NEW)


def test_a_key_that_is_there_already_is_refused(tmp_path: Path) -> None:
    for hours in (200 / HOUR, None):
        path = tmp_path / f"{hours}.h5"
        arrays = some_arrays(4)
        run(path, arrays, hours)
        key = next(iter(arrays))
        more = {} if hours is None else {"shard_hours": hours}
        parts = PartFolder(path, {**FINGERPRINT, **more}, 1, 4)
        parts.write(0, {key: arrays[key]}, {})
        with pytest.raises(DataError, match=rf"has {key} already.*use --force"):
            parts.merge(list(arrays), {**ATTRIBUTES, **more}, onto=True)


def test_files_of_something_else_are_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    foreign = numbered(path, 1)
    foreign.write_text("years of work")
    for _ in range(2):
        with pytest.raises(DataError, match=r"codes-00001\.h5: in the way.*move it and run"):
            shard(path, NEW, 200)
        assert foreign.read_text() == "years of work"
        run(tmp_path / "other.h5", OLD, None)
        (tmp_path / "other.h5").rename(foreign)  # of ours, but of another output
        with pytest.raises(DataError, match=r"codes-00001\.h5: in the way"):
            shard(path, NEW, 200)
        foreign.write_text("years of work")
    foreign.unlink()
    shard(path, NEW, 200)
    assert_holds(path, NEW)


def test_what_was_noted_for_a_merge_is_merged_into_files(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    hours = {"shard_hours": 200 / HOUR}
    parts = PartFolder(path, {**FINGERPRINT, **hours}, len(NEW), 4)
    for index, chunk in enumerate(in_chunks(NEW, 4)):
        parts.write(index, chunk, {})
    note_for_merge(parts, list(NEW), {**ATTRIBUTES, **hours}, earlier=None)
    unmerged = find_unmerged(path)
    assert unmerged is not None
    assert not unmerged.is_merged()
    unmerged.parts.merge(unmerged.keys, unmerged.attributes, onto=unmerged.onto)
    assert_holds(path, NEW)
    assert names(tmp_path) == sorted(["codes.h5", *(each.name for each in files_of(path))])


def test_a_broken_output_of_other_settings_is_no_merged_one(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    shard(path, OLD, 100)
    parts = PartFolder(path, FINGERPRINT, len(NEW), 20)
    parts.write(0, NEW, {})
    note_for_merge(parts, list(NEW), ATTRIBUTES, earlier=None)
    numbered(path, 0).unlink()  # --force was killed behind it
    unmerged = find_unmerged(path)
    assert unmerged is not None
    assert not unmerged.is_merged()
    unmerged.parts.merge(unmerged.keys, unmerged.attributes, onto=unmerged.onto)
    assert_holds(path, NEW)
