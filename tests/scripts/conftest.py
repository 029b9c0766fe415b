"""What a user has: a data.list of real audio files, a teacher, and the three scripts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.scripts.warm import run_warm

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "teachers" / "golden"
TIMEOUT = 300.0  # seconds for a command
WENET = GOLDEN / "wenet_conv1d2"
WENET_TEACHER = ["--encoder_type", "wenet-whisper", "--checkpoint", WENET / "final.pt"]


@dataclass
class Corpus:
    """A data.list being written; paths in it are relative."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        path = self.folder / "data.list"
        path.write_text("".join(line + "\n" for line in self.lines))
        return path

    def add(self, key: str, samples: np.ndarray, rate: int = 16000, **soundfile_options) -> Path:
        """Write samples as a wav (or by the key's suffix) and list it."""
        path = self.folder / (key if "." in key else f"{key}.wav")
        soundfile.write(path, samples, rate, **soundfile_options)
        self.list(path.stem, path.name)
        return path

    def list(self, key: str, wav: str, **more) -> None:
        self.lines.append(json.dumps({"key": key, "wav": wav, "txt": "hello", **more}))


def speech(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """Noise whose loudness and colour change, as speech's do."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * rate) + 8)
    smooth = np.convolve(noise, np.ones(1 + seed % 7) / 4, mode="same")[: int(seconds * rate)]
    return 0.1 * smooth * (1.2 + np.sin(np.arange(len(smooth)) * (1 + seed % 5) / 2000))


@pytest.fixture
def empty_corpus(tmp_path) -> Corpus:
    folder = tmp_path / "data"
    folder.mkdir()
    return Corpus(folder)


@pytest.fixture
def corpus(empty_corpus) -> Corpus:
    """24 utterances of 0.5 to 1.65 s: about 1,300 frames of a Whisper."""
    for index in range(24):
        empty_corpus.add(f"utt{index:02}", speech(0.5 + 0.05 * index, seed=index))
    return empty_corpus


@pytest.fixture
def material(tmp_path) -> Corpus:
    """Audio, text and codes to train a student on."""
    from k2distil.distil.student import transformers_is_old
    from tests.scripts.student_material import make_material  # which needs this file

    if transformers_is_old():
        pytest.skip("students need a newer transformers")
    return make_material(tmp_path)


def command(script: str, *flags: object) -> list[str]:
    return [str(ROOT / script), *map(str, flags)]


def environment(**more: str) -> dict[str, str]:
    """One thread a process: several tests run at once."""
    return os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | more


def run(
    script: str, *flags: object, by_script: bool = False, **more_environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script's command to its end, on the CPU, without asserting anything.

    by_script: by the script itself, as always with an environment of its own; see warm.py.
    """
    words = command(script, "--num_workers", 0, "--gpu", "cpu", *flags)
    if by_script or more_environment:
        env = environment(**more_environment)
        options = {"capture_output": True, "text": True, "check": False}
        return subprocess.run(words, env=env, timeout=TIMEOUT, **options)
    name = script.removesuffix(".sh").removesuffix("_offline")
    return run_warm([name, *words[1:]], environment(K2DISTIL_PROG=script), TIMEOUT)


def succeed(script: str, *flags: object, **options) -> str:
    """Run a script that must leave with status 0, see `run`; -> its log."""
    done = run(script, *flags, **options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def k2distil(*arguments: object) -> str:
    """Run `k2distil`, which must leave with status 0; -> its standard output."""
    done = run_warm(list(map(str, arguments)), environment(), TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interrupt(
    flags: list[str],
    is_time: Callable[[], object],
    signum: signal.Signals,
    whole_group: bool = False,
    **more_environment: str,
) -> tuple[int, str]:
    """Start a command and send it a signal once `is_time`; -> (exit status, log).

    whole_group: all its processes get it, as from `timeout` or a scheduler.
    """
    process = subprocess.Popen(
        flags,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more_environment),
        start_new_session=whole_group,
    )
    deadline = time.monotonic() + 120
    while not is_time():
        assert process.poll() is None, f"ended before it was interrupted: {process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    if whole_group:
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    _, log = process.communicate(timeout=60)
    return process.returncode, log
