"""Batches of seconds, with text in each of them."""

import random
from itertools import chain, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2distil.distil.batches import PADDED_TOGETHER, PAIRED, BatchesBySeconds


def batches_in_parts(seconds, labelled, num=50, most=10.0, share=0.5, **more):
    return list(BatchesBySeconds(seconds, labelled, most, share, num, seed=0, **more))


def batches(*args, **options):
    return [[*chain(*parts)] for parts in batches_in_parts(*args, **options)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.1, 5.0), min_size=1, max_size=40), st.integers(0, 40))
def test_batches_keep_within_their_seconds_and_are_as_many_as_asked(seconds, num_labelled):
    labelled = [index < num_labelled for index in range(len(seconds))]
    found = batches_in_parts(seconds, labelled)
    assert len(found) == 50
    for parts in found:
        padded = [max(seconds[i] for i in part) * len(part) for part in parts]
        assert sum(padded) <= (10.0 if len(set(labelled)) == 1 else PADDED_TOGETHER * 10.0)
        for has_text in (True, False):
            part = [seconds[i] for part in parts for i in part if labelled[i] is has_text]
            most = 10.0 if len(set(labelled)) == 1 else 5.0
            assert len(part) <= 1 or max(part) * len(part) <= most


def test_short_text_is_not_padded_to_long_audio_without():
    seconds, labelled = [1.0] * 40 + [9.0, 10.0] * 10, [True] * 40 + [False] * 20
    for parts in batches_in_parts(seconds, labelled, most=40.0):
        assert [len({labelled[i] for i in part}) for part in parts] == [1, 1]
        assert [len(part) for part in parts] == [20, 2]


def test_every_utterance_comes_as_often_as_any_other():
    seconds = [1.0 + 0.1 * (index % 7) for index in range(64)]
    found = batches(seconds, [True] * 64, num=10 * PAIRED, most=4.0)
    counts = [sum(batch.count(index) for batch in found) for index in range(64)]
    assert max(counts) - min(counts) <= 2
    assert found[:20] != found[20:40]


def test_scarce_text_is_in_every_batch():
    labelled = [index < 3 for index in range(98)]
    for batch in batches([1.0] * 98, labelled):
        assert sum(labelled[index] for index in batch) >= 1
        assert sum(not labelled[index] for index in batch) == 5


def test_text_has_the_share_of_the_seconds_that_was_asked_for():
    labelled = [index % 2 == 0 for index in range(80)]
    for batch in batches([1.0] * 80, labelled, share=0.2):
        assert len(batch) == 10
        assert sum(labelled[index] for index in batch) == 2


def test_text_of_short_audio_is_in_every_batch_though_it_is_not_scarce():
    rng = random.Random(0)
    seconds = [rng.uniform(2, 6) for _ in range(300)] + [rng.uniform(8, 20) for _ in range(70)]
    labelled = [index < 300 for index in range(370)]
    of_all = sum(seconds[:300]) / sum(seconds)
    assert of_all > 0.5
    shares = []
    for batch in batches(seconds, labelled, num=200, most=120.0, share=None):
        with_text = sum(seconds[index] for index in batch if labelled[index])
        shares.append(with_text / sum(seconds[index] for index in batch))
    assert 0.2 < min(shares) <= max(shares) < 0.9
    assert sum(shares) / len(shares) == pytest.approx(of_all, abs=0.05)


def test_text_that_is_not_scarce_keeps_the_share_it_has():
    labelled = [index > 0 for index in range(100)]  # one without, as by mistake
    found = batches([1.0] * 100, labelled, num=100, share=None)
    counts = [sum(batch.count(index) for batch in found) for index in range(100)]
    assert max(counts) < 2 * min(counts)
    scarce = [index < 3 for index in range(98)]
    assert batches([1.0] * 98, scarce, share=None) == batches([1.0] * 98, scarce, share=0.5)


def test_processes_share_the_batches_of_one():
    seconds, labelled = [1.0 + 0.05 * i for i in range(30)], [i % 2 == 0 for i in range(30)]
    together = batches(seconds, labelled, num=40)
    shared = [batches(seconds, labelled, num=20, rank=rank, world_size=2) for rank in (0, 1)]
    assert [batch for pair in zip(*shared, strict=True) for batch in pair] == together


def test_the_same_seed_gives_the_same_batches_in_every_pass():
    sampler = BatchesBySeconds([1.0, 2.0, 3.0] * 9, [True] * 27, 6.0, 0.5, 30, seed=3)
    assert list(sampler) == list(sampler)
    other = BatchesBySeconds([1.0, 2.0, 3.0] * 9, [True] * 27, 6.0, 0.5, 30, seed=4)
    assert list(islice(sampler, 30)) != list(other)
