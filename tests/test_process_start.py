import os
import subprocess

import pytest

from k2distil import process_start
from k2distil.process_start import is_alive, start_of


def test_a_number_alone_or_with_its_start_is_a_process_until_it_ends():
    process = subprocess.Popen(["sleep", "60"])
    pid, start = process.pid, start_of(process.pid)
    assert start is not None
    assert is_alive(pid, start)
    assert is_alive(pid)
    assert not is_alive(pid, "1")
    process.kill()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
    assert not is_alive(pid, start)
    assert not is_alive(pid)
    process.wait()
    assert not is_alive(pid, start)


@pytest.mark.parametrize(("error", "lives"), [(PermissionError(1, ""), True), (None, False)])
def test_a_process_of_which_proc_shows_nothing_lives_if_it_is_another_users(
    error, lives, monkeypatch
):
    def kill(pid, signum):
        if error is not None:
            raise error

    monkeypatch.setattr(process_start, "start_of", lambda pid: None)  # as hidepid=1 has it
    monkeypatch.setattr(os, "kill", kill)
    assert is_alive(os.getpid(), "1") == lives
