"""Progress with rate and time left: a bar on a terminal, else a line a minute in the log."""

from __future__ import annotations

import logging
import sys
import time

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0  # between two lines where there is no terminal


class Progress:
    """Counts `unit`s up to `total`; use as a context manager."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        from tqdm import tqdm

        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._first, self._start = done, time.monotonic()
        self._logged = self._start
        self._bar = tqdm(
            desc=what,
            total=total,
            unit=f" {unit}",
            initial=done,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def advance(self, count: int, note: str = "") -> None:
        """`count` more are done; `note` stands after the bar."""
        self.done += count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._logged >= LOG_SECONDS:
            self._logged = now
            rate = (self.done - self._first) / (now - self._start)
            left = self._bar.format_interval((self.total - self.done) / rate) if rate else "?"
            logger.info(
                "%s: %d of %d %s, %.1f/s, %s left %s",
                *(self.what, self.done, self.total, self.unit, rate, left, note),
            )

    def show(self, note: str) -> None:
        """Say at once what is being done, before something that takes long."""
        self._bar.set_postfix_str(note)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
