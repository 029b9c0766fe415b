"""Resume and merge: what was done stays, what is damaged is made again, nothing is half."""

import errno
import json
import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil import storage
from k2distil.errors import DataError
from k2distil.storage import (
    CodebookReader,
    PartFolder,
    check_finished,
    refuse_foreign,
    remove_parts,
)
from k2distil.storage.offsets import index_path
from k2distil.storage.utterance_h5 import create_h5
from tests.storage.arrays import (
    ATTRIBUTES,
    FINGERPRINT,
    assert_holds,
    in_chunks,
    make_h5,
    missing,
    some_arrays,
    write_all,
)
from tests.storage.several_files import HOUR, run


@pytest.mark.parametrize(("dtype", "width"), [("uint8", 8), ("int16", 4), ("float16", 384)])
def test_parts_become_one_plain_h5_in_list_order(tmp_path: Path, dtype: str, width: int) -> None:
    arrays = some_arrays(10, dtype, width)
    path = tmp_path / "exp.h5"
    parts = write_all(path, arrays)
    assert not path.exists()
    assert not path.exists()
    parts.merge([*arrays, "a failed one"], ATTRIBUTES)
    assert_holds(path, arrays)
    assert list(CodebookReader(path)) == list(arrays)
    check_finished(path, FINGERPRINT)
    assert sorted(os.listdir(tmp_path)) == ["exp.h5", "exp.h5.idx.npz"]


def test_the_root_has_the_attributes_the_fingerprint_and_a_digest_of_the_content(
    tmp_path: Path,
) -> None:
    arrays = some_arrays()
    make_h5(tmp_path / "a.h5", arrays)
    write_all(tmp_path / "b.h5", arrays, size=3).merge(list(arrays), ATTRIBUTES)
    make_h5(tmp_path / "c.h5", {**arrays, "one more": arrays["utt 0-甲"]})
    with h5py.File(tmp_path / "a.h5") as file:
        attributes = dict(file.attrs)
    assert json.loads(attributes.pop("fingerprint")) == FINGERPRINT
    assert attributes.pop("format_version") == 1
    digest = attributes.pop("content_digest")
    assert attributes == ATTRIBUTES
    assert CodebookReader(tmp_path / "b.h5").meta["content_digest"] == digest
    assert CodebookReader(tmp_path / "c.h5").meta["content_digest"] != digest


def test_the_bytes_do_not_depend_on_the_size_of_parts_or_on_their_order(tmp_path: Path) -> None:
    arrays = some_arrays(20)
    make_h5(tmp_path / "a.h5", arrays)
    chunks = list(in_chunks(arrays, 7))
    parts = PartFolder(tmp_path / "b.h5", FINGERPRINT, 20, 7)
    for index in (2, 0, 1):
        shortest_first = sorted(chunks[index], key=lambda key: len(arrays[key]))
        parts.write(index, {key: arrays[key] for key in shortest_first}, {})
    time.sleep(1.1)  # HDF5 would store the time, in seconds
    parts.merge(list(arrays), ATTRIBUTES)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_many_keys_and_an_array_without_frames(tmp_path: Path) -> None:
    arrays = {f"{i:05d}": np.full((i % 3, 8), i % 256, np.uint8) for i in range(3000)}
    parts = write_all(tmp_path / "exp.h5", arrays, size=1000)
    parts.merge(list(arrays), ATTRIBUTES)
    assert_holds(tmp_path / "exp.h5", arrays)
    reader = CodebookReader(tmp_path / "exp.h5")
    assert all(np.array_equal(reader[key], arrays[key]) for key in arrays)
    assert reader["00000"].shape == (0, 8)


def test_resume_skips_what_is_done(tmp_path: Path) -> None:
    arrays = some_arrays(10)
    chunks = list(in_chunks(arrays, 4))
    parts = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 10, 4)
    assert missing(parts) == [0, 1, 2]
    report = parts.write(1, chunks[1], {"failed": [{"key": "x", "wav": "x.wav", "reason": "?"}]})
    assert list(report["written"]) == list(chunks[1])
    again = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 10, 4)
    assert missing(again) == [0, 2]
    assert list(again.reports()) == [report]
    with pytest.raises(
        DataError, match=r"2 of 3 parts are missing \(0, 2\); run the command again"
    ):
        again.merge(list(arrays), ATTRIBUTES)
    for index in missing(again):
        again.write(index, chunks[index], {})
    again.merge(list(arrays), ATTRIBUTES)
    assert_holds(tmp_path / "exp.h5", arrays)


def test_other_settings_are_refused_with_both_values_of_each(tmp_path: Path) -> None:
    path = tmp_path / "exp.h5"
    write_all(path, some_arrays())
    other = {**FINGERPRINT, "layer": 7, "padding": None}
    for make in (lambda: PartFolder(path, other, 10, 3), lambda: check_finished(path, other)):
        with pytest.raises(DataError) as caught:
            make()
        message = str(caught.value)
        for words in (str(path), "layer: 6 there, 7 now", "padding: nothing there, null now"):
            assert words in message
        assert "--force" in message
        assert "teacher" not in message
        if not path.exists():
            assert "part_utterances: 4 there, 3 now" in message
            PartFolder(path, FINGERPRINT, 10, 4).merge(list(some_arrays()), ATTRIBUTES)


def test_other_chunks_are_refused_though_they_are_as_many(tmp_path: Path) -> None:
    write_all(tmp_path / "exp.h5", some_arrays(9), size=4)
    with pytest.raises(DataError, match=r"\(part_utterances: 4 there, 3 now\)"):
        PartFolder(tmp_path / "exp.h5", FINGERPRINT, 9, 3)
    with pytest.raises(DataError, match=r"\(utterances: 9 there, 12 now\)"):
        PartFolder(tmp_path / "exp.h5", FINGERPRINT, 12, 4)


def test_an_output_of_something_else_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["a"] = np.zeros((3, 8), np.uint8)
    with pytest.raises(DataError, match="layer: nothing there, 6 now"):
        check_finished(tmp_path / "plain.h5", FINGERPRINT)
    (tmp_path / "text.h5").write_text("no h5")
    with pytest.raises(DataError, match=r"text\.h5: cannot be opened as h5"):
        check_finished(tmp_path / "text.h5", FINGERPRINT)


def test_only_an_output_of_ours_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "exp.h5"
    refuse_foreign(path)  # nothing there is no error
    make_h5(path, some_arrays())
    refuse_foreign(path)
    path.write_text("years of work")
    with pytest.raises(DataError, match=r"exp\.h5"):
        refuse_foreign(path)
    make_plain_h5(path)
    with pytest.raises(DataError, match="not made by k2distil"):
        refuse_foreign(path)
    assert path.exists()


def make_plain_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros((3, 8), np.uint8)


def test_merging_onto_an_output_keeps_its_arrays(tmp_path: Path) -> None:
    arrays = some_arrays(10)
    first = {key: arrays[key] for key in list(arrays)[::2]}
    rest = {key: arrays[key] for key in list(arrays)[1::2]}
    make_h5(tmp_path / "exp.h5", first)
    write_all(tmp_path / "exp.h5", rest).merge(list(arrays), ATTRIBUTES, onto=True)
    assert_holds(tmp_path / "exp.h5", arrays)
    assert list(CodebookReader(tmp_path / "exp.h5")) == list(arrays)


def test_what_is_damaged_in_an_output_is_not_taken_over_by_a_retry(tmp_path: Path) -> None:
    arrays, path = some_arrays(10), tmp_path / "exp.h5"
    first = {key: arrays[key] for key in list(arrays)[:9]}
    rest = {key: arrays[key] for key in list(arrays)[9:]}
    make_h5(path, first)
    data = bytearray(path.read_bytes())
    data[data.index(arrays[list(arrays)[5]].tobytes())] ^= 1
    path.write_bytes(data)
    parts = write_all(path, rest)
    with pytest.raises(DataError, match=r"exp.h5: damaged, its arrays are not those that were wri"):
        parts.merge(list(arrays), ATTRIBUTES, onto=True)
    assert path.read_bytes() == data
    assert parts.done() == {0}


def test_what_a_merge_left_on_another_machine_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = tmp_path / ".exp.h5.tmp.pod-a.4026531836.7"
    for each in (left, tmp_path / ".exp.h5.idx.npz.tmp.pod-a.4026531836.7"):
        each.touch()
    make_h5(tmp_path / "exp.h5", some_arrays(3))
    assert left.exists()
    told = [each.getMessage() for each in caplog.records if "another machine" in each.getMessage()]
    assert told == [
        f"{left}: left by a merge of another machine; remove it, if that is not at work"
    ]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_has_outputs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    plain = h5py.File

    def without_locks(name: object, *mode: str, locking: bool = True) -> h5py.File:
        if locking and mode:
            raise OSError(number, "unable to lock file")
        return plain(name, *mode, locking=locking) if mode else plain(name)

    with create_h5(tmp_path / "new.h5") as file:
        assert not file.id.get_access_plist().get_file_locking()[0]
    monkeypatch.setattr(h5py, "File", without_locks)
    arrays, path = some_arrays(3), tmp_path / "exp.h5"
    make_h5(path, arrays)
    index_path(path).unlink()  # it saves opening the h5
    reader = CodebookReader(path)
    assert all(np.array_equal(reader[key], arrays[key]) for key in arrays)


def test_a_damaged_part_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def cut(folder: Path) -> None:
        os.truncate(folder / "part-000000.h5", 3000)

    def remove_h5(folder: Path) -> None:
        (folder / "part-000000.h5").unlink()

    def break_report(folder: Path) -> None:
        (folder / "part-000000.json").write_text('{"written": ')

    def swap(folder: Path) -> None:
        (folder / "part-000000.h5").write_bytes((folder / "part-000002.h5").read_bytes())

    for number, damage in enumerate((cut, remove_h5, break_report, swap)):
        parts = write_all(tmp_path / f"{number}.h5", some_arrays(10))
        damage(parts.folder)
        caplog.clear()
        assert missing(parts) == [0]
        assert "part-000000.h5: damaged" in caplog.text


def test_a_flipped_bit_is_found_and_the_part_made_again(tmp_path: Path) -> None:
    arrays = some_arrays(10)
    path = tmp_path / "exp.h5"
    parts = write_all(path, arrays)
    h5_path = parts.folder / "part-000001.h5"
    key = list(arrays)[5]
    data = bytearray(h5_path.read_bytes())
    data[data.index(arrays[key].tobytes())] ^= 1
    h5_path.write_bytes(data)
    assert missing(parts) == []
    with pytest.raises(
        DataError, match=rf"part-000001.*{key} is not what was written.*run the same"
    ):
        parts.merge(list(arrays), ATTRIBUTES)
    assert os.listdir(tmp_path) == ["exp.h5.parts"]
    assert missing(parts) == [1]
    parts.write(1, list(in_chunks(arrays, 4))[1], {})
    parts.merge(list(arrays), ATTRIBUTES)
    assert_holds(path, arrays)


@pytest.mark.parametrize("name_in_h5", [b"utt 3", b"OHDR"])
def test_broken_structures_in_a_part_are_found_by_the_merge(
    tmp_path: Path, name_in_h5: bytes
) -> None:
    arrays = some_arrays(12)
    parts = write_all(tmp_path / "exp.h5", arrays, size=12)
    h5_path = parts.folder / "part-000000.h5"
    data = bytearray(h5_path.read_bytes())
    place = data.rindex(name_in_h5)
    data[place : place + 4] = b"XXXX"
    h5_path.write_bytes(data)
    with pytest.raises(DataError, match=r"part-000000\.h5: damaged"):
        parts.merge(list(arrays), ATTRIBUTES)
    assert missing(parts) == [0]


def test_a_part_is_not_done_while_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(report: object) -> str:
        raise KeyboardInterrupt

    arrays = some_arrays(4)
    parts = write_all(tmp_path / "exp.h5", arrays)
    monkeypatch.setattr("k2distil.storage.parts._sealed", killed)
    with pytest.raises(KeyboardInterrupt):
        parts.write(0, arrays, {})
    assert parts.done() == set()


def test_a_strange_key_and_one_in_two_parts_are_refused(tmp_path: Path) -> None:
    arrays = some_arrays(4)
    parts = write_all(tmp_path / "a.h5", arrays, size=2)
    with pytest.raises(DataError, match="is not in the list"):
        parts.merge(list(arrays)[1:], ATTRIBUTES)
    parts.write(1, dict(list(arrays.items())[:1]), {})
    with pytest.raises(DataError, match="is in two parts"):
        parts.merge(list(arrays), ATTRIBUTES)


def test_arrays_of_two_widths_are_refused(tmp_path: Path) -> None:
    arrays = {"a": np.zeros((3, 8), np.uint8), "b": np.zeros((3, 4), np.uint8)}
    parts = write_all(tmp_path / "exp.h5", arrays)
    with pytest.raises(DataError, match="differ in dtype or width"):
        parts.merge(list(arrays), ATTRIBUTES)
    assert not (tmp_path / "exp.h5").exists()


def test_an_output_of_nothing_but_failures_is_an_empty_h5(tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 1, 1)
    parts.write(0, {}, {"failed": [{"key": "a", "wav": "a.wav", "reason": "empty"}]})
    parts.merge(["a"], ATTRIBUTES)
    check_finished(tmp_path / "exp.h5", FINGERPRINT)
    assert len(CodebookReader(tmp_path / "exp.h5")) == 0


def test_an_index_of_an_older_output_does_not_survive_an_empty_one(tmp_path: Path) -> None:
    make_h5(tmp_path / "exp.h5", some_arrays())
    parts = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 1, 1)
    parts.write(0, {}, {})
    parts.merge([], ATTRIBUTES)
    assert os.listdir(tmp_path) == ["exp.h5"]


@pytest.mark.parametrize("hours", [None, 50 / HOUR])
@pytest.mark.parametrize("later", ["more", "other settings"])
def test_a_merge_that_slept_leaves_what_came_after_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str, hours: float | None
) -> None:
    path, arrays, verify = tmp_path / "exp.h5", some_arrays(20), storage.merge._verify
    few = {key: arrays[key] for key in list(arrays)[:12]}

    def sleep(*arguments: object) -> None:
        """Till another process took over, and came again."""
        monkeypatch.setattr("k2distil.storage.merge._verify", verify)
        if (pid := os.fork()) == 0:
            try:
                run(path, few, hours)
                other_hours = None if hours else 50 / HOUR
                run(path, arrays, hours if later == "more" else other_hours)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    fingerprint = FINGERPRINT if hours is None else {**FINGERPRINT, "shard_hours": hours}
    attributes = ATTRIBUTES if hours is None else {**ATTRIBUTES, "shard_hours": hours}
    parts = PartFolder(path, fingerprint, len(few), 4)
    for index, chunk in enumerate(in_chunks(few, 4)):
        parts.write(index, chunk, {})
    monkeypatch.setattr("k2distil.storage.merge._verify", sleep)
    with pytest.raises(DataError, match=r"merged and removed|\(No such file"):
        parts.merge(list(few), attributes)
    found = CodebookReader(path)
    assert {key: found[key].tolist() for key in found} == {
        key: each.tolist() for key, each in arrays.items()
    }
    assert not parts.exist()


def test_a_part_of_other_settings_that_a_sleeper_wrote_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, arrays = tmp_path / "exp.h5", some_arrays(4)
    sleeper = PartFolder(path, FINGERPRINT, 4, 4)
    sleeper.write(0, arrays, {})
    left = {each.name: each.read_bytes() for each in sleeper.folder.glob("part-*")}
    remove_parts(path)
    parts = PartFolder(path, {**FINGERPRINT, "layer": 7}, 4, 4)
    with pytest.raises(DataError, match="merged and removed"):
        sleeper.write(0, arrays, {})
    for name, content in left.items():  # as one writes that slept just before the last rename
        (parts.folder / name).write_bytes(content)
    assert parts.done() == {0}
    with pytest.raises(DataError, match="of other settings"):
        parts.merge(list(arrays), ATTRIBUTES)
    assert missing(parts) == [0]


def test_a_link_in_the_place_of_the_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "exp.h5.parts").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(DataError, match=r"exp\.h5\.parts: a link"):
            PartFolder(tmp_path / "exp.h5", FINGERPRINT, 4, 4)
        PartFolder(tmp_path / "b.h5", FINGERPRINT, 4, 4)
        (tmp_path / "elsewhere" / "plan.json").write_bytes(
            (tmp_path / "b.h5.parts" / "plan.json").read_bytes()
        )


def test_what_a_run_killed_after_the_merge_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "exp.h5"
    make_h5(path, some_arrays())
    write_all(path, some_arrays())
    (tmp_path / ".exp.h5.parts.removed").mkdir()
    check_finished(path, FINGERPRINT)
    remove_parts(path)
    assert sorted(os.listdir(tmp_path)) == ["exp.h5", "exp.h5.idx.npz"]
