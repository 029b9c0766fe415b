import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k2distil.quantizer.search.additive import gram_products, refine
from k2distil.quantizer.search.joint import refine_jointly
from tests.quantizer.test_search import errors, least_errors, problem


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_with_room_for_all_candidates_it_finds_the_best_of_all(seed, num_codebooks, size, dim):
    frames, table, unary, interactions = problem(seed, num_codebooks, size, dim, num_frames=4)
    codes = refine_jointly(
        unary, interactions, torch.zeros(4, num_codebooks, dtype=torch.int64), width=size**4
    )
    assert codes.shape == (4, num_codebooks)
    assert torch.allclose(errors(frames, table, codes), least_errors(frames, table), atol=1e-4)


def test_a_narrow_search_may_raise_the_error():
    frames, table, unary, interactions = problem(0, 8, 64, 6, num_frames=300)
    before = refine_jointly(unary, interactions, unary.argmax(-1), 16, num_rounds=5)
    after = refine_jointly(unary, interactions, before, 2)
    assert (errors(frames, table, after) > errors(frames, table, before) + 1e-3).any()


def test_it_leaves_minima_of_single_changes():
    frames, table, unary, interactions = problem(1, 8, 32, 12, num_frames=200)
    single = refine(unary, gram_products(interactions), unary.argmax(-1), num_sweeps=50)
    joint = refine_jointly(unary, interactions, single, 16)
    assert errors(frames, table, joint).mean() < 0.95 * errors(frames, table, single).mean()


@pytest.mark.parametrize("num_codebooks", [1, 3, 7, 8])
def test_rounds_are_repeated_calls_and_frames_are_independent(num_codebooks):
    _, _, unary, interactions = problem(2, num_codebooks, 32, 12, num_frames=100)
    start = unary.argmax(-1)
    whole = refine_jointly(unary, interactions, start, 4, num_rounds=3)
    codes = start
    for _ in range(3):
        codes = refine_jointly(unary, interactions, codes, 4)
    assert torch.equal(whole, codes)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    for part in order.split(33):
        alone = refine_jointly(unary[part], interactions, start[part], 4, num_rounds=3)
        assert torch.equal(alone, whole[part])
    assert torch.equal(start, unary.argmax(-1))


def test_no_frames_give_no_codes():
    _, _, unary, interactions = problem(3, 4, 8, 5)
    codes = refine_jointly(unary[:0], interactions, unary[:0].argmax(-1), 4)
    assert codes.shape == (0, 4)
