from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import interactions as ix
from interactions.orders import estimator
from interactions.orders.adaptive import wanted_replicates
from interactions.orders.estimator import add_replicates, measure_one

TEAMS = {frozenset(range(k, k + 3)): 0.25 for k in range(12)}
"""Interactions that change sign with the context: rho is large in the middle orders."""
GAMES = [ix.toy.ParityGame(16, TEAMS, image=f"image {s}") for s in range(20)]
DESIGN = ix.Design(ix.RandomPairs(6), ix.Windows(4, 1), ratios=(0.0, 0.3, 0.5, 0.8, 1.0))


@pytest.fixture(scope="module")
def measured():
    return ix.measure(GAMES, DESIGN, target=None)


@pytest.fixture(scope="module")
def refined():
    return ix.measure(GAMES, DESIGN, target=0.1, max_contexts=64)


def counts(records):
    return [records[0].replicates(o).shape[1] for o in range(len(records[0].orders_O))]


def forwards(records):
    return sum(record.forwards for record in records)


def same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.replicates_PRO, b.replicates_PRO)
        assert a.forwards == b.forwards


def test_without_a_target_nothing_is_added(measured):
    same(measured, [measure_one(game, DESIGN) for game in GAMES])
    assert counts(measured) == [4] * 5


def test_replicates_grow_where_contexts_are_noisy_and_nowhere_else(measured, refined):
    rho_O = ix.strength(refined).rho_O
    grown = counts(refined)
    assert grown[0] == grown[-1] == max(grown)  # exact: one value stands for any number
    for o in (1, 2, 3):
        assert grown[o] % 2 == 0
        assert 4 <= grown[o] <= 64
    assert grown[2] == 64  # the middle order, where the truth is near 0
    assert np.argmax(rho_O) == 2
    assert all(len(set(counts([record])[1:-1]) - set(grown)) == 0 for record in refined)


def test_quiet_contexts_get_no_more():
    """Only sizes matter here: images differ, contexts of one size do not."""
    rng = np.random.default_rng(0)
    worths = [np.polynomial.Polynomial(rng.normal(size=4)) for _ in range(8)]
    games = [ix.toy.SizeGame(9, worth, str(s)) for s, worth in enumerate(worths)]
    records = ix.measure(games, ix.Design(ix.RandomPairs(4)), target=1e-3)
    assert counts(records) == [4] * len(records[0].orders_O)
    table = ix.spending(records, 1e-3)
    assert (table["state"] == "more images").any()
    assert (table["from_contexts"] < 1e-6).all()


def test_a_game_without_interactions_needs_nothing_more():
    games = [
        ix.toy.DividendGame(9, {frozenset({k}): 1.0 for k in range(9)}, image=str(s))
        for s in range(8)
    ]
    design = ix.Design(ix.RandomPairs(4), ratios=(0.0, 0.5, 1.0))
    assert counts(ix.measure(games, design)) == [4, 4, 4]


def test_it_stops_where_the_target_is_reached_or_contexts_are_not_the_limit(refined):
    assert wanted_replicates(refined, 0.1, max_contexts=64) == {}
    table = ix.spending(refined, 0.1)
    # contexts would lower the error by less than a twentieth, or there are no more
    enough = table["from_contexts"] <= 1 - 1 / 1.05**2 + 1e-9
    over = table["error"] > 0.1
    assert (table["contexts"][over & ~enough] == 64).all()
    assert ((table["error"] <= 0.1) == (table["state"] == "reached")).all()
    shares = table[["from_images", "from_pairs", "from_contexts"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares >= 0).all(axis=None)
    largest = shares.to_numpy().argmax(axis=1)[over]
    named = np.array(["more images", "more pairs", "more contexts"])[largest]
    assert table["state"][over].tolist() == named.tolist()


def test_what_was_spent(measured, refined):
    table = ix.spending(measured)
    assert table["contexts"].tolist() == [1, 4, 4, 4, 1]
    assert table["forwards"].tolist() == [20 * 6 * 4 * k for k in (1, 4, 4, 4, 1)]
    assert forwards(measured) <= table["forwards"].sum()
    more = ix.spending(refined)
    assert forwards(refined) <= more["forwards"].sum()
    assert more["contexts"].tolist() == [1, *counts(refined)[1:-1], 1]


def test_what_was_measured_is_kept_and_the_ends_stay_exact(measured, refined):
    for before, after in zip(measured, refined, strict=True):
        np.testing.assert_array_equal(after.replicates_PRO[:, :4], before.replicates_PRO)
        for o in (0, -1):
            assert (after.replicates_PRO[:, :, o] == before.replicates_PRO[:, :1, o]).all()
        assert after.forwards > before.forwards


def test_refining_is_the_second_part_of_measuring(measured, refined):
    same(ix.refine(GAMES, measured, DESIGN, target=0.1, max_contexts=64), refined)


@pytest.mark.parametrize("more", [-100, 0, 1, 2_000, 20_000, 200_000])
def test_a_budget_is_kept(measured, more):
    base = forwards(measured)
    records = ix.measure(GAMES, DESIGN, target=0.01, budget=base + more, max_contexts=64)
    if more < 2_000:  # one more step, 2 replicates of 20 x 6 pairs, is 960 forwards
        same(records, measured)
    else:
        assert base < forwards(records) <= base + more


def test_a_budget_is_spent_where_it_tells_most(measured, refined):
    """Half of what would be needed goes to the middle order first."""
    middle = (forwards(measured) + forwards(refined)) // 2
    some = counts(ix.measure(GAMES, DESIGN, target=0.1, budget=middle, max_contexts=64))
    assert some[2] > 4
    assert all(a <= b for a, b in zip(some, counts(refined), strict=True))


@pytest.mark.parametrize("contexts", [4, 6, 10, 16])
def test_no_order_gets_more_contexts_than_allowed(contexts):
    design = replace(DESIGN, contexts=ix.Windows(4, 2))
    records = ix.measure(GAMES, design, target=0.01, max_contexts=contexts)
    assert max(counts(records)[1:-1]) == max(contexts // 2 // 2 * 2, 4)


def test_games_may_come_from_a_generator(refined):
    same(ix.measure((game for game in GAMES), DESIGN, target=0.1, max_contexts=64), refined)


@pytest.mark.parametrize(
    ("images", "design"),
    [
        (7, DESIGN),
        (20, replace(DESIGN, pairs=ix.RandomPairs(1))),
        (20, replace(DESIGN, contexts=ix.Windows(3, 2))),
        (20, replace(DESIGN, contexts=ix.AllContexts(), ratios=(0.0, 0.2, 1.0))),
    ],
    ids=["few images", "one pair", "few replicates", "all contexts"],
)
def test_where_nothing_can_be_added_measurements_are_plain(images, design):
    games = GAMES[:images]
    same(ix.measure(games, design, target=0.01), [measure_one(game, design) for game in games])
    with pytest.raises(ValueError, match="at least 8 images of numbers, 2 pairs and 4 replicates"):
        ix.refine(games, ix.measure(games, design, target=None), design)


def test_what_is_wanted_follows_from_the_records_alone(measured):
    wanted = wanted_replicates(measured, 0.05)
    assert wanted
    assert set(wanted) <= {4, 7, 11}
    copies = [replace(r, replicates_PRO=r.replicates_PRO.copy()) for r in measured]
    assert wanted_replicates(copies, 0.05) == wanted
    louder = [replace(r, replicates_PRO=2 * r.replicates_PRO) for r in measured]
    assert wanted_replicates(louder, 0.05) == wanted
    assert max(wanted.values()) <= 16  # at most four times as many at once


@pytest.mark.parametrize("batch_size", [5, 4096])
def test_batches_change_neither_decisions_nor_values(batch_size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    images = torch.randn(8, 3, 8, 8)
    design = ix.Design(ix.RandomPairs(3), ratios=(0.0, 0.5, 1.0))

    def records(batch_size):
        grid = ix.PatchGrid(4, 4)
        games = [
            ix.PatchGame(model, x, 0, grid, image=str(k), batch_size=batch_size)
            for k, x in enumerate(images)
        ]
        return ix.measure(games, design, target=0.01, max_contexts=32)

    for one, two in zip(records(64), records(batch_size), strict=True):
        assert one.replicates_PRO.shape == two.replicates_PRO.shape
        np.testing.assert_allclose(one.replicates_PRO, two.replicates_PRO, atol=1e-5)


@pytest.mark.parametrize("limit", [1, 1 << 30])
@pytest.mark.parametrize("sampler", [ix.Windows, lambda R, W: ix.IID(R)], ids=["windows", "iid"])
def test_more_replicates_equal_a_design_that_had_them_at_once(sampler, limit, monkeypatch):
    monkeypatch.setattr(estimator, "CHUNK_BYTES", limit)
    few = replace(DESIGN, contexts=sampler(4, 2))
    many = replace(few, contexts=sampler(9, 2))
    record = measure_one(GAMES[0], few)
    grown = add_replicates(GAMES[0], record, few, dict.fromkeys(range(15), 9))
    np.testing.assert_array_equal(grown.replicates_PRO, measure_one(GAMES[0], many).replicates_PRO)
    # different numbers at different orders; fewer than there are change nothing
    some = add_replicates(GAMES[0], record, few, {4: 6, 7: 9, 11: 2, 5: 100})
    at_once = measure_one(GAMES[0], replace(few, replicates=(9, 6, 9, 4, 9)))
    np.testing.assert_array_equal(some.replicates_PRO, at_once.replicates_PRO)
    assert add_replicates(GAMES[0], record, few, {}).forwards == record.forwards
    assert add_replicates(GAMES[0], record, few, {0: 50, 14: 50}).forwards == record.forwards


def test_added_replicates_count_what_they_cost(counting):
    game = counting(GAMES[0])
    record = measure_one(GAMES[0], DESIGN)
    grown = add_replicates(game, record, DESIGN, {4: 6, 7: 8})
    asked = torch.cat(game.asked)
    assert grown.forwards - record.forwards == len(asked) <= 4 * 6 * (2 + 4)


@pytest.mark.integration
def test_refining_brings_the_strength_nearer_to_the_truth(measured, refined):
    every = replace(DESIGN, contexts=ix.AllContexts())
    truth_O = ix.strength(ix.measure(GAMES, every)).J
    before, after = (np.abs(ix.strength(r).J - truth_O).max() for r in (measured, refined))
    assert after < before


def test_bad_arguments(measured):
    for name in ("target", "budget", "max_contexts"):
        for call in (
            lambda **bad: ix.measure(GAMES, DESIGN, **bad),
            lambda **bad: ix.refine(GAMES, measured, DESIGN, **bad),
        ):
            with pytest.raises(ValueError, match=f"expected a {name} above 0, got 0"):
                call(**{name: 0})
            with pytest.raises(ValueError, match=f"expected a {name} above 0, got nan"):
                call(**{name: float("nan")})
    every = ix.Design(ix.RandomPairs(3), ix.AllContexts(), ratios=(0.0, 0.5))
    with pytest.raises(ValueError, match="Windows or IID"):
        add_replicates(GAMES[0], measure_one(GAMES[0], every), every, {7: 8})
    with pytest.raises(ValueError, match="at least 2 images, 2 pairs and 4 replicates, got 1"):
        ix.spending(measured[:1])
