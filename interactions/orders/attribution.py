"""Who matters, and in which company: contributions of single players by order, sampled.

    phi^(m)(i) = E over S in N without i, |S| = m, of v(S+i) - v(S)      m = 0 .. n-1
    phi(i)     = mean over m of phi^(m)(i): the Shapley value

(Shapley 1953; Deng et al., ICLR 2022.) Marginal attribution ties them to interactions:
phi^(m+1)(i) - phi^(m)(i) is the mean of I^(m)(i, j) over the other players j.

Both are sampled from random permutations of the players. For the Shapley value a permutation is
walked from the empty to the full coalition, once forwards and once backwards (Castro et al. 2009;
antithetic pairs: Mitchell et al., JMLR 2022). For one order m it is bent into a ring: the m players
before i and the m players after i are uniform contexts of i,

    v([i-m .. i]) - v([i-m .. i-1])   and   v([i .. i+m]) - v([i+1 .. i+m]),

and an arc of the ring serves four such differences, so a ring costs n coalitions of size m and n of
size m+1 and gives 2 n contributions. Permutations are independent replicates; what is taken from
one permutation is not, so it is averaged first and standard errors come from the replicates.

Shapes: R replicates (permutations), N players, O orders, L lengths of arcs, K coalitions. The
places of a permutation have a name of their own, Q, though there are N of them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from interactions import plots
from interactions.games.base import Game
from interactions.keys import raw_words
from interactions.orders.estimator import distinct

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Permutations = NDArray[np.int64]
"""Permutations of the players, shape ``(R, Q)``: who stands at each place."""


@dataclass(frozen=True)
class Marginals:
    """Estimated contributions of every player of one image at several orders.

    Attributes:
        image: the name of the image.
        n: number of players.
        orders_O: the orders m.
        replicates_RNO: float64, one unbiased estimate of phi^(m)(i) per permutation; permutations
            are independent, except that at m = 0 and m = n-1 there is one context and all are
            exact.
        forwards: distinct coalitions that were evaluated.
    """

    image: str
    n: int
    orders_O: NDArray[np.int64]
    replicates_RNO: NDArray[np.float64]
    forwards: int

    def __repr__(self) -> str:
        R, N, O = self.replicates_RNO.shape
        return f"Marginals({self.image!r}, {N} players, {O} orders, {R} permutations)"

    def to_frame(self) -> pd.DataFrame:
        """One row per player and order: patch, order, contribution, se (over permutations)."""
        import pandas as pd

        N, O = self.mean_NO.shape
        return pd.DataFrame(
            {
                "patch": np.repeat(np.arange(N), O),
                "order": np.tile(self.orders_O, N),
                "contribution": self.mean_NO.ravel(),
                "se": self.se_NO.ravel(),
            }
        )

    def plot(self, ax: Axes | None = None, *, order: int | None = None) -> Axes:
        """Contributions of all players at one order, with two standard errors.

        Args:
            ax: axes to draw in; new ones if left out.
            order: one that was measured; the middle one if left out.

        Raises:
            ValueError: for another order.
        """
        orders = self.orders_O.tolist()
        order = orders[len(orders) // 2] if order is None else order
        if order not in orders:
            raise ValueError(f"expected an order of {orders}, got {order}")
        ax, o = plots.axes_or_new(ax), orders.index(order)
        what = f"contribution, order {order}"
        plots.values_of_players(ax, self.mean_NO[:, o], self.se_NO[:, o], what)
        return ax

    def _repr_html_(self) -> str:
        return plots.as_html(repr(self), self.to_frame())

    @property
    def mean_NO(self) -> NDArray[np.float64]:
        """The unbiased estimate of phi^(m)(i)."""
        return self.replicates_RNO.mean(axis=0)

    @property
    def se_NO(self) -> NDArray[np.float64]:
        """Standard error of :attr:`mean_NO` over permutations: of sampling, for this one image."""
        return _standard_error(self.replicates_RNO)


@dataclass(frozen=True)
class ShapleyValues:
    """Estimated Shapley values of every player of one image.

    Attributes:
        image: the name of the image.
        n: number of players.
        replicates_RN: float64, one unbiased estimate of phi(i) per permutation; permutations are
            independent, and the players of each sum to v(N) - v(empty).
        forwards: distinct coalitions that were evaluated.
    """

    image: str
    n: int
    replicates_RN: NDArray[np.float64]
    forwards: int

    def __repr__(self) -> str:
        R, N = self.replicates_RN.shape
        return f"ShapleyValues({self.image!r}, {N} players, {R} permutations)"

    def to_frame(self) -> pd.DataFrame:
        """One row per player: patch, value, se (over permutations)."""
        import pandas as pd

        columns = {"patch": np.arange(self.n), "value": self.mean_N, "se": self.se_N}
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The values of all players, with two standard errors."""
        ax = plots.axes_or_new(ax)
        plots.values_of_players(ax, self.mean_N, self.se_N, "Shapley value")
        return ax

    def _repr_html_(self) -> str:
        return plots.as_html(repr(self), self.to_frame())

    @property
    def mean_N(self) -> NDArray[np.float64]:
        """The unbiased estimate of phi(i); its sum is v(N) - v(empty), without sampling error."""
        return self.replicates_RN.mean(axis=0)

    @property
    def se_N(self) -> NDArray[np.float64]:
        """Standard error of :attr:`mean_N` over permutations: of sampling, for this one image."""
        return _standard_error(self.replicates_RN)


def marginals(game: Game, orders: Sequence[int], permutations: int, seed: int = 0) -> Marginals:
    """Estimate phi^(m)(i) of all players from random rings.

    Costs at most ``permutations`` x n forwards for each coalition size m and m+1 that the orders
    need; neighbouring orders share one of them.

    Args:
        game: what is played.
        orders: distinct context sizes m, each from 0 to n-1.
        permutations: how many independent permutations R; more of them keep the first ones.
        seed: names the random draws, together with the game's image.

    Raises:
        ValueError: with fewer than 2 permutations, or orders that are missing, repeated or outside
            0 .. n-1.
    """
    return marginals_of(game, orders, _draw(game, permutations, "marginals", seed))


def shapley(game: Game, permutations: int, seed: int = 0) -> ShapleyValues:
    """Estimate the Shapley values of all players from random walks.

    Costs at most 2 (n-1) ``permutations`` + 2 forwards.

    Args:
        game: what is played.
        permutations: how many independent permutations R; each is walked forwards and backwards,
            and more of them keep the first ones.
        seed: names the random draws, together with the game's image.

    Raises:
        ValueError: with fewer than 2 permutations.
    """
    return shapley_of(game, _draw(game, permutations, "shapley", seed))


def marginals_of(game: Game, orders: Sequence[int], permutations_RQ: Permutations) -> Marginals:
    """phi^(m)(i) from given rings; :func:`marginals` with permutations of one's own.

    Args:
        game: what is played.
        orders: distinct context sizes m, each from 0 to n-1.
        permutations_RQ: the players at the places of each ring.

    Raises:
        ValueError: if ``orders`` or ``permutations_RQ`` are not such.
    """
    n = game.n
    unrepeated = len(orders) > 0 and len(set(orders)) == len(orders)
    if not unrepeated or not all(0 <= m < n for m in orders):
        raise ValueError(f"expected distinct orders from 0 to {n - 1}, got {tuple(orders)}")
    places_RN = _places(permutations_RQ, n)

    lengths_L = np.array(sorted({length for m in orders for length in (m, m + 1)}))
    steps_RQN = (places_RN[:, None] - np.arange(n)[:, None]) % n
    arcs_RQLN = steps_RQN[:, :, None] < lengths_L[:, None]  # an arc starts at place q
    values_RQL, forwards = _evaluate(game, arcs_RQLN)

    replicates_RNO = np.empty((*places_RN.shape, len(orders)))
    for o, m in enumerate(orders):
        context_RQ, joined_RQ = np.moveaxis(
            values_RQL[:, :, np.searchsorted(lengths_L, [m, m + 1])], -1, 0
        )
        # Of the player at place q: the m before him start at q-m, the m after him at q+1.
        before_RQ = np.roll(joined_RQ - context_RQ, m, axis=1)
        after_RQ = joined_RQ - np.roll(context_RQ, -1, axis=1)
        gain_RQ = (before_RQ + after_RQ) / 2
        replicates_RNO[:, :, o] = np.take_along_axis(gain_RQ, places_RN, axis=1)
    return Marginals(game.image, n, np.array(orders, dtype=np.int64), replicates_RNO, forwards)


def shapley_of(game: Game, permutations_RQ: Permutations) -> ShapleyValues:
    """Shapley values from given walks; :func:`shapley` with permutations of one's own.

    Args:
        game: what is played.
        permutations_RQ: the players in the order in which the forward walk adds them.

    Raises:
        ValueError: if ``permutations_RQ`` are not at least 2 permutations of the players.
    """
    n = game.n
    places_RN = _places(permutations_RQ, n)
    first_RLN = places_RN[:, None] < np.arange(n + 1)[:, None]
    values, forwards = _evaluate(game, np.stack([first_RLN, ~first_RLN]))
    # One walk adds the player at place q to those before him, the other to those after him.
    first_RL, rest_RL = values
    gain_RQ = (np.diff(first_RL, axis=1) - np.diff(rest_RL, axis=1)) / 2
    return ShapleyValues(game.image, n, np.take_along_axis(gain_RQ, places_RN, axis=1), forwards)


def _draw(game: Game, count: int, purpose: str, seed: int) -> Permutations:
    """``count`` uniform permutations by key; the first ones do not depend on the count."""
    if count < 2:
        raise ValueError(f"expected at least 2 permutations for a standard error, got {count}")
    words_RQ = raw_words(count * game.n, purpose, seed, game.image).reshape(count, game.n)
    return words_RQ.argsort(axis=1, kind="stable")


def _places(permutations_RQ: Permutations, n: int) -> NDArray[np.int64]:
    """The place of each player, ``(R, N)``: the inverse permutations."""
    shape = permutations_RQ.shape
    if len(shape) != 2 or shape[0] < 2 or shape[1] != n:
        raise ValueError(f"expected permutations (R, {n}) with R of at least 2, got {shape}")
    if (np.sort(permutations_RQ, axis=1) != np.arange(n)).any():
        raise ValueError(f"expected each row to be a permutation of the players 0 to {n - 1}")
    return permutations_RQ.argsort(axis=1)


def _evaluate(game: Game, coalitions: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """Values of coalitions ``(..., N)``, each distinct one evaluated once, and how many are."""
    coalitions_KN, which = distinct(coalitions.reshape(-1, game.n))
    values_K = game(torch.from_numpy(coalitions_KN)).numpy()
    return values_K[which].reshape(coalitions.shape[:-1]), len(coalitions_KN)


def _standard_error(replicates: NDArray[np.float64]) -> NDArray[np.float64]:
    return replicates.std(axis=0, ddof=1) / np.sqrt(len(replicates))
