"""Multi-order interactions of a game, estimated by paired differences.

    Delta v(i, j, S) = v(S+ij) - v(S+i) - v(S+j) + v(S)
    I^(m)(i, j)      = mean of Delta v over contexts S of size m without i and j

(Zhang et al. 2020; Deng et al., ICLR 2022; A2MIM, Li et al., ICML 2023.) All four coalitions of a
difference are evaluated for it: on networks v varies several times more than Delta v does, and
pairing is what removes that variance. They are handed to the game side by side, so that but for
those that a batch border separates they go through the same kernels together.

Shapes: P pairs, O orders, R replicates, W contexts in a replicate, N players, K coalitions,
D coordinates of a value that is a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from interactions.games.base import Game
from interactions.orders.contexts import IID, Contexts, ContextSampler, Windows
from interactions.orders.pairs import Pairs, PairSampler

PUBLISHED_RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The 13 ratios m / (n-2) of the published curves."""


CHUNK_BYTES = 2 << 20
"""How much memory the coalitions of one chunk of pairs may take, as one byte per player."""


def orders_of(ratios: Sequence[float], n: int) -> tuple[int, ...]:
    """Orders m = floor((n-2) ratio) for ``n`` players, without repeats.

    Small games map several ratios to one order (n = 16: 0 and 0.05 are both m = 0); each order is
    kept once.

    Raises:
        ValueError: if a ratio lies outside [0, 1].
    """
    if not ratios or not all(0 <= ratio <= 1 for ratio in ratios):
        raise ValueError(f"expected ratios between 0 and 1, got {tuple(ratios)}")
    return tuple(sorted({order_of(ratio, n) for ratio in ratios}))


def order_of(ratio: float, n: int) -> int:
    """The order m = floor((n-2) ratio) for ``n`` players."""
    # Rounding must not turn the ratio 49/49, computed as 49 * (1/49), into order 48.
    return int((n - 2) * ratio + 1e-9)


@dataclass(frozen=True)
class Design:
    """What is measured on every image.

    Attributes:
        pairs: which pairs of players.
        contexts: in which contexts.
        ratios: orders as fractions of n-2.
        seed: random seed; the same seed gives the same pairs and contexts to all models.
        replicates: how many replicates each order gets, one number for each of
            :func:`orders_of` the ratios, such as :func:`~interactions.orders.planning.plan`
            chooses; without, those of ``contexts`` at every order.
    """

    pairs: PairSampler
    contexts: ContextSampler = field(default_factory=Windows)
    ratios: tuple[float, ...] = PUBLISHED_RATIOS
    seed: int = 0
    replicates: tuple[int, ...] = ()

    def replicates_at(self, n: int) -> tuple[int, ...]:
        """The number of replicates of each order, for ``n`` players.

        Raises:
            ValueError: if ``replicates`` does not fit the orders or the contexts.
        """
        orders = orders_of(self.ratios, n)
        if not self.replicates:
            return (self.contexts.replicates,) * len(orders)
        if len(self.replicates) != len(orders) or min(self.replicates) < 1:
            raise ValueError(
                f"expected {len(orders)} numbers of replicates, one for each order, "
                f"got {self.replicates}"
            )
        if not isinstance(self.contexts, Windows | IID):
            raise ValueError("expected Windows or IID for replicates that differ between orders")
        return self.replicates


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
            NaN where an order has fewer replicates than the one with the most. ``(P, R, O, D)`` for
            a game of vectors, D at most R: the replicates of a pair and order in an orthonormal
            basis of their span, so that lengths and inner products are those of the full vectors.
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
        """The unbiased estimate of I^(m)(i, j); with one more axis for vectors."""
        return np.nanmean(self.replicates_PRO, axis=1)

    def replicates(self, o: int) -> NDArray[np.float64]:
        """The replicates ``(P, R)`` of the o-th order, as many as it has; vectors ``(P, R, D)``."""
        replicates_PR = self.replicates_PRO[:, :, o]
        missing_R = np.isnan(replicates_PR[0]).reshape(replicates_PR.shape[1], -1).any(axis=1)
        # In rows, so that sums are rounded as those of a plain array are.
        return np.ascontiguousarray(replicates_PR[:, ~missing_R])


def measure_one(game: Game, design: Design) -> Interactions:
    """Estimate the multi-order interactions of one game.

    A coalition that several differences share is evaluated once; at m = 0 and m = n-2 that removes
    all repeats of the published procedure (15 % of its work). Memory does not grow with the number
    of pairs: they are gone through in chunks, which changes no draw and no value. (Only within a
    chunk are shared coalitions found; beyond the ends they are rare unless the game is small.)

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
    orders, replicates = orders_of(design.ratios, n), design.replicates_at(n)
    R, sampler = max(replicates), design.contexts
    if design.replicates and isinstance(sampler, Windows | IID):
        sampler = replace(sampler, replicates=R)
    inner = [o for o, order in enumerate(orders) if 0 < order < n - 2]
    ends = [o for o in range(len(orders)) if o not in inner]
    # The two ends share most of their coalitions between pairs: they go through in one piece, with
    # the first chunk of the rest unless they are played in another arithmetic.
    chunks = _chunks(pairs_P2, n, [orders[o] for o in inner], sampler) if inner else []
    precise = getattr(game, "precise", game)
    pieces = [(game, [(inner, chunk)]) for chunk in chunks]
    if ends and precise is game and pieces:
        pieces[0][1].append((ends, slice(None)))
    elif ends:
        pieces.append((precise, [(ends, slice(None))]))
    forwards, per_replicate = 0, 1
    shape: tuple[int, ...] = (len(pairs_P2), R, len(orders))
    replicates_PRO = np.full(shape, np.nan)
    for player, piece in pieces:
        played = []
        for columns, chunk in piece:
            contexts = sampler.draw(
                n, pairs_P2[chunk], [orders[o] for o in columns], design.seed, game.image
            )
            for o, contexts_PRWN in zip(columns, contexts, strict=True):
                # The empty and the full context exist once; one difference stands for all.
                once = columns is ends
                kept = contexts_PRWN[:, :1, :1] if once else contexts_PRWN[:, : replicates[o]]
                played.append((o, chunk, R if once else replicates[o], kept))
        means, evaluated = replicate_means(player, [(pairs_P2[c], x) for _, c, _, x in played])
        for (o, chunk, count, contexts_PRWN), mean_PR in zip(played, means, strict=True):
            if mean_PR.ndim == 3:  # a game of vectors
                size = min(R, mean_PR.shape[2])
                if replicates_PRO.ndim == 3:
                    replicates_PRO = np.full((*shape, size), np.nan)
                mean_PR = _in_own_basis(mean_PR, size)
            replicates_PRO[chunk, :count, o] = mean_PR
            per_replicate = max(per_replicate, contexts_PRWN.shape[2])
        forwards += evaluated
    return Interactions(
        image=game.image,
        n=n,
        pairs_P2=pairs_P2,
        orders_O=np.array(orders),
        replicates_PRO=replicates_PRO,
        per_replicate=per_replicate,
        forwards=forwards,
    )


def add_replicates(
    game: Game, record: Interactions, design: Design, replicates: Mapping[int, int]
) -> Interactions:
    """Measure more replicates at some orders; what was measured is kept.

    The result is the one that the design with more replicates would have given at these orders.

    Args:
        game: the game of ``record``.
        record: its measurement.
        design: the design of ``record``.
        replicates: how many there shall be, by order m; fewer than there are change nothing, and
            neither does any number at 0 and n-2.

    Raises:
        ValueError: if the contexts of the design have no replicates to add, or the game's values
            are vectors.
    """
    if record.replicates_PRO.ndim == 4:
        raise ValueError(
            "expected a game of numbers to add replicates to, got one of vectors, of which only "
            "lengths and inner products are kept; measure it with more replicates instead"
        )
    if not isinstance(design.contexts, Windows | IID):
        raise ValueError("expected contexts drawn at random (Windows or IID) to draw more of")
    orders = [int(order) for order in record.orders_O]
    have = {o: record.replicates(o).shape[1] for o in range(len(orders))}
    wanted = {
        o: replicates[order]
        for o, order in enumerate(orders)
        if order not in (0, record.n - 2) and replicates.get(order, 0) > have[o]
    }
    P, R, O = record.replicates_PRO.shape
    grown_PRO = np.full((P, max([R, *wanted.values()]), O), np.nan)
    grown_PRO[:, :R] = record.replicates_PRO
    for o, order in enumerate(orders):
        if order in (0, record.n - 2):  # exact: one value stands for any number
            grown_PRO[:, :, o] = record.replicates_PRO[:, :1, o]
    forwards = record.forwards
    for o, count in wanted.items():
        sampler = replace(design.contexts, replicates=count)
        for chunk in _chunks(record.pairs_P2, record.n, [orders[o]], sampler):
            pairs_P2 = record.pairs_P2[chunk]
            (contexts,) = sampler.draw(record.n, pairs_P2, [orders[o]], design.seed, record.image)
            (mean_PR,), evaluated = replicate_means(game, [(pairs_P2, contexts[:, have[o] :])])
            grown_PRO[chunk, have[o] : count, o] = mean_PR
            forwards += evaluated
    return replace(record, replicates_PRO=grown_PRO, forwards=forwards)


def _chunks(pairs_P2: Pairs, n: int, orders: Sequence[int], sampler: ContextSampler) -> list[slice]:
    """Slices of the pairs whose coalitions fit into :data:`CHUNK_BYTES`."""
    per_pair = 4 * n * sum(sampler.count(n, order) for order in orders)
    step = max(CHUNK_BYTES // max(per_pair, 1), 1)
    return [slice(start, start + step) for start in range(0, len(pairs_P2), step)]


def replicate_means(
    game: Game, played: Sequence[tuple[Pairs, Contexts]]
) -> tuple[list[NDArray[np.float64]], int]:
    """Means of Delta v over the contexts of each replicate.

    Args:
        game: what is played.
        played: pairs ``(P, 2)`` and contexts ``(P, R, W, N)``, of as many orders as wanted.

    Returns:
        The means ``(P, R)``, or ``(P, R, D)`` of vectors, for each entry, and how many distinct
        coalitions were evaluated.
    """
    quads = [_with_and_without(contexts_PRWN, pairs_P2) for pairs_P2, contexts_PRWN in played]
    coalitions_KN, which = distinct(np.concatenate([quad.reshape(-1, game.n) for quad in quads]))
    values = game(torch.from_numpy(coalitions_KN)).numpy()[which]
    means, start = [], 0
    for quad in quads:
        stop = start + quad[..., 0].size
        values_PRW4 = values[start:stop].reshape(quad.shape[:-1] + values.shape[1:])
        both, only_i, only_j, neither = np.moveaxis(values_PRW4, 3, 0)
        means.append((both - only_i - only_j + neither).mean(axis=2))
        start = stop
    return means, len(coalitions_KN)


def _in_own_basis(vectors_PRD: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The R vectors of each pair in an orthonormal basis of their span, ``(P, R, size)``."""
    upper = np.asarray(np.linalg.qr(vectors_PRD.swapaxes(1, 2), mode="r"))
    padded = np.zeros((*vectors_PRD.shape[:2], size))
    padded[:, :, : upper.shape[1]] = upper.swapaxes(1, 2)
    return padded


def _with_and_without(contexts_PRWN: Contexts, pairs_P2: Pairs) -> NDArray[np.bool_]:
    """S -> (S+ij, S+i, S+j, S): ``(P, R, W, N)`` -> ``(P, R, W, 4, N)``."""
    quads = np.repeat(contexts_PRWN[:, :, :, None], 4, axis=3)
    for quad_RW4N, (i, j) in zip(quads, pairs_P2, strict=True):
        quad_RW4N[..., [0, 1], i] = True
        quad_RW4N[..., [0, 2], j] = True
    return quads


def distinct(
    coalitions_KN: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Distinct coalitions in order of first appearance, and for every row which of them it is.

    Args:
        coalitions_KN: bool.

    Returns:
        The distinct rows, and an index ``(K,)`` into them.
    """
    packed = np.packbits(coalitions_KN, axis=1)
    rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    appearance = first.argsort()
    place = np.empty_like(appearance)
    place[appearance] = np.arange(len(appearance))
    return coalitions_KN[first[appearance]], place[which]
