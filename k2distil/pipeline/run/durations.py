"""How long many utterances are, by their headers, several of which are read at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool  # its threads, unlike others, hold no exit up

from k2distil.batch import Utterance
from k2distil.errors import DataError
from k2distil.pipeline.run.progress import Progress

THREADS = 8  # headers are waited for more than computed with
CHUNK = 1000  # utterances


def durations(
    utterances: Sequence[Utterance], seconds: Callable[[Utterance], float], label: str
) -> Iterator[tuple[Utterance, float | DataError]]:
    """Yield every utterance with its seconds, or why it has none, in their order.

    Args:
        utterances: any number.
        seconds: of one; called in threads. May raise DataError.
        label: of the progress bar.
    """

    def seconds_or_fault(utterance: Utterance) -> float | DataError:
        try:
            return seconds(utterance)
        except DataError as error:
            return error

    with (
        ThreadPool(THREADS) as pool,
        Progress(label, len(utterances), "utterances") as progress,
    ):
        for start in range(0, len(utterances), CHUNK):
            chunk = utterances[start : start + CHUNK]
            found = pool.map_async(seconds_or_fault, chunk)
            while not found.ready():
                found.wait(1.0)  # a signal just before a wait without an end would not be seen
            yield from zip(chunk, found.get(), strict=True)
            progress.advance(len(chunk))
