"""Several hosts: their processes know of each other by the signs on leases alone."""

import signal

import pytest

from tests.faults.conftest import SOAK


@pytest.mark.parametrize("signum", [signal.SIGSTOP, *([signal.SIGKILL] if SOAK else [])])
def test_a_dead_or_sleeping_host_and_clocks_that_are_10_minutes_off(
    signum, start_job, undisturbed, tally
):
    job = start_job()
    flags = ["--num_workers", 0, "--lease_seconds", 2]
    fast = job.start(*flags, host="fast", clock=600, seconds=0.2)
    slow = job.start(*flags, host="slow", clock=-600, seconds=0.2)
    job.wait_until(lambda: fast.pid in job.at_work())
    fast.send_signal(signum)
    tally.kills += signum == signal.SIGKILL
    leases = [path.read_text() for path in job.parts.glob("part-*.lease")]
    assert any('"host": "fast"' in words for words in leases), "what it left is in the way"
    assert job.end([slow]) == [0], job.log()
    if signum == signal.SIGSTOP:
        fast.send_signal(signal.SIGCONT)  # behind the times: all is merged
        assert job.end([fast]) == [0], job.log()
    tally.compare(job.save_path, undisturbed())


@pytest.mark.parametrize(
    "place",
    [
        "k2distil.pipeline.extraction.outcome:summarise",
        *(
            [
                "k2distil.storage.merge:_copy_part",
                "k2distil.storage.merge:_verify",
                "k2distil.storage.parts:_remove_folder",
            ]
            if SOAK
            else []
        ),
    ],
)
def test_a_host_that_sleeps_in_the_merge(place, start_job, undisturbed, tally, tmp_path):
    job = start_job()
    flags = ["--num_workers", 0, "--lease_seconds", 2]
    for host in "ab":
        job.start(*flags, host=host, at=[place, signal.SIGSTOP, str(tmp_path / "asleep")])
    job.wait_until(lambda: any(each.poll() == 0 for each in job.processes))
    assert (tmp_path / "asleep").exists()
    for process in job.processes:
        process.send_signal(signal.SIGCONT)
    assert job.end() == [0, 0], job.log()
    tally.compare(job.save_path, undisturbed())
