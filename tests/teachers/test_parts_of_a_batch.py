"""What a CPU encodes at once: bounded, with little padding, and nothing twice or left out."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from k2distil.teachers import build_teacher
from k2distil.teachers.core_threads import on_all_cores
from k2distil.teachers.encoder_teacher import MAX_PADDED, _parts
from tests.teachers.tiny import audio_batch, make_hf_hubert, make_openai

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4  # what a user has set stays
    torch.set_num_threads(before)


@given(LENGTHS, st.integers(1, 1000))
def test_parts_are_as_large_as_they_may_be(lengths: list[int], most: int) -> None:
    end = 0
    for part in _parts(lengths, most):
        assert part.start == end < part.stop <= len(lengths)
        end = part.stop
        assert end == part.start + 1 or _fits(lengths[part], most)
        assert end == len(lengths) or not _fits(lengths[part.start : end + 1], most)
    assert end == len(lengths)


def _fits(part: list[int], most: int) -> bool:
    padded = max(part) * len(part)
    return padded <= most and padded <= MAX_PADDED * sum(part)


@pytest.mark.parametrize(("number", "threads_each"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_cores_are_shared_among_the_items(four_threads, number, threads_each):
    done, everywhere = [], threading.Barrier(min(number, 4) if number < 9 else 1, timeout=30)

    def work(item):
        everywhere.wait()  # as many at once as there are items
        done.append((item, torch.get_num_threads()))

    on_all_cores(work, range(number))
    assert sorted(done) == [(item, threads_each) for item in range(number)]


def test_a_failure_on_a_thread_is_the_callers(four_threads):
    def work(item):
        if item == 2:
            raise RuntimeError(f"item {item}")

    with pytest.raises(RuntimeError, match="item 2"):
        on_all_cores(work, range(5))


@pytest.mark.parametrize("family", ["whisper", "hubert"])
def test_the_number_of_threads_is_not_in_the_result(tmp_path, four_threads, family):
    if family == "whisper":
        teacher = build_teacher("wenet-whisper", make_openai(tmp_path / "o.pt"))
    else:
        teacher = build_teacher("hubert", make_hf_hubert(tmp_path / "h", "group"))
    audio = audio_batch(16000, 40123, 8003, 81000, 33000)
    on_four = teacher.embed(audio).embedding
    torch.set_num_threads(1)
    assert torch.equal(teacher.embed(audio).embedding, on_four)
    torch.set_num_threads(4)
