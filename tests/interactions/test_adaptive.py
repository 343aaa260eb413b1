import numpy as np
import pytest

import interactions as ix

TEAMS = {frozenset(range(k, k + 3)): 0.25 for k in range(12)}
"""Interactions that change sign with the context: rho is large in the middle orders."""
GAMES = [ix.toy.ParityGame(16, TEAMS, image=f"image {s}") for s in range(30)]
DESIGN = ix.Design(ix.RandomPairs(10), ix.Windows(4, 1), ratios=(0.0, 0.3, 0.5, 0.8, 1.0))


@pytest.fixture(scope="module")
def measured():
    return ix.measure(GAMES, DESIGN)


@pytest.fixture(scope="module")
def refined(measured):
    return ix.refine(GAMES, measured, DESIGN, bias_tol=0.05, max_contexts=64)


def counts(records):
    return [records[0].replicates(o).shape[1] for o in range(len(records[0].orders_O))]


def test_replicates_grow_where_contexts_are_noisy_and_nowhere_else(measured, refined):
    assert counts(measured) == [4] * 5
    grown = counts(refined)
    assert grown[2] > 4  # the middle order, where the truth is near 0
    assert max(grown) <= 64
    assert all(count in (4, 8, 16, 32, 64) for count in grown[1:-1])


def test_what_was_measured_is_kept_and_the_ends_stay_exact(measured, refined):
    for before, after in zip(measured, refined, strict=True):
        np.testing.assert_array_equal(after.replicates_PRO[:, :4], before.replicates_PRO)
        for o in (0, -1):
            assert (after.replicates_PRO[:, :, o] == before.replicates_PRO[:, :1, o]).all()
        assert after.forwards > before.forwards


def test_it_stops_where_the_diagnostic_is_met_or_contexts_run_out(refined):
    bias = np.abs(ix.strength(refined, "two_level").S / ix.strength(refined, "jackknife").S - 1)
    for count, b in zip(counts(refined), bias, strict=True):
        assert b <= 0.05 or count == 64


def test_more_replicates_equal_a_design_that_had_them_at_once():
    few = ix.measure_one(GAMES[0], DESIGN)
    many = ix.measure_one(GAMES[0], ix.Design(DESIGN.pairs, ix.Windows(8, 1), ratios=DESIGN.ratios))
    orders = [int(m) for m in few.orders_O[1:-1]]
    grown = ix.add_replicates(GAMES[0], few, DESIGN, orders)
    np.testing.assert_array_equal(grown.replicates_PRO, many.replicates_PRO)
    np.testing.assert_allclose(grown.mean_PO, many.mean_PO)


def test_iid_contexts_grow_too():
    design = ix.Design(ix.RandomPairs(3), ix.IID(4), ratios=(0.0, 0.5))
    record = ix.add_replicates(GAMES[0], ix.measure_one(GAMES[0], design), design, [7])
    more = ix.measure_one(GAMES[0], ix.Design(ix.RandomPairs(3), ix.IID(8), ratios=(0.0, 0.5)))
    np.testing.assert_array_equal(record.replicates_PRO[:, :, 1], more.replicates_PRO[:, :, 1])


def test_refining_brings_the_strength_nearer_to_the_truth(measured, refined):
    truth = ix.strength(
        ix.measure(GAMES, ix.Design(DESIGN.pairs, ix.AllContexts(), DESIGN.ratios)), "plug_in"
    ).S
    before, after = (np.abs(ix.strength(r).S - truth)[2] for r in (measured, refined))
    assert after < before


def test_a_game_without_interactions_needs_nothing_more():
    games = [ix.toy.DividendGame(9, {frozenset({k}): 1.0 for k in range(9)}, image=n) for n in "ab"]
    design = ix.Design(ix.RandomPairs(4))
    records = ix.measure(games, design)
    assert counts(ix.refine(games, records, design)) == counts(records)


def test_bad_arguments(measured):
    with pytest.raises(ValueError, match="bias tolerance above 0"):
        ix.refine(GAMES, measured, DESIGN, bias_tol=0)
    two = ix.Design(ix.RandomPairs(3), ix.Windows(2, 2))
    with pytest.raises(ValueError, match="divisible by 4 for the two-level jackknife, got 2"):
        ix.refine(GAMES[:2], ix.measure(GAMES[:2], two), two)
    every = ix.Design(ix.RandomPairs(3), ix.AllContexts(), ratios=(0.0, 0.5))
    with pytest.raises(ValueError, match="Windows or IID"):
        ix.add_replicates(GAMES[0], ix.measure_one(GAMES[0], every), every, [7])
