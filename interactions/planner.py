"""How many images, pairs and replicates a wanted precision of J costs.

From a pilot measurement, the variance of J^(m) splits into three parts,

    Var J = V_image / N + V_pair / (N P) + V_context / (N P R),

for N images, P pairs per image and R replicates per pair. The parts come from the influence of
single pairs and replicates on J: u = (a_m - J_m mean_m' a_m') / mean_m' S_m', where a = |I| for a
pair and a = sign(I) x for one replicate x of it.

Shapes: P pairs, R replicates, O orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interactions.estimator import Interactions
from interactions.strength import along, strength


@dataclass(frozen=True)
class VarianceParts:
    """Where the variance of J sits, per order.

    Attributes:
        image_O: between images, for infinitely many pairs and contexts.
        pair_O: between pairs of an image, for infinitely many contexts.
        context_O: between replicates of a pair.
    """

    image_O: NDArray[np.float64]
    pair_O: NDArray[np.float64]
    context_O: NDArray[np.float64]

    def se(self, images: int, pairs: int, replicates: int) -> NDArray[np.float64]:
        """Standard error of J per order for a design."""
        per_image = self.image_O + (self.pair_O + self.context_O / replicates) / pairs
        return np.sqrt(per_image / images)


@dataclass(frozen=True)
class Plan:
    """A design and what it costs.

    Attributes:
        images: N.
        pairs: P per image.
        replicates: R per pair.
        forwards: images through the network, an upper bound: repeats are not counted out.
        se_O: expected standard error of J per order.
    """

    images: int
    pairs: int
    replicates: int
    forwards: int
    se_O: NDArray[np.float64]


def variance_parts(pilot: Sequence[Interactions]) -> VarianceParts:
    """Split the variance of J, from a pilot measurement.

    Args:
        pilot: at least 2 images of one design with at least 2 pairs and 2 replicates.

    Raises:
        ValueError: with less than that.
    """
    R = min(record.replicates(o).shape[1] for record in pilot for o in range(len(record.orders_O)))
    pairs = min((len(record.pairs_P2) for record in pilot), default=0)
    if len(pilot) < 2 or pairs < 2 or R < 2:
        raise ValueError(
            "expected a pilot of at least 2 images, 2 pairs and 2 replicates, "
            f"got {len(pilot)}, {pairs} and {R}"
        )
    whole = strength(pilot, "plug_in")
    scale, J = whole.S.mean(), whole.J
    image_means, pair_variances, context_variances = [], [], []
    for record in pilot:
        x_PRO = record.replicates_PRO[:, :R]
        signed_PRO = np.empty(x_PRO.shape[:3])
        for o in range(x_PRO.shape[2]):
            mean_P = x_PRO[:, :, o].mean(axis=1)
            for r in range(R):
                signed_PRO[:, r, o] = along(x_PRO[:, r, o], mean_P)
        u_PRO = (signed_PRO - J * signed_PRO.mean(axis=2, keepdims=True)) / scale
        u_PO = u_PRO.mean(axis=1)
        context = u_PRO.var(axis=1, ddof=1).mean(axis=0)
        context_variances.append(context)
        pair_variances.append(u_PO.var(axis=0, ddof=1) - context / R)
        image_means.append(u_PO.mean(axis=0))
    context_O = np.mean(context_variances, axis=0)
    pair_O = np.mean(pair_variances, axis=0)
    image_O = np.var(image_means, axis=0, ddof=1) - (pair_O + context_O / R) / pairs
    # An estimated variance can come out below 0; a plan must not count on that.
    return VarianceParts(*(np.maximum(part, 0) for part in (image_O, pair_O, context_O)))


def plan(
    pilot: Sequence[Interactions],
    se: float | None = None,
    *,
    budget: int | None = None,
    others: Sequence[Sequence[Interactions]] = (),
    replicates: Sequence[int] = (4, 8, 16),
    max_pairs: int = 200,
    max_images: int = 1_000_000,
) -> Plan:
    """The design that reaches a precision at the lowest cost, or the most precise within a budget.

    The standard error of a design is its largest over the orders.

    Args:
        pilot: a measurement with the same grid and orders; see :func:`variance_parts`.
        se: wanted standard error of J, whose mean is 1.
        budget: forwards that may be spent on a network, instead of ``se``.
        others: pilots of further networks, for which the design has to be good as well.
        replicates: numbers of replicates to choose from; fewer are cheaper and more biased.
        max_pairs: the most pairs per image.
        max_images: the most images there are.

    Raises:
        ValueError: unless one of ``se`` and ``budget`` is given, above 0, or if no design does it.
    """
    if (se is None) == (budget is None) or (se or budget or 0) <= 0:
        raise ValueError(
            f"expected a standard error or a budget above 0, got se {se} and budget {budget}"
        )
    several = [variance_parts(records) for records in (pilot, *others)]
    first = pilot[0]
    inner = sum(0 < order < first.n - 2 for order in first.orders_O)
    ends = len(first.orders_O) - inner
    best: Plan | None = None
    for R in replicates:
        for P in range(1, max_pairs + 1):
            cost = P * 4 * (inner * R * first.per_replicate + ends)
            if budget is None:
                wanted = max(parts.se(1, P, R).max() for parts in several) / (se or 1)
                N = max(int(np.ceil(wanted**2)), 2)
            else:
                N = min(budget // cost, max_images)
            if not 2 <= N <= max_images:
                continue
            se_O = np.max([parts.se(N, P, R) for parts in several], axis=0)
            this = Plan(N, P, R, int(N * cost), se_O)
            if best is None or _better(this, best, by_cost=budget is None):
                best = this
    if best is None:
        goal = f"costs at most {budget} forwards" if budget else f"reaches a standard error of {se}"
        raise ValueError(
            f"expected a design of at least 2 and at most {max_images} images and at most "
            f"{max_pairs} pairs that {goal}, found none; allow more"
        )
    return best


def _better(this: Plan, best: Plan, *, by_cost: bool) -> bool:
    if by_cost:
        return this.forwards < best.forwards
    return (this.se_O.max(), this.forwards) < (best.se_O.max(), best.forwards)
