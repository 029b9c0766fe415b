"""A merge into several files that is killed: nothing half is read, and it goes on."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.storage import (
    CodebookReader,
    PartFolder,
    merge_files,
)
from k2distil.storage.file_list import files_of
from tests.storage.arrays import ATTRIBUTES, FINGERPRINT, in_chunks, missing
from tests.storage.several_files import HOUR, NEW, OLD, Arrays, assert_holds, names, run, shard

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
    """Whether a process that does it is killed after its merge's `number`th change of a name."""
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
    assert missing(parts) == [4]
    shard(path, NEW, 200)
    assert_holds(path, NEW)


def test_a_file_made_of_a_part_that_came_out_differently_since_is_made_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "codes.h5"
    assert run_and_die(lambda: shard(path, NEW, 200), 4)
    assert (tmp_path / "codes.h5.parts" / "merged" / "codes-00000.h5").exists()
    first = next(iter(NEW))
    changed = {**NEW, first: 255 - NEW[first]}
    parts = PartFolder(path, {**FINGERPRINT, "shard_hours": 200 / HOUR}, len(NEW), 4)
    parts.write(0, next(in_chunks(changed, 4)), {})
    shard(path, changed, 200)
    assert_holds(path, changed)
