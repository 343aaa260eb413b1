from dataclasses import replace

import numpy as np
import pytest
import torch

import interactions as ix
from interactions.orders import estimator
from interactions.orders.estimator import add_replicates, measure_one, orders_of

ALL_RATIOS_8 = tuple(k / 6 for k in range(7))
"""Every order of a game of 8 players."""

GAMES = [
    ix.toy.SizeGame(8, lambda k: float(k**3)),
    ix.toy.DividendGame(8, {frozenset({0}): 3.0, frozenset({0, 1}): 1, frozenset({1, 2, 5}): -2}),
    ix.toy.DividendGame(8, {frozenset(range(6)): 1.0}),
    ix.toy.ParityGame(8, {frozenset({0, 1, 2, 3}): 0.5, frozenset({2, 3, 7}): 0.25}),
]


def truth(game, record):
    return np.array(
        [[game.interaction(i, j, m) for m in record.orders_O] for i, j in record.pairs_P2]
    )


def test_published_orders():
    """m = floor((n-2) ratio) of the two published grids."""
    assert orders_of(ix.PUBLISHED_RATIOS, 256) == (
        *(0, 12, 25, 50, 76, 101, 127, 152, 177, 203, 228, 241, 254),
    )
    assert orders_of(ix.PUBLISHED_RATIOS, 196) == (
        *(0, 9, 19, 38, 58, 77, 97, 116, 135, 155, 174, 184, 194),
    )
    assert orders_of(ix.PUBLISHED_RATIOS, 16) == (0, 1, 2, 4, 5, 7, 8, 9, 11, 12, 13, 14)
    for n in range(3, 300):
        assert orders_of([m / (n - 2) for m in range(n - 1)], n) == tuple(range(n - 1))
    with pytest.raises(ValueError, match="ratios between 0 and 1"):
        orders_of((0.5, 1.5), 16)
    with pytest.raises(ValueError, match="ratios between 0 and 1"):
        orders_of((), 16)


@pytest.mark.parametrize("game", GAMES, ids=lambda game: type(game).__name__)
def test_all_contexts_give_the_closed_form(game):
    record = measure_one(game, ix.Design(ix.AllPairs(), ix.AllContexts(), ALL_RATIOS_8))
    np.testing.assert_allclose(record.mean_PO, truth(game, record), atol=1e-12)


@pytest.mark.parametrize("contexts", [ix.Windows(300, 2), ix.IID(600)], ids=["windows", "iid"])
@pytest.mark.parametrize("game", GAMES, ids=lambda game: type(game).__name__)
def test_sampled_contexts_agree_with_the_closed_form(game, contexts):
    record = measure_one(game, ix.Design(ix.AllPairs(), contexts, ALL_RATIOS_8))
    error = np.abs(record.mean_PO - truth(game, record))
    se = record.replicates_PRO.std(axis=1, ddof=1) / np.sqrt(contexts.replicates)
    # 28 pairs x 7 orders: one of 196 z-scores passes 4.5 with probability 1e-3; the draw is fixed
    assert (error <= 4.5 * se + 1e-12).all()


def test_additive_games_have_no_interactions_and_the_ends_are_exact():
    additive = ix.toy.DividendGame(8, {frozenset({k}): 0.3 * k for k in range(8)})
    record = measure_one(additive, ix.Design(ix.AllPairs(), ratios=ALL_RATIOS_8))
    np.testing.assert_allclose(record.replicates_PRO, 0, atol=1e-12)
    parity = measure_one(GAMES[3], ix.Design(ix.AllPairs(), ratios=(0.0, 0.5, 1.0)))
    np.testing.assert_allclose(
        parity.replicates_PRO[:, :, [0, -1]],
        np.broadcast_to(truth(GAMES[3], parity)[:, None, [0, -1]], (28, 4, 2)),
        atol=1e-12,
    )


def test_no_coalition_is_asked_for_twice(counting):
    game = counting(GAMES[1])
    record = measure_one(game, ix.Design(ix.AllPairs(), ratios=ALL_RATIOS_8))
    asked = torch.cat(game.asked)
    assert len(torch.unique(asked, dim=0)) == len(asked) == record.forwards
    assert record.forwards <= 256


def test_the_coalitions_of_a_difference_stay_side_by_side(counting):
    game = counting(ix.toy.SizeGame(64, float))
    measure_one(game, ix.Design(ix.RandomPairs(3), ratios=(0.5,)))
    (asked,) = game.asked
    sizes = asked.sum(dim=1).reshape(-1, 4)
    assert (sizes == torch.tensor([33, 32, 32, 31])).all()


def test_forwards_are_four_per_context_and_the_ends_only_once():
    pairs, contexts = 5, ix.Windows(4, 2)
    record = measure_one(
        ix.toy.SizeGame(64, float), ix.Design(ix.RandomPairs(pairs), contexts, (0.0, 0.5, 1.0))
    )
    inner = pairs * 8 * 4
    # m = 0 adds v(empty), 5 pairs and their players; m = n-2 their complements
    players = len(np.unique(record.pairs_P2))
    assert record.forwards == inner + 2 * (1 + pairs + players)


def test_published_budget_is_130_000_forwards_and_ours_skips_the_repeats():
    published = 50 * 50 * 13 * 4
    assert published == 130_000
    game = ix.toy.SizeGame(196, float)
    grid = ix.PatchGrid(14, 14)
    design = ix.Design(ix.NeighbourPairs(grid, count=50), ix.IID(50))
    forwards = measure_one(game, design).forwards
    assert 0.84 < forwards / published < 0.85  # 15 % of the published work is repeats


def test_an_image_does_not_depend_on_the_others():
    games = [ix.toy.ParityGame(9, GAMES[3].weights, image=name) for name in "abc"]
    design = ix.Design(ix.RandomPairs(6), ratios=(0.0, 0.3, 0.6, 1.0))
    together = ix.measure(games, design, target=None)
    alone = ix.measure(games[1:2], design)[0]
    np.testing.assert_array_equal(together[1].replicates_PRO, alone.replicates_PRO)
    assert not np.array_equal(together[0].pairs_P2, together[1].pairs_P2)


@pytest.mark.parametrize("limit", [1, 5_000, 1 << 30])
def test_chunks_of_pairs_change_nothing(limit, monkeypatch):
    design = ix.Design(ix.AllPairs(), ratios=ALL_RATIOS_8)
    reference = measure_one(GAMES[3], design)
    monkeypatch.setattr(estimator, "CHUNK_BYTES", limit)
    chunked = measure_one(GAMES[3], design)
    np.testing.assert_array_equal(chunked.replicates_PRO, reference.replicates_PRO)
    assert chunked.per_replicate == reference.per_replicate == 2


def test_two_players_have_no_orders():
    with pytest.raises(ValueError, match="at least 3 players"):
        measure_one(ix.toy.SizeGame(2, float), ix.Design(ix.AllPairs()))


class VectorGame:
    """Several games of numbers at once: one coordinate each, rotated."""

    def __init__(self, games, axes, seed=0):
        self.games, self.n, self.image = games, games[0].n, "vectors"
        random = np.random.default_rng(seed).normal(size=(axes, axes))
        self.turn = torch.from_numpy(np.linalg.qr(random)[0][: len(games)])

    def __call__(self, coalitions):
        return torch.stack([game(coalitions) for game in self.games], dim=1) @ self.turn


@pytest.mark.parametrize("axes", [4, 50])
@pytest.mark.parametrize("limit", [1 << 30, 1000])
def test_vectors_keep_their_lengths_and_products(axes, limit, monkeypatch):
    """Against every coordinate measured as a game of its own, with the same contexts."""
    monkeypatch.setattr(estimator, "CHUNK_BYTES", limit)
    design = ix.Design(ix.AllPairs(), ix.Windows(6, 2), ALL_RATIOS_8)
    record = measure_one(VectorGame(GAMES, axes), design)
    assert record.replicates_PRO.shape == (28, 6, 7, min(6, axes))
    named = [replace(game, image="vectors") for game in GAMES]
    alone = np.stack([measure_one(game, design).replicates_PRO for game in named], axis=-1)

    def products(x):
        return np.einsum("prod,psod->prso", x, x)

    np.testing.assert_allclose(products(record.replicates_PRO), products(alone), atol=1e-12)
    assert record.replicates(0).shape == (28, 6, min(6, axes))


def test_vectors_cannot_be_added_to():
    design = ix.Design(ix.AllPairs(), ix.Windows(4, 2), ALL_RATIOS_8)
    game = VectorGame(GAMES, 4)
    record = measure_one(game, design)
    with pytest.raises(ValueError, match="a game of numbers to add replicates to"):
        add_replicates(game, record, design, {3: 8})


def test_the_ends_are_played_precisely(counting):
    """A game with a coarser arithmetic is asked for the ends in its precise one, and only there."""
    coarse, precise = counting(GAMES[1]), counting(GAMES[1])
    coarse.precise = precise
    design = ix.Design(ix.AllPairs(), ix.Windows(2, 2), ALL_RATIOS_8)
    record = measure_one(coarse, design)
    np.testing.assert_array_equal(
        record.replicates_PRO, measure_one(GAMES[1], design).replicates_PRO
    )
    sizes = [set(torch.cat(game.asked).sum(dim=1).tolist()) for game in (coarse, precise)]
    assert sizes == [set(range(1, 8)), {0, 1, 2, 6, 7, 8}]


@pytest.mark.parametrize("contexts", [ix.Windows(8, 2), ix.IID(8)], ids=["windows", "iid"])
@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_replicates_of_each_order_are_the_first_of_a_full_design(contexts, limit, monkeypatch):
    monkeypatch.setattr(estimator, "CHUNK_BYTES", limit)
    counts = (1, 2, 8, 3, 5, 4, 6)
    full_design = ix.Design(ix.AllPairs(), contexts, ALL_RATIOS_8)
    full = measure_one(GAMES[3], full_design)
    few = replace(contexts, replicates=3)  # their number is not asked for
    record = measure_one(GAMES[3], replace(full_design, contexts=few, replicates=counts))
    assert record.replicates_PRO.shape == full.replicates_PRO.shape
    assert record.per_replicate == full.per_replicate
    for o, count in enumerate(counts):
        count = 8 if o in (0, 6) else count  # one context is all there is, and stands for any
        np.testing.assert_array_equal(record.replicates(o), full.replicates(o)[:, :count])
        assert np.isnan(record.replicates_PRO[:, count:, o]).all()
        np.testing.assert_allclose(record.mean_PO[:, o], record.replicates(o).mean(axis=1))


def test_replicates_of_each_order_of_vectors():
    counts = (4, 4, 2, 4, 3, 4, 4)
    design = ix.Design(ix.AllPairs(), ix.Windows(4, 2), ALL_RATIOS_8)
    game = VectorGame(GAMES, 4)
    full = measure_one(game, design)
    record = measure_one(game, replace(design, replicates=counts))
    for o, count in enumerate(counts):
        x, y = record.replicates(o), full.replicates(o)[:, :count]
        assert x.shape[1] == count
        np.testing.assert_allclose(
            np.einsum("prd,psd->prs", x, x), np.einsum("prd,psd->prs", y, y), atol=1e-12
        )


def test_replicates_that_do_not_fit():
    design = ix.Design(ix.AllPairs(), ratios=(0.0, 0.5, 1.0))
    assert design.replicates_at(8) == (4, 4, 4)
    assert replace(design, replicates=(2, 6, 2)).replicates_at(8) == (2, 6, 2)
    for bad in ((4, 4), (4, 4, 4, 4), (4, 0, 4)):
        with pytest.raises(ValueError, match=r"expected 3 numbers of replicates, one for each"):
            measure_one(GAMES[0], replace(design, replicates=bad))
    every = replace(design, contexts=ix.AllContexts(), replicates=(1, 2, 1))
    with pytest.raises(ValueError, match="Windows or IID for replicates that differ"):
        measure_one(GAMES[0], every)
    # 16 players: 0 and 0.05 are one order, so 12 numbers are asked for and not 13
    published = ix.Design(ix.RandomPairs(2), replicates=(4,) * 13)
    with pytest.raises(ValueError, match="expected 12 numbers"):
        measure_one(ix.toy.SizeGame(16, float), published)


@pytest.mark.parametrize("ratios", [(0.0,), (1.0,), (0.0, 1.0), (0.5,), (0.3, 0.5), (0.0, 0.5)])
@pytest.mark.parametrize("replicates", [False, True])
def test_any_set_of_orders_can_be_played_with_precise_ends(ratios, replicates, counting):
    """Designs without inner orders, or without ends, of a game with two arithmetics."""
    design = ix.Design(ix.AllPairs(), ix.Windows(3, 2), ratios)
    if replicates:
        design = replace(design, replicates=(2,) * len(ratios))
    coarse, precise = counting(GAMES[1]), counting(GAMES[1])
    coarse.precise = precise
    record, plain = measure_one(coarse, design), measure_one(GAMES[1], design)
    np.testing.assert_array_equal(record.replicates_PRO, plain.replicates_PRO)
    assert np.isfinite(record.replicates_PRO).all()
    assert bool(precise.asked) == bool({0.0, 1.0} & set(ratios))
    assert bool(coarse.asked) == bool(set(ratios) - {0.0, 1.0})
    assert record.forwards == sum(len(x) for game in (coarse, precise) for x in game.asked)


def test_replicates_lie_in_rows():
    record = measure_one(GAMES[0], ix.Design(ix.AllPairs(), ratios=(0.5,)))
    assert record.replicates(0).flags.c_contiguous
