"""Faults for the scripts under test: Python imports this at its start, from PYTHONPATH.

K2DISTIL_FAULTS holds them, as JSON; a process without it is left alone.

    seconds  that every batch takes longer
    nan      a file: the process that makes it gives NaN for one batch
    oom      a file: the process that makes it has no memory for one batch
    at       ["module:function", signal, a file]: the process that makes it gets the signal there
    host     the name of the host that the process takes itself to be on
    clock    seconds that its clock is off
"""

import importlib
import json
import os
import socket
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path


def is_first(path):
    """Whether this is the one that makes the file, of all processes."""
    try:
        Path(path).open("x").close()
    except FileExistsError:
        return False
    return True


def break_teacher(seconds=0.0, nan=None, oom=None):
    import torch

    from k2distil.teachers.encoder_teacher import EncoderTeacher

    embed = EncoderTeacher.embed

    def faulty(self, batch):
        time.sleep(seconds)
        if oom is not None and len(batch.keys) > 1 and is_first(oom):
            raise torch.OutOfMemoryError("injected")
        embedding = embed(self, batch)
        if nan is not None and is_first(nan):
            embedding = replace(embedding, embedding=embedding.embedding * float("nan"))
        return embedding

    EncoderTeacher.embed = faulty


def signal_at(place, signum, path):
    module_name, _, name = place.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, name)

    def fateful(*args, **options):
        if is_first(path):
            os.kill(os.getpid(), signum)
        return function(*args, **options)

    setattr(module, name, fateful)


def move_to(host):
    from k2distil import leases

    socket.gethostname = lambda: host
    leases._machine = lambda: host


def set_clock(seconds):
    now, touch = time.time, os.utime

    def touch_by_own_clock(path, times=None):
        touch(path, (time.time(), time.time()) if times is None else times)

    time.time = lambda: now() + seconds
    os.utime = touch_by_own_clock  # as a file system does that takes the client's time


def inject(host=None, clock=None, at=None, **of_teacher):
    if host is not None:
        move_to(host)
    if clock is not None:
        set_clock(clock)
    if at is not None:
        signal_at(*at)
    break_teacher(**of_teacher)


if "K2DISTIL_FAULTS" in os.environ and "save_codebook" in sys.orig_argv:
    try:
        inject(**json.loads(os.environ["K2DISTIL_FAULTS"]))
    except Exception:  # Python itself would print it and go on, with no fault
        traceback.print_exc()
        os._exit(99)
