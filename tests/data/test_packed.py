"""Utterances in one block: the same ones, and shared by forked processes."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from k2distil.batch import Utterance
from k2distil.data import PackedUtterances

SMAPS = Path("/proc/self/smaps_rollup")
UTTERANCES = [
    Utterance("a", "a.wav"),
    Utterance("甲", "b \udcff.wav", start=0.1, end=1 / 3, text="one 一", channel=1),
    Utterance("c", "shard.tar", tar_offset=512, tar_size=2**40, tar_url="http://x/shard.tar"),
    Utterance("d", "cat d.wav |", text="", is_command=True),
]


@pytest.fixture
def packed() -> PackedUtterances:
    return PackedUtterances(iter(UTTERANCES))


def test_it_gives_the_utterances_that_it_took(packed: PackedUtterances) -> None:
    for each in (packed, pickle.loads(pickle.dumps(packed))):
        assert len(each) == 4
        assert list(each) == UTTERANCES
        assert [each[row] for row in (-1, 0, 3, -4)] == [UTTERANCES[r] for r in (-1, 0, 3, -4)]
        assert each[1:3] == UTTERANCES[1:3]
        assert each[:-9] == []
        assert UTTERANCES[2] in each
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            packed[beyond]
    assert not PackedUtterances()
    assert list(PackedUtterances()) == []


def test_some_places_are_a_sequence_too(packed: PackedUtterances) -> None:
    for rows in ([3, 1, 1], np.array([3, 1, 1])):
        part = packed.at(rows)
        assert list(part) == [UTTERANCES[row] for row in (3, 1, 1)]
        assert list(part.at([2])) == [UTTERANCES[1]]
        assert pickle.loads(pickle.dumps(part))[0] == UTTERANCES[3]
    assert len(packed.at([])) == 0
    assert list(packed) == UTTERANCES


@pytest.mark.skipif(not SMAPS.exists(), reason="needs Linux to say what a process shares")
def test_a_forked_process_that_reads_them_copies_hardly_any() -> None:
    listed = [
        Utterance(f"utterance {i}", f"{i}.wav", text="one two three " * 8) for i in range(9999)
    ]
    assert private_growth(listed) > 1.5e6
    assert private_growth(PackedUtterances(listed)) < 0.5e6


def private_growth(utterances: "list[Utterance] | PackedUtterances") -> int:
    """Bytes that a forked process has for itself after it looked at all of them, and not before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = private_bytes()
            for each in utterances:
                assert each.key
            os.write(writing, str(private_bytes() - before).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return int(pipe.read())


def private_bytes() -> int:
    lines = SMAPS.read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
