"""One process per device: `--gpu 0,1,2,3` is torchrun's work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from k2distil.device import device_indexes
from k2distil.errors import ConfigError


def launch(module: str, argv: Sequence[str], gpu: str | None) -> int | None:
    """Run `python -m module argv` once for each of several devices.

    Args:
        module: its name.
        argv: its flags.
        gpu: the --gpu value.

    Returns:
        The exit status; None: this process is to do the work itself, since torchrun has started
        it already or there are not several devices.

    Raises:
        ConfigError: a device this machine lacks.
    """
    if "LOCAL_RANK" in os.environ or gpu is None or len(indexes := device_indexes(gpu)) < 2:
        return None
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    number = torch.cuda.device_count()
    if max(indexes) >= number:
        raise ConfigError(
            f"--gpu {gpu}: this machine has {number} CUDA devices; use indexes below that"
        )
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(names) < number:
        names = [str(index) for index in range(number)]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[index] for index in indexes)
    try:
        torchrun(["--standalone", f"--nproc_per_node={len(indexes)}", "-m", module, *argv])
    except SignalException as error:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 128 + error.sigval
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        if first.exitcode == 1:  # done, but for some utterances
            return 1
        print(f"error: process {first.local_rank} ended first, see above", file=sys.stderr)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0
