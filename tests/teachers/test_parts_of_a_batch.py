"""What a CPU encodes at once: bounded, with little padding, and nothing twice or left out."""

from hypothesis import given
from hypothesis import strategies as st

from k2distil.teachers.encoder_teacher import MAX_PADDED, _end_of_part

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 1000))
def test_parts_are_as_large_as_they_may_be(lengths: list[int], most: int) -> None:
    start = 0
    while start < len(lengths):
        end = _end_of_part(lengths, start, most)
        assert start < end <= len(lengths)
        assert end == start + 1 or _fits(lengths[start:end], most)
        assert end == len(lengths) or not _fits(lengths[start : end + 1], most)
        start = end


def _fits(part: list[int], most: int) -> bool:
    padded = max(part) * len(part)
    return padded <= most and padded <= MAX_PADDED * sum(part)
