"""Everything exact about a small game, from one table of its 2^n values.

    Delta v(i, j, S) = v(S+ij) - v(S+i) - v(S+j) + v(S)
    I^(m)(i, j)      = mean of Delta v over all S of size m without i and j      m = 0 .. n-2
    phi^(m)(i)       = mean of v(S+i) - v(S) over all S of size m without i      m = 0 .. n-1
    phi(i)           = mean over m of phi^(m)(i): the Shapley value
    a(T)             = sum over S in T of (-1)^(|T|-|S|) v(S): the Harsanyi dividends
    V_k              = mean of v over all coalitions of size k: the insertion curve

(Shapley 1953; Harsanyi 1963; Zhang et al. 2020; Deng et al., ICLR 2022.) The symmetric pair
interaction indices of the literature are weighted means of I^(m) over m, see :func:`order_weights`.
Nothing here is sampled: this is the truth that estimators are tested against, and the better choice
wherever 2^n forwards can be afforded.

Shapes: K coalitions, N players, P pairs, O orders. A table holds K = 2^n values; bit k of a
coalition's index tells whether player k is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactions.games.base import Game
from interactions.inputs import coalitions_of
from interactions.orders.pairs import AllPairs

MAX_PLAYERS = 16
"""The largest game that is tabulated: 65,536 forwards."""

Index = Literal["SII", "STII", "BII", "FSII", "CHII"]

INDICES: dict[str, Callable[[int, int], float]] = {
    # Shapley interaction index (Grabisch & Roubens 1999); k-SII of order 2 has the same pairs.
    "SII": lambda n, m: 1 / (n - 1),
    # Shapley-Taylor index of order 2 (Sundararajan et al., ICML 2020, the pairs).
    "STII": lambda n, m: 2 * (n - 1 - m) / (n * (n - 1)),
    # Banzhaf interaction index (Grabisch & Roubens 1999); Faith-Banzhaf of order 2 is the same.
    "BII": lambda n, m: comb(n - 2, m) / 2 ** (n - 2),
    # Faith-Shap of order 2 (Tsai et al., JMLR 2023, the pairs).
    "FSII": lambda n, m: 6 * (m + 1) * (n - 1 - m) / ((n - 1) * n * (n + 1)),
    # Chaining interaction index (Marichal & Roubens 1999).
    "CHII": lambda n, m: 2 * (m + 1) / (n * (n - 1)),
}
"""Weight of I^(m) in each index, from the number of players n and the order m.

Each is a law of random contexts in which the other players are present independently with
probability p: p uniform (SII), Beta(1, 2) (STII), Beta(2, 2) (FSII), Beta(2, 1) (CHII), 1/2 (BII).
"""


def order_weights(name: Index, n: int) -> NDArray[np.float64]:
    """Weights over the orders m = 0 .. n-2 whose mean of I^(m)(i, j) is the index of the pair.

    They hold for any number of players, and for sampled interactions too if every order was
    measured; the 13 published ratios are not every order.

    Args:
        name: which index, a key of :data:`INDICES`.
        n: number of players.

    Returns:
        Shape ``(n-1,)``, positive, sum 1.

    Raises:
        ValueError: if there is no such index.
    """
    if name not in INDICES:
        raise ValueError(f"expected one of the indices {', '.join(INDICES)}, got {name!r}")
    return np.array([INDICES[name](n, m) for m in range(n - 1)])


@dataclass(frozen=True)
class ExactGame:
    """A game given by its table of values; itself a :class:`~interactions.games.base.Game`.

    Attributes:
        n: number of players, 2 to 16.
        values_K: float64 ``(2^n,)``; the bits of an index are the players of the coalition.
        image: name of the game.

    Raises:
        ValueError: if the table does not fit the number of players or is not finite.
    """

    n: int
    values_K: NDArray[np.float64]
    image: str = "table"

    def __post_init__(self) -> None:
        _check_players(self.n)
        if self.values_K.shape != (2**self.n,):
            raise ValueError(
                f"expected a table of {2**self.n} values for {self.n} players, "
                f"got shape {self.values_K.shape}"
            )
        if self.values_K.dtype != np.float64:
            raise ValueError(f"expected values in float64, got {self.values_K.dtype}")
        if not np.isfinite(self.values_K).all():
            raise ValueError(f"{self.image}: expected finite values")

    def __repr__(self) -> str:
        return f"ExactGame({self.image!r}, {self.n} players, {len(self.values_K)} values)"

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions, looked up; see :class:`~interactions.games.base.Game`."""
        coalitions_KN = coalitions_of(coalitions_KN, self.n)
        index_K = (coalitions_KN.long() << torch.arange(self.n)).sum(dim=1)
        return torch.from_numpy(self.values_K[index_K.numpy()])

    def interactions(self) -> NDArray[np.float64]:
        """I^(m)(i, j) of all pairs at all orders.

        Returns:
            Shape ``(P, n-1)``: the pairs of :class:`~interactions.orders.pairs.AllPairs` in their
            order, and m = 0 .. n-2.
        """
        return np.stack(
            [
                _mean_by_size(self._delta(int(i), int(j)), self.n - 2)
                for i, j in AllPairs().draw(self.n, 0, self.image)
            ]
        )

    def index(self, name: Index) -> NDArray[np.float64]:
        """An interaction index of all pairs.

        Args:
            name: which index, a key of :data:`INDICES`. The Moebius and co-Moebius values of the
                pairs are the first and the last order of :meth:`interactions`.

        Returns:
            Shape ``(P,)``, in the order of :class:`~interactions.orders.pairs.AllPairs`.

        Raises:
            ValueError: if there is no such index.
        """
        weights_O = order_weights(name, self.n)
        return self.interactions() @ weights_O

    def marginals(self) -> NDArray[np.float64]:
        """phi^(m)(i) of all players at all orders.

        Returns:
            Shape ``(n, n)``: players, and m = 0 .. n-1.
        """
        # The axis of length 2 is player i: absent, present.
        tables = [self.values_K.reshape(-1, 2, 2**i) for i in range(self.n)]
        return np.stack([_mean_by_size(v[:, 1] - v[:, 0], self.n - 1) for v in tables])

    def shapley(self) -> NDArray[np.float64]:
        """Shapley values phi(i), shape ``(n,)``; their sum is v(N) - v(empty)."""
        return self.marginals().mean(axis=1)

    def moebius(self) -> NDArray[np.float64]:
        """Harsanyi dividends a(T), shape ``(2^n,)``, by the fast subset transform.

        v(S) is the sum of a(T) over all T in S; a(empty) is v(empty). The dividend of a large team
        is a small difference of 2^|T| values: it amplifies noise and rounding in them accordingly.
        """
        dividends_K = self.values_K.copy()
        for k in range(self.n):
            pairs = dividends_K.reshape(-1, 2, 2**k)
            pairs[:, 1] -= pairs[:, 0]
        return dividends_K

    def insertion_curve(self) -> NDArray[np.float64]:
        """V_k for k = 0 .. n, shape ``(n+1,)``.

        Its second difference V_(m+2) - 2 V_(m+1) + V_m is the mean of I^(m) over all pairs.
        """
        return _mean_by_size(self.values_K, self.n)

    def _delta(self, i: int, j: int) -> NDArray[np.float64]:
        """Delta v(i, j, S) for i < j in all 2^(n-2) contexts, the bits of S without i and j."""
        # The axes of length 2 are the players j and i; the others run through the contexts.
        v = self.values_K.reshape(-1, 2, 2 ** (j - i - 1), 2, 2**i)
        return v[:, 1, :, 1] - v[:, 0, :, 1] - v[:, 1, :, 0] + v[:, 0, :, 0]


def exact(game: Game, chunk: int = 1 << 13) -> ExactGame:
    """Evaluate every coalition of a small game, each once.

    Args:
        game: what is played, with 2 to 16 players.
        chunk: how many coalitions are made and handed to the game at once; bounds the memory and
            does not change the table.

    Returns:
        The game as a table.

    Raises:
        ValueError: if the game has fewer than 2 or more than 16 players, if ``chunk`` is less than
            1, or if the game's values are not one finite number for each coalition.
    """
    n = game.n
    _check_players(n)
    if chunk < 1:
        raise ValueError(f"expected a chunk of at least 1 coalition, got {chunk}")
    values_K = np.empty(2**n)
    for start in range(0, 2**n, chunk):
        index_K = torch.arange(start, min(start + chunk, 2**n))
        values = game((index_K[:, None] >> torch.arange(n) & 1).bool())
        # NumPy would spread a single number over the whole chunk.
        if values.shape != index_K.shape:
            raise ValueError(
                f"{game.image}: expected values of shape {tuple(index_K.shape)}, "
                f"got {tuple(values.shape)}"
            )
        values_K[start : start + chunk] = values.numpy()
    return ExactGame(n, values_K, game.image)


def _mean_by_size(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Mean of values over the coalitions of n players with 0, 1, ... n members, ``(n+1,)``.

    The 2^n values are taken in the order of their coalitions' indices, whatever their shape.
    """
    sizes_K = np.bitwise_count(np.arange(2**n))
    counts = [comb(n, k) for k in range(n + 1)]
    return np.bincount(sizes_K, values.ravel(), n + 1) / counts


def _check_players(n: int) -> None:
    if n < 2:
        raise ValueError(f"expected a game of at least 2 players, got {n}: there is no pair")
    if n > MAX_PLAYERS:
        raise ValueError(
            f"expected a game of at most {MAX_PLAYERS} players to tabulate, got {n} with 2^{n} "
            "coalitions; sample it with estimator.measure_one, attribution.marginals or "
            "attribution.shapley, or choose a coarser grid"
        )
