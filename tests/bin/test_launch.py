"""torchrun starts a process per device, and its end is told as one process' would be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHILD = """\
import os, pathlib, sys, time
pathlib.Path(sys.argv[1], os.environ["LOCAL_RANK"]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
time.sleep(float(sys.argv[2]))
if os.environ["RANK"] == "0":
    from k2distil.bin.launch import tell_launcher
    status = int(sys.argv[3])
    sys.exit(tell_launcher(status) if status == 1 else status)
"""
PARENT = """\
import sys, torch
torch.cuda.device_count = lambda: 4  # as on a machine with four
from k2distil.bin.launch import launch
sys.exit(launch("child", sys.argv[1:], "1,3"))
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    (folder / "child.py").write_text(CHILD)
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {key: value for key, value in os.environ.items() if "CUDA" not in key}
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), *arguments],
        env=environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("status", [0, 1, 2, 70])
def test_the_status_of_the_first_process_is_that_of_all(status, tmp_path):
    process = start(tmp_path, "0", str(status))
    _, log = process.communicate(timeout=120)
    assert process.returncode == status, log
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["1,3", "1,3"]
    assert ("ended first" in log) == (status > 1)


def test_a_signal_stops_all_and_is_told_as_one(tmp_path):
    process = start(tmp_path, "60", "0")
    while not all((tmp_path / rank).exists() for rank in "01"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 143, log
    assert "run the same command again to resume" in log
