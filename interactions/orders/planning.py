"""How many images, pairs and contexts a wanted precision of J costs.

The energy of a pair, with the inner products h(r, s) = x_r x_s of its R replicates, is the
U-statistic mean over r != s of h(r, s). Its variance over contexts (Hoeffding 1948) is

    V_context(R) = 4 z1 / R + 2 z2 / (R (R - 1)),
    z1 = cov(h(1, 2), h(1, 3)),  z2 = var(h(1, 2)) - 2 z1,

so that N images with P pairs each give

    Var = V_image / N + (V_pair + V_context(R)) / (N P).

A pilot measurement tells the parts without bias: z1 and z2 are means of products over replicates
that are all different. With J = S / mean S and S = sqrt(E), the influence on J of an energy e is
linear, u = A e, with A[m, m'] = J_m (delta_mm' / 2 E_m - w_m' J_m' / 2 E_m'); parts are those of u.
Replicates are nested between orders: two orders with R <= R' share R of them, and their covariance
is that of R'. Where an energy is lost in its error the root is not linear; the expected error is
then that of the root of a normal estimate, cut at 0, so that bias is part of it.

Shapes: I images, P pairs, R replicates, O orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interactions import plots
from interactions.orders.estimator import Design, Interactions, is_exact
from interactions.orders.pairs import NeighbourPairs, RandomPairs
from interactions.orders.strength import energies, strength

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

GROUP = 16
"""How many replicates are multiplied with each other at once; sums grow with its square."""

REPLICATES = (2, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of replicates that a plan chooses from."""


@dataclass(frozen=True)
class VarianceParts:
    """Where the variance of one linear function of the energies sits, per order.

    Attributes:
        image_O: between images, for infinitely many pairs and contexts.
        pair_O: between pairs of an image, for infinitely many contexts.
        influence_OO: A, from energies to the function.
        one_OO: z1, between the energies of two orders.
        both_OO: z2, likewise.
    """

    image_O: Array
    pair_O: Array
    influence_OO: Array
    one_OO: Array
    both_OO: Array

    def context_O(self, replicates_O: Array) -> Array:
        """V_context of one pair, for so many replicates at each order."""
        R_OO = np.maximum(np.maximum.outer(replicates_O, replicates_O), 2)
        covariance_OO = 4 * self.one_OO / R_OO + 2 * self.both_OO / (R_OO * (R_OO - 1))
        return np.maximum(((self.influence_OO @ covariance_OO) * self.influence_OO).sum(axis=1), 0)

    def variance_O(self, images: int, pairs: int, context_O: Array) -> Array:
        """Variance of the mean over images for a design, from V_context of its replicates."""
        return (self.image_O + (self.pair_O + context_O) / pairs) / images


@dataclass(frozen=True)
class Noise:
    """What a pilot says of the error of J.

    Attributes:
        orders_O: the orders m.
        exact_O: orders where nothing is sampled.
        J_O: J of the pilot.
        J_parts: where the variance of J sits.
        energy_parts: where that of the energies sits, relative to them.
        replicates_O: replicates of the pilot.
        per_replicate: contexts in a replicate.
    """

    orders_O: NDArray[np.int64]
    exact_O: NDArray[np.bool_]
    J_O: Array
    J_parts: VarianceParts
    energy_parts: VarianceParts
    replicates_O: Array
    per_replicate: int

    def error_O(self, images: int, pairs: int, replicates_O: Array) -> Array:
        """Expected root mean squared error of J per order for a design, bias included."""
        return self.error_with(images, pairs, self.contexts_2O(replicates_O))

    def contexts_2O(self, replicates_O: Array) -> Array:
        """V_context of J and of the energies, for so many replicates at each order."""
        return np.stack(
            [parts.context_O(replicates_O) for parts in (self.J_parts, self.energy_parts)]
        )

    def error_with(self, images: int, pairs: int, contexts_2O: Array) -> Array:
        """:meth:`error_O` from V_context."""
        variance_O = self.J_parts.variance_O(images, pairs, contexts_2O[0])
        relative_O = np.sqrt(self.energy_parts.variance_O(images, pairs, contexts_2O[1]))
        return np.sqrt(variance_O * _root_error(relative_O))

    def forwards_O(self, pairs: int, replicates_O: Array) -> Array:
        """Forwards of one image per order; an upper bound, as repeats are not counted out."""
        contexts_O = np.where(self.exact_O, 1, replicates_O * self.per_replicate)
        return 4 * pairs * contexts_O


@dataclass(frozen=True)
class Plan:
    """A design and what it costs.

    Attributes:
        images: how many, N.
        pairs: P per image.
        orders_O: the orders m.
        replicates_O: R per pair at each order.
        forwards: images through the network, an upper bound: repeats are not counted out.
        J_O: J of the pilot (of several, the one with the largest error).
        error_O: expected root mean squared error of J per order, bias included.
    """

    images: int
    pairs: int
    orders_O: NDArray[np.int64]
    replicates_O: NDArray[np.int64]
    forwards: int
    J_O: Array
    error_O: Array

    def __repr__(self) -> str:
        pairs = f"{self.pairs} pair{'s' * (self.pairs != 1)}"
        replicates = " to ".join(dict.fromkeys(map(str, np.sort(self.replicates_O)[[0, -1]])))
        return (
            f"Plan({self.images} images x {pairs}, {replicates} replicates, "
            f"at most {self.forwards} forwards, relative error {self.error:.2g})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per order: order, replicates, J (of the pilot), error (expected, of J)."""
        import pandas as pd

        columns = {"order": self.orders_O, "replicates": self.replicates_O}
        return pd.DataFrame({**columns, "J": self.J_O, "error": self.error_O})

    def _repr_html_(self) -> str:
        return plots.as_html(repr(self), self.to_frame(), most=len(self.orders_O))

    @property
    def relative_O(self) -> Array:
        """Expected error relative to J, per order."""
        return _relative(self.error_O, self.J_O)

    @property
    def error(self) -> float:
        """Root over orders of the mean squared relative error: what a budget is spent to lower."""
        return float(np.sqrt((self.relative_O**2).mean()))

    def design(self, design: Design) -> Design:
        """A design with the pairs and the replicates of this plan.

        Raises:
            ValueError: if the pairs are not such that their number can be chosen.
        """
        if not isinstance(design.pairs, NeighbourPairs | RandomPairs):
            raise ValueError(f"expected neighbouring or random pairs, got {design.pairs!r}")
        return replace(
            design,
            pairs=replace(design.pairs, count=self.pairs),
            replicates=tuple(int(R) for R in self.replicates_O),
        )


def noise_of(pilot: Sequence[Interactions]) -> Noise:
    """Split the variance of J, from a pilot measurement.

    Args:
        pilot: at least 2 images of one design with at least 2 pairs and 4 replicates.

    Raises:
        ValueError: with less than that.
    """
    pairs = min((len(record.pairs_P2) for record in pilot), default=0)
    sampled = [
        record.replicates(o).shape[1]
        for record in pilot
        for o in range(len(record.orders_O))
        if not is_exact(record, o)
    ]
    R = min(sampled, default=4)
    if len(pilot) < 2 or pairs < 2 or R < 4:
        raise ValueError(
            "expected a pilot of at least 2 images, 2 pairs and 4 replicates, "
            f"got {len(pilot)}, {pairs} and {R}"
        )
    first, whole = pilot[0], strength(pilot)
    orders = range(len(first.orders_O))
    exact_O = np.array([is_exact(first, o) for o in orders])
    replicates_O = np.array(
        [R if exact else first.replicates(o).shape[1] for o, exact in enumerate(exact_O)], float
    )
    energies_IPO, one_OO, both_OO = [], [], []
    for record in pilot:
        for start in range(0, R - R % GROUP or R, GROUP):
            group = slice(start, min(start + GROUP, R))
            h_PRRO = np.stack([_products(record, o, group, bool(exact_O[o])) for o in orders], 3)
            one, both = _covariances(h_PRRO)
            one_OO.append(one)
            both_OO.append(both)
        energies_IPO.append(
            np.stack([_energy_P(record, o, bool(exact_O[o])) for o in orders], axis=1)
        )
    z1_OO, z2_OO = _covariance(np.mean(one_OO, axis=0)), _covariance(np.mean(both_OO, axis=0))
    energy_O = np.mean([e_PO.mean(axis=0) for e_PO in energies_IPO], axis=0)
    spread_O = np.std([e_PO.mean(axis=0) for e_PO in energies_IPO], axis=0, ddof=1)
    # An energy that is lost in its error is at most about that large.
    energy_O = np.maximum(energy_O, np.maximum(spread_O / np.sqrt(len(pilot)), 1e-300))
    S_O, w_O = np.sqrt(energy_O), whole.weights_O
    J_O = S_O / (S_O @ w_O)
    A_OO = J_O[:, None] * (np.eye(len(J_O)) - w_O * J_O) / (2 * energy_O)

    def parts(influence_OO: Array) -> VarianceParts:
        unknown = VarianceParts(np.zeros(0), np.zeros(0), influence_OO, z1_OO, z2_OO)
        u_IPO = [e_PO @ influence_OO.T for e_PO in energies_IPO]
        within_O = np.mean([u_PO.var(axis=0, ddof=1) for u_PO in u_IPO], axis=0)
        between_O = np.var([u_PO.mean(axis=0) for u_PO in u_IPO], axis=0, ddof=1)
        # An estimated variance can come out below 0. Images that are no more alike than their pairs
        # have a variance of 0, and tell that of pairs as well.
        images = len(pilot)
        pooled_O = images * (pairs - 1) * within_O + (images - 1) * pairs * between_O
        alike_O = between_O < within_O / pairs
        total_O = np.where(alike_O, pooled_O / (images * pairs - 1), within_O)
        return replace(
            unknown,
            image_O=np.where(alike_O, 0, between_O - within_O / pairs),
            pair_O=np.maximum(total_O - unknown.context_O(replicates_O), 0),
        )

    return Noise(
        first.orders_O,
        exact_O,
        J_O,
        parts(A_OO),
        parts(np.diag(1 / energy_O)),
        replicates_O,
        first.per_replicate,
    )


def plan(
    pilot: Sequence[Interactions],
    target: float | None = None,
    *,
    budget: int | None = None,
    others: Sequence[Sequence[Interactions]] = (),
    replicates: Sequence[int] = REPLICATES,
    min_pairs: int = 1,
    max_pairs: int = 200,
    max_images: int = 1_000_000,
) -> Plan:
    """The cheapest design that reaches a precision, or the most precise one within a budget.

    With both, the cheapest if it is within the budget, and else the most precise.

    Args:
        pilot: a measurement with the same grid and orders; see :func:`noise_of`.
        target: wanted relative error of J (root mean squared, bias included), at every order.
        budget: forwards that may be spent on a network. They are spent for the smallest mean over
            orders of squared relative errors.
        others: pilots of further networks, for which the design has to be good as well.
        replicates: numbers of replicates to choose from, for each order.
        min_pairs: the fewest pairs per image; with 2, and 4 replicates, the measurement tells what
            its own error comes from (:func:`~interactions.orders.adaptive.spending`).
        max_pairs: the most pairs per image.
        max_images: the most images there are.

    Raises:
        ValueError: without a target or budget above 0, or if no design does it.
    """
    given = [value for value in (target, budget) if value is not None]
    if not given or not all(value > 0 for value in given):
        raise ValueError(
            f"expected a target or a budget above 0, got target {target} and budget {budget}"
        )
    if not 1 <= min_pairs <= max_pairs:
        raise ValueError(f"expected from 1 to {max_pairs} pairs at the least, got {min_pairs}")
    if min(replicates, default=0) < 2:
        least = min(replicates, default="none")
        raise ValueError(f"expected at least 2 replicates, got {least}")
    several = [noise_of(records) for records in (pilot, *others)]
    found: list[Plan] = []
    for R_O in _allocations(several, sorted(set(replicates))):
        contexts = [noise.contexts_2O(R_O) for noise in several]
        for P in _counts(min_pairs, max_pairs):
            cost = int(several[0].forwards_O(P, R_O).sum())

            def errors(images: int, P: int = P, contexts: list[Array] = contexts) -> list[Array]:
                return [
                    noise.error_with(images, P, context_2O)
                    for noise, context_2O in zip(several, contexts, strict=True)
                ]

            counts = []
            if budget is not None:
                counts.append(min(budget // cost, max_images))
            if target is not None:
                most = max_images if budget is None else min(budget // cost, max_images)
                counts.append(_images_for(several, errors, target, most))
            for N in counts:
                if N >= 2:
                    found.append(_worst(several, errors(N), N, P, R_O, N * cost))
    reaching = [
        one
        for one in found
        if target is not None
        and one.relative_O.max() <= target
        and (budget is None or one.forwards <= budget)
    ]
    if reaching:
        return min(reaching, key=lambda one: (one.forwards, one.error))
    affordable = [one for one in found if budget is not None and one.forwards <= budget]
    if not affordable:
        goal = f"reaches a relative error of {target:g}" if budget is None else ""
        goal = goal or f"costs at most {budget} forwards"
        raise ValueError(
            f"expected a design of at least 2 and at most {max_images} images and at most "
            f"{max_pairs} pairs that {goal}, found none; allow more"
        )
    return min(affordable, key=lambda one: (one.error, one.forwards))


def _allocations(several: Sequence[Noise], choices: Sequence[int]) -> list[Array]:
    """Replicates per order for every price of a forward: Neyman's allocation.

    At each order, the number that minimises the relative variance of contexts plus the price of
    their forwards.
    """
    R_C = np.array(choices, dtype=float)
    gain_CO = np.sum(
        [
            [noise.energy_parts.context_O(np.full(len(noise.J_O), R)) / 4 for R in R_C]
            for noise in several
        ],
        axis=0,
    )
    most = gain_CO[0].max()
    prices = [0.0, np.inf] if most == 0 else [0.0, *most / R_C[0] * np.geomspace(1e-5, 10, 40)]
    made = {
        tuple(R_C[np.argmin(gain_CO + np.minimum(price, 1e300) * R_C[:, None], axis=0)])
        for price in prices
    }
    return [np.array(one) for one in sorted(made)]


def _counts(least: int, most: int) -> list[int]:
    """All up to 24, then steps of about a tenth."""
    counts = [*range(least, min(most, max(24, least)) + 1)]
    while counts[-1] < most:
        counts.append(min(counts[-1] + counts[-1] // 10, most))
    return counts


def _images_for(
    several: Sequence[Noise],
    errors: Callable[[int], list[Array]],
    target: float,
    most: int,
) -> int:
    """The fewest images whose errors reach the target at every order; 0 if ``most`` do not."""

    def worst(images: int) -> float:
        found = zip(several, errors(images), strict=True)
        return max(_relative(error_O, noise.J_O).max() for noise, error_O in found)

    if most < 2 or worst(most) > target:
        return 0
    low, high = 1, most
    # Errors fall like 1 / sqrt(images), nearly: the search begins there.
    guess = int(np.ceil((worst(most) / target) ** 2 * most))
    if 2 <= guess < high:
        low, high = (low, guess) if worst(guess) <= target else (guess, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if worst(middle) <= target else (middle, high)
    return high


def _worst(
    several: Sequence[Noise],
    errors: Sequence[Array],
    images: int,
    pairs: int,
    R_O: Array,
    forwards: int,
) -> Plan:
    """The plan for the network with the largest error."""
    plans = [
        Plan(images, pairs, noise.orders_O, R_O.astype(np.int64), forwards, noise.J_O, error_O)
        for noise, error_O in zip(several, errors, strict=True)
    ]
    return max(plans, key=lambda one: one.error)


def _products(record: Interactions, o: int, group: slice, exact: bool) -> Array:
    """h(r, s) of some replicates of one order, ``(P, R, R)``; inner products of vectors."""
    x_PR = record.replicates(o)[:, group]
    if exact:
        x_PR = np.repeat(record.replicates(o)[:, :1], group.stop - group.start, axis=1)
    if x_PR.ndim == 2:
        x_PR = x_PR[..., None]
    return np.einsum("prd,psd->prs", x_PR, x_PR)


def _energy_P(record: Interactions, o: int, exact: bool) -> Array:
    """The energy of every pair at one order, with all replicates that there are."""
    x_PR = record.replicates(o)
    return energies(np.repeat(x_PR[:, :1], 2, axis=1) if exact else x_PR)


def _covariances(h_PRRO: Array) -> tuple[Array, Array]:
    """z1 and z2 between orders, mean over pairs, ``(O, O)`` each.

    Sums over replicates that are all different, from sums over all of them:
    E[h(1,2) h'(1,3)], E[h(1,2) h'(1,2)] and E[h(1,2) h'(3,4)].
    """
    R = h_PRRO.shape[1]
    h_PRRO = h_PRRO * (1 - np.eye(R))[:, :, None]
    rows_PRO, total_PO = h_PRRO.sum(axis=2), h_PRRO.sum(axis=(1, 2))
    same = np.einsum("prso,prsk->ok", h_PRRO, h_PRRO)
    one = np.einsum("pro,prk->ok", rows_PRO, rows_PRO) - same
    none = total_PO.T @ total_PO - 4 * one - 2 * same
    pairs = len(h_PRRO)
    falling = pairs * np.cumprod([R * (R - 1.0), R - 2, R - 3])
    same, one, none = same / falling[0], one / falling[1], none / falling[2]
    return one - none, same - none - 2 * (one - none)


def _covariance(estimate_OO: Array) -> Array:
    """The nearest matrix that can be a covariance: what noise made negative is 0."""
    values_O, vectors_OO = np.linalg.eigh((estimate_OO + estimate_OO.T) / 2)
    return (vectors_OO * np.maximum(values_O, 0)) @ vectors_OO.T


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def _root_error(relative_O: Array) -> Array:
    """Squared error of sqrt(max(e, 0)) for a normal e of mean 1, relative to its linear form.

    1 for small relative errors.
    """
    c_O = np.clip(relative_O, 1e-4, None)
    root = np.sqrt(np.maximum(1 + c_O[:, None] * _NODES, 0))
    squared_O = ((root - 1) ** 2) @ (_WEIGHTS / _WEIGHTS.sum())
    return squared_O / (c_O**2 / 4)


def _relative(error_O: Array, J_O: Array) -> Array:
    return error_O / J_O
