"""Several processes, started by hand or by torchrun, make one output together."""

import json
import os
import shutil
import signal
import sys
import time

import h5py
import numpy as np
import pytest

from tests.faults.job import Job
from tests.scripts.conftest import Corpus, speech

FOREIGN = {"host": "another", "machine": "another", "pid": 1, "start": "1", "id": "0"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """60 utterances of 0.2 to 0.5 s."""
    corpus = Corpus(tmp_path_factory.mktemp("data"))
    for index in range(60):
        corpus.add(f"utt{index:02}", speech(0.2 + 0.005 * index, seed=index))
    return corpus


@pytest.fixture
def make_job(corpus, tmp_path):
    jobs = []

    def make(data_list=None) -> Job:
        folder = tmp_path / str(len(jobs))
        folder.mkdir()
        job = Job(data_list or corpus.path, folder / "e.h5", [], 5, tmp_path)
        jobs.append(job)
        return job

    yield make
    for job in jobs:
        job.kill_all()


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory) -> Job:
    """One process did it all, with --profile."""
    folder = tmp_path_factory.mktemp("alone")
    job = Job(corpus.path, folder / "e.h5", [], 5, folder)
    job.start("--num_workers", 1, "--profile")
    assert job.end() == [0], job.log()
    return job


def assert_same(job: Job, alone: Job) -> None:
    assert job.save_path.read_bytes() == alone.save_path.read_bytes()
    left = {path.name for path in job.save_path.parent.iterdir()}
    assert left == {f"e.h5{each}" for each in ("", ".idx.npz", ".summary.json", ".config.yaml")}


def test_two_processes_at_once_make_what_one_makes(make_job, alone):
    job = make_job()
    for _ in range(2):
        job.start("--num_workers", 0)
    assert job.end() == [0, 0], job.log()
    assert_same(job, alone)


def test_two_processes_of_torchrun_make_what_one_makes(make_job, alone):
    job = make_job()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc_per_node", "2", "-m", "k2distil", "save_codebook"]
    job.start_command([*torchrun, *job.flags, "--num_workers", "0"])
    assert job.end() == [0], job.log()
    assert_same(job, alone)


def test_what_a_killed_process_leaves_another_does_at_once(make_job, alone):
    job = make_job()
    one, _ = (job.start("--num_workers", 0, seconds=0.2) for _ in range(2))
    job.wait_until(lambda: one.pid in job.at_work())
    one.kill()
    killed = time.monotonic()
    assert job.end() == [-signal.SIGKILL, 0], job.log()
    assert time.monotonic() - killed < 45, "less than --lease_seconds"
    assert_same(job, alone)


def test_parts_that_are_removed_under_a_run_are_no_success(make_job):
    job = make_job()
    job.start("--num_workers", 0, seconds=0.2)
    job.wait_until(job.at_work)
    shutil.rmtree(job.parts)
    assert job.end() == [2], job.log()
    assert "e.h5: there is no such file, and the parts that were to become it" in job.log()


def test_what_a_dead_host_leaves_is_done_after_lease_seconds(make_job, alone):
    job = make_job()
    job.parts.mkdir()
    leases = [job.save_path.with_name("e.h5.lease"), job.parts / "part-000003.lease"]
    for lease in leases:
        lease.write_text(json.dumps(FOREIGN))
    job.start("--num_workers", 0, "--lease_seconds", 1)
    assert job.end() == [0], job.log()
    assert "waiting for parts that other processes are making" in job.log()
    assert_same(job, alone)


def test_a_profile_tells_the_stages_and_leaves_a_trace(alone):
    profile = json.loads(alone.save_path.with_name("e.h5.profile.json").read_text())
    assert {"decode (in workers)", "front end", "encoder"} <= profile["stages"].keys()
    assert all(seconds > 0 for seconds in profile["stages"].values())
    assert 0 < profile["device_idle_share"] < 1
    trace = json.loads(alone.save_path.with_name("e.h5.trace.json").read_text())
    assert "encoder" in {event.get("name") for event in trace["traceEvents"]}
    assert "encoder" in alone.log()


def test_audio_that_never_comes_can_be_interrupted_and_fails_alone(
    corpus, empty_corpus, make_job, alone
):
    for line in corpus.lines:
        entry = json.loads(line)
        empty_corpus.list(entry["key"], str(corpus.folder / entry["wav"]))
    os.mkfifo(empty_corpus.folder / "hangs.wav")
    empty_corpus.lines.insert(7, json.dumps({"key": "hangs", "wav": "hangs.wav"}))
    job = make_job(empty_corpus.path)

    process = job.start("--num_workers", 1)
    job.wait_until(lambda: job.num_done() == 1)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    assert process.wait(15) == 130, job.log()
    job.leave_nobody()

    process = job.start("--num_workers", 1, "--decode_timeout", 1)
    assert job.end([process]) == [1], job.log()
    assert "resuming: 1 of 13 parts are done" in job.log()
    (row,) = job.save_path.with_name("e.h5.failed.tsv").read_text().splitlines()[1:]
    assert row.startswith("hangs\t")
    assert "not decoded in 1 s; look at the file or raise --decode_timeout" in row
    with h5py.File(job.save_path) as found, h5py.File(alone.save_path) as right:
        assert list(found) == list(right)
        for key in right:  # in batches of other utterances: the last bit may differ
            np.testing.assert_allclose(found[key][:], right[key][:], rtol=0, atol=0.005)
