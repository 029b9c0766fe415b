"""Several files read as one: in other processes, moved, damaged, very many."""

import json
import os
import pickle
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.storage import (
    CodebookReader,
    Problems,
    check_finished,
    check_h5,
)
from k2distil.storage.file_list import ListedFile, files_of, numbered, write_list
from k2distil.storage.offsets import index_path
from tests.storage.arrays import ATTRIBUTES, FINGERPRINT
from tests.storage.several_files import HOUR, NEW, assert_holds, shard


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
        for look in (lambda: CodebookReader(path), lambda: check_finished(path, fingerprint)):
            with pytest.raises(DataError, match=r"codes-00001\.h5"):
                look()
    second.write_bytes(whole)
    check_finished(path, fingerprint)
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
    check_finished(path, {**FINGERPRINT, "shard_hours": 200 / HOUR})
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
