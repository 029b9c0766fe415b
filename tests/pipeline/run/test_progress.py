"""Progress with and without a terminal."""

import io
import logging

from k2distil.pipeline.run import progress as module
from k2distil.pipeline.run.progress import Progress


def test_without_a_terminal_lines_with_rate_and_time_left_are_logged(monkeypatch, caplog):
    clock = iter([100.0, 110.0, 160.0, 161.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)
    with Progress("codes.h5", total=1000, unit="utterances", done=400) as progress:
        progress.advance(100)  # 10 s: too early for a line
        progress.advance(200, "50 x real time")
        progress.advance(1)
    assert [record.getMessage() for record in caplog.records] == [
        "codes.h5: 700 of 1000 utterances, 5.0/s, 01:00 left 50 x real time"
    ]


def test_on_a_terminal_what_takes_long_is_said_before_it_is_done(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(module.sys, "stderr", terminal)
    with Progress("training", total=2976, unit="steps") as progress:
        progress.advance(15)
        progress.show("trying starts")
        assert "15/2976" in terminal.getvalue()
        assert "trying starts" in terminal.getvalue()
