"""Codes at a student's frame rate."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k2distil.distil import IGNORE_INDEX, align_batch, align_codes
from k2distil.errors import ConfigError, DataError


def numbered(num_frames, num_codebooks=3):
    """uint8 codes, each another one."""
    return np.arange(num_frames * num_codebooks, dtype=np.uint8).reshape(num_frames, num_codebooks)


def by_loops(codes, num_frames, frames_ratio, codebook_offset):
    aligned = []
    for t in range(num_frames):
        row = []
        for within in range(frames_ratio):
            source = t * frames_ratio + within + codebook_offset
            present = 0 <= source < len(codes)
            row += codes[source].tolist() if present else [-100] * codes.shape[1]
        aligned.append(row)
    return torch.tensor(aligned, dtype=torch.long).view(num_frames, frames_ratio * codes.shape[1])


def test_at_the_same_rate_each_frame_has_its_own_codes():
    aligned = align_codes(numbered(5), 5)
    assert aligned.dtype == torch.long
    assert aligned.tolist() == numbered(5).tolist()


def test_at_half_the_rate_a_frame_has_the_codes_of_two_the_earlier_first():
    assert align_codes(numbered(4, 2), 2, frames_ratio=2).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_surplus_is_dropped_and_a_shortage_is_ignored():
    assert align_codes(numbered(6), 5).tolist() == numbered(5).tolist()
    short = align_codes(numbered(3, 2), 2, frames_ratio=2)
    assert short.tolist() == [[0, 1, 2, 3], [4, 5, IGNORE_INDEX, IGNORE_INDEX]]


def test_an_offset_skips_teacher_frames_or_leaves_out_those_before_the_first():
    assert align_codes(numbered(5, 1), 3, codebook_offset=2).flatten().tolist() == [2, 3, 4]
    late = align_codes(numbered(3, 1), 5, codebook_offset=-2)
    assert late.flatten().tolist() == [-100, -100, 0, 1, 2]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20), st.integers(0, 12), st.integers(1, 3), st.integers(-5, 5))
def test_alignment_is_what_loops_say_or_refused(num_codes, num_frames, frames_ratio, offset):
    codes = numbered(num_codes, 2)
    if abs(num_codes - offset - num_frames * frames_ratio) > 3 * frames_ratio:
        with pytest.raises(DataError):
            align_codes(codes, num_frames, frames_ratio, offset)
    else:
        expected = by_loops(codes, num_frames, frames_ratio, offset)
        assert torch.equal(align_codes(codes, num_frames, frames_ratio, offset), expected)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(-2, 2)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(-2, 2),
    st.integers(0, 3),
)
def test_a_padded_batch_is_aligned_as_each_utterance_alone(lengths, ratio, offset, padding):
    num_frames = torch.tensor([frames for frames, _ in lengths])
    num_codes = (num_frames * ratio + offset + torch.tensor([by for _, by in lengths])).clamp(1)
    codes = torch.full((len(lengths), int(num_codes.max()) + padding, 2), -100, dtype=torch.int16)
    for row, num in zip(codes, num_codes.tolist(), strict=True):
        row[:num] = torch.from_numpy(numbered(num, 2))
    max_frames = int(num_frames.max()) + padding
    keys = [f"utt{n}" for n in range(len(lengths))]
    aligned = align_batch(codes, num_codes, num_frames, max_frames, keys, ratio, offset)
    assert aligned.shape == (len(lengths), max_frames, 2 * ratio)
    assert aligned.dtype == torch.long
    for row, num, frames in zip(aligned, num_codes.tolist(), num_frames.tolist(), strict=True):
        assert torch.equal(row[:frames], by_loops(numbered(num, 2), frames, ratio, offset))
        assert (row[frames:] == -100).all()


def test_an_utterance_without_codes_is_all_ignored_in_a_batch():
    codes = torch.full((2, 4, 2), -100, dtype=torch.int16)
    codes[1] = 7
    aligned = align_batch(codes, torch.tensor([0, 4]), torch.tensor([40, 4]), 40, ["a", "b"])
    assert (aligned[0] == -100).all()
    assert (aligned[1, :4] == 7).all()
    assert (aligned[1, 4:] == -100).all()


@pytest.mark.parametrize("num_codes", [93, 107])
def test_codes_of_other_audio_are_refused_with_key_and_both_counts(num_codes):
    message = f"utt7: {num_codes} teacher frames, but 50 student frames of 2 each; the codes are"
    with pytest.raises(DataError, match=message):
        align_codes(numbered(num_codes, 1), 50, frames_ratio=2, key="utt7")
    with pytest.raises(DataError, match=message):
        align_batch(
            torch.zeros(1, num_codes, 1, dtype=torch.int16),
            *(torch.tensor([num_codes]), torch.tensor([50]), 50, ["utt7"], 2),
        )
    for near in (94, 106):
        assert align_codes(numbered(near, 1), 50, frames_ratio=2).shape == (50, 2)


def test_a_refusal_names_the_offset():
    with pytest.raises(DataError, match="20 teacher frames after an offset of 5, but 10 student"):
        align_codes(numbered(20), 10, codebook_offset=5)


@pytest.mark.parametrize("codes", [np.zeros(5, np.uint8), np.zeros((5, 2), np.float32)])
def test_what_is_no_codes_is_refused_with_its_shape(codes):
    with pytest.raises(DataError, match=re.escape("utt1: expected codes (num_frames, num_codeb")):
        align_codes(codes, 5, key="utt1")


def test_a_ratio_below_one_is_refused():
    with pytest.raises(ConfigError, match="--frames_ratio 0: expected a whole number above 0"):
        align_codes(numbered(5), 5, frames_ratio=0)
    with pytest.raises(ConfigError, match="--frames_ratio 0: expected a whole number above 0"):
        align_batch(
            torch.zeros(1, 5, 1, dtype=torch.int16),
            *(torch.tensor([5]), torch.tensor([5]), 5, ["a"], 0),
        )


def test_what_pads_codes_is_no_code_whatever_it_is():
    codes = torch.zeros(3, 10, 2, dtype=torch.uint8)  # which holds no -100
    codes[0], codes[1, :4] = 7, 7
    lengths = torch.tensor([10, 4, 0]), torch.tensor([5, 3, 5])
    aligned = align_batch(codes, *lengths, 5, ["a", "b", "c"], frames_ratio=2)
    assert (aligned[0] == 7).all()
    assert (aligned[1, :2] == 7).all()
    assert (aligned[1, 2:] == -100).all()
    assert (aligned[2] == -100).all()
