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
from interactions.strength import strength


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
        signed_PRO = x_PRO * np.sign(x_PRO.mean(axis=1, keepdims=True))
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
    se: float,
    *,
    replicates: Sequence[int] = (4, 8, 16),
    max_pairs: int = 200,
    max_images: int = 1_000_000,
) -> Plan:
    """The cheapest design whose standard error of J is at most ``se`` at every order.

    Args:
        pilot: a measurement with the same grid and orders; see :func:`variance_parts`.
        se: wanted standard error of J, whose mean is 1.
        replicates: numbers of replicates to choose from; fewer are cheaper and more biased.
        max_pairs: the most pairs per image.
        max_images: the most images there are.

    Raises:
        ValueError: if ``se`` is not positive, or no design reaches it.
    """
    if not se > 0:
        raise ValueError(f"expected a standard error above 0, got {se}")
    parts = variance_parts(pilot)
    first = pilot[0]
    inner = sum(0 < order < first.n - 2 for order in first.orders_O)
    ends = len(first.orders_O) - inner
    best: Plan | None = None
    for R in replicates:
        for P in range(1, max_pairs + 1):
            N = max(int(np.ceil((parts.se(1, P, R).max() / se) ** 2)), 2)
            if max_images < N:
                continue
            forwards = N * P * 4 * (inner * R * first.per_replicate + ends)
            if best is None or forwards < best.forwards:
                best = Plan(N, P, R, forwards, parts.se(N, P, R))
    if best is None:
        raise ValueError(
            f"expected a design of at most {max_images} images and {max_pairs} pairs that reaches "
            f"a standard error of {se}, found none; allow more images"
        )
    return best
