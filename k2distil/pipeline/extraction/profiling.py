"""`--profile`: the share of each stage, in the log and a JSON file, and a trace of the beginning.

codes.h5.profile.json  seconds of every stage
codes.h5.trace.json    for chrome://tracing or ui.perfetto.dev
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from k2distil.atomic import replacing, write_json
from k2distil.pipeline.run.summary import beside
from k2distil.stages import Profile

logger = logging.getLogger(__name__)

TRACE_SECONDS = 20.0  # a trace of hours would fill the memory
ON_DEVICE = ("front end", "encoder", "quantizer")  # stages that keep the device busy


@contextmanager
def profiled(save_path: Path) -> Iterator[Callable[[], None]]:
    """Measure the stages of a block; shown and written at its end, however it ends.

    Args:
        save_path: of the output.

    Yields:
        To be called now and then: ends the trace in time.
    """
    tracer = torch.profiler.profile()
    tracer.start()
    deadline = time.monotonic() + TRACE_SECONDS
    is_tracing = True

    def look() -> None:
        nonlocal is_tracing
        if is_tracing and time.monotonic() > deadline:
            tracer.stop()
            is_tracing = False

    profile = Profile()
    try:
        with profile:
            yield look
    finally:
        if is_tracing:
            tracer.stop()
        _show(profile)
        if os.environ.get("RANK", "0") == "0":
            _write(profile, save_path)
            with replacing(beside(save_path, "trace.json")) as temporary:
                tracer.export_chrome_trace(str(temporary))


def idle_share(profile: Profile) -> float:
    """The share of the time in which neither teacher nor quantizer had work for the device."""
    seconds = profile.seconds()
    return 1.0 - sum(seconds.get(name, 0.0) for name in ON_DEVICE) / profile.wall_seconds


def _show(profile: Profile) -> None:
    logger.info("where %.1f s went; stages of several threads overlap:", profile.wall_seconds)
    for name, seconds in profile.seconds().items():
        logger.info("  %-20s %8.2f s %5.1f %%", name, seconds, 100 * seconds / profile.wall_seconds)
    logger.info("  device idle %22.1f %%", 100 * idle_share(profile))


def _write(profile: Profile, save_path: Path) -> None:
    content = {
        "wall_seconds": profile.wall_seconds,
        "device_idle_share": idle_share(profile),
        "stages": profile.seconds(),
    }
    write_json(beside(save_path, "profile.json"), content)
