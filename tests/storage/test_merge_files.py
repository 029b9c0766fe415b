"""Several files of one output: cut by hours, read as one, never half, whatever is killed when."""

import json
import os
import pickle
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
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
    Problems,
    UtteranceReader,
    check_h5,
    find_unmerged,
    finished,
    merge_files,
    note_for_merge,
    remove_parts,
)
from k2distil.storage.file_list import ListedFile, files_of, numbered, write_list
from k2distil.storage.merge import Written
from k2distil.storage.merge_files import _cut
from k2distil.storage.offsets import index_path
from tests.storage.arrays import ATTRIBUTES, FINGERPRINT, in_chunks, some_arrays

Arrays = dict[str, np.ndarray]
HOUR = 180_000  # frames of 0.02 s


def run(path: Path, arrays: Arrays, hours: float | None, keys: list[str] | None = None) -> None:
    """What an extraction does with these settings, whatever an earlier one left; --force given.

    `keys` are of the whole list; those without arrays fail.
    """
    fingerprint = FINGERPRINT if hours is None else {**FINGERPRINT, "shard_hours": hours}
    attributes = ATTRIBUTES if hours is None else {**ATTRIBUTES, "shard_hours": hours}
    keys = list(arrays) if keys is None else keys
    try:
        onto = finished(path, fingerprint)
    except DataError:
        onto = False
    there = set(UtteranceReader(path)) if onto else set()
    todo = {key: values for key, values in arrays.items() if key not in there}
    if onto and not todo:
        remove_parts(path)
        return
    try:
        parts = PartFolder(path, fingerprint, len(todo), 4)
    except DataError:
        remove_parts(path)
        parts = PartFolder(path, fingerprint, len(todo), 4)
    for index, chunk in enumerate(in_chunks(todo, 4)):
        if index in parts.missing():
            parts.write(index, chunk, {})
    parts.merge(keys, attributes, onto=onto)


def shard(path: Path, arrays: Arrays, frames: int) -> None:
    run(path, arrays, frames / HOUR)


def assert_holds(path: Path, arrays: Arrays, keys: list[str] | None = None) -> None:
    reader = CodebookReader(path)
    assert list(reader) == (list(arrays) if keys is None else keys)
    assert len(reader) == len(arrays)
    for key, expected in arrays.items():
        assert key in reader
        assert np.array_equal(reader[key], expected)
        assert reader.num_frames(key) == len(expected)
        with h5py.File(reader.file_of(key).path) as file:  # as others read it
            assert np.array_equal(file[key][:], expected)
    assert "absent" not in reader
    for ask in (reader.__getitem__, reader.num_frames, reader.file_of):
        with pytest.raises(KeyError):
            ask("absent")
    problems = Problems()
    for file in (path, *(file.path for file in reader.files)):
        check_h5(file, "codes", problems)
    # The tests' attributes are few; all else is right.
    assert problems.counts.keys() <= {"attributes"}


def names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".idx.npz"))


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
    assert finished(path, {**FINGERPRINT, "shard_hours": most / HOUR})
    with pytest.raises(DataError, match=r"shard_hours: .* there, nothing now"):
        finished(path, FINGERPRINT)


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


OLD = {"old " + key: values for key, values in some_arrays(14).items()}
NEW = some_arrays(20)
FAILED = list(NEW)[4:7]
SCENARIOS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], Arrays | None]] = {
    "first": (lambda path: None, lambda path: shard(path, NEW, 200), None),
    "onto": (
        lambda path: run(
            path,
            {key: each for key, each in NEW.items() if key not in FAILED},
            200 / HOUR,
            list(NEW),
        ),
        lambda path: shard(path, NEW, 200),
        {key: each for key, each in NEW.items() if key not in FAILED},
    ),
    "more files": (lambda path: shard(path, OLD, 300), lambda path: shard(path, NEW, 200), OLD),
    "fewer files": (lambda path: shard(path, OLD, 60), lambda path: shard(path, NEW, 200), OLD),
    "one to several": (lambda path: run(path, OLD, None), lambda path: shard(path, NEW, 200), OLD),
    "several to one": (lambda path: shard(path, OLD, 200), lambda path: run(path, NEW, None), OLD),
}


def run_and_die(make: Callable[[], None], number: int) -> bool:
    """Whether a process that does it is killed behind its merge's `number`th change of a name."""
    pid = os.fork()
    if pid == 0:
        left = number

        def dying(original: Callable[..., None]) -> Callable[..., None]:
            def change(*arguments: object, **options: object) -> None:
                nonlocal left
                original(*arguments, **options)
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            return change

        merge = PartFolder.merge

        def dying_merge(*arguments: object, **options: object) -> None:
            for name in ("replace", "rename", "unlink"):
                setattr(os, name, dying(getattr(os, name)))
            merge(*arguments, **options)

        PartFolder.merge = dying_merge
        status = 1
        try:
            make()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(pid, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_nothing_half_is_taken_for_whole(name: str, tmp_path: Path) -> None:
    prepare, make, old = SCENARIOS[name]
    number = 0
    while True:
        number += 1
        path = tmp_path / str(number) / "codes.h5"
        path.parent.mkdir()
        prepare(path)
        if not run_and_die(lambda path=path: make(path), number):
            break
        found = None
        if path.exists():
            with suppress(DataError):
                reader = CodebookReader(path)
                found = {key: reader[key] for key in reader}
        for expected in (old, NEW):
            if expected is not None and found is not None and found.keys() == expected.keys():
                assert all(np.array_equal(found[key], expected[key]) for key in found)
                break
        else:
            assert found is None
        make(path)
        assert set(CodebookReader(path)) == NEW.keys()
        keys = list(NEW)
        if name == "onto":
            keys = [key for key in NEW if key not in FAILED] + FAILED
        assert_holds(path, NEW, keys)
        listed = [each.name for each in files_of(path)]
        if name != "several to one":
            assert names(path.parent) == sorted(["codes.h5", *listed])
        assert not list(path.parent.glob("*.parts"))
    assert number > 5


def test_a_killed_merge_goes_on_behind_the_last_file_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "codes.h5"
    made: list[str] = []
    original = merge_files.merge_parts

    def count(to: Path, *arguments: object) -> None:
        original(to, *arguments)
        made.append(to.name)
        if len(made) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(merge_files, "merge_parts", count)
    with pytest.raises(KeyboardInterrupt):
        shard(path, NEW, 200)
    assert names(tmp_path) == ["codes.h5.parts"]
    shard(path, NEW, 200)
    assert made == [each.name for each in files_of(path)]
    assert len(made) > 2
    assert_holds(path, NEW)


def test_a_damaged_part_is_told_and_the_files_made_before_it_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    hours = {"shard_hours": 200 / HOUR}
    parts = PartFolder(path, {**FINGERPRINT, **hours}, len(NEW), 4)
    chunks = list(in_chunks(NEW, 4))
    for index, chunk in enumerate(chunks):
        parts.write(index, chunk, {})
    h5_path = parts.folder / "part-000004.h5"
    data = bytearray(h5_path.read_bytes())
    data[data.index(NEW[list(NEW)[-1]].tobytes())] ^= 1
    h5_path.write_bytes(data)
    with pytest.raises(DataError, match=r"part-000004.*is not what was written"):
        parts.merge(list(NEW), {**ATTRIBUTES, **hours})
    assert names(tmp_path) == ["codes.h5.parts"]
    assert parts.missing() == [4]
    shard(path, NEW, 200)
    assert_holds(path, NEW)


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
    note_for_merge(parts, list(NEW), {**ATTRIBUTES, **hours}, onto=False)
    unmerged = find_unmerged(path)
    assert unmerged is not None
    assert not unmerged.is_merged()
    unmerged.merge()
    assert_holds(path, NEW)
    assert names(tmp_path) == sorted(["codes.h5", *(each.name for each in files_of(path))])


def test_a_broken_output_of_other_settings_is_no_merged_one(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    shard(path, OLD, 100)
    parts = PartFolder(path, FINGERPRINT, len(NEW), 20)
    parts.write(0, NEW, {})
    note_for_merge(parts, list(NEW), ATTRIBUTES, onto=False)
    numbered(path, 0).unlink()  # --force was killed behind it
    unmerged = find_unmerged(path)
    assert unmerged is not None
    assert not unmerged.is_merged()
    unmerged.merge()
    assert_holds(path, NEW)


def test_a_missing_and_a_changed_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    shard(path, NEW, 200)
    fingerprint = {**FINGERPRINT, "shard_hours": 200 / HOUR}
    second, third = numbered(path, 1), numbered(path, 2)
    whole = second.read_bytes()
    for damage in (lambda: second.write_bytes(third.read_bytes()), second.unlink):
        damage()
        problems = Problems()
        check_h5(path, "codes", problems)
        assert problems.counts.keys() & {"files", "missing files"}
        for look in (lambda: CodebookReader(path), lambda: finished(path, fingerprint)):
            with pytest.raises(DataError, match=r"codes-00001\.h5"):
                look()
    second.write_bytes(whole)
    assert finished(path, fingerprint)
    problems = Problems()
    check_h5(path, "codes", problems)
    assert problems.counts.keys() <= {"attributes"}


def test_verify_finds_a_changed_list_and_a_key_in_two_files(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    shard(path, NEW, 200)
    with h5py.File(path) as file:
        meta = dict(file.attrs)
    whole = files_of(path)

    def problems_of(files: list[ListedFile]) -> dict[str, int]:
        write_list(path, files, {name: each for name, each in meta.items() if name != "files"})
        problems = Problems()
        check_h5(path, "codes", problems)
        problems.counts.pop("attributes", None)
        return problems.counts

    assert problems_of(whole) == {}
    assert problems_of(whole[1:]) == {"content": 1}
    twice = problems_of([*whole, whole[0]])
    assert twice == {"content": 1, "in two files": whole[0].utterances}
    changed = ListedFile(**{**json.loads(json.dumps(vars(whole[0]))), "frames": 1})
    assert problems_of([changed, *whole[1:]]) == {"files": 1}
    with h5py.File(path, "r+") as file:
        file.attrs["files"] = "[{}]"
    with pytest.raises(DataError, match=r"codes\.h5: its list of files is damaged"):
        CodebookReader(path)
    problems = Problems()
    check_h5(path, "codes", problems)
    assert problems.counts == {"damaged file": 1}


def test_files_without_an_index_are_read_and_get_theirs_again(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    shard(path, NEW, 200)
    index_path(numbered(path, 0)).unlink()
    index_path(numbered(path, 2)).unlink()
    assert_holds(path, NEW)
    assert finished(path, {**FINGERPRINT, "shard_hours": 200 / HOUR})
    assert all(index_path(file.path).exists() for file in CodebookReader(path).files)


def test_a_reader_of_several_files_serves_in_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    shard(path, NEW, 200)
    reader = CodebookReader(path)
    again = pickle.loads(pickle.dumps(reader))
    pid = os.fork()
    if pid == 0:
        good = all(np.array_equal(reader[key], NEW[key]) for key in NEW)
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert all(np.array_equal(again[key], NEW[key]) for key in NEW)


def test_a_moved_output_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    shard(tmp_path / "from" / "codes.h5", NEW, 200)
    (tmp_path / "from").rename(tmp_path / "to")
    assert_holds(tmp_path / "to" / "codes.h5", NEW)


def test_a_list_of_thousands_of_files_can_be_stored(tmp_path: Path) -> None:
    files = [ListedFile(f"codes-{i:05d}.h5", i, i, f"{i:064d}") for i in range(5000)]
    write_list(tmp_path / "codes.h5", files, ATTRIBUTES)
    assert files_of(tmp_path / "codes.h5") == files


def test_too_many_open_files_name_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    shard(path, NEW, 1)  # a file for each of 20 utterances
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, most))
        try:
            CodebookReader(path)
        except DataError as error:
            os.write(sending, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        message = pipe.read()
    assert "Too many open files" in message
    assert "`ulimit -n 65536`" in message
