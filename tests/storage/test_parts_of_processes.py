"""Parts made by several processes, some of them killed, with real processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.errors import DataError
from k2distil.leases import Leases
from k2distil.storage import (
    PartFolder,
    check_finished,
    refuse_others,
    remove_parts,
)
from k2distil.storage.array_file import ArrayFile
from tests.storage.arrays import (
    ATTRIBUTES,
    FINGERPRINT,
    assert_holds,
    in_chunks,
    missing,
    some_arrays,
    write_all,
)


def write_part(path: Path, index: int, arrays: dict[str, np.ndarray]) -> None:
    PartFolder(path, FINGERPRINT, 60, 10).write(index, arrays, {})


def test_processes_write_different_parts_at_once(tmp_path: Path) -> None:
    arrays = some_arrays(60)
    path = tmp_path / "exp.h5"
    jobs = [(path, index, chunk) for index, chunk in enumerate(in_chunks(arrays, 10))]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(write_part, jobs, chunksize=1)
    parts = PartFolder(path, FINGERPRINT, 60, 10)
    assert missing(parts) == []
    parts.merge(list(arrays), ATTRIBUTES)
    assert_holds(path, arrays)


WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from k2distil.storage import PartFolder
    parts = PartFolder(Path(sys.argv[1]), {"run": 1}, 2400, 60)
    parts.discard_damaged()
    done, keys = parts.done(), []
    for index in range(40):
        arrays = {f"{index}-{i}": np.full((400, 8), index, np.uint8) for i in range(60)}
        keys += arrays
        if index not in done:
            parts.write(index, arrays, {})
            print("part", index, flush=True)
    parts.merge(keys, {"kind": "codes"})
    print("merged", flush=True)
"""


def test_a_run_killed_again_and_again_loses_no_part_and_ends_right(tmp_path: Path) -> None:
    path = tmp_path / "exp.h5"
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    written: list[str] = []
    num_kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while line := process.stdout.readline():
            written.append(line)
            if num_kills < 4 and len(written) >= 9 * (num_kills + 1):
                time.sleep(0.002 * num_kills)  # another moment of the next part's writing
                process.send_signal(signal.SIGKILL)
                num_kills += 1
                break
        written += process.stdout.readlines()
        if process.wait() != -signal.SIGKILL:
            break
        assert not path.exists()
    assert process.returncode == 0
    assert num_kills == 4
    assert written[-1] == "merged\n"
    assert len(written) == len(set(written))  # no part that was done was made again
    assert len(written) > 40 - num_kills
    with h5py.File(path) as file:
        assert len(file) == 2400
        assert all((file[f"{i}-59"][:] == i).all() for i in range(40))
    assert sorted(os.listdir(tmp_path)) == ["exp.h5", "exp.h5.idx.npz"]


MERGER = """
    import os, signal, sys
    from pathlib import Path
    from k2distil.storage import PartFolder, remove_parts, merge
    from tests.storage.arrays import ATTRIBUTES, FINGERPRINT
    name, path = sys.argv[1], Path(sys.argv[2])
    original = getattr(merge, name)
    def dying(*arguments):
        original(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(merge, name, dying)
    parts = PartFolder(path, FINGERPRINT, 10, 4)
    parts.merge([key for report in parts.reports() for key in report["written"]], ATTRIBUTES)
"""


@pytest.mark.parametrize(
    ("dies_after", "is_there"),
    [("_copy_part", False), ("_verify", False), ("index_path", True), ("write_offsets", True)],
)
def test_a_merge_killed_midway_leaves_no_half_file_and_can_be_run_again(
    tmp_path: Path, dies_after: str, is_there: bool
) -> None:
    arrays = some_arrays(10)
    path = tmp_path / "exp.h5"
    write_all(path, arrays)
    command = [sys.executable, "-c", textwrap.dedent(MERGER), dies_after, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.exists() == is_there
    if is_there:
        check_finished(path, FINGERPRINT)
    else:
        PartFolder(path, FINGERPRINT, 10, 4).merge(list(arrays), ATTRIBUTES)
    remove_parts(path)
    assert_holds(path, arrays)
    assert sorted(os.listdir(tmp_path)) == ["exp.h5", "exp.h5.idx.npz"]
    file = ArrayFile(path)
    assert list(file) == list(arrays)
    assert file._offsets is not None  # the index was made, and is this file's


def test_parts_that_somebody_is_making_are_not_started_over(tmp_path):
    parts = PartFolder(tmp_path / "e.h5", {"layer": 1}, 4, 2)
    with Leases(1.2) as busy, Leases(1.2) as leases:
        claimed = parts.claim(busy)
        assert next(claimed) == 0
        assert list(parts.claim(leases)) == [1]
        with pytest.raises(DataError, match=r"process \d+ on .* is writing this output"):
            refuse_others(tmp_path / "e.h5", leases)
        parts.release(0, busy)
        parts.release(1, leases)
        refuse_others(tmp_path / "e.h5", leases)


def test_a_part_done_by_another_process_is_not_claimed(tmp_path):
    parts = PartFolder(tmp_path / "e.h5", {"layer": 1}, 4, 2)
    with Leases(60) as leases:
        claimed = parts.claim(leases)
        assert next(claimed) == 0
        parts.write(1, {"c": np.zeros((1, 2), np.uint8)}, {})
        assert list(claimed) == []
        assert parts.done() == {1}
    parts.write(0, {"a": np.zeros((1, 2), np.uint8)}, {})
    parts.merge(["a", "b", "c", "d"], {})
    assert not parts.exist()
    assert parts.done() == {0, 1}  # nothing is left to be done
