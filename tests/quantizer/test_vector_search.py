import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k2distil.quantizer import AdditiveQuantizer, ProductQuantizer
from k2distil.quantizer.search import additive as search
from k2distil.quantizer.search.additive import (
    beam_search,
    gram_products,
    has_gram_table,
    refine,
    vector_products,
)
from tests.quantizer.test_search import errors, least_errors, problem


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(2, 20), st.integers(1, 8))
def test_computed_products_are_those_of_the_gram_table(seed, num_codebooks, codebook_size, dim):
    _, table, unary, interactions = problem(seed, num_codebooks, codebook_size, dim)
    looked_up, computed = gram_products(interactions), vector_products(table)
    first_rows = torch.arange(num_codebooks) * codebook_size
    for m in range(num_codebooks):
        for num_chosen in {max(m, 1), num_codebooks}:
            rows = (unary.argmax(-1) + first_rows)[:, :num_chosen]
            expected = looked_up(m, rows)
            assert expected.shape == (20, codebook_size)
            torch.testing.assert_close(computed(m, rows), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_codebooks", [1, 2, 5])
def test_both_searches_find_the_same_codes(num_codebooks):
    _, table, unary, interactions = problem(0, num_codebooks, 16, 12, num_frames=500)
    found = []
    for products in (gram_products(interactions), vector_products(table)):
        codes = beam_search(unary, products, 4)
        found.append((codes, refine(unary, products, codes, 2)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.fixture
def without_gram_table(monkeypatch):
    monkeypatch.setattr(search, "MAX_TABLE_SIZE", 1)


def test_a_wide_beam_without_a_gram_table_finds_the_best_of_all(without_gram_table):
    frames, table, _, _ = problem(0, 3, 4, 5)
    quantizer = AdditiveQuantizer(table, torch.zeros(5), torch.ones(()), beam=16)
    assert quantizer.interactions is None
    codes = quantizer.encode(frames).long()
    assert torch.allclose(errors(frames, table, codes), least_errors(frames, table))


def test_codes_without_a_gram_table_are_the_same_for_any_frames_beside_them(without_gram_table):
    frames, table, _, _ = problem(1, 4, 16, 8, num_frames=300)
    quantizer = AdditiveQuantizer(table, torch.zeros(8), torch.ones(()))
    codes = quantizer.encode(frames)
    assert torch.equal(quantizer.encode(frames[77:200]), codes[77:200])
    part = quantizer.first(2)
    assert part.encode(frames).shape == (300, 2)


def test_a_gram_table_is_made_up_to_a_gibibyte():
    assert has_gram_table(8, 256)
    assert has_gram_table(4, 4096)
    assert not has_gram_table(5, 4096)
    assert not has_gram_table(1, 4097)


@pytest.mark.parametrize("kind", [ProductQuantizer, AdditiveQuantizer])
@pytest.mark.parametrize(
    ("codebook_size", "dtype"), [(5000, torch.int16), (32_769, torch.int32), (65_536, torch.int32)]
)
def test_large_codebooks_decode_and_encode_to_the_same_codes(kind, codebook_size, dtype):
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(2, codebook_size, 8)
    table[0, :, :4] = torch.randn(codebook_size, 4, generator=generator)
    table[1, :, 4:] = torch.randn(codebook_size, 4, generator=generator)
    quantizer = kind(table, torch.zeros(8), torch.ones(()))
    codes = torch.randint(0, codebook_size, (100, 2), generator=generator)
    codes[0], codes[1] = 0, codebook_size - 1
    encoded = quantizer.encode(quantizer.decode(codes))
    assert encoded.dtype == dtype
    assert torch.equal(encoded.long(), codes)


def test_products_of_no_frames_are_empty():
    products = vector_products(torch.randn(3, 4, 5))
    for m, num_chosen in itertools.product(range(3), (3,)):
        assert products(m, torch.zeros(0, num_chosen, dtype=torch.int64)).shape == (0, 4)
