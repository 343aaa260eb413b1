"""Closed forms against brute force over all contexts."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interactions.games.toy import DividendGame, ParityGame, SizeGame, pair_weights

N = 6


def brute_force(game, i, j, order):
    """I^(m)(i, j) by its definition, with Python sets."""

    def v(players):
        coalition = torch.zeros(1, game.n, dtype=torch.bool)
        coalition[0, list(players)] = True
        return game(coalition).item()

    others = [k for k in range(game.n) if k not in (i, j)]
    deltas = [v({*S, i, j}) - v({*S, i}) - v({*S, j}) + v(S) for S in combinations(others, order)]
    return sum(deltas) / len(deltas)


teams = st.dictionaries(
    st.frozensets(st.integers(0, N - 1), min_size=1), st.floats(-2, 2), min_size=1, max_size=4
)


@given(teams=teams, order=st.integers(0, N - 2))
def test_dividend_game(teams, order):
    game = DividendGame(N, teams)
    assert game.interaction(0, 3, order) == pytest.approx(brute_force(game, 0, 3, order), abs=1e-12)


@given(teams=teams, order=st.integers(0, N - 2))
def test_parity_game(teams, order):
    game = ParityGame(N, teams)
    assert game.interaction(1, 2, order) == pytest.approx(brute_force(game, 1, 2, order), abs=1e-12)


@pytest.mark.parametrize("order", range(N - 1))
def test_size_games(order):
    """|S|^2 gives 2, |S|^3 gives 6m+6, a threshold +1 then -1, a veto only the last order."""
    square = SizeGame(N, lambda k: k**2)
    cube = SizeGame(N, lambda k: k**3)
    threshold = SizeGame(N, lambda k: float(k >= 4))
    veto = SizeGame(N, lambda k: float(k == N))
    assert square.interaction(0, 1, order) == 2
    assert cube.interaction(0, 1, order) == 6 * order + 6
    assert threshold.interaction(0, 1, order) == {2: 1, 3: -1}.get(order, 0)
    assert veto.interaction(0, 1, order) == (order == N - 2)
    for game in (square, cube, threshold, veto):
        assert game.interaction(2, 4, order) == brute_force(game, 2, 4, order)


def test_additive_and_quadratic_games():
    additive = DividendGame(N, {frozenset({k}): 1.5 * k for k in range(N)})
    quadratic = DividendGame(N, pair_weights([(0, 1, 2.0), (1, 4, -3.0)]))
    for order in range(N - 1):
        assert additive.interaction(0, 1, order) == 0
        assert quadratic.interaction(1, 0, order) == 2
        assert quadratic.interaction(1, 4, order) == -3
        assert quadratic.interaction(0, 4, order) == 0
