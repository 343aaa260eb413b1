"""The published designs, draw for draw, so that published numbers can be computed again.

For image k of a run, g x g cells (n = g^2) numbered row by row, and the seed s of the run:

    pairs      NumPy and Python's ``random`` start from 1000 k + s. Until there are P pairs: NumPy
               draws the row of i, then its column; Python's ``random`` chooses one offset of at
               most r rows and columns, not (0, 0), from a list ordered by row, then by column;
               j = i + offset, clamped at the border. The draw is dropped if j = i or if the pair
               was drawn before, in either order; otherwise (i, j) is kept in the order drawn.
    contexts   for each order m NumPy starts once from 1000 k + m + 1 + s. Pair after pair, and K
               times for each, it chooses m of the ascending list of the other n-2 players without
               replacement.

Sources: Deng et al., ICLR 2022, repository ``Nebularaid2000/bottleneck`` (``gen_pairs_pixel.py``,
``util/utils.py``, ``config.yaml``, ``interaction.sh``): everything above and every number of
``"iclr22"`` was read there. A2MIM, Li et al., ICML 2023, repository ``Westlake-AI/A2MIM``
(``analysis_tools/representation_bottleneck``): the grid and the seed of ``"a2mim"`` were read in
``interaction_in1k.sh``; its pair generator was read in a copy whose repository is not named but
whose options are that tool's, and draws the same way; its counts, radius and ratios are those of
our notes on that tool. No published file of pairs or contexts was at hand to compare with.

What is k? The position, from 0, in the list of images that a run measured, not in the data set. The
ICLR list holds only the images its model classifies correctly, so k can differ between models. An
A2MIM list can name an image twice; its files are named after the image, so the results of the last
place replace those of the earlier ones, and the last place is the k to use.

NumPy has frozen ``RandomState`` (NEP 19). Python guarantees ``random()`` across versions but not
``choice``; fixed numbers in the tests would show a change. They were made with Python 3.9 and NumPy
1.19.5, the versions that the ICLR repository names.

Shapes: P pairs, K contexts of a pair and order, N players.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from random import Random
from typing import Any

import numpy as np

from interactions.orders.contexts import Contexts
from interactions.orders.estimator import PUBLISHED_RATIOS, Design
from interactions.orders.pairs import NeighbourPairs, Pairs
from interactions.patches import PatchGrid


@dataclass(frozen=True)
class PublishedPairs:
    """The published pairs of neighbouring cells; see the top of this module.

    Same distribution as ``NeighbourPairs(rule="clamped")``, but the very pairs of the publications.
    Two things differ from the other samplers: the image's name has to be its index k, and pairs
    keep the order in which they were drawn, so that i > j occurs (interactions are symmetric).

    Attributes:
        grid: where the players sit; square, as the published rule knows no other.
        count: pairs P per image.
        radius: largest distance in rows and in columns.
    """

    grid: PatchGrid
    count: int
    radius: int = 2

    def __post_init__(self) -> None:
        if self.grid.rows != self.grid.cols:
            raise ValueError(f"expected a square grid, got {self.grid.rows} x {self.grid.cols}")
        # More pairs than there are would be looked for without end.
        available = len(NeighbourPairs(self.grid, self.radius).candidates())
        if not 1 <= self.count <= available:
            raise ValueError(
                f"expected between 1 and {available} pairs per image, got {self.count}"
            )

    def draw(self, n: int, seed: int, image: str) -> Pairs:
        """The pairs of the image with index ``image``.

        Raises:
            ValueError: if the game is not over the grid's players, or the image's name is not an
                index.
        """
        if n != self.grid.n:
            raise ValueError(f"expected a game over the grid's {self.grid.n} players, got {n}")
        start = _start(image, seed)
        cells, shifts = np.random.RandomState(start), Random(start)
        reach = range(-self.radius, self.radius + 1)
        offsets = [offset for offset in product(reach, repeat=2) if offset != (0, 0)]
        side = self.grid.rows
        drawn: dict[frozenset[int], tuple[int, int]] = {}
        while len(drawn) < self.count:
            # Two scalar draws, row first. A dropped draw has used both generators too.
            row, col = int(cells.randint(side)), int(cells.randint(side))
            down, right = shifts.choice(offsets)
            i = row * side + col
            j = _clamp(row + down, side) * side + _clamp(col + right, side)
            if i != j:
                drawn.setdefault(frozenset((i, j)), (i, j))
        return np.array(list(drawn.values()), dtype=np.int64)


@dataclass(frozen=True)
class PublishedContexts:
    """The published contexts; see the top of this module.

    Same distribution as ``IID``, but the very contexts of the publications. All pairs of an image
    draw from one stream of random numbers for an order. Every context uses one shuffle of n-2
    places, whatever its pair and order, so a pair's place in the published list tells where its
    part of the stream begins: its contexts do not depend on which other pairs are asked for. They
    do depend on K.

    Attributes:
        pairs: the published pairs.
        replicates: contexts K per pair and order.
    """

    pairs: PublishedPairs
    replicates: int

    def __post_init__(self) -> None:
        if self.replicates < 1:
            raise ValueError(f"expected at least 1 of replicates, got {self.replicates}")

    def count(self, n: int, order: int) -> int:
        """K, one in each replicate."""
        return self.replicates

    def draw(
        self, n: int, pairs_P2: Pairs, orders: Sequence[int], seed: int, image: str
    ) -> Iterator[Contexts]:
        """Contexts ``(P, K, 1, N)`` of each order, for some or all pairs of image ``image``.

        Raises:
            ValueError: as :meth:`PublishedPairs.draw`, and if a pair is not one of the image's
                published pairs.
        """
        published = self.pairs.draw(n, seed, image).tolist()
        place_of = {frozenset(pair): place for place, pair in enumerate(published)}
        for pair in pairs_P2.tolist():
            if frozenset(pair) not in place_of:
                raise ValueError(
                    f"expected pairs among the {len(published)} published ones of image {image}, "
                    f"got {tuple(pair)}"
                )
        for order in orders:
            start = _start(image, order + 1 + seed)
            begins = _begins(start, n - 2, self.replicates, len(published))
            stream = np.random.RandomState(start)
            contexts_PK1N = np.zeros((len(pairs_P2), self.replicates, 1, n), dtype=bool)
            for contexts_K1N, pair in zip(contexts_PK1N, pairs_P2, strict=True):
                stream.set_state(begins[place_of[frozenset(pair.tolist())]])
                others = np.delete(np.arange(n), pair)
                for context_1N in contexts_K1N:
                    # What RandomState.choice does without replacement: shuffle all, keep a few.
                    context_1N[:, others[stream.permutation(n - 2)[:order]]] = True
            yield contexts_PK1N


# Pairs may be measured a few at a time, always with all orders: without the cache each time would
# go through the stream from its start. 32 streams are more than the 13 orders of an image.
@lru_cache(maxsize=32)
def _begins(start: int, places: int, replicates: int, pairs: int) -> tuple[dict[str, Any], ...]:
    """States of the stream before the contexts of each pair."""
    stream = np.random.RandomState(start)
    states = []
    for _ in range(pairs):
        states.append(stream.get_state(legacy=False))
        for _ in range(replicates):
            stream.permutation(places)
    return tuple(states)


def _design(side: int, pairs: int, contexts: int, seed: int) -> Design:
    sampler = PublishedPairs(PatchGrid(side, side), pairs, radius=2)
    return Design(sampler, PublishedContexts(sampler, contexts), PUBLISHED_RATIOS, seed)


_PROTOCOLS = {
    "iclr22": _design(side=16, pairs=200, contexts=100, seed=0),
    "a2mim": _design(side=14, pairs=50, contexts=50, seed=1),
}


def protocol(name: str) -> Design:
    """A published design.

    * ``"iclr22"``: CIFAR-10 at 32 pixels, 16 x 16 cells, 200 pairs, 100 contexts, 13 ratios,
      seed 0 (Deng et al., ICLR 2022).
    * ``"a2mim"``: ImageNet at 224 pixels, 14 x 14 cells, 50 pairs, 50 contexts, 13 ratios, seed 1
      (the tool of Li et al., ICML 2023).

    Games must be named by the index of their image, as
    :class:`~interactions.games.image.PatchGames` does unless it is given names. The published
    baseline is the mean colour of the data set, the published reward the log-odds of the label. At
    m = 0 and m = n-2 the publications evaluate the same context K times;
    :func:`~interactions.orders.estimator.measure_one` evaluates it once, with the same value. The
    published strength is the plain mean over pairs of the absolute mean over contexts, which is
    biased upwards at all other orders.

    Args:
        name: ``"iclr22"`` or ``"a2mim"``.

    Returns:
        The design; ``dataclasses.replace(design, seed=...)`` gives other runs of the protocol.

    Raises:
        ValueError: if there is no protocol of that name.
    """
    if name not in _PROTOCOLS:
        raise ValueError(f"expected one of the protocols {sorted(_PROTOCOLS)}, got {name!r}")
    return _PROTOCOLS[name]


def _start(image: str, offset: int) -> int:
    """1000 k + offset, for the image whose name is the index k."""
    # "007", "+7" and other scripts' digits would be second names of image 7.
    if not (image.isascii() and image.isdecimal() and image == str(int(image))):
        raise ValueError(
            "published draws are keyed by the image's index: expected an image named "
            f"'0', '1', '2', ..., got {image!r}"
        )
    start = 1000 * int(image) + offset
    if not 0 <= start < 1 << 32:
        raise ValueError(
            f"expected 1000 x index + seed between 0 and 2**32 - 1, got {start} for image {image!r}"
        )
    return start


def _clamp(place: int, side: int) -> int:
    return min(max(place, 0), side - 1)
