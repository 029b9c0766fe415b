"""torchrun starts a process per device, and its end is told as one process' would be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from k2distil.bin.launch import STATUS_FILE, launch
from k2distil.errors import ConfigError

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
torch.cuda.device_count = lambda: int(sys.argv[1])  # as on a machine with so many
from k2distil.bin.launch import launch
sys.exit(launch("child", sys.argv[3:], sys.argv[2], max_restarts=1))
"""


def start(
    folder: Path,
    *arguments: str,
    devices: str = "4",
    gpu: str = "1,3",
    visible: str | None = None,
    child: str = CHILD,
) -> subprocess.Popen:
    (folder / "child.py").write_text(child)
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {key: value for key, value in os.environ.items() if "CUDA" not in key}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, devices, gpu, str(folder), *arguments],
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


@pytest.mark.parametrize(
    ("devices", "gpu", "visible", "seen"),
    [("1", "0", None, "0"), ("1", "0", "6", "6"), ("2", "1", "4,6", "6"), ("2", "1", "a,b", "b")],
)
def test_a_process_sees_its_device_alone(devices, gpu, visible, seen, tmp_path):
    process = start(tmp_path, "0", "0", devices=devices, gpu=gpu, visible=visible)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert (tmp_path / "0").read_text() == seen


def test_a_process_that_a_signal_killed_has_the_status_that_shells_give(monkeypatch):
    def killed(argv):
        raise ChildFailedError("child", {0: ProcessFailure(0, 1, -signal.SIGKILL, "")})

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(STATUS_FILE, "of another test")  # launch sets it
    monkeypatch.setattr("torch.distributed.run.main", killed)
    assert launch("child", [], "cpu", max_restarts=1) == 137


def test_a_signal_stops_all_and_is_told_as_one(tmp_path):
    process = start(tmp_path, "60", "0")
    while not all((tmp_path / rank).exists() for rank in "01"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 143, log
    assert "run the same command again to resume" in log


WITHOUT = """\
import sys, torch
torch.cuda.device_count = lambda: 0
from k2distil.bin.launch import launch
print(launch("child", sys.argv[1:3], None, **eval(sys.argv[3])))
"""
ONCE = """\
import os, pathlib, sys
pathlib.Path(sys.argv[1], "rank " + os.environ["RANK"]).touch()
started = pathlib.Path(sys.argv[1], "started")
if not started.exists():
    started.touch()
    sys.exit(7)
"""


def launch_without_gpu(folder: Path, **options: object) -> str:
    (folder / "child.py").write_text(ONCE)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(folder), "x", repr(options)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_node_of_several_takes_the_cpu_where_there_is_no_gpu(tmp_path):
    (tmp_path / "started").touch()
    assert launch_without_gpu(tmp_path, nnodes="1", rdzv_endpoint="localhost:0") == "0\n"
    assert (tmp_path / "rank 0").exists()


def test_one_process_is_started_again_too(tmp_path):
    assert launch_without_gpu(tmp_path) == "None\n"
    assert launch_without_gpu(tmp_path, max_restarts=1) == "0\n"
    assert (tmp_path / "rank 0").exists()


DYING = """\
import datetime, os, pathlib, sys, torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
total = torch.ones(1)
dist.all_reduce(total)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
    os.kill(os.getpid(), 9)
dist.barrier()
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(str(float(total)))
"""


def test_processes_that_are_started_again_find_each_other(tmp_path):
    process = start(tmp_path, child=DYING)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2.0", "2.0"]


@pytest.mark.parametrize("gpu", [None, "cpu", "0", "0,1"])
@pytest.mark.parametrize("nodes", [("2", None), (None, "node0:29500")])
def test_nodes_without_their_meeting_place_are_refused_on_any_device(gpu, nodes, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="--nnodes and --rdzv_endpoint: give both"):
        launch("child", [], gpu, *nodes)
