"""Which entries of an additive quantizer may move when it settles."""

import torch

from k2distil.quantizer.usage import Usage


def used(*rounds, after=()):
    usage = Usage.none(1, 4, torch.device("cpu"))
    for counts in rounds:
        usage.add(torch.tensor(counts, dtype=torch.float32), is_after=False)
    for counts in after:
        usage.add(torch.tensor(counts, dtype=torch.float32), is_after=True)
    return usage


def unused(usage):
    return usage.unused()[0].tolist()


def test_an_entry_is_used_that_any_round_chose():
    usage = used([100, 0, 0, 3], [100, 1, 0, 0])
    assert unused(usage) == [False, False, True, False]


def test_behind_the_noise_step_only_one_that_many_should_have_chosen_is_unused():
    usage = used([100, 1, 0, 14], [100, 0, 0, 14], after=[[0, 0, 5, 0]])
    assert unused(usage) == [True, False, False, True]
    assert unused(used([12, 0, 0, 0], [0, 0, 0, 0], after=[[0, 0, 0, 0]])) == [False, *[True] * 3]
    assert unused(used([12, 0, 0, 0], after=[[0, 0, 0, 0]])) == [True] * 4


def test_one_that_moved_must_serve_anew_in_whatever_order_the_codebooks_come():
    usage = Usage.none(2, 2, torch.device("cpu"))
    usage.add(torch.tensor([5.0, 0.0, 5.0, 5.0]), is_after=False)
    usage.forget(torch.tensor([[False, False], [True, False]]))
    assert usage.unused().tolist() == [[False, True], [True, False]]
    usage.reorder(torch.tensor([1, 0]))
    assert usage.unused().tolist() == [[True, False], [False, True]]
    usage.add(torch.tensor([1.0, 0.0, 0.0, 1.0]), is_after=True)
    assert not usage.unused().any()
