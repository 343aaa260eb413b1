"""A table of values against closed forms, loops over subsets, identities, and shapiq."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

import interactions as ix
from interactions.games.exact import INDICES, ExactGame, exact, order_weights
from interactions.orders.estimator import measure_one

TOYS = [
    ix.toy.SizeGame(8, lambda k: float(k**3)),
    ix.toy.DividendGame(
        8, {frozenset(): 2.0, frozenset({0}): 3.0, frozenset({0, 1}): 1, frozenset({1, 2, 5}): -2}
    ),
    ix.toy.DividendGame(8, {frozenset(range(6)): 1.0, frozenset(range(8)): -0.5}),
    ix.toy.ParityGame(8, {frozenset({0, 1, 2, 3}): 0.5, frozenset({2, 3, 7}): 0.25}),
]
DIVIDEND_TOYS = [game for game in TOYS if isinstance(game, ix.toy.DividendGame)]


def name_of(game):
    return type(game).__name__


def random_game(n=6, seed=0):
    return ExactGame(n, np.random.default_rng(seed).normal(size=2**n))


def pairs_of(n):
    return list(combinations(range(n), 2))


def ordered_pairs(per_pair, n):
    """Values of pairs i < j as a symmetric matrix, zero on the diagonal; orders stay last."""
    matrix = np.zeros((n, n, *per_pair.shape[1:]))
    for (i, j), value in zip(pairs_of(n), per_pair, strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


class Sets:
    """The same game with Python sets: v, and means over all sets of one size."""

    def __init__(self, game):
        self.n, self.table = game.n, game.values_K

    def v(self, *players):
        return self.table[sum(2**k for k in players)]

    def sets(self, size, *without):
        return list(combinations([k for k in range(self.n) if k not in without], size))

    def interaction(self, i, j, m):
        v = self.v
        return np.mean(
            [v(*S, i, j) - v(*S, i) - v(*S, j) + v(*S) for S in self.sets(m, i, j)],
        )

    def marginal(self, i, m):
        return np.mean([self.v(*S, i) - self.v(*S) for S in self.sets(m, i)])

    def dividend(self, team):
        return sum(
            (-1) ** (len(team) - size) * self.v(*S)
            for size in range(len(team) + 1)
            for S in combinations(team, size)
        )


# Closed forms


@pytest.mark.parametrize("game", TOYS, ids=name_of)
def test_interactions_of_toy_games(game):
    expected = [[game.interaction(i, j, m) for m in range(7)] for i, j in pairs_of(8)]
    np.testing.assert_allclose(exact(game).interactions(), expected, atol=1e-12)


def test_sixteen_players():
    """The largest game: 120 pairs, 15 orders, teams of every size."""
    rng = np.random.default_rng(0)
    teams = [frozenset(rng.permutation(16)[:size].tolist()) for size in range(1, 17)]
    game = ix.toy.DividendGame(16, {team: float(rng.normal()) for team in teams})
    table = exact(game)
    expected = [[game.interaction(i, j, m) for m in range(15)] for i, j in pairs_of(16)]
    np.testing.assert_allclose(table.interactions(), expected, atol=1e-12)
    phi = [sum(a / len(T) for T, a in game.dividends.items() if i in T) for i in range(16)]
    np.testing.assert_allclose(table.shapley(), phi, atol=1e-12)


@pytest.mark.parametrize("game", DIVIDEND_TOYS, ids=name_of)
def test_dividends_of_teams(game):
    """The transform finds the teams; phi^(m)(i) = sum of a(T) C(m, t-1) / C(n-1, t-1) over T."""
    table = exact(game)
    expected = np.zeros(2**8)
    for team, dividend in game.dividends.items():
        expected[sum(2**k for k in team)] = dividend
    np.testing.assert_allclose(table.moebius(), expected, atol=1e-12)
    marginals = [
        [
            sum(
                a * comb(m, len(T) - 1) / comb(7, len(T) - 1)
                for T, a in game.dividends.items()
                if i in T
            )
            for m in range(8)
        ]
        for i in range(8)
    ]
    np.testing.assert_allclose(table.marginals(), marginals, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("SII", lambda t: 1 / (t - 1)),
        ("STII", lambda t: 1 / comb(t, 2)),
        ("BII", lambda t: 2.0 ** (2 - t)),
        ("FSII", lambda t: 6 / (t * (t + 1))),
        ("CHII", lambda t: 2 / t),
    ],
)
@pytest.mark.parametrize("game", DIVIDEND_TOYS, ids=name_of)
def test_indices_of_teams(game, name, share):
    """Each index gives a pair a share of the dividend of its team of t players.

    E p^(t-2), with p the probability of the other players in :data:`INDICES`; for the pairs of
    STII that is 1 / C(t, 2), so that the team's dividend is handed out completely.
    """
    expected = [
        sum(a * share(len(T)) for T, a in game.dividends.items() if i in T and j in T)
        for i, j in pairs_of(8)
    ]
    np.testing.assert_allclose(exact(game).index(name), expected, atol=1e-12)


def test_size_games_and_the_insertion_curve():
    table = exact(ix.toy.SizeGame(7, lambda k: float(k**2)))
    np.testing.assert_allclose(table.insertion_curve(), np.arange(8) ** 2, atol=1e-12)
    np.testing.assert_allclose(table.marginals(), np.tile(2 * np.arange(7) + 1, (7, 1)), atol=1e-12)
    np.testing.assert_allclose(table.shapley(), 7, atol=1e-12)


def test_two_players():
    """The smallest game: one pair, one order, in which all indices agree."""
    table = ExactGame(2, np.array([1.0, 2.0, 4.0, 8.0]))
    np.testing.assert_array_equal(table.interactions(), [[8 - 2 - 4 + 1]])
    np.testing.assert_array_equal(table.marginals(), [[1, 4], [3, 6]])
    for name in INDICES:
        np.testing.assert_allclose(table.index(name), [3])


# Loops


def test_everything_by_loops_over_subsets():
    game = random_game(6)
    sets = Sets(game)
    interactions = [[sets.interaction(i, j, m) for m in range(5)] for i, j in pairs_of(6)]
    marginals = [[sets.marginal(i, m) for m in range(6)] for i in range(6)]
    curve = [np.mean([sets.v(*S) for S in sets.sets(k)]) for k in range(7)]
    np.testing.assert_allclose(game.interactions(), interactions, atol=1e-12)
    np.testing.assert_allclose(game.marginals(), marginals, atol=1e-12)
    np.testing.assert_allclose(game.insertion_curve(), curve, atol=1e-12)
    for index in range(2**6):
        team = [k for k in range(6) if index >> k & 1]
        assert game.moebius()[index] == pytest.approx(sets.dividend(team), abs=1e-12)


def test_order_weights_are_weights():
    for name in INDICES:
        for n in (2, 3, 16, 196):
            weights = order_weights(name, n)
            assert weights.shape == (n - 1,)
            assert (weights > 0).all()
            assert weights.sum() == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match=r"one of the indices SII, .* got 'SHAP'"):
        order_weights("SHAP", 5)


# The identities of the multi-order literature, on a game without structure


@pytest.fixture(scope="module", params=[6, 9], ids=["n=6", "n=9"])
def game(request):
    return random_game(request.param, seed=request.param)


def within(actual, expected):
    """Equal up to rounding; the games have values of about 1."""
    np.testing.assert_allclose(actual, expected, atol=1e-10, rtol=0)


def efficiency_weights(n):
    return (n - 1 - np.arange(n - 1)) / (n * (n - 1))


def test_marginal_attribution(game):
    """phi^(m+1)(i) - phi^(m)(i) = E over j of I^(m)(i, j)."""
    matrix = ordered_pairs(game.interactions(), game.n)
    within(np.diff(game.marginals(), axis=1), matrix.sum(axis=1) / (game.n - 1))


def test_efficiency(game):
    """v(N) = v(empty) + sum of mu_i + sum over ordered pairs and m of w^(m) I^(m)(i, j)."""
    matrix = ordered_pairs(game.interactions(), game.n)
    mu = game.marginals()[:, 0].sum()
    total = game.values_K[0] + mu + (matrix * efficiency_weights(game.n)).sum()
    within(total, game.values_K[-1])
    within(game.shapley().sum(), game.values_K[-1] - game.values_K[0])
    # the pairs of STII are what this identity hands out: each unordered pair once
    within(game.values_K[0] + mu + game.index("STII").sum(), game.values_K[-1])


def test_mean_over_pairs(game):
    """E over pairs of I^(m) = V_(m+2) - 2 V_(m+1) + V_m."""
    within(np.diff(game.insertion_curve(), n=2), game.interactions().mean(axis=0))


def test_dividends_add_up_to_the_game(game):
    """v(S) = sum of a(T) over T in S; and the Moebius and co-Moebius values are the two ends."""
    dividends = game.moebius()
    index = np.arange(2**game.n)
    sums = [dividends[(index & coalition) == index].sum() for coalition in index]
    within(sums, game.values_K)
    pairs = [2**i + 2**j for i, j in pairs_of(game.n)]
    within(game.interactions()[:, 0], dividends[pairs])
    co_moebius = [dividends[(index & pair) == pair].sum() for pair in pairs]
    within(game.interactions()[:, -1], co_moebius)


# The sampled estimator and shapiq


def test_the_estimator_with_all_contexts_agrees():
    table = random_game(8, seed=3)
    ratios = tuple(k / 6 for k in range(7))
    record = measure_one(table, ix.Design(ix.AllPairs(), ix.AllContexts(), ratios))
    assert record.orders_O.tolist() == list(range(7))
    assert record.pairs_P2.tolist() == [list(pair) for pair in pairs_of(8)]
    np.testing.assert_allclose(record.mean_PO, table.interactions(), atol=1e-12)


# shapiq computes the empty team too, for which CHII is 0/0, and says so
@pytest.mark.filterwarnings("ignore:CHII is not defined for the empty set:UserWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide:RuntimeWarning")
@pytest.mark.parametrize(
    ("ours", "theirs", "atol"),
    [
        ("SII", "SII", 1e-12),
        ("SII", "k-SII", 1e-12),
        ("BII", "BII", 1e-12),
        ("STII", "STII", 1e-12),
        ("FSII", "FSII", 1e-6),  # shapiq solves a regression with a large finite penalty
        ("CHII", "CHII", 1e-12),
    ],
)
def test_pairs_agree_with_shapiq(ours, theirs, atol):
    import shapiq

    game = random_game(7, seed=4)
    exact = shapiq.ExactComputer(lambda S: game(torch.from_numpy(S)).numpy(), n_players=7)
    values = exact(theirs, order=2)
    expected = [values[pair] for pair in pairs_of(7)]
    np.testing.assert_allclose(game.index(ours), expected, atol=atol, rtol=0)


def test_players_and_dividends_agree_with_shapiq():
    import shapiq

    game = random_game(7, seed=5)
    exact = shapiq.ExactComputer(lambda S: game(torch.from_numpy(S)).numpy(), n_players=7)
    shapley, dividends = exact("SV", order=1), exact("Moebius", order=7)
    co_moebius = exact("Co-Moebius", order=7)
    np.testing.assert_allclose(game.shapley(), [shapley[(i,)] for i in range(7)], atol=1e-12)
    for index, dividend in enumerate(game.moebius()):
        team = tuple(k for k in range(7) if index >> k & 1)
        assert dividends[team] == pytest.approx(dividend, abs=1e-12)
    last = [co_moebius[pair] for pair in pairs_of(7)]
    np.testing.assert_allclose(game.interactions()[:, -1], last, atol=1e-12)


# The table


class Recording:
    """A game that remembers what it is asked."""

    image = "cat.png"

    def __init__(self, n, answer=None):
        self.n, self.answer, self.asked = n, answer, []

    def __call__(self, coalitions):
        self.asked.append(coalitions)
        index = (coalitions.double() * 2.0 ** torch.arange(self.n)).sum(dim=1)
        return index if self.answer is None else self.answer(index)


@pytest.mark.parametrize("chunk", [1, 5, 32, 1000])
def test_every_coalition_is_asked_for_once_in_chunks(chunk):
    game = Recording(5)
    table = exact(game, chunk)
    assert (table.n, table.image) == (5, "cat.png")
    np.testing.assert_array_equal(table.values_K, np.arange(32))
    assert max(map(len, game.asked)) == min(chunk, 32)
    assert len(torch.cat(game.asked).unique(dim=0)) == sum(map(len, game.asked)) == 32


def test_a_table_is_a_game():
    game = TOYS[3]
    coalitions = torch.rand(50, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    torch.testing.assert_close(exact(game)(coalitions), game(coalitions), atol=0, rtol=0)
    assert len(exact(game)(coalitions[:0])) == 0


def test_bad_input():
    with pytest.raises(ValueError, match=r"at most 16 players .* got 17 .* attribution\.shapley"):
        exact(ix.toy.SizeGame(17, float))
    with pytest.raises(ValueError, match="at least 2 players, got 1"):
        exact(ix.toy.SizeGame(1, float))
    with pytest.raises(ValueError, match="chunk of at least 1"):
        exact(ix.toy.SizeGame(3, float), chunk=0)
    with pytest.raises(ValueError, match=r"cat\.png: expected values of shape \(8,\), got \(1,\)"):
        exact(Recording(3, lambda index: index[:1]))
    with pytest.raises(ValueError, match=r"cat\.png: expected finite values"):
        exact(Recording(3, lambda index: index.log()))
    with pytest.raises(ValueError, match=r"table of 8 values for 3 players, got shape \(9,\)"):
        ExactGame(3, np.zeros(9))
    with pytest.raises(ValueError, match="float64, got float32"):
        ExactGame(3, np.zeros(8, dtype=np.float32))
    with pytest.raises(ValueError, match="at most 16 players"):
        ExactGame(17, np.zeros(2**17))
