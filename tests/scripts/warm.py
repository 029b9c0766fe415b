"""Commands in processes that need not import torch and transformers first, which takes seconds.

A fork server (of Python's multiprocessing) imports what is below once; each command is a fork of
it. What the scripts add to a command is tested where they are started for real: test_chain.py,
test_interrupts.py, test_many_processes.py and all that need an environment of their own.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import torch

from k2distil.bin.main import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.scripts.warm_imports"])


def run_warm(
    words: Sequence[str], env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives of `k2distil WORDS`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        place = f"/proc/{os.getpid()}/fd/{{}}".format
        paths = place(out.fileno()), place(error.fileno())
        process = SERVER.Process(target=_main, args=(list(words), dict(env), *paths))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        out.seek(0)
        error.seek(0)
        texts = out.read().decode(), error.read().decode()
        return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _main(words: list[str], env: dict[str, str], out: str, error: str) -> None:
    for number, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.update(env)
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    sys.exit(main(words))
