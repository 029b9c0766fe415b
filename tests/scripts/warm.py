"""Commands in processes that need not import torch and transformers first, which takes seconds.

A fork server (of Python's multiprocessing) imports what is below once; each command is a fork of
it. What the scripts add to a command is tested where they are started for real: test_chain.py,
test_interrupts.py, test_many_processes.py and all that need an environment of their own.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.scripts.warm_imports"])


def run_warm(
    module: str, flags: Sequence[str], env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives of `python -m module FLAGS`, for a module with a `main()`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        place = f"/proc/{os.getpid()}/fd/{{}}".format
        paths = place(out.fileno()), place(error.fileno())
        process = SERVER.Process(target=_main, args=(module, list(flags), dict(env), *paths))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired([module, *flags], timeout)
        out.seek(0)
        error.seek(0)
        texts = out.read().decode(), error.read().decode()
        return subprocess.CompletedProcess([module, *flags], process.exitcode, *texts)


def _main(module: str, flags: list[str], env: dict[str, str], out: str, error: str) -> None:
    for number, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.update(env)
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    sys.argv = [module, *flags]
    sys.exit(importlib.import_module(module).main())
