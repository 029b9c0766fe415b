"""Disks that are full for a while, and parts that are not what was written."""

import signal

import pytest

from tests.faults.conftest import SOAK
from tests.faults.job import Job


@pytest.mark.skipif(not SOAK, reason="by make soak; test_bad_input.py has a short form")
def test_no_room_and_then_room_again(small_disk, resize, make_job, data_list, undisturbed, tally):
    job = make_job(data_list, folder=small_disk)
    for _ in range(2):
        job.start("--num_workers", 0)
    try:
        assert set(job.end()) == {2}, job.log()
        assert "No space left on device" in job.log()
        finished = job.num_done()
        assert finished > 0
        resize("64m")
        job.start("--num_workers", 0)
        assert job.end(job.processes[-1:]) == [0], job.log()
    finally:
        job.kill_all()
    assert f"resuming: {finished} of " in job.log()
    tally.compare(job.save_path, undisturbed())


def flip(path, position=0.5):
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def interrupted(job: Job, num_done: int) -> Job:
    """Killed when so many parts were done."""
    process = job.start("--num_workers", 0, seconds=0.2)
    job.wait_until(lambda: job.num_done() >= num_done)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return job


def test_parts_damaged_between_runs_and_during_one(start_job, undisturbed, tally):
    job = interrupted(start_job(), 6)
    tally.kills += 1
    for number, damage in [(0, cut), (1, flip), (2, cut), (3, flip)]:
        suffix = "h5" if number < 2 else "json"
        damage(job.parts / f"part-{number:06}.{suffix}")
    running = [job.start("--num_workers", 0, seconds=0.2) for _ in range(3 if SOAK else 1)]
    before = job.num_done()
    job.wait_until(lambda: job.num_done() > before)
    cut(job.parts / "part-000004.h5")
    flip(job.parts / "part-000005.h5", 0.9)
    assert set(job.end(running)) == {0}, job.log()
    assert job.log().count("damaged") >= 4
    tally.compare(job.save_path, undisturbed())
