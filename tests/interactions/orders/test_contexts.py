from itertools import pairwise
from math import comb

import numpy as np
import pytest

from interactions.orders.contexts import IID, AllContexts, Windows
from interactions.orders.pairs import AllPairs

N = 7
PAIRS = AllPairs().draw(N, 0, "")
ORDERS = tuple(range(N - 1))


@pytest.mark.parametrize("sampler", [Windows(3, 2), Windows(2, 5), IID(4), AllContexts()])
def test_sizes_and_members(sampler):
    drawn = list(sampler.draw(N, PAIRS, ORDERS, 0, "image"))
    assert len(drawn) == len(ORDERS)
    for order, contexts in zip(ORDERS, drawn, strict=True):
        assert contexts.shape[:2] == (len(PAIRS), sampler.replicates)
        assert contexts.shape[3] == N
        assert (contexts.sum(axis=3) == order).all()
        for p, (i, j) in enumerate(PAIRS):
            assert not contexts[p, :, :, [i, j]].any()


@pytest.mark.parametrize("sampler", [Windows(3, 2), IID(3)])
def test_a_context_depends_on_its_own_key_only(sampler):
    """Neither on the other pairs and orders, nor on how many replicates are asked for."""
    reference = list(sampler.draw(N, PAIRS, ORDERS, 0, "image"))
    some = list(sampler.draw(N, PAIRS[3:5], ORDERS[2:4], 0, "image"))
    for got, expected in zip(some, reference[2:4], strict=True):
        np.testing.assert_array_equal(got, expected[3:5])
    more = type(sampler)(replicates=6)
    for got, expected in zip(more.draw(N, PAIRS, ORDERS, 0, "image"), reference, strict=True):
        np.testing.assert_array_equal(got[:, :3], expected)
    other = list(sampler.draw(N, PAIRS, ORDERS, 1, "image"))
    assert any((a != b).any() for a, b in zip(other, reference, strict=True))


def test_every_window_is_a_uniform_subset():
    draws, order = 600, 2
    windows = Windows(replicates=draws, windows=2)
    (contexts,) = windows.draw(6, np.array([[1, 4]]), (order,), 0, "image")
    others = [0, 2, 3, 5]
    for w in range(2):
        subsets, counts = np.unique(contexts[0, :, w][:, others], axis=0, return_counts=True)
        assert len(subsets) == comb(4, order)
        chi2 = ((counts - draws / 6) ** 2 / (draws / 6)).sum()
        assert chi2 < 26  # 5 degrees of freedom: P(chi2 > 26) is about 1e-4; the draw is fixed


def test_two_windows_at_the_middle_order_are_complements():
    pair = np.array([[0, 5]])
    (contexts,) = Windows(4, 2).draw(10, pair, (4,), 0, "image")
    first, second = contexts[0].transpose(1, 0, 2)
    assert not (first & second).any()
    assert ((first | second).sum(axis=1) == 8).all()


def test_windows_of_a_permutation_are_nested_over_orders():
    drawn = list(Windows(2, 2).draw(N, PAIRS, ORDERS, 0, "image"))
    for small, large in pairwise(drawn):
        assert (small <= large).all()


def test_all_contexts_are_all():
    for order, contexts in zip(ORDERS, AllContexts().draw(N, PAIRS, ORDERS, 0, ""), strict=True):
        for p in range(len(PAIRS)):
            assert len(np.unique(contexts[p, 0], axis=0)) == comb(N - 2, order)


def test_too_many_contexts_to_enumerate():
    with pytest.raises(ValueError, match="use Windows or IID for 64 players"):
        list(AllContexts().draw(64, PAIRS, (31,), 0, ""))


@pytest.mark.parametrize("make", [lambda: Windows(0), lambda: Windows(4, 0), lambda: IID(0)])
def test_counts_must_be_positive(make):
    with pytest.raises(ValueError, match="expected at least 1"):
        make()
