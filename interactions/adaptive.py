"""More contexts where they are needed: replicates are doubled order by order.

The split jackknife leaves a bias of order 1/K^2 in S^(m). The two-level estimate has the next term
taken out too, so the difference of the two says how large that bias still is:

    b^(m) = |S_jackknife - S_two-level| / S_jackknife
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from interactions.estimator import Design, Interactions, add_replicates
from interactions.games import Game
from interactions.strength import strength


def refine(
    games: Iterable[Game],
    records: Sequence[Interactions],
    design: Design,
    *,
    bias_tol: float = 0.02,
    max_contexts: int = 64,
) -> list[Interactions]:
    """Double the replicates of orders whose bias diagnostic is above a tolerance.

    An order stops when its diagnostic is met or the next doubling would pass ``max_contexts``. The
    decision is made over all records together, so they must be all that J is computed from.

    Args:
        games: the games of the records, in their order; gone through once for every doubling.
        records: their measurements by ``design``.
        design: with replicates in multiples of 4, as the two-level estimate needs.
        bias_tol: the largest b^(m).
        max_contexts: the most contexts K per pair and order.

    Returns:
        The records, with more replicates at some orders.

    Raises:
        ValueError: if the tolerance is not positive or replicates are not multiples of 4.
    """
    if not bias_tol > 0:
        raise ValueError(f"expected a bias tolerance above 0, got {bias_tol}")
    refined = list(records)
    while orders := biased_orders(refined, bias_tol, max_contexts):
        refined = [
            add_replicates(game, record, design, orders)
            for game, record in zip(games, refined, strict=True)
        ]
    return refined


def biased_orders(
    records: Sequence[Interactions], bias_tol: float = 0.02, max_contexts: int = 64
) -> list[int]:
    """The orders m whose bias diagnostic is above the tolerance and that may be doubled."""
    jackknifed = strength(records, "jackknife").S
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0/0, a game without interactions, is NaN and not above any tolerance
        bias_O = np.abs(jackknifed - strength(records, "two_level").S) / np.abs(jackknifed)
    first = records[0]
    orders = []
    for o, order in enumerate(first.orders_O):
        contexts = first.replicates(o).shape[1] * first.per_replicate
        exact = order in (0, first.n - 2)
        if not exact and bias_O[o] > bias_tol and 2 * contexts <= max_contexts:
            orders.append(int(order))
    return orders
