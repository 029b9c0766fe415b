"""One output, and the processes of the real script that make it together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.scripts.conftest import ROOT, WENET_TEACHER, command, environment

INJECT = Path(__file__).parent / "inject"
PATIENCE = 300.0  # seconds; a process that takes longer hangs


@dataclass
class Job:
    """What is to be made; its processes count as one run until `end`."""

    data_list: Path
    save_path: Path
    kind: Sequence[object]  # flags of what is made of the audio
    part_utterances: int
    logs: Path  # a folder
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def flags(self) -> list[str]:
        flags = [*WENET_TEACHER, *self.kind, "--train_data", self.data_list, "--gpu", "cpu"]
        flags += ["--save_path", self.save_path, "--part_utterances", self.part_utterances]
        return list(map(str, flags))

    @property
    def parts(self) -> Path:
        return self.save_path.with_name(f"{self.save_path.name}.parts")

    def num_done(self) -> int:
        """Parts that have a report."""
        return len(list(self.parts.glob("part-*.json")))

    def start(self, *more: object, **faults: object) -> subprocess.Popen:
        """One process more.

        Args:
            more: flags.
            faults: see inject/sitecustomize.py.
        """
        return self.start_command(command("save_codebook.sh", *self.flags, *more), **faults)

    def start_command(self, words: Sequence[str], **faults: object) -> subprocess.Popen:
        """One process more, of another command."""
        path = os.pathsep.join([str(INJECT), str(ROOT)])
        inject = {"PYTHONPATH": path, "K2DISTIL_FAULTS": json.dumps(faults)} if faults else {}
        log = self.log_of(len(self.processes)).open("w")
        with log:
            process = subprocess.Popen(
                words, stderr=log, env=environment(**inject), start_new_session=True
            )
        self.processes.append(process)
        return process

    def log_of(self, number: int) -> Path:
        """Standard error of the process that was started so many others after."""
        return self.logs / f"{number}.log"

    def log(self) -> str:
        """Of all processes."""
        return "".join(self.log_of(each).read_text() for each in range(len(self.processes)))

    def at_work(self) -> set[int]:
        """Numbers of the processes that are making a part."""
        found = set()
        for lease in self.parts.glob("part-*.lease"):
            try:
                found.add(json.loads(lease.read_text())["pid"])
            except (FileNotFoundError, ValueError):  # given back, or not written yet
                continue
        return found

    def wait_until(self, is_time: Callable[[], bool]) -> None:
        """Wait for it, while a process runs that can make it true."""
        deadline = time.monotonic() + PATIENCE
        while not is_time():
            assert any(each.poll() is None for each in self.processes), self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.01)

    def end(self, processes: Iterable[subprocess.Popen] | None = None) -> list[int]:
        """Wait for processes, by default all of them; -> their exit statuses."""
        try:
            return [each.wait(PATIENCE) for each in processes or self.processes]
        finally:
            self.leave_nobody()

    def leave_nobody(self) -> None:
        """No decoding process outlives the one that started it; those of a killed one take 5 s."""
        for process in self.processes:
            if process.poll() is None:
                continue
            deadline = time.monotonic() + 60
            while is_anybody_of(process.pid):
                assert time.monotonic() < deadline, f"left by {process.args}"
                time.sleep(0.1)

    def kill_all(self) -> None:
        """Whatever is left, at the end of a test."""
        for process in self.processes:
            if is_anybody_of(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_anybody_of(group: int) -> bool:
    """Whether a process of the group lives."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended since the look
            continue
        if int(its_group) == group and state not in "ZX":
            return True
    return False
