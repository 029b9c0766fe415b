"""Which utterances train together: batches of so many seconds, labelled and unlabelled ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from torch.utils.data import Sampler

SIMILAR = (0.9, 1.1)  # lengths that count as the same, so that batches differ from pass to pass
USUAL_SHARE = 0.5  # of a batch, for text, at least
PAIRED = 32  # batches of labelled and of unlabelled utterances that are matched by length
PADDED_TOGETHER = 1.2  # times batch_seconds that a batch of both may take, padded to one length


class BatchesBySeconds(Sampler[list[list[int]]]):
    """`num_batches` batches, the same for the same seed; each in parts that are padded alone.

    Utterances with text and those without are drawn from pools of their own, each in shuffled
    passes, so that both are in every batch: else, as those of similar length come together, many
    batches would have one kind alone. They are one part where they are of similar length, else two.

    Args:
        seconds: of each utterance.
        labelled: whether it has text.
        batch_seconds: the most a batch may hold, padding included (`PADDED_TOGETHER` times that
            in one part); a longer utterance goes alone.
        labelled_share: of a batch's seconds, for those with text, if there are both kinds; None:
            `USUAL_SHARE`, or the share that they have of all audio, if that is more. Those without
            of which so few are left that their longest would not fit are not told apart.
        num_batches: of this process.
        seed: of the order.
        rank, world_size: this process takes every `world_size`-th batch, from `rank` on.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        labelled: Sequence[bool],
        batch_seconds: float,
        labelled_share: float | None,
        num_batches: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.seconds, self.num_batches, self.seed = seconds, num_batches, seed
        self.rank, self.world_size = rank, world_size
        self.most_together = PADDED_TOGETHER * batch_seconds
        with_text = [index for index, has_text in enumerate(labelled) if has_text]
        without = [index for index, has_text in enumerate(labelled) if not has_text]
        self.pools = [(list(range(len(seconds))), batch_seconds)]
        if with_text and without:
            usual = max(USUAL_SHARE, sum(seconds[i] for i in with_text) / sum(seconds))
            share = usual if labelled_share is None else labelled_share
            most, least = share * batch_seconds, (1 - share) * batch_seconds
            if labelled_share is not None or max(seconds[i] for i in without) <= least:
                self.pools = [(with_text, most), (without, least)]

    def __len__(self) -> int:
        """The batches of this process."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[list[int]]]:
        """Yield the indexes of each part of a batch, longest first within each kind."""
        rng = random.Random(self.seed)
        streams = [self._endless(pool, most, rng) for pool, most in self.pools]
        number = done = 0
        while True:
            blocks = []
            for stream in streams:
                block = [next(stream) for _ in range(PAIRED)]
                blocks.append(sorted(block, key=lambda batch: self.seconds[batch[0]]))
            together = [list(parts) for parts in zip(*blocks, strict=True)]
            rng.shuffle(together)
            for parts in together:
                if number % self.world_size == self.rank:
                    if done == self.num_batches:
                        return
                    yield self._padded_together(parts)
                    done += 1
                number += 1

    def _padded_together(self, parts: list[list[int]]) -> list[list[int]]:
        whole = list(chain(*parts))
        longest = max(self.seconds[index] for index in whole)
        return [whole] if longest * len(whole) <= self.most_together else parts

    def _endless(self, pool: list[int], most: float, rng: random.Random) -> Iterator[list[int]]:
        while True:
            jitter = {index: rng.uniform(*SIMILAR) for index in pool}
            ordered = sorted(pool, key=lambda i: self.seconds[i] * jitter[i], reverse=True)
            batches = list(cut_by_seconds(ordered, self.seconds, most))
            rng.shuffle(batches)
            yield from batches


def cut_by_seconds(
    ordered: Iterable[int], seconds: Sequence[float], most: float
) -> Iterator[list[int]]:
    """Cut indexes into batches of at most so many seconds with padding, each longest first.

    Args:
        ordered: neighbours share a batch, so those of similar length should be neighbours.
        seconds: of each utterance.
        most: that a batch may hold; a longer utterance goes alone.
    """
    batch: list[int] = []
    longest = 0.0
    for index in ordered:
        longest = max(longest, seconds[index])
        if batch and longest * (len(batch) + 1) > most:
            yield sorted(batch, key=lambda i: -seconds[i])
            batch, longest = [], seconds[index]
        batch.append(index)
    if batch:
        yield sorted(batch, key=lambda i: -seconds[i])


def by_length(seconds: Sequence[float], most: float) -> Iterator[list[int]]:
    """All indexes once, longest first, cut by `cut_by_seconds`."""
    return cut_by_seconds(sorted(range(len(seconds)), key=lambda i: -seconds[i]), seconds, most)
