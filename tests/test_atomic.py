"""Files that are whole or not there: errors, kills, full disks, unwritable folders."""

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from k2distil.atomic import make_folder, replacing
from k2distil.errors import DataError
from k2distil.process_start import namespace
from k2distil.storage import PartFolder
from tests.storage.arrays import ATTRIBUTES, FINGERPRINT, missing, some_arrays, write_all


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), DataError("bad")])
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_in_vain() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(type(error)) as caught:
        write_in_vain()
    assert caught.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_file_is_flushed_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noting_replace(source: Path, target: Path) -> None:
        calls.append(("replace", str(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert calls == [
        ("fsync", str(temporary)),
        ("replace", str(temporary)),
        ("fsync", str(tmp_path)),
    ]


def test_what_a_killed_process_left_is_removed_but_not_what_a_live_one_writes(
    tmp_path: Path,
) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from k2distil.atomic import make_folder, replacing
        with replacing(Path(sys.argv[1])) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    path = tmp_path / "a.txt"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    [left] = tmp_path.iterdir()
    assert left != path
    pid = left.name.split(".")[-1]
    living = left.with_name(left.name.removesuffix(pid) + "1")
    living.write_text("of process 1")
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([living, path])


def test_what_a_killed_process_left_is_removed_though_its_parent_has_not_noticed(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(["sleep", "60"])
    other = tmp_path / f".a.txt.tmp.{socket.gethostname()}.1234567.{process.pid}"
    other.touch()  # of another container of this host, in which that process may live
    left = tmp_path / f".a.txt.tmp.{socket.gethostname()}.{namespace()}.{process.pid}"
    left.touch()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.touch()
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, "a.txt"])
    process.wait()
    others_in_work = tmp_path / ".a.txt.b.tmp.elsewhere.1.7"  # of "a.txt.b"
    for each in (other, others_in_work):
        each.touch()
        os.utime(each, (0, 0))
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.touch()
    assert sorted(os.listdir(tmp_path)) == sorted([others_in_work.name, "a.txt"])


def test_a_disk_that_knows_no_flush_of_folders_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_is_missing_or_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path / "file"):
        path = folder / "a.txt"
        with (
            pytest.raises(DataError, match=rf"{path}: cannot be written .*give a path in a folder"),
            replacing(path) as temporary,
        ):
            temporary.write_text("x")
    for path in (tmp_path / "file" / "a.h5", tmp_path / "file" / "deep" / "a.h5"):
        with pytest.raises(DataError, match=rf"{tmp_path}/file: a file, where a folder is needed"):
            PartFolder(path, FINGERPRINT, 1, 1)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(DataError, match=rf"{tmp_path}/link: a file, where a folder is needed"):
        make_folder(tmp_path / "link")


def test_a_full_disk_is_a_clear_error_and_what_was_done_stays(small_disk: Path) -> None:
    path = small_disk / "exp.h5"
    small = {"a": np.zeros((10, 8), np.uint8)}
    parts = PartFolder(path, FINGERPRINT, 3, 1)
    parts.write(0, small, {})
    for num, frames in ((500, 495), (30000, 1)):  # room for the arrays, room for their names
        big = {f"b{i}": np.zeros((frames, 8), np.uint8) for i in range(num)}
        with pytest.raises(DataError, match=r"part-000001\.h5: no room .*run the same command"):
            parts.write(1, big, {})
        assert missing(parts) == [1, 2]
        assert sorted(os.listdir(parts.folder)) == [
            "part-000000.h5",
            "part-000000.json",
            "plan.json",
        ]
        assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > 900_000
    parts.write(1, {"b": small["a"]}, {})
    parts.write(2, {"c": small["a"]}, {})
    parts.merge(["a", "b", "c"], ATTRIBUTES)
    assert path.exists()


def test_a_merge_without_room_says_so_before_it_starts_and_keeps_the_parts(
    small_disk: Path,
) -> None:
    arrays = {f"{i}": np.zeros((495, 8), np.uint8) for i in range(160)}
    parts = write_all(small_disk / "exp.h5", arrays, size=80)
    with pytest.raises(DataError, match=r"merging its parts needs .* are free; make room"):
        parts.merge(list(arrays), ATTRIBUTES)
    assert os.listdir(small_disk) == ["exp.h5.parts"]
    assert missing(parts) == []


def test_a_full_disk_while_a_text_is_written_is_a_clear_error(small_disk: Path) -> None:
    with (
        pytest.raises(DataError, match=r"no room to write it .No space left on device"),
        replacing(small_disk / "a.json") as temporary,
    ):
        temporary.write_text("x" * 2_000_000)
    assert os.listdir(small_disk) == []


@pytest.fixture
def limited_file_size() -> Iterator[None]:
    """No file may grow past 64 kB: fails like a full disk, needs no rights."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("limited_file_size")
def test_a_file_that_may_not_grow_is_a_clear_error_in_parts_and_merge(tmp_path: Path) -> None:
    arrays = {f"{i}": np.zeros((495, 8), np.uint8) for i in range(20)}
    parts = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 1, 1)
    with pytest.raises(DataError, match=r"part-000000\.h5: no room to write it"):
        parts.write(0, arrays, {})
    assert missing(parts) == [0]
    parts = write_all(tmp_path / "other.h5", arrays, size=4)
    with pytest.raises(DataError, match=r"other\.h5: no room to write it"):
        parts.merge(list(arrays), ATTRIBUTES)
    assert missing(parts) == []
    assert sorted(os.listdir(tmp_path)) == ["exp.h5.parts", "other.h5.parts"]


def test_an_error_of_hdf5_that_is_not_the_disks_is_not_hidden(tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 1, 1)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        parts.write(0, {"a/b/": some_arrays(1)["utt 0-甲"], "a": np.array(["text"], object)}, {})
