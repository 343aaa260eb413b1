"""Games whose multi-order interactions are known in closed form.

Every class here is a :class:`~interactions.games.base.Game` with one more method, ``interaction``,
that gives I^(m)(i, j) exactly:

    I^(m)(i, j) = E over S in N without i, j, |S| = m, of v(S+ij) - v(S+i) - v(S+j) + v(S)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from interactions.inputs import coalitions_of


@dataclass(frozen=True)
class SizeGame:
    """v(S) = worth(|S|): only the number of players matters.

    I^(m)(i, j) = worth(m+2) - 2 worth(m+1) + worth(m) for every pair.

    Attributes:
        n: number of players.
        worth: from the size of a coalition to its value.
        image: name of the game.
    """

    n: int
    worth: Callable[[int], float]
    image: str = "size game"

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions."""
        table = torch.tensor([self.worth(k) for k in range(self.n + 1)], dtype=torch.float64)
        return table[coalitions_of(coalitions_KN, self.n).sum(dim=1)]

    def interaction(self, i: int, j: int, order: int) -> float:
        """I^(m)(i, j) for m = ``order``."""
        return self.worth(order + 2) - 2 * self.worth(order + 1) + self.worth(order)


@dataclass(frozen=True)
class DividendGame:
    """v(S) = sum of a(T) over the teams T that are all in S: any game, by its Harsanyi dividends.

    I^(m)(i, j) = sum over T with i, j in T of a(T) C(m, t-2) / C(n-2, t-2), t = |T|.
    Teams of one player make an additive game (no interaction), teams of two a quadratic one (the
    same interaction at every order), one large team a product.

    Attributes:
        n: number of players.
        dividends: a(T) by team T.
        image: name of the game.
    """

    n: int
    dividends: Mapping[frozenset[int], float]
    image: str = "dividend game"

    def __repr__(self) -> str:
        return f"DividendGame({self.image!r}, {self.n} players, {len(self.dividends)} teams)"

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions."""
        coalitions_KN = coalitions_of(coalitions_KN, self.n)
        values_K = torch.zeros(len(coalitions_KN), dtype=torch.float64)
        for team, dividend in self.dividends.items():
            values_K += dividend * coalitions_KN[:, sorted(team)].all(dim=1).double()
        return values_K

    def interaction(self, i: int, j: int, order: int) -> float:
        """I^(m)(i, j) for m = ``order``."""
        return sum(
            dividend * comb(order, len(team) - 2) / comb(self.n - 2, len(team) - 2)
            for team, dividend in self.dividends.items()
            if i in team and j in team
        )


@dataclass(frozen=True)
class ParityGame:
    """v(S) = sum of a(T) (-1)^|S and T|: interactions that change sign with the context.

    The hard case for an estimator: one context says +4a or -4a, while the mean over contexts,

        I^(m)(i, j) = sum over T with i, j in T of 4 a(T) E(-1)^X,  X hypergeometric,

    is close to 0 in the middle orders. X counts the other members of T in a random context.

    Attributes:
        n: number of players.
        weights: a(T) by team T.
        image: name of the game.
    """

    n: int
    weights: Mapping[frozenset[int], float]
    image: str = "parity game"

    def __repr__(self) -> str:
        return f"ParityGame({self.image!r}, {self.n} players, {len(self.weights)} teams)"

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions."""
        coalitions_KN = coalitions_of(coalitions_KN, self.n)
        values_K = torch.zeros(len(coalitions_KN), dtype=torch.float64)
        for team, weight in self.weights.items():
            odd_K = (coalitions_KN[:, sorted(team)].sum(dim=1) % 2).double()
            values_K += weight * (1 - 2 * odd_K)
        return values_K

    def interaction(self, i: int, j: int, order: int) -> float:
        """I^(m)(i, j) for m = ``order``."""
        return sum(
            4 * weight * _mean_sign(self.n - 2, len(team) - 2, order)
            for team, weight in self.weights.items()
            if i in team and j in team
        )


def _mean_sign(population: int, marked: int, drawn: int) -> float:
    """E(-1)^X for X marked among those drawn without replacement."""
    signed = sum(
        (-1) ** x * comb(marked, x) * comb(population - marked, drawn - x)
        for x in range(min(marked, drawn) + 1)
    )
    return signed / comb(population, drawn)


def pair_weights(weights: Iterable[tuple[int, int, float]]) -> dict[frozenset[int], float]:
    """Dividends of a quadratic game v(S) = sum of w_ij over i, j in S, from (i, j, w_ij)."""
    return {frozenset((i, j)): w for i, j, w in weights}
