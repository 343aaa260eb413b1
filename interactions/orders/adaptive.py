"""More contexts where they are needed, order by order, until J is as precise as wanted.

What J^(m) is uncertain by comes from images, pairs and contexts
(:mod:`interactions.orders.planning`). Only the last part can be lowered without more images, and
only at the orders where contexts are noisy. An order is given contexts until

    its relative error is at most the target, or
    contexts add at most a twentieth to the error that infinitely many of them would leave, or
    it has ``max_contexts``, or the budget is spent.

A budget is spent where a forward lowers the sum of squared relative errors most (Neyman 1934).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interactions.checks import instance
from interactions.games.base import Game
from interactions.orders.contexts import IID, Windows
from interactions.orders.estimator import (
    Design,
    Interactions,
    add_to_each,
    is_exact,
    measure_each,
)
from interactions.orders.measurements import Measurements
from interactions.orders.planning import Noise, noise_of
from interactions.progress import Bar, interruptible

if TYPE_CHECKING:
    import pandas as pd

TARGET = 0.1
"""Default of the wanted relative error of J: 95 % intervals of about plus or minus 20 %."""

MAX_CONTEXTS = 64
"""Default of the most contexts per pair and order."""

FEWEST_IMAGES = 8
"""From how many images on there is a telling how much of the error comes from contexts."""

NEGLIGIBLE = 1.05**2 - 1
"""Variance of contexts, relative to that of images and pairs, from which more contexts are in vain:
they add a twentieth to the error."""


def measure(
    games: Iterable[Game],
    design: Design,
    *,
    target: float | None = TARGET,
    budget: int | None = None,
    max_contexts: int = MAX_CONTEXTS,
    progress: bool = False,
) -> Measurements:
    """Estimate the interactions of each game, with more contexts where they are noisy.

    All games are measured by ``design`` first; then orders get more contexts as :func:`refine`
    says. :func:`spending` tells what was spent and what was reached.

    Contexts are added at random draws only (``Windows``, ``IID``) of 4 replicates or more, for
    games of numbers, and from 8 images and 2 pairs on; otherwise, and with a target of None, every
    game is measured by ``design`` alone.

    Args:
        games: what is played. Gone through again for more contexts, so a generator is kept as a
            list.
        design: which pairs, contexts and orders.
        target: wanted relative error of J at every order; None to add nothing.
        budget: most forwards over all games; the design itself is always measured.
        max_contexts: the most contexts per pair and order.
        progress: show a progress bar. An interrupt then ends the measurement alone, with a warning:
            images that were measured are returned; while contexts are added, as they were before.

    Returns:
        The records, a list with tables, files and strengths.

    Raises:
        ValueError: for a target, budget or limit that is not above 0, or a game of fewer than 3
            players.
    """
    _check(target, budget, max_contexts)
    instance(design, Design, "a design")
    if not isinstance(games, Iterable):
        raise TypeError(f"expected games in a list, got {type(games).__name__}")
    if isinstance(games, Sized) and not len(games):
        raise ValueError("expected at least one game, got none")
    if target is not None and iter(games) is games:
        games = list(games)
    records = Measurements()
    total = len(games) if isinstance(games, Sized) else None
    with Bar(total, "images", shown=progress) as bar, interruptible(bar):
        for record in measure_each(games, design):
            records.append(record)
            bar.advance()
    if bar.interrupted or target is None or not can_grow(records, design):
        return records
    return _refined(games, records, design, target, budget, max_contexts, progress)


def can_grow(records: Sequence[Interactions], design: Design) -> bool:
    """Whether the records tell how noisy contexts are, and the design has more of them."""
    return (
        isinstance(design.contexts, Windows | IID)
        and len(records) >= FEWEST_IMAGES
        and records[0].replicates_PRO.ndim == 3
        and min(len(record.pairs_P2) for record in records) >= 2
        and min(_replicates(records), default=0) >= 4
    )


def refine(
    games: Iterable[Game],
    records: Sequence[Interactions],
    design: Design,
    *,
    target: float = TARGET,
    budget: int | None = None,
    max_contexts: int = MAX_CONTEXTS,
    progress: bool = False,
) -> Measurements:
    """Add contexts to measured games at the orders where that makes J more precise.

    The decision is made over all records together, so they must be all that J is computed from.

    Args:
        games: the games of the records, in their order; gone through once for every addition.
        records: their measurements by ``design``.
        design: with at least 4 replicates of random contexts.
        target: wanted relative error of J at every order.
        budget: most forwards over all games, those of ``records`` included.
        max_contexts: the most contexts per pair and order.
        progress: as for :func:`measure`.

    Returns:
        The records, with more replicates at some orders.

    Raises:
        ValueError: for a target, budget or limit that is not above 0, or records that do not tell
            how noisy contexts are; see :func:`measure`.
    """
    _check(target, budget, max_contexts)
    if not can_grow(records, design):
        raise ValueError(
            f"expected at least {FEWEST_IMAGES} images of numbers, 2 pairs and 4 replicates of "
            "random contexts to see where more are needed"
        )
    return _refined(games, records, design, target, budget, max_contexts, progress)


def _refined(
    games: Iterable[Game],
    records: Sequence[Interactions],
    design: Design,
    target: float,
    budget: int | None,
    max_contexts: int,
    progress: bool,
) -> Measurements:
    refined = Measurements(records)
    while wanted := wanted_replicates(refined, target, budget, max_contexts):
        grown = Measurements()
        with (
            Bar(len(refined), "images with more contexts", shown=progress) as bar,
            interruptible(bar, "images have the contexts that all of them had before", needed=0),
        ):
            for record in add_to_each(games, refined, design, wanted):
                grown.append(record)
                bar.advance()
        if bar.interrupted:  # all images with one number of contexts
            break
        refined = grown
    return refined


def wanted_replicates(
    records: Sequence[Interactions],
    target: float = TARGET,
    budget: int | None = None,
    max_contexts: int = MAX_CONTEXTS,
) -> dict[int, int]:
    """The replicates that orders shall have next, by order m; empty if all have enough.

    At most four times as many as there are: then the noise is better known.

    Args:
        records: all that J is computed from.
        target: wanted relative error of J at every order.
        budget: most forwards over all games, those of ``records`` included.
        max_contexts: the most contexts per pair and order.
    """
    noise = noise_of(records)
    images, pairs = len(records), len(records[0].pairs_P2)
    have_O, W = noise.replicates_O, noise.per_replicate
    cap_O = np.minimum(4 * have_O, max_contexts // W)
    wanted_O = have_O.copy()
    left = np.inf if budget is None else budget - sum(record.forwards for record in records)
    step_cost = 8.0 * W * sum(len(record.pairs_P2) for record in records)
    while True:
        needy_O = _needy(noise, images, pairs, wanted_O, target) & (wanted_O + 2 <= cap_O)
        if not needy_O.any() or left < step_cost:
            break
        now_O, then_O = (noise.energy_parts.context_O(R_O) for R_O in (wanted_O, wanted_O + 2))
        o = int(np.argmax(np.where(needy_O, now_O - then_O, -np.inf)))
        wanted_O[o] += 2
        left -= step_cost
    return {
        int(noise.orders_O[o]): int(wanted_O[o])
        for o in np.flatnonzero((wanted_O > have_O) & ~noise.exact_O)
    }


def spending(records: Sequence[Interactions], target: float = TARGET) -> pd.DataFrame:
    """What was spent at each order, and what it reached.

    Args:
        records: measured images, at least 2 of at least 2 pairs and 4 replicates.
        target: wanted relative error of J.

    Returns:
        One row per order: order, ratio, contexts per pair, forwards over all images (repeats not
        counted out), relative error of J, shares of its square that come from images, pairs and
        contexts, and state: ``reached``, or what the largest share asks for: ``more images``,
        ``more pairs`` or ``more contexts``.
    """
    import pandas as pd

    noise = noise_of(records)
    images, pairs, R_O = len(records), len(records[0].pairs_P2), noise.replicates_O
    parts = noise.J_parts
    shares_3O = np.stack([parts.image_O, parts.pair_O / pairs, parts.context_O(R_O) / pairs])
    total_O = shares_3O.sum(axis=0)
    error_O = noise.error_O(images, pairs, R_O) / noise.J_O
    with np.errstate(invalid="ignore"):
        shares_3O = np.where(total_O > 0, shares_3O / total_O, 0)
    missing = np.array(["more images", "more pairs", "more contexts"])[shares_3O.argmax(axis=0)]
    return pd.DataFrame(
        {
            "order": noise.orders_O,
            "ratio": noise.orders_O / (records[0].n - 2),
            "contexts": np.where(noise.exact_O, 1, R_O * noise.per_replicate).astype(int),
            "forwards": (images * noise.forwards_O(pairs, R_O)).astype(int),
            "error": error_O,
            "from_images": shares_3O[0],
            "from_pairs": shares_3O[1],
            "from_contexts": shares_3O[2],
            "state": np.where(error_O <= target, "reached", missing),
        }
    )


def _needy(
    noise: Noise, images: int, pairs: int, R_O: NDArray[np.float64], target: float
) -> NDArray[np.bool_]:
    """Orders whose error is above the target, and not for want of images and pairs alone."""
    parts = noise.J_parts
    contexts_O = parts.context_O(R_O) / pairs
    others_O = parts.image_O + parts.pair_O / pairs
    above_O = noise.error_O(images, pairs, R_O) > target * noise.J_O
    return ~noise.exact_O & above_O & (contexts_O > NEGLIGIBLE * others_O)


def _replicates(records: Sequence[Interactions]) -> list[int]:
    """Replicates of all images and orders at which contexts are sampled."""
    return [
        record.replicates(o).shape[1]
        for record in records
        for o in range(len(record.orders_O))
        if not is_exact(record, o)
    ]


def _check(target: float | None, budget: int | None, max_contexts: int) -> None:
    for name, value in (("target", target), ("budget", budget), ("max_contexts", max_contexts)):
        if value is not None and not value > 0:
            raise ValueError(f"expected a {name} above 0, got {value}")
