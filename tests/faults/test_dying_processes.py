"""Processes are killed and terminated, and others go on: nothing lost, nothing doubled."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import SOAK

TERMINATED = 128 + signal.SIGTERM


@pytest.mark.parametrize("kind", ["codes", *(["embedding"] if SOAK else [])])
def test_sigkill_of_a_random_process_every_few_seconds(kind, start_job, undisturbed, scale, tally):
    choose, job = random.Random(0), start_job(kind=kind)
    workers = [0, 1]  # that decode
    for index in range(scale.processes):
        job.start("--num_workers", workers[index % 2], seconds=0.3)
    for _ in range(scale.kills):
        job.wait_until(lambda: job.at_work() or job.save_path.exists())
        time.sleep(choose.uniform(0, 1))
        running = [each for each in job.processes if each.poll() is None]
        if len(running) < scale.processes:
            break  # they are done
        busy = [each for each in running if each.pid in job.at_work()]
        victim = choose.choice(busy if busy and choose.random() < 0.7 else running)
        victim.kill()
        victim.wait()
        tally.kills += 1
        job.start("--num_workers", choose.choice(workers), seconds=0.3)
    statuses = job.end()
    assert statuses.count(-signal.SIGKILL) >= scale.kills / 2, job.log()
    assert set(statuses) == {-signal.SIGKILL, 0}, job.log()
    tally.compare(job.save_path, undisturbed(kind))


def test_sigterm_of_all_and_another_number_of_processes(start_job, undisturbed, scale, tally):
    job = start_job()
    for number, goal in [(2, 3), (3, 60)] if SOAK else [(2, 3)]:
        running = [job.start("--num_workers", 1, seconds=0.2) for _ in range(number)]
        job.wait_until(lambda goal=goal: job.num_done() >= goal)
        for process in running:
            process.terminate()
        tally.terminations += number
        statuses = [process.wait(60) for process in running]
        # One that was still starting Python has no handler yet.
        assert TERMINATED in statuses
        assert set(statuses) <= {TERMINATED, -signal.SIGTERM}, job.log()
        assert not job.save_path.exists()
        assert not list(job.parts.glob("*.lease")), "given back"
        assert goal <= job.num_done()
    job.start()
    assert job.end(job.processes[-1:]) == [0], job.log()
    tally.compare(job.save_path, undisturbed())


@pytest.mark.skipif(not SOAK, reason="by make soak")
@pytest.mark.parametrize(
    "place",
    [
        "k2distil.pipeline.extraction.outcome:summarise",
        "k2distil.storage.merge:_verify",
        "k2distil.storage.merge:write_offsets",
        "k2distil.storage.parts:_remove_folder",
        "k2distil.pipeline.extraction.outcome:_log_outcome",
    ],
)
def test_sigkill_in_the_merge(place, start_job, undisturbed, tally, tmp_path):
    job = start_job()
    for _ in range(2):
        job.start("--num_workers", 0, at=[place, signal.SIGKILL, str(tmp_path / "died")])
    assert sorted(job.end()) == [-signal.SIGKILL, 0], job.log()
    tally.kills += 1
    tally.compare(job.save_path, undisturbed())


@pytest.mark.skipif(not SOAK, reason="by make soak")
def test_sigkill_of_ranks_of_torchrun(start_job, undisturbed, tally):
    job = start_job()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc_per_node", "2", "--max-restarts", "3", "-m", "k2distil", "save_codebook"]
    agent = job.start_command([*torchrun, *job.flags, "--num_workers", "0"], seconds=0.3)
    choose = random.Random(0)
    for _ in range(3):
        job.wait_until(lambda: job.at_work() & children(agent.pid))
        time.sleep(choose.uniform(0, 1))
        job.wait_until(lambda: children(agent.pid))  # it may be starting them anew
        os.kill(choose.choice(sorted(children(agent.pid))), signal.SIGKILL)
        tally.kills += 1
    assert job.end() == [0], job.log()
    tally.compare(job.save_path, undisturbed())


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
