"""The parts of an output, made by however many processes there are."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from k2distil.errors import DataError
from k2distil.leases import Leases
from k2distil.pipeline.extraction.ahead import behind
from k2distil.pipeline.extraction.embed import ChunkValues, PendingChunk
from k2distil.pipeline.extraction.windows import Chunk
from k2distil.pipeline.run.digests import digest_of_entries
from k2distil.pipeline.run.progress import Progress
from k2distil.pipeline.run.rejections import FailureLog
from k2distil.stages import stage
from k2distil.storage import PartFolder

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between looks at what other processes do

EmbedAll = Callable[[Iterable[Chunk]], Generator[PendingChunk]]


def make_parts(
    parts: PartFolder,
    chunks: Sequence[Chunk],
    embed_all: EmbedAll,
    leases: Leases,
) -> None:
    """Make parts until all are there, whichever process made them.

    Args:
        parts: some of them may be there already.
        chunks: the utterances of each part.
        embed_all: chunks -> their values, one by one.
        leases: of this process.

    Raises:
        DataError: a part cannot be written.
    """
    done = parts.done()
    if done:
        logger.info("resuming: %d of %d parts are done", len(done), len(chunks))
    num_done = _num_utterances(chunks, done)
    total = sum(len(chunk.utterances) for chunk in chunks)
    is_waiting, looked, failures = False, 0.0, FailureLog()
    with Progress(parts.save_path.name, total, "utterances", num_done) as progress:
        while len(parts.done()) < len(chunks) and parts.exist():  # else merged by another
            mine = parts.claim(leases)
            first = next(mine, None)
            if first is None:
                if not is_waiting:
                    logger.info("waiting for parts that other processes are making")
                is_waiting = True
                time.sleep(POLL_SECONDS)
                continue
            claimed = (chunks[index] for index in itertools.chain([first], mine))
            pending = embed_all(claimed)
            written = behind(
                lambda timed: _write(parts, leases, failures, *timed), _timed(pending), 1
            )
            with contextlib.closing(pending), contextlib.closing(written):
                for speed in written:
                    if time.monotonic() - looked > POLL_SECONDS:  # a folder may hold thousands
                        num_now = _num_utterances(chunks, parts.done())
                        progress.advance(num_now - progress.done, f"{speed:.0f} x real time")
                        looked = time.monotonic()
        progress.advance(total - progress.done)


def _num_utterances(chunks: Sequence[Chunk], done: Iterable[int]) -> int:
    return sum(len(chunks[index].utterances) for index in done)


def _timed(chunks: Iterable[PendingChunk]) -> Iterator[tuple[PendingChunk, float]]:
    """With the seconds since the one before."""
    started = time.monotonic()
    for chunk in chunks:
        seconds, started = time.monotonic() - started, time.monotonic()
        yield chunk, seconds


def _write(
    parts: PartFolder,
    leases: Leases,
    failures: FailureLog,
    pending: PendingChunk,
    seconds: float,
) -> float:
    """Write a part and give its lease back; -> times real time."""
    with stage("write (behind)"):
        done = pending.result()
        failures.tell(done.failed)
        index = pending.chunk.index
        try:
            parts.write(index, done.values, _report(pending.chunk, done, seconds))
        except DataError:
            if parts.exist():
                raise
            logger.info("part %d: made by another process in the meantime", index)
        parts.release(index, leases)
    return done.audio_seconds / seconds


def _report(chunk: Chunk, done: ChunkValues, wall_seconds: float) -> dict[str, Any]:
    written = (each for each in chunk.utterances if each.key in done.values)
    return {
        "entries": digest_of_entries(written),
        "failed": done.failed,
        "dropped": done.dropped,
        "audio_seconds": done.audio_seconds,
        "wall_seconds": wall_seconds,
    }
