"""Workers of a DataLoader: a SIGTERM is for their caller, which ends them however they hang."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from k2distil.errors import DataError
from k2distil.workers import Loader, _deferred, mending, shut_down

PROGRAM = textwrap.dedent(
    """
    import os
    import re
    import resource
    import sys
    import time
    from k2distil.workers import Loader
    class Numbers:
        def __len__(self):
            return 100
        def __getitem__(self, index):
            if index == 3 and place == "regex":  # holds the interpreter for ages
                re.match(r"(a+)+$", "a" * 40 + "b")
            return index
    place = sys.argv[1]
    if place == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    if place == "fork":
        os.register_at_fork(after_in_child=lambda: time.sleep(600))
    num_workers = 16 if place == "files" else 2
    numbers = iter(Loader(Numbers(), batch_size=None, num_workers=num_workers, timeout=2))
    for _ in range(3 if place == "steady" else 0):
        next(numbers)
    print("running", flush=True)
    sys.stdin.readline()
    if place == "steady":
        print(list(numbers) == list(range(3, 100)), flush=True)
    """
)


def start(place):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("place", ["regex", "fork"])
def test_a_worker_that_hangs_anyhow_ends_when_its_caller_does(place):
    with start(place) as process:
        assert process.stdout.readline() == "running\n"
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        time.sleep(1)  # it has come to where it hangs
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
        assert psutil.wait_procs(workers, timeout=10)[1] == []


def test_a_sigterm_of_others_is_not_for_workers():
    with start("steady") as process:
        assert process.stdout.readline() == "running\n"
        for worker in psutil.Process(process.pid).children():
            os.kill(worker.pid, signal.SIGTERM)
        out, _ = process.communicate("\n", timeout=60)
        assert (process.returncode, out) == (0, "True\n")


def test_where_not_all_workers_start_the_others_hold_nobody_up():
    with start("files") as process:
        out, _ = process.communicate("\n", timeout=60)
        assert (process.returncode, out) == (1, "")


def test_signals_wait_until_all_workers_are_there():
    received = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        with _deferred(signal.SIGINT):
            signal.raise_signal(signal.SIGINT)
            assert received == []
        assert received == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, handler)


def test_too_many_open_files_have_a_remedy_of_their_own():
    with pytest.raises(DataError, match="ulimit -n"), mending():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class DiesAskingWhetherToEnd:
    """Ends as if killed in the midst of torch's look at its `done_event`."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        frame = sys._getframe()
        while "done_event" not in frame.f_locals:
            frame = frame.f_back
        for each in vars(frame.f_locals["done_event"]).values():
            if hasattr(each, "acquire"):
                each.acquire()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_killed_as_it_asks_whether_to_end_is_not_waited_for():
    def run():
        numbers = iter(Loader(DiesAskingWhetherToEnd(), batch_size=None, num_workers=2, timeout=1))
        with pytest.raises(RuntimeError, match="worker"):
            next(numbers)
        shut_down(numbers)
        ended.append(psutil.Process().children() == before)

    before, ended = psutil.Process().children(), []
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert ended == [True]
