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

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from interactions import plots
from interactions.checks import numbers, whole
from interactions.games.base import Game
from interactions.games.stream import Answer, Stream
from interactions.orders.contexts import IID, Contexts, ContextSampler, Windows
from interactions.orders.pairs import Pairs, PairSampler

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

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

    def __post_init__(self) -> None:
        numbers(self.ratios, "ratios")
        whole(self.seed, "seed", None)

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

    def __repr__(self) -> str:
        P, R, O = self.replicates_PRO.shape[:3]
        return (
            f"Interactions({self.image!r}, {P} pairs of {self.n} players, {O} orders, "
            f"up to {R} x {self.per_replicate} contexts, {self.forwards} forwards)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and order: image, i, j, order, ratio, interaction, se.

        ``se`` is the standard error over contexts: 0 where nothing was sampled, NaN where a single
        replicate tells nothing.

        Raises:
            ValueError: for a game of vectors.
        """
        import pandas as pd

        P, O = len(self.pairs_P2), len(self.orders_O)
        se_PO = self.se_PO  # refuses vectors
        i_P, j_P = np.sort(self.pairs_P2, axis=1).T
        columns = (
            np.full(P * O, self.image, dtype=object),
            np.repeat(i_P, O),
            np.repeat(j_P, O),
            np.tile(self.orders_O, P),
            np.tile(self.orders_O / (self.n - 2), P),
            self.mean_PO.ravel(),
            se_PO.ravel(),
        )
        return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))

    def plot(self, ax: Axes | None = None, *, count: int = 4) -> Axes:
        """The strongest pairs over orders, with two standard errors over contexts.

        Args:
            ax: axes to draw in; new ones if left out.
            count: how many pairs.

        Raises:
            ValueError: for a game of vectors.
        """
        ax = plots.axes_or_new(ax)
        ratios_O, mean_PO, se_PO = self.orders_O / (self.n - 2), self.mean_PO, self.se_PO
        strongest = np.argsort(-np.abs(mean_PO).max(axis=1), kind="stable")[:count]
        for k, p in enumerate(strongest.tolist()):
            i, j = sorted(self.pairs_P2[p].tolist())
            colour = plots.COLOURS[(k + 1) % len(plots.COLOURS)]
            error = 2 * np.nan_to_num(se_PO[p])
            ax.errorbar(ratios_O, mean_PO[p], error, color=colour, marker="o", label=f"{i}, {j}")
        ax.axhline(0, color="#9ca3af", linewidth=0.8, zorder=0)
        ax.set(
            xlabel="order m / (n−2)", ylabel="interaction", title=f"{self.image}: strongest pairs"
        )
        ax.legend()
        return ax

    def _repr_html_(self) -> str:
        vectors = self.replicates_PRO.ndim == 4
        return plots.as_html(repr(self), None if vectors else self.to_frame())

    @property
    def mean_PO(self) -> NDArray[np.float64]:
        """The unbiased estimate of I^(m)(i, j); with one more axis for vectors."""
        return np.nanmean(self.replicates_PRO, axis=1)

    @property
    def se_PO(self) -> NDArray[np.float64]:
        """Standard error of :attr:`mean_PO` over contexts: 0 if exact, NaN of one replicate.

        Raises:
            ValueError: for a game of vectors.
        """
        if self.replicates_PRO.ndim == 4:
            raise ValueError("expected interactions that are numbers, got vectors")
        se_PO = np.empty((len(self.pairs_P2), len(self.orders_O)))
        for o in range(len(self.orders_O)):
            x_PR = self.replicates(o)
            R = x_PR.shape[1]
            if is_exact(self, o):
                se_PO[:, o] = 0
            else:
                se_PO[:, o] = x_PR.std(axis=1, ddof=1) / np.sqrt(R) if R > 1 else np.nan
        return se_PO

    def replicates(self, o: int) -> NDArray[np.float64]:
        """The replicates ``(P, R)`` of the o-th order, as many as it has; vectors ``(P, R, D)``."""
        replicates_PR = self.replicates_PRO[:, :, o]
        missing_R = np.isnan(replicates_PR[0]).reshape(replicates_PR.shape[1], -1).any(axis=1)
        # In rows, so that sums are rounded as those of a plain array are.
        return np.ascontiguousarray(replicates_PR[:, ~missing_R])


COLUMNS = ["image", "i", "j", "order", "ratio", "interaction", "se"]
"""Of :meth:`Interactions.to_frame`."""


def is_exact(record: Interactions, o: int) -> bool:
    """Whether nothing is sampled at the o-th order: one context exists, or all were enumerated."""
    order, others = int(record.orders_O[o]), record.n - 2
    if order in (0, others):
        return True
    enumerated = max(comb(others, int(m)) for m in record.orders_O)
    return record.replicates(o).shape[1] == 1 and record.per_replicate == enumerated


def measure_one(game: Game, design: Design) -> Interactions:
    """Estimate the multi-order interactions of one game; see :func:`measure_each`."""
    return next(measure_each([game], design))


def measure_each(
    games: Iterable[Game], design: Design, *, together: bool | None = None
) -> Iterator[Interactions]:
    """Estimate the multi-order interactions of games, one after the other.

    A coalition that several differences share is evaluated once; at m = 0 and m = n-2 that removes
    all repeats of the published procedure (15 % of its work). Memory does not grow with the number
    of pairs: they are gone through in chunks, which changes no draw and no value. (Only within a
    chunk are shared coalitions found; beyond the ends they are rare unless the game is small.)

    Args:
        games: what is played; gone through once, a game ahead of the records on an accelerator.
        design: which pairs, contexts and orders.
        together: whether images of a network share batches, which changes values by no more than
            rounding; None: on an accelerator (:mod:`interactions.games.stream`).

    Yields:
        The replicate means of all pairs and orders, for each game in turn.

    Raises:
        ValueError: if a game has fewer than 3 players.
    """
    yield from _in_turn((partial(_measuring, game, design) for game in games), together)


AHEAD = 16
"""Images that may wait for their batches to be full."""


def _in_turn(
    measurements: Iterable[Callable[[Stream], _Measuring]], together: bool | None = None
) -> Iterator[Interactions]:
    """Records in the order of their games, as soon as the device has been given all they take."""
    stream = Stream(together)
    started: deque[_Measuring] = deque()
    for start in measurements:
        started.append(start(stream))
        stream.end_image()
        if len(started) > AHEAD:  # lanes that fill slowly would keep all images waiting
            stream.finish()
        while len(started) > stream.ahead and started[0].complete:
            yield started.popleft().record()
    stream.finish()
    while started:
        yield started.popleft().record()


@dataclass(frozen=True)
class _Measuring:
    """A measurement whose values are on their way.

    Attributes:
        asked: all that was asked.
        record: puts it together.
    """

    asked: list[_Differences]
    record: Callable[[], Interactions]

    @property
    def complete(self) -> bool:
        return all(asked.answer.complete for asked in self.asked)


def _measuring(game: Game, design: Design, stream: Stream) -> _Measuring:
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
    asked, places = [], []
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
                played.append((pairs_P2[chunk], kept))
                places.append((o, chunk, R if once else replicates[o], kept.shape[2]))
        asked.append(_ask(stream, player, played))

    def record() -> Interactions:
        shape: tuple[int, ...] = (len(pairs_P2), R, len(orders))
        replicates_PRO = np.full(shape, np.nan)
        means = [mean_PR for differences in asked for mean_PR in differences.means()]
        for (o, chunk, count, _), mean_PR in zip(places, means, strict=True):
            if mean_PR.ndim == 3:  # a game of vectors
                size = min(R, mean_PR.shape[2])
                if replicates_PRO.ndim == 3:
                    replicates_PRO = np.full((*shape, size), np.nan)
                mean_PR = _in_own_basis(mean_PR, size)
            replicates_PRO[chunk, :count, o] = mean_PR
        return Interactions(
            image=game.image,
            n=n,
            pairs_P2=pairs_P2,
            orders_O=np.array(orders),
            replicates_PRO=replicates_PRO,
            per_replicate=max([1, *(windows for *_, windows in places)]),
            forwards=sum(differences.answer.count for differences in asked),
        )

    return _Measuring(asked, record)


def add_replicates(
    game: Game, record: Interactions, design: Design, replicates: Mapping[int, int]
) -> Interactions:
    """Measure more replicates of one game; see :func:`add_to_each`."""
    return next(add_to_each([game], [record], design, replicates))


def add_to_each(
    games: Iterable[Game],
    records: Iterable[Interactions],
    design: Design,
    replicates: Mapping[int, int],
) -> Iterator[Interactions]:
    """Measure more replicates at some orders; what was measured is kept.

    The result is the one that the design with more replicates would have given at these orders.

    Args:
        games: the games of ``records``, in their order.
        records: their measurements.
        design: the design of ``records``.
        replicates: how many there shall be, by order m; fewer than there are change nothing, and
            neither does any number at 0 and n-2.

    Raises:
        ValueError: if the contexts of the design have no replicates to add, or a game's values are
            vectors.
    """
    yield from _in_turn(
        partial(_adding, game, record, design, replicates)
        for game, record in zip(games, records, strict=True)
    )


def _adding(
    game: Game,
    record: Interactions,
    design: Design,
    replicates: Mapping[int, int],
    stream: Stream,
) -> _Measuring:
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
    asked, places = [], []
    for o, count in wanted.items():
        sampler = replace(design.contexts, replicates=count)
        for chunk in _chunks(record.pairs_P2, record.n, [orders[o]], sampler):
            pairs_P2 = record.pairs_P2[chunk]
            (contexts,) = sampler.draw(record.n, pairs_P2, [orders[o]], design.seed, record.image)
            asked.append(_ask(stream, game, [(pairs_P2, contexts[:, have[o] :])]))
            places.append((o, chunk, count))

    def grown() -> Interactions:
        P, R, O = record.replicates_PRO.shape
        grown_PRO = np.full((P, max([R, *wanted.values()]), O), np.nan)
        grown_PRO[:, :R] = record.replicates_PRO
        for o, order in enumerate(orders):
            if order in (0, record.n - 2):  # exact: one value stands for any number
                grown_PRO[:, :, o] = record.replicates_PRO[:, :1, o]
        for (o, chunk, count), differences in zip(places, asked, strict=True):
            (grown_PRO[chunk, have[o] : count, o],) = differences.means()
        forwards = record.forwards + sum(differences.answer.count for differences in asked)
        return replace(record, replicates_PRO=grown_PRO, forwards=forwards)

    return _Measuring(asked, grown)


def _chunks(pairs_P2: Pairs, n: int, orders: Sequence[int], sampler: ContextSampler) -> list[slice]:
    """Slices of the pairs whose coalitions fit into :data:`CHUNK_BYTES`."""
    per_pair = 4 * n * sum(sampler.count(n, order) for order in orders)
    step = max(CHUNK_BYTES // max(per_pair, 1), 1)
    return [slice(start, start + step) for start in range(0, len(pairs_P2), step)]


def replicate_means(
    game: Game, played: Sequence[tuple[Pairs, Contexts]]
) -> list[NDArray[np.float64]]:
    """Means of Delta v over the contexts of each replicate.

    Args:
        game: what is played.
        played: pairs ``(P, 2)`` and contexts ``(P, R, W, N)``, of as many orders as wanted.

    Returns:
        The means ``(P, R)``, or ``(P, R, D)`` of vectors, for each entry.
    """
    stream = Stream(together=False)
    differences = _ask(stream, game, played)
    stream.finish()
    return differences.means()


@dataclass(frozen=True)
class _Differences:
    """Differences whose values are on their way.

    Attributes:
        answer: the values of distinct coalitions.
        which: of all coalitions, which of the distinct ones each is.
        shapes: of the contexts of each order, and the 4 coalitions of a difference.
    """

    answer: Answer
    which: NDArray[np.int64]
    shapes: list[tuple[int, ...]]

    def means(self) -> list[NDArray[np.float64]]:
        """Means over the contexts of each replicate; waits for the values."""
        values = self.answer.fetch().numpy()[self.which]
        means, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            values_PRW4 = values[start:stop].reshape(shape + values.shape[1:])
            both, only_i, only_j, neither = np.moveaxis(values_PRW4, 3, 0)
            means.append((both - only_i - only_j + neither).mean(axis=2))
            start = stop
        return means


def _ask(stream: Stream, game: Game, played: Sequence[tuple[Pairs, Contexts]]) -> _Differences:
    """Ask for the coalitions of differences, each distinct one once."""
    quads = [_with_and_without(contexts_PRWN, pairs_P2) for pairs_P2, contexts_PRWN in played]
    coalitions_KN, which = distinct(np.concatenate([quad.reshape(-1, game.n) for quad in quads]))
    answer = stream.ask(game, torch.from_numpy(coalitions_KN))
    return _Differences(answer, which, [quad.shape[:-1] for quad in quads])


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
