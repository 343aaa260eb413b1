"""Multi-order interactions of a game, estimated by paired differences.

    Delta v(i, j, S) = v(S+ij) - v(S+i) - v(S+j) + v(S)
    I^(m)(i, j)      = mean of Delta v over contexts S of size m without i and j

(Zhang et al. 2020; Deng et al., ICLR 2022; A2MIM, Li et al., ICML 2023.) The four coalitions of a
difference are evaluated together: on networks v varies several times more than Delta v does, and
pairing is what removes that variance.

Shapes: P pairs, O orders, R replicates, W contexts in a replicate, N players, K coalitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from interactions.contexts import ContextLaw, Contexts, Windows
from interactions.games import Game
from interactions.pairs import PairLaw, Pairs

PUBLISHED_RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The 13 ratios m / (n-2) of the published curves."""


def orders_of(ratios: Sequence[float], n: int) -> tuple[int, ...]:
    """Orders m = floor((n-2) ratio) for ``n`` players, without repeats.

    Small games map several ratios to one order (n = 16: 0 and 0.05 are both m = 0); each order is
    kept once.

    Raises:
        ValueError: if a ratio lies outside [0, 1].
    """
    if not ratios or not all(0 <= ratio <= 1 for ratio in ratios):
        raise ValueError(f"expected ratios between 0 and 1, got {tuple(ratios)}")
    return tuple(sorted({int((n - 2) * ratio) for ratio in ratios}))


@dataclass(frozen=True)
class Design:
    """What is measured on every image.

    Attributes:
        pairs: which pairs of players.
        contexts: in which contexts.
        ratios: orders as fractions of n-2.
        seed: names the random draws; the same seed gives the same pairs and contexts to all models.
    """

    pairs: PairLaw
    contexts: ContextLaw = field(default_factory=Windows)
    ratios: tuple[float, ...] = PUBLISHED_RATIOS
    seed: int = 0


@dataclass(frozen=True)
class Interactions:
    """Estimated interactions of one image.

    Attributes:
        image: the name of the image.
        n: number of players.
        pairs_P2: the pairs.
        orders_O: the orders m.
        replicates_PRO: float64, one unbiased estimate of I^(m)(i, j) per replicate; replicates are
            independent, except at m = 0 and m = n-2, where there is one context and all are exact.
        per_replicate: contexts W in one replicate (at the orders that have that many).
        forwards: distinct coalitions that were evaluated.
    """

    image: str
    n: int
    pairs_P2: Pairs
    orders_O: NDArray[np.int64]
    replicates_PRO: NDArray[np.float64]
    per_replicate: int
    forwards: int

    @property
    def mean_PO(self) -> NDArray[np.float64]:
        """The unbiased estimate of I^(m)(i, j)."""
        return self.replicates_PRO.mean(axis=1)


def measure(games: Iterable[Game], design: Design) -> list[Interactions]:
    """Estimate the interactions of each game; see :func:`measure_one`.

    Wrap ``games`` in a progress bar to watch, or in a filter to shard: every game is measured on
    its own and by key, so the result does not depend on which others are measured with it.
    """
    return [measure_one(game, design) for game in games]


def measure_one(game: Game, design: Design) -> Interactions:
    """Estimate the multi-order interactions of one game.

    Every coalition is evaluated once, however many differences it belongs to; at m = 0 and
    m = n-2 that removes all repeats of the published procedure (15 % of its work).

    Args:
        game: what is played.
        design: which pairs, contexts and orders.

    Returns:
        The replicate means of all pairs and orders.

    Raises:
        ValueError: if the game has fewer than 3 players.
    """
    n = game.n
    if n < 3:
        raise ValueError(f"expected a game of at least 3 players, got {n}")
    pairs_P2 = design.pairs.draw(n, design.seed, game.image)
    orders = orders_of(design.ratios, n)

    quads = [
        # The empty and the full context exist once; one difference stands for every replicate.
        _with_and_without(contexts[:, :1, :1] if order in (0, n - 2) else contexts, pairs_P2)
        for order, contexts in zip(
            orders,
            design.contexts.draw(n, pairs_P2, orders, design.seed, game.image),
            strict=True,
        )
    ]
    coalitions_KN, which = _distinct(np.concatenate([quad.reshape(-1, n) for quad in quads]))
    values = game(torch.from_numpy(coalitions_KN)).numpy()[which]

    replicates_PRO = np.empty((len(pairs_P2), design.contexts.replicates, len(orders)))
    start = 0
    for o, quad in enumerate(quads):
        stop = start + quad[..., 0].size
        both, only_i, only_j, neither = np.moveaxis(
            values[start:stop].reshape(quad.shape[:-1]), -1, 0
        )
        replicates_PRO[:, :, o] = (both - only_i - only_j + neither).mean(axis=2)
        start = stop
    return Interactions(
        image=game.image,
        n=n,
        pairs_P2=pairs_P2,
        orders_O=np.array(orders),
        replicates_PRO=replicates_PRO,
        per_replicate=max(quad.shape[2] for quad in quads),
        forwards=len(coalitions_KN),
    )


def _with_and_without(contexts_PRWN: Contexts, pairs_P2: Pairs) -> NDArray[np.bool_]:
    """S -> (S+ij, S+i, S+j, S): ``(P, R, W, N)`` -> ``(P, R, W, 4, N)``."""
    quads = np.repeat(contexts_PRWN[:, :, :, None], 4, axis=3)
    for quad_RW4N, (i, j) in zip(quads, pairs_P2, strict=True):
        quad_RW4N[..., [0, 1], i] = True
        quad_RW4N[..., [0, 2], j] = True
    return quads


def _distinct(
    coalitions_KN: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Distinct rows, and for every row which of them it is."""
    packed = np.packbits(coalitions_KN, axis=1)
    rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    return coalitions_KN[first], which
