"""Commands of a Kaldi list that a signal for everybody ends, or that never end."""

import signal
import time
from pathlib import Path

import pytest

from k2distil.data.command import run_command
from k2distil.errors import DataError


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"{path} |"


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_command_that_a_signal_ends_is_run_once_more(tmp_path: Path, name: str) -> None:
    if signal.getsignal(getattr(signal, f"SIG{name}")) == signal.SIG_IGN:
        pytest.skip("in the background nobody gets a SIGINT")
    mark = tmp_path / "mark"
    text = f"if [ -e {mark} ]; then echo audio; else touch {mark}; kill -{name} $$; fi"
    assert run_command(program(tmp_path / "once", text)) == b"audio\n"
    with pytest.raises(DataError, match=r"always failed with status -\d+: no message"):
        run_command(program(tmp_path / "always", f"kill -{name} $$"))
    with pytest.raises(DataError, match="fails failed with status 3"):
        run_command(program(tmp_path / "fails", f"echo x >> {mark}; exit 3"))
    assert mark.read_text() == "x\n"  # of an error of its own there is no second run


@pytest.mark.parametrize("text", ["exec sleep 9", "sleep 9; true", "exec 1>&-; exec sleep 9"])
def test_a_command_that_does_not_end_is_given_up(tmp_path: Path, text: str) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match=r"did not end in 0.5 s; look at it or raise --decode_tim"):
        run_command(program(tmp_path / "hangs", f"echo audio; {text}"), timeout=0.5)
    assert time.monotonic() - started < 5
    assert run_command(program(tmp_path / "ends", "sleep 0.1; echo x"), timeout=60) == b"x\n"


def test_segments_of_a_recording_that_fails_do_not_run_it_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    fails = program(tmp_path / "fails", f"echo run >> {runs}; echo gone >&2; exit 3")
    for _ in range(3):
        with pytest.raises(DataError, match="fails failed with status 3: gone"):
            run_command(fails)
    assert runs.read_text() == "run\n"
    assert run_command(program(tmp_path / "other", "echo audio")) == b"audio\n"
    with pytest.raises(DataError, match="fails failed with status 3: gone"):
        run_command(fails)
    assert runs.read_text() == "run\nrun\n"
