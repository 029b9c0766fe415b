"""Progress where there is no terminal."""

import logging

from k2distil.pipeline import progress as module
from k2distil.pipeline.progress import Progress


def test_without_a_terminal_lines_with_rate_and_time_left_are_logged(monkeypatch, caplog):
    clock = iter([100.0, 110.0, 160.0, 161.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)
    with Progress("codes.h5", total=1000, unit="utterances", done=400) as progress:
        progress.advance(100)  # 10 s: too early for a line
        progress.advance(200, "50 x real time")
        progress.advance(1)
    assert [record.getMessage() for record in caplog.records] == [
        "codes.h5: 700 of 1000 utterances, 5.0/s, 0:01:00 left 50 x real time"
    ]
