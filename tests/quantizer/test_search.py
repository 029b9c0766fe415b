import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k2distil.quantizer.search.additive import (
    beam_search,
    gram_products,
    interaction_tables,
    refine,
    unary_scores,
)


def problem(seed, num_codebooks, codebook_size, dim, num_frames=20):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(num_codebooks, codebook_size, dim, generator=generator)
    frames = 2 * torch.randn(num_frames, dim, generator=generator)
    unary = unary_scores(frames, table, -0.5 * table.square().sum(-1))
    return frames, table, unary, interaction_tables(table)


def errors(frames, table, codes):
    chosen = sum(table[n][codes[:, n]] for n in range(len(table)))
    return (frames.double() - chosen.double()).square().sum(1)


def least_errors(frames, table):
    """By trying all K^N combinations."""
    combinations = itertools.product(range(table.shape[1]), repeat=len(table))
    tried = [errors(frames, table, torch.tensor(c).repeat(len(frames), 1)) for c in combinations]
    return torch.stack(tried).amin(0)


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
def test_a_wide_beam_finds_the_best_of_all_combinations(num_codebooks):
    frames, table, unary, interactions = problem(0, num_codebooks, 4, 5)
    codes = beam_search(unary, gram_products(interactions), width=4 ** max(num_codebooks - 1, 1))
    assert torch.allclose(errors(frames, table, codes), least_errors(frames, table))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(2, 9), st.integers(1, 8))
def test_no_sweep_raises_the_error(seed, num_codebooks, codebook_size, dim):
    frames, table, unary, interactions = problem(seed, num_codebooks, codebook_size, dim)
    codes = unary.argmax(-1)
    for _ in range(3):
        refined = refine(unary, gram_products(interactions), codes, num_sweeps=1)
        before, after = errors(frames, table, codes), errors(frames, table, refined)
        assert (after <= before + 1e-4).all()
        codes = refined


def test_sweeps_leave_no_single_code_to_improve():
    frames, table, unary, interactions = problem(1, 3, 6, 4)
    codes = refine(unary, gram_products(interactions), unary.argmax(-1), num_sweeps=20)
    least = errors(frames, table, codes)
    for n in range(3):
        for k in range(6):
            other = codes.clone()
            other[:, n] = k
            assert (errors(frames, table, other) >= least - 1e-4).all()


def test_a_wider_beam_is_no_worse_on_average():
    frames, table, unary, interactions = problem(2, 6, 16, 8, num_frames=200)
    means = [
        errors(frames, table, beam_search(unary, gram_products(interactions), width)).mean()
        for width in (1, 4, 16)
    ]
    assert means[0] > means[1] > means[2]


def test_interactions_are_inner_products_without_the_own_codebook():
    _, table, _, interactions = problem(3, 3, 4, 5)
    for m, n, j, k in itertools.product(range(3), range(3), range(4), range(4)):
        expected = 0.0 if m == n else float(table[n, j] @ table[m, k])
        assert float(interactions[m, n * 4 + j, k]) == pytest.approx(expected, abs=1e-5)
