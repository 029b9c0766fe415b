"""Leases, between real processes; other machines are played by leases that name another one."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from k2distil.errors import DataError
from k2distil.leases import Leases, held_alone

HOLD = """\
import sys, time
from pathlib import Path
from k2distil.leases import Leases
with Leases(float(sys.argv[2])) as leases:
    assert leases.claim(Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lease(tmp_path):
    return tmp_path / "part.lease"


def hold(lease, seconds=60.0) -> subprocess.Popen:
    """A process that has claimed a lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lease), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def of_another_machine(lease) -> None:
    words = json.loads(lease.read_text())
    lease.write_text(json.dumps({**words, "machine": "another", "host": "another"}))


def test_one_of_two_has_a_lease_until_it_is_given_back(lease):
    with Leases(60) as one, Leases(60) as other:
        assert one.claim(lease)
        assert not one.claim(lease)
        assert not other.claim(lease)
        one.release(lease)
        assert not lease.exists()
        assert other.claim(lease)
    assert not lease.exists()


def test_the_lease_of_a_living_process_of_this_machine_is_kept_whatever_its_clock(lease):
    process = hold(lease, seconds=1.0)
    try:
        with Leases(1.0) as leases:
            for _ in range(15):
                assert not leases.claim(lease)
                os.utime(lease, (0, 0))
                time.sleep(0.1)
            assert leases.holder([lease]).startswith(f"process {process.pid} on ")
    finally:
        process.kill()
        process.wait()


def test_the_lease_of_a_stopped_process_of_this_machine_is_abandoned_in_time(lease):
    process = hold(lease, seconds=1.0)
    try:
        process.send_signal(signal.SIGSTOP)
        with Leases(0.5) as leases:
            assert leases.holder([lease]) is None
        started = time.monotonic()
        with Leases(1.0) as leases:
            while not leases.claim(lease):
                assert time.monotonic() - started < 10
                time.sleep(0.05)
            assert time.monotonic() - started > 1.0
    finally:
        process.kill()
        process.wait()


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(lease):
    process = hold(lease)
    process.send_signal(signal.SIGKILL)
    with Leases(1000) as leases:
        deadline = time.monotonic() + 10
        while not leases.claim(lease):  # dead before it is waited for: a zombie counts as dead
            assert time.monotonic() < deadline
        assert leases.holder([]) is None
    process.wait()


def test_another_process_with_the_number_of_a_dead_one_does_not_count(lease):
    with Leases(1000) as leases:
        assert leases.claim(lease)
        words = json.loads(lease.read_text())
        lease.write_text(json.dumps({**words, "start": "1"}))
        with Leases(1000) as other:
            assert other.claim(lease)


@pytest.mark.parametrize("hours_off", [-1, 0, 1])
def test_a_holder_on_another_machine_is_dead_when_it_gives_no_sign(lease, hours_off):
    with Leases(1000) as dead, Leases(0.5) as leases:
        assert dead.claim(lease)
        of_another_machine(lease)
        then = time.time() + 3600 * hours_off  # its clock
        os.utime(lease, (then, then))
        started = time.monotonic()
        while not leases.claim(lease):
            assert time.monotonic() - started < 10
            time.sleep(0.01)
        assert time.monotonic() - started > 0.5


@pytest.mark.parametrize("hours_off", [-1, 1])
def test_a_holder_on_another_machine_that_gives_signs_is_alive(lease, hours_off):
    with Leases(1000) as alive, Leases(0.6) as leases:
        assert alive.claim(lease)
        of_another_machine(lease)
        for sign in range(10):
            then = time.time() + 3600 * hours_off + sign
            os.utime(lease, (then, then))
            assert not leases.claim(lease)
            time.sleep(0.15)


def test_a_holder_gives_signs(lease):
    with Leases(0.3) as leases:
        assert leases.claim(lease)
        os.utime(lease, (0, 0))
        time.sleep(0.3)
        assert lease.stat().st_mtime > time.time() - 60


def test_a_lease_that_was_never_written_is_abandoned_in_time(lease):
    lease.touch()
    with Leases(0.2) as leases:
        assert not leases.claim(lease)
        time.sleep(0.3)
        assert leases.claim(lease)


def test_what_went_to_another_process_is_not_given_back(lease):
    with Leases(1000) as asleep, Leases(1000) as successor:
        assert asleep.claim(lease)
        lease.unlink()  # as a successor does that takes it for dead
        assert successor.claim(lease)
        asleep.release(lease)
        assert lease.exists()


def test_of_two_that_find_a_lease_abandoned_the_faster_keeps_it(lease, monkeypatch):
    lease.touch()

    def is_abandoned(self, path, signature):  # and taken by another process since it was read
        path.write_text("the faster")
        return True

    monkeypatch.setattr(Leases, "_is_abandoned", is_abandoned)
    with Leases(60) as leases:
        assert not leases.claim(lease)
    assert [each.read_text() for each in lease.parent.iterdir()] == ["the faster"]


def test_a_lease_says_whose_it_is_from_the_moment_it_is_there(lease, monkeypatch):
    link, linked = os.link, []

    def watched(draft, path):
        assert not lease.exists()
        linked.append(json.loads(draft.read_text())["pid"])
        link(draft, path)

    monkeypatch.setattr(os, "link", watched)
    with Leases(60) as leases:
        assert leases.claim(lease)
        assert linked == [os.getpid()] == [json.loads(lease.read_text())["pid"]]
        assert list(lease.parent.iterdir()) == [lease]


def test_another_that_comes_first_keeps_its_lease(lease, monkeypatch):
    link = os.link

    def too_late(draft, path):
        path.write_text("the faster")
        link(draft, path)

    monkeypatch.setattr(os, "link", too_late)
    with Leases(60) as leases:
        assert not leases.claim(lease)
    assert [each.read_text() for each in lease.parent.iterdir()] == ["the faster"]


def test_a_disk_without_links_has_leases_too(lease, monkeypatch):
    def no_link(draft, path):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with Leases(60) as one, Leases(60) as other:
        assert one.claim(lease)
        assert not other.claim(lease)
        assert json.loads(lease.read_text())["pid"] == os.getpid()
        assert list(lease.parent.iterdir()) == [lease]
    assert not lease.exists()


def test_held_waits_for_its_turn(lease):
    order = []
    with Leases(1000) as one, Leases(1000) as other:

        def wait():
            with other.held(lease):
                order.append("second")

        with one.held(lease):
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.3)
            order.append("first")
        thread.join(timeout=10)
    assert order == ["first", "second"]


def test_many_threads_get_every_lease_once(tmp_path):
    got = []

    def claim_all():
        with Leases(1000) as leases:
            mine = [number for number in range(50) if leases.claim(tmp_path / f"{number}.lease")]
            got.append(mine)
            barrier.wait(timeout=30)  # nobody gives back before all have tried

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=claim_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(number for mine in got for number in mine) == list(range(50))


def test_a_folder_that_is_gone_is_a_clear_error(tmp_path):
    with Leases(60) as leases, pytest.raises(DataError, match=r"gone/part.lease: cannot be"):
        leases.claim(tmp_path / "gone" / "part.lease")


def test_an_abandoned_lease_that_may_not_be_removed_is_an_error_and_no_waiting(lease, monkeypatch):
    def refuse(path, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as in a folder like /tmp

    with Leases(60) as dead, Leases(60) as leases:
        assert dead.claim(lease)
        words = json.loads(lease.read_text())
        lease.write_text(json.dumps({**words, "start": "1"}))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refuse)
            with pytest.raises(DataError, match=r"part\.lease: left by a process that ended"):
                leases.claim(lease)
        assert leases.claim(lease)


def test_many_abandoned_leases_of_another_machine_are_waited_for_together(tmp_path, caplog):
    caplog.set_level("INFO")
    paths = [tmp_path / f"part-{index}.lease" for index in range(8)]
    with Leases(1000) as dead, Leases(0.5) as leases:
        for path in paths:
            assert dead.claim(path)
            of_another_machine(path)
        started = time.monotonic()
        assert leases.holder(paths) is None
        assert 0.5 < time.monotonic() - started < 2
        assert caplog.text.count("waiting up to 0.5 s for a sign of process") == 1
    paths[7].unlink()
    with Leases(0.6) as alive, Leases(5) as leases:
        assert alive.claim(paths[7])
        assert leases.holder(paths) == f"process {os.getpid()} on {socket.gethostname()}"


def test_one_that_another_host_removes_while_it_is_read_is_none(lease, monkeypatch):
    opened = Path.open

    def stale(path, *arguments, **options):
        if path == lease:
            raise OSError(errno.ESTALE, "Stale file handle")  # without a name, as of a read
        return opened(path, *arguments, **options)

    with Leases(60) as leases:
        monkeypatch.setattr(Path, "open", stale)
        assert leases.claim(lease)


def test_who_holds_an_output_alone_is_told_to_others(lease, tmp_path):
    with held_alone(lease, tmp_path / "q.pt", seconds=1):
        words = rf"q.pt: process {os.getpid()} on .*is writing this output; wait for it to end"
        with (
            pytest.raises(DataError, match=words),
            held_alone(lease, tmp_path / "q.pt", seconds=5),
        ):
            pass
        assert lease.exists()
    assert not lease.exists()
    process = hold(lease)
    process.kill()
    process.wait()
    with held_alone(lease, tmp_path / "q.pt"):  # of a dead process at once
        assert lease.exists()
