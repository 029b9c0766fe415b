"""Decoding ahead, in real worker processes, with real signals."""

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch

from k2distil.batch import Utterance
from k2distil.data import decode, decode_ahead, load_audio
from k2distil.errors import DataError


@pytest.fixture
def listed(tmp_path: Path) -> list[Utterance]:
    """20 utterances of 0.1 to 2 s; the sixth is missing."""
    rng = np.random.default_rng(0)
    utterances = []
    for index in range(20):
        path = tmp_path / f"{index}.flac"
        if index != 5:
            soundfile.write(path, 0.1 * rng.standard_normal(1600 * (20 - index)), 16000)
        utterances.append(Utterance(f"u{index}", str(path)))
    return utterances


def workers() -> list[multiprocessing.process.BaseProcess]:
    return multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_audio_comes_in_list_order_with_errors_in_their_places(
    listed: list[Utterance], num_workers: int
) -> None:
    decoded = list(decode_ahead(listed, num_workers))
    assert [utterance for utterance, _ in decoded] == listed
    for index, (utterance, audio) in enumerate(decoded):
        if index == 5:
            assert isinstance(audio, DataError)
            assert "5.flac" in str(audio)
        else:
            assert isinstance(audio, torch.Tensor)
            assert np.array_equal(audio.numpy(), load_audio(utterance))
    assert not workers()


def test_the_channel_is_passed_on(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([[0.0, 0.5]] * 1600), 16000)
    [(_, audio)] = decode_ahead([Utterance("a", str(tmp_path / "a.wav"))], 1, channel=1)
    assert isinstance(audio, torch.Tensor)
    assert audio.mean() == 0.5


def test_nothing_is_decoded_of_an_empty_list() -> None:
    assert list(decode_ahead([], 2)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGABRT])
def test_a_decoder_that_crashes_costs_its_own_utterance(
    listed: list[Utterance], num_workers: int, signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashing(utterance: Utterance, channel: int, timeout: float) -> np.ndarray:
        if utterance.key in ("u7", "u19"):
            faulthandler.disable()  # pytest's, which would fill the log
            os.kill(os.getpid(), signum)
        return load_audio(utterance, channel, timeout)

    monkeypatch.setattr(decode, "load_audio", crashing)
    monkeypatch.setattr(decode, "PATIENCE_STEP", 0.5)
    decoded = list(decode_ahead(listed, num_workers))
    assert [utterance for utterance, _ in decoded] == listed
    failed = {each.key: str(audio) for each, audio in decoded if isinstance(audio, DataError)}
    assert failed.keys() == {"u5", "u7", "u19"}
    for key in ("u7", "u19"):
        name = signal.Signals(signum).name
        assert f"{key[1:]}.flac: utterance {key}: its decoder crashed ({name})" in failed[key]
    assert not workers()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bug_in_decoding_is_not_hidden(
    listed: list[Utterance], num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(utterance: Utterance, channel: int, timeout: float) -> np.ndarray:
        raise RuntimeError("a bug")

    monkeypatch.setattr(decode, "load_audio", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        next(decode_ahead(listed, num_workers))


def test_workers_run_ahead_only_as_far_as_allowed(
    tmp_path: Path, listed: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noting(utterance: Utterance, channel: int, timeout: float) -> np.ndarray:
        (tmp_path / f"{utterance.key}.seen").touch()
        return np.zeros(1, np.float32)

    monkeypatch.setattr(decode, "load_audio", noting)
    decoded = decode_ahead(listed, 2)
    next(decoded)
    time.sleep(0.5)
    num_seen = len(list(tmp_path.glob("*.seen")))
    decoded.close()
    assert 2 <= num_seen <= 2 * decode.PREFETCH_FACTOR + 1


def test_workers_use_one_thread(listed: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(utterance: Utterance, channel: int, timeout: float) -> np.ndarray:
        return np.full(1, torch.get_num_threads(), np.float32)

    monkeypatch.setattr(decode, "load_audio", threads)
    assert {float(audio) for _, audio in decode_ahead(listed, 2)} == {1.0}


def test_closing_the_generator_ends_the_workers(listed: list[Utterance]) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    decoded = decode_ahead(listed * 100, 2)
    next(decoded)
    assert len(workers()) == 2
    decoded.close()
    assert not workers()
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("attempt", range(2))  # the moment of the kill is left to chance
def test_a_killed_worker_is_a_clear_error(
    listed: list[Utterance], in_thread: bool, attempt: int
) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        decoded = decode_ahead(listed * 1000, 2)
        try:
            for count, _ in enumerate(decoded):
                if count == 3 + attempt:
                    workers()[0].kill()
        except DataError as error:
            caught.append(error)
        finally:
            decoded.close()

    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(timeout=60)
        assert not thread.is_alive()
    else:
        run()
    assert "smaller --num_workers" in str(caught[0])
    assert not workers()


def test_utterances_that_hang_fail_alone(
    tmp_path: Path, listed: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "PATIENCE_STEP", 0.2)
    for place in (3, 11):  # nobody ever writes to these, so that opening them does not end
        os.mkfifo(tmp_path / f"{place}.fifo")
        listed.insert(place, Utterance(f"f{place}", str(tmp_path / f"{place}.fifo")))
    decoded = list(decode_ahead(iter(listed), 2, timeout=1.0))
    assert [utterance for utterance, _ in decoded] == listed
    failed = {u.key: str(audio) for u, audio in decoded if isinstance(audio, DataError)}
    assert failed.keys() == {"u5", "f3", "f11"}
    assert "3.fifo: utterance f3: not decoded in 1 s" in failed["f3"]
    assert "--decode_timeout" in failed["f11"]
    assert not workers()


def test_utterances_are_drawn_as_workers_need_them(listed: list[Utterance]) -> None:
    drawn = []

    def draw() -> Iterator[Utterance]:
        for utterance in listed:
            drawn.append(utterance)
            yield utterance

    decoded = decode_ahead(draw(), 1)
    next(decoded)
    assert len(drawn) <= decode.PREFETCH_FACTOR + 1
    decoded.close()


def test_many_utterances_can_be_held_without_many_open_files(listed: list[Utterance]) -> None:
    held = [audio for _, audio in decode_ahead(listed * 20, 2)]
    assert len(held) == 400
    assert psutil.Process().num_fds() < 200


def test_a_full_shared_memory_is_a_clear_error(tmp_path: Path, listed: list[Utterance]) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    program = textwrap.dedent(
        """
        import sys
        from k2distil.batch import Utterance
        from k2distil.data import decode_ahead
        try:
            list(decode_ahead([Utterance(path, path) for path in sys.argv[1:]], 1))
        except Exception as error:
            print(type(error).__name__, error)
        """
    )
    shell = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", shell, "sh", sys.executable, "-c", program]
    done = subprocess.run(
        [*command, *(u.wav for u in listed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.startswith("DataError decoding stopped"), done.stderr
    assert "smaller --num_workers" in done.stdout


def test_ctrl_c_ends_quietly_and_at_once(tmp_path: Path, listed: list[Utterance]) -> None:
    program = textwrap.dedent(
        """
        import signal
        import sys
        from k2distil.batch import Utterance
        from k2distil.data import decode_ahead
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & leaves it ignored
        utterances = [Utterance(path, path) for path in sys.argv[1:]] * 10000
        try:
            for count, _ in enumerate(decode_ahead(utterances, 2)):
                if count == 10:
                    print("running", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *(u.wav for u in listed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal gives
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "interrupted\n", "")
    assert time.monotonic() - started < 5
    assert not any(child.is_running() for child in children)


def test_a_ctrl_c_while_a_task_is_handed_over_does_not_hold_the_end_up(
    listed: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between a waiter's release and its removal, and the thread is asleep anew by then.

    Then the waiter is locked again, and still the first to be notified.
    """
    queues = []

    class Loader(decode.Loader):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, float]]:
            iterator = super().__iter__()
            queues.extend(iterator._index_queues)
            return iterator

    monkeypatch.setattr(decode, "Loader", Loader)
    decoded = decode_ahead(listed, 2)
    next(decoded)
    (one, other) = multiprocessing.active_children()
    for queue in queues:
        left_behind = threading.Lock()
        left_behind.acquire()
        with queue._notempty:
            queue._notempty._waiters.appendleft(left_behind)
    decoded.close()
    assert (one.exitcode, other.exitcode) == (0, 0), "not killed after some seconds"


@pytest.mark.parametrize("place", ["torch.set_num_threads", "k2distil.data.decode.load_audio"])
def test_a_worker_ends_with_its_caller(place: str, listed: list[Utterance]) -> None:
    """Which is killed while the worker starts, or while it hangs in a file."""
    program = textwrap.dedent(
        """
        import os
        import signal
        import sys
        import time
        from unittest import mock
        from k2distil.batch import Utterance
        from k2distil.data import decode_ahead
        caller = os.getpid()
        def stop(*arguments):
            if os.getpid() != caller:
                print(os.getpid(), flush=True)
                os.kill(caller, signal.SIGKILL)
                while hangs or os.getppid() == caller:
                    time.sleep(0.1)
        place, path = sys.argv[1:]
        hangs = place.startswith("k2distil")
        with mock.patch(place, stop):
            list(decode_ahead([Utterance("u", path)], 1))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, place, listed[0].wav],
        stdout=subprocess.PIPE,  # which the worker holds open: this returns when both have ended
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.strip().isdigit()  # it came there
