"""Contexts: coalitions S of order m = |S| that a pair (i, j) is measured in.

A context sampler gives, for each pair and order, R independent replicates of W contexts each. Only
replicates are independent: the W contexts of one replicate may be chosen to spread evenly, so an
estimator averages them first and takes its errors from the replicates.

Shapes: P pairs, R replicates, W contexts in a replicate, N players.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interactions.checks import whole
from interactions.keys import raw_words
from interactions.orders.pairs import Pairs

Contexts = NDArray[np.bool_]
"""Contexts of one order for several pairs, bool ``(P, R, W, N)``, True = the player is in S."""


class ContextSampler(Protocol):
    """How contexts are drawn.

    Attributes:
        replicates: the number R of independent replicates.
    """

    @property
    def replicates(self) -> int:
        """R."""
        ...

    def count(self, n: int, order: int) -> int:
        """How many contexts R W a pair has at this order."""
        ...

    def draw(
        self, n: int, pairs_P2: Pairs, orders: Sequence[int], seed: int, image: str
    ) -> Iterator[Contexts]:
        """Contexts ``(P, R, W, N)`` of each order in turn; i and j are never in them."""
        ...


@dataclass(frozen=True)
class Windows:
    """Cyclic windows of random permutations: for each pair R permutations x W equal steps.

    A window of a uniform permutation is a uniform subset, so means over windows are unbiased.
    Windows of one permutation overlap as little as possible (two of them are complements at the
    middle order), which lowers the variance of their mean below that of independent contexts. The
    same permutations serve all orders: contexts of one pair are nested from order to order.

    Attributes:
        replicates: independent permutations R per pair.
        windows: windows W per permutation.
    """

    replicates: int = 4
    windows: int = 2

    def __post_init__(self) -> None:
        whole(self.replicates, "replicates")
        whole(self.windows, "windows")

    def count(self, n: int, order: int) -> int:
        """R W."""
        return self.replicates * self.windows

    def draw(
        self, n: int, pairs_P2: Pairs, orders: Sequence[int], seed: int, image: str
    ) -> Iterator[Contexts]:
        """Contexts of each order; see :class:`ContextSampler`."""
        others = n - 2
        places_PRN = _places(n, pairs_P2, self.replicates, "windows", seed, image)
        starts_W = np.arange(self.windows) * others // self.windows
        distance_PRWN = (places_PRN[:, :, None] - starts_W[:, None]) % others
        # Places n-2 and n-1 are the pair itself: in no window, whatever its length.
        distance_PRWN[np.broadcast_to((places_PRN >= others)[:, :, None], distance_PRWN.shape)] = n
        for order in orders:
            yield distance_PRWN < order


@dataclass(frozen=True)
class IID:
    """Independent uniform contexts, also from order to order: the published sampling.

    Attributes:
        replicates: contexts K per pair and order.
    """

    replicates: int

    def __post_init__(self) -> None:
        whole(self.replicates, "replicates")

    def count(self, n: int, order: int) -> int:
        """K, one in each replicate."""
        return self.replicates

    def draw(
        self, n: int, pairs_P2: Pairs, orders: Sequence[int], seed: int, image: str
    ) -> Iterator[Contexts]:
        """Contexts of each order; see :class:`ContextSampler`."""
        for order in orders:
            places_PRN = _places(n, pairs_P2, self.replicates, "iid", order, seed, image)
            yield (places_PRN < order)[:, :, None]


@dataclass(frozen=True)
class AllContexts:
    """Every context of the order, as one replicate: the exact value, for small games.

    Attributes:
        limit: the largest number of contexts per pair that may be enumerated.
    """

    limit: int = 1 << 16

    @property
    def replicates(self) -> int:
        """One: nothing is random."""
        return 1

    def count(self, n: int, order: int) -> int:
        """All C(n-2, m) of them.

        Raises:
            ValueError: if there are too many to enumerate.
        """
        count = comb(n - 2, order)
        if count > self.limit:
            raise ValueError(
                f"expected at most {self.limit} contexts of order {order} to enumerate, "
                f"got {count}; use Windows or IID for {n} players"
            )
        return count

    def draw(
        self, n: int, pairs_P2: Pairs, orders: Sequence[int], seed: int, image: str
    ) -> Iterator[Contexts]:
        """Contexts of each order; see :class:`ContextSampler`."""
        others_PN = np.stack([np.setdiff1d(np.arange(n), pair) for pair in pairs_P2])
        for order in orders:
            count = self.count(n, order)
            members_Wm = np.array(list(combinations(range(n - 2), order)), dtype=np.int64)
            contexts_PWN = np.zeros((len(pairs_P2), count, n), dtype=bool)
            np.put_along_axis(contexts_PWN, others_PN[:, members_Wm], True, axis=2)
            yield contexts_PWN[:, None]


def _places(n: int, pairs_P2: Pairs, replicates: int, *key: str | int) -> NDArray[np.int64]:
    """Places 0..n-3 of the players other than i and j in random permutations, ``(P, R, N)``.

    Players i and j themselves get places n-2 and n-1.
    """
    words_PRN = np.stack(
        [raw_words(replicates * n, *key, int(i), int(j)).reshape(-1, n) for i, j in pairs_P2]
    )
    # The largest word puts the pair last; a stable sort keeps every other player before it.
    pairs_PR2 = np.broadcast_to(pairs_P2[:, None], (*words_PRN.shape[:2], 2))
    np.put_along_axis(words_PRN, pairs_PR2, np.iinfo(np.uint64).max, axis=2)
    return words_PRN.argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
