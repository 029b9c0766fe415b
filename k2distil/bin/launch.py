"""One process per device: `--gpu 0,1,2,3` is torchrun's work, on one node or several."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from k2distil.bin.show import show
from k2distil.device import device_indexes
from k2distil.errors import ConfigError

# Names the file where a process says that it is done, but for some utterances.
STATUS_FILE = "K2DISTIL_STATUS_FILE"
# Makes torchrun's processes meet in a store of their own at each start. In torchrun's own, those
# started again would find the addresses of the dead (torch.distributed.rendezvous).
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def launch(
    module: str,
    argv: Sequence[str],
    gpu: str | None,
    nnodes: str | None = None,
    rdzv_endpoint: str | None = None,
    max_restarts: int = 0,
) -> int | None:
    """Run a module once for each of several devices, here and on other nodes.

    Args:
        module: its name.
        argv: its flags.
        gpu: the --gpu value.
        nnodes, rdzv_endpoint, max_restarts: torchrun's.

    Returns:
        The exit status; None: this process is to do the work itself, since torchrun has started
        it already or there is one device on one node and it is not to be started again.

    Raises:
        ConfigError: a device this machine lacks, or nodes without the place where they meet.
    """
    if "LOCAL_RANK" in os.environ:
        return None
    if (nnodes is None) != (rdzv_endpoint is None):
        raise ConfigError(
            "--nnodes and --rdzv_endpoint: give both, the same on every node, e.g. --nnodes 2 "
            "--rdzv_endpoint node0:29500"
        )
    indexes = device_indexes(gpu)
    if len(indexes) < 2 and nnodes is None and not max_restarts:
        return None
    flags = [f"--nproc_per_node={max(1, len(indexes))}", f"--max-restarts={max_restarts}"]
    if nnodes is None:
        flags += ["--standalone"]
    else:
        flags += [f"--nnodes={nnodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={rdzv_endpoint}"]
        flags += ["--rdzv-id=k2distil"]
    if indexes:
        _show_only(indexes, gpu)
    # As the scripts do, and unlike -m, without what lies in the working directory.
    code = "import sys; sys.path = [path for path in sys.path if path]; import runpy\n"
    code += f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    with tempfile.TemporaryDirectory() as folder:
        status_file = Path(folder, "status")
        os.environ[STATUS_FILE] = str(status_file)
        os.environ[OWN_STORE] = "1"
        status = _torchrun([*flags, "--no-python", sys.executable, "-u", "-c", code, *argv])
        return (
            int(status_file.read_text("ascii")) if not status and status_file.exists() else status
        )


def tell_launcher(status: int) -> int:
    """The exit status of a process whose work is done; what is left to say, `launch` says.

    For torchrun a status other than 0 is a death, after which it ends or restarts the others.
    """
    if (path := os.environ.get(STATUS_FILE)) is None:
        return status
    Path(path).write_text(str(status), encoding="ascii")
    return 0


def _show_only(indexes: Sequence[int], gpu: str | None) -> None:
    """Let the processes see these devices alone; each takes the one of its LOCAL_RANK.

    Without a device, and none asked for, they take the CPU.

    Raises:
        ConfigError: this machine lacks one.
    """
    import torch

    number = torch.cuda.device_count()
    if number == 0 and gpu is None:
        return
    if max(indexes) >= number:
        raise ConfigError(
            f"--gpu {gpu}: this machine has {number} CUDA devices; use --gpu cpu or indexes below "
            "that"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(number)]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[index] for index in indexes)


def _torchrun(argv: Sequence[str]) -> int:
    """Run torchrun in this process; -> the exit status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(argv)
    except SignalException as error:
        show("stopped; run the same command again to resume", sys.stderr)
        return 128 + error.sigval
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        show(f"error: process {first.local_rank} ended first, see above", sys.stderr)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0
