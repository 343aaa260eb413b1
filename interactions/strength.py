"""Interaction strength over orders, without the bias of the published estimator and with errors.

    S^(m)(x) = E over pairs |I^(m)(i, j | x)|
    J^(m)    = E_x S^(m)(x) / mean over orders m' of E_x S^(m')(x)

The published plug-in mean of |mean over K contexts| is too large wherever contexts vary, by about
g(0) sigma^2 / K for a density g of I at 0: exactly in the middle orders and not at the two ends.
With f(k) the mean plug-in over subsets of k of the R replicates of an image,

    plug_in     f(R)                                      too large
    jackknife   2 f(R) - f(R/2)                           removes the 1/K term (Quenouille 1956)
    two_level   8/3 f(R) - 2 f(R/2) + 1/3 f(R/4)          removes the 1/K^2 term too
    cross_sign  mean of A sign(B) over halves A, B        too small: with plug_in it is a bracket
    rms         sqrt E (mean^2 - s^2 / R)                 another norm, its square free of bias

For a game of vectors |I| is the length ||I||, and E ||I||^2 under the root of ``rms`` is the
U-statistic over pairs of different replicates. Intervals treat images as the units that were
sampled.

Shapes: I images, P pairs, R replicates, O orders. Replicates ``(P, R)`` of a game of vectors have
one more axis, of coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from interactions.estimator import Interactions, order_of
from interactions.stats import Interval, holm, t_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Normalisation = Literal["ratios", "uniform"]

MIDDLE = (0.1, 0.5)
"""Ratios m / (n-2) between which orders count as middle ones: where A2MIM's figure 1 is described
as showing the gain of pre-training (from 0.05 n or 0.1 n to about 0.5 n)."""


@dataclass(frozen=True)
class Strength:
    """Interaction strengths of a set of images at a list of orders.

    Attributes:
        images: names of the images.
        n: number of players.
        orders_O: the orders m.
        per_image_IO: S^(m)(x) of every image; its square if ``root``.
        rho_O: how noisy contexts are: sd of Delta v over contexts / RMS of I^(m) over pairs. The
            plug-in needs about 8 rho^2 contexts for a bias below 5 %, the jackknife 2 rho^2. NaN
            with a single replicate, or where noise hides every interaction.
        normalise: J has mean 1 over the measured orders (``"ratios"``, as published: denser lists
            of orders near the ends weigh more) or over m by the trapezoid rule (``"uniform"``).
        root: whether S is the root of the mean over images.
    """

    images: tuple[str, ...]
    n: int
    orders_O: NDArray[np.int64]
    per_image_IO: NDArray[np.float64]
    rho_O: NDArray[np.float64]
    normalise: Normalisation = "ratios"
    root: bool = False

    @property
    def ratios_O(self) -> NDArray[np.float64]:
        """Orders as fractions m / (n-2)."""
        return self.orders_O / (self.n - 2)

    @property
    def S(self) -> NDArray[np.float64]:
        """S^(m), over all images."""
        mean_O = self.per_image_IO.mean(axis=0)
        return np.sqrt(np.maximum(mean_O, 0)) if self.root else mean_O

    @property
    def J(self) -> NDArray[np.float64]:
        """J^(m): S^(m) divided by its mean over orders; NaN if no pair interacts at any order."""
        with np.errstate(invalid="ignore"):
            return self.S / (self.S @ self._weights_O)

    @property
    def influence_IO(self) -> NDArray[np.float64]:
        """Each image's contribution to J, by the delta method for a ratio of means; sums to 0."""
        g, J, weights_O = self.per_image_IO, self.J, self._weights_O
        if self.root:  # the derivative of the root of a mean
            g = (g - g.mean(axis=0)) / (2 * self.S) + self.S
        return (g - J * (g @ weights_O)[:, None]) / (self.S @ weights_O)

    @property
    def J_se(self) -> NDArray[np.float64]:
        """Standard error of J^(m) over images."""
        return self.influence_IO.std(axis=0, ddof=1) / np.sqrt(len(self.images))

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """The interval of J^(m) for each order."""
        influence_IO = self.influence_IO
        return [
            t_interval(J, influence_I, level)
            for J, influence_I in zip(self.J, influence_IO.T, strict=True)
        ]

    def mean_J(self, low: float, high: float, level: float = 0.95) -> Interval:
        """Mean of J over the orders from floor(low (n-2)) to floor(high (n-2)).

        Bounds are floored as the orders themselves are, so that 0.1 means the measured point 0.1.

        Raises:
            ValueError: if no measured order lies there.
        """
        inside_O = self._inside(low, high)
        return t_interval(
            self.J[inside_O].mean(), self.influence_IO[:, inside_O].mean(axis=1), level
        )

    def minus(self, other: Strength, low: float, high: float, level: float = 0.95) -> Interval:
        """Difference of :meth:`mean_J` to another model, paired over common images.

        Raises:
            ValueError: if the two were not measured on the same images and orders.
        """
        difference_IO = self._influence_minus(other)
        inside_O = self._inside(low, high)
        return t_interval(
            (self.J - other.J)[inside_O].mean(), difference_IO[:, inside_O].mean(axis=1), level
        )

    def compare(self, other: Strength, level: float = 0.95) -> pd.DataFrame:
        """Paired difference J - J' to another model at every order, with Holm's correction.

        Returns:
            One row per order: order, ratio, difference, se, low, high, p, p_holm. Intervals are
            those of single orders; ``p_holm`` is corrected for testing all orders.

        Raises:
            ValueError: if the two were not measured on the same images and orders.
        """
        difference_IO = self._influence_minus(other)
        intervals = [
            t_interval(d, x, level) for d, x in zip(self.J - other.J, difference_IO.T, strict=True)
        ]
        names = {"order": self.orders_O, "ratio": self.ratios_O}
        return _tested(names, intervals, len(self.images))

    def bands(self, middle: tuple[float, float] = MIDDLE, level: float = 0.95) -> pd.DataFrame:
        """Mean J of low, middle and high orders, with intervals.

        Args:
            middle: ratios where the middle orders begin and end, both included; low orders are
                those below and high orders those above.
            level: coverage of the intervals.

        Returns:
            One row per band that was measured: band, first and last order, J, se, low, high.
        """
        import pandas as pd

        bands = self._bands(middle)
        intervals = [
            t_interval(self.J[o].mean(), self.influence_IO[:, o].mean(axis=1), level)
            for o in bands.values()
        ]
        return pd.DataFrame(
            {
                "band": list(bands),
                "first": [self.orders_O[o].min() for o in bands.values()],
                "last": [self.orders_O[o].max() for o in bands.values()],
                "J": [i.estimate for i in intervals],
                "se": [i.se for i in intervals],
                "low": [i.low for i in intervals],
                "high": [i.high for i in intervals],
            }
        )

    def compare_bands(
        self, other: Strength, middle: tuple[float, float] = MIDDLE, level: float = 0.95
    ) -> pd.DataFrame:
        """Paired differences of :meth:`bands` to another model, with Holm's correction.

        Returns:
            One row per band: band, difference, se, low, high, p, p_holm; see :meth:`compare`.

        Raises:
            ValueError: if the two were not measured on the same images and orders.
        """
        difference_IO, bands = self._influence_minus(other), self._bands(middle)
        intervals = [
            t_interval((self.J - other.J)[o].mean(), difference_IO[:, o].mean(axis=1), level)
            for o in bands.values()
        ]
        return _tested({"band": list(bands)}, intervals, len(self.images))

    def plot(self, ax: Axes | None = None, *, label: str | None = None, **style: Any) -> Axes:
        """Draw J over orders with intervals; see :func:`interactions.plots.strength_curve`.

        Args:
            ax: where; axes of their own if left out.
            label: name of the curve in the legend.
            style: further options of ``strength_curve``.
        """
        from interactions import plots

        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots(figsize=(6, 3.8), layout="constrained")[1]
        plots.strength_curve(ax, self, label=label, **style)
        ax.autoscale(axis="y")  # room for this curve where an earlier one has set the limits
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        return ax

    def __repr__(self) -> str:
        return f"{self._title}\n{self.to_frame().to_string(index=False, float_format=_short)}"

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format=_short, border=0)
        return f"<p>{self._title}</p>{table}"

    @property
    def _title(self) -> str:
        return f"Interaction strength, {len(self.images)} images, {self.n} players"

    def normalised(self, normalise: Normalisation) -> Strength:
        """The same strengths with J normalised another way."""
        return replace(self, normalise=normalise)

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per order: order, ratio, S, J, J_se, J_low, J_high, rho."""
        import pandas as pd

        intervals = self.intervals(level)
        return pd.DataFrame(
            {
                "order": self.orders_O,
                "ratio": self.ratios_O,
                "S": self.S,
                "J": self.J,
                "J_se": [interval.se for interval in intervals],
                "J_low": [interval.low for interval in intervals],
                "J_high": [interval.high for interval in intervals],
                "rho": self.rho_O,
            }
        )

    @property
    def _weights_O(self) -> NDArray[np.float64]:
        """Weights of the orders in the denominator of J; they sum to 1."""
        if self.normalise == "ratios" or len(self.orders_O) == 1:
            return np.full(len(self.orders_O), 1 / len(self.orders_O))
        steps = np.diff(self.orders_O) / 2
        weights_O = np.append(steps, 0) + np.append(0, steps)
        return weights_O / weights_O.sum()

    def _influence_minus(self, other: Strength) -> NDArray[np.float64]:
        if self.images != other.images or not np.array_equal(self.orders_O, other.orders_O):
            raise ValueError("expected two strengths of the same images and orders")
        if self.normalise != other.normalise or self.root != other.root:
            raise ValueError("expected two strengths of one estimator and normalisation")
        return self.influence_IO - other.influence_IO

    def _bands(self, middle: tuple[float, float]) -> dict[str, NDArray[np.bool_]]:
        first, last = (order_of(ratio, self.n) for ratio in middle)
        bands = {
            "low": self.orders_O < first,
            "middle": (first <= self.orders_O) & (self.orders_O <= last),
            "high": last < self.orders_O,
        }
        return {name: inside_O for name, inside_O in bands.items() if inside_O.any()}

    def _inside(self, low: float, high: float) -> NDArray[np.bool_]:
        first, last = order_of(low, self.n), order_of(high, self.n)
        inside_O = (first <= self.orders_O) & (self.orders_O <= last)
        if not inside_O.any():
            raise ValueError(f"no measured order from {first} to {last}")
        return inside_O


def strength(
    records: Sequence[Interactions],
    estimator: str = "jackknife",
    normalise: Normalisation = "ratios",
) -> Strength:
    """Strengths of measured images.

    Args:
        records: one per image, all of one design.
        estimator: ``"jackknife"`` (default), ``"plug_in"`` (as published), ``"two_level"``,
            ``"cross_sign"`` or ``"rms"``; see the top of this file.
        normalise: what J is divided by; see :class:`Strength`.

    Raises:
        ValueError: without records, with records of different designs, or with a number of
            replicates that the estimator cannot split.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"expected an estimator of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if normalise not in ("ratios", "uniform"):
        raise ValueError(f"expected the normalisation 'ratios' or 'uniform', got {normalise!r}")
    if not records:
        raise ValueError("expected at least one measured image, got none")
    first = records[0]
    for record in records:
        if record.n != first.n or not np.array_equal(record.orders_O, first.orders_O):
            raise ValueError(
                f"expected images measured with one design: {record.image} has other orders "
                f"than {first.image}"
            )
    return Strength(
        images=tuple(record.image for record in records),
        n=first.n,
        orders_O=first.orders_O,
        per_image_IO=np.stack([_per_order(ESTIMATORS[estimator], r) for r in records]),
        rho_O=_rho(records),
        normalise=normalise,
        root=estimator == "rms",
    )


def plug_in(replicates_PR: NDArray[np.float64]) -> float:
    """Mean over pairs of |mean over replicates|, for one order: the published, biased estimate."""
    return float(length(replicates_PR.mean(axis=1)).mean())


def jackknife(replicates_PR: NDArray[np.float64]) -> float:
    """Split jackknife 2 f(R) - f(R/2), for one order; may be negative for a single image.

    Raises:
        ValueError: with an odd number of replicates.
    """
    R = _divisible(replicates_PR, 2, "jackknife")
    return 2 * plug_in(replicates_PR) - _part(replicates_PR, R // 2)


def two_level(replicates_PR: NDArray[np.float64]) -> float:
    """8/3 f(R) - 2 f(R/2) + 1/3 f(R/4), for one order: less bias where contexts are very noisy.

    Raises:
        ValueError: if the number of replicates is not a multiple of 4.
    """
    R = _divisible(replicates_PR, 4, "two-level jackknife")
    halves, quarters = _part(replicates_PR, R // 2), _part(replicates_PR, R // 4)
    return 8 / 3 * plug_in(replicates_PR) - 2 * halves + quarters / 3


def cross_sign(replicates_PR: NDArray[np.float64]) -> float:
    """Mean of A sign(B) over halves A and B of the replicates: too small in expectation.

    Raises:
        ValueError: with an odd number of replicates.
    """
    R = _divisible(replicates_PR, 2, "cross-sign estimate")
    total_P = replicates_PR.sum(axis=1)
    values = []
    for half in _subsets(R, R // 2):
        A = replicates_PR[:, half].sum(axis=1)
        values.append(along(A, total_P - A).mean() / (R // 2))
    return float(np.mean(values))


def mean_square(replicates_PR: NDArray[np.float64]) -> float:
    """Unbiased mean over pairs of I^2, for one order; may be negative for a single image.

    Raises:
        ValueError: with a single replicate.
    """
    R = replicates_PR.shape[1]
    if R < 2:
        raise ValueError(f"expected at least 2 replicates for the RMS strength, got {R}")
    square_P = _total(replicates_PR.mean(axis=1) ** 2)
    return float((square_P - _total(replicates_PR.var(axis=1, ddof=1)) / R).mean())


ESTIMATORS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "jackknife": jackknife,
    "plug_in": plug_in,
    "two_level": two_level,
    "cross_sign": cross_sign,
    "rms": mean_square,
}
"""From replicates ``(P, R)`` of one image at one order to its strength (squared for ``rms``)."""


def length(interactions_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """|I| of numbers ``(P,)``, or ||I|| of vectors ``(P, D)``."""
    if interactions_P.ndim == 1:
        return np.abs(interactions_P)
    return np.sqrt(_total(interactions_P**2))


def along(a_P: NDArray[np.float64], b_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """a sign(b) of numbers, or the part of vectors a along vectors b; 0 where b is 0."""
    if a_P.ndim == 1:
        return a_P * np.sign(b_P)
    length_P = length(b_P)
    return _total(a_P * b_P) / np.where(length_P > 0, length_P, 1)


def _total(values_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers ``(P,)`` as they are, vectors ``(P, D)`` summed over coordinates."""
    return values_P if values_P.ndim == 1 else values_P.sum(axis=-1)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _tested(names: dict[str, Any], intervals: Sequence[Interval], images: int) -> pd.DataFrame:
    """Differences with their intervals, t tests against 0, and Holm's correction over the rows.

    Where all images differ by the same the t test has nothing to go by, and p is the sign test's.
    """
    import pandas as pd
    from scipy.stats import t

    same_sign = 2.0 ** (1 - images)
    p = [
        2 * t.sf(abs(i.estimate) / i.se, images - 1) if i.se else (same_sign if i.estimate else 1.0)
        for i in intervals
    ]
    return pd.DataFrame(
        {
            **names,
            "difference": [i.estimate for i in intervals],
            "se": [i.se for i in intervals],
            "low": [i.low for i in intervals],
            "high": [i.high for i in intervals],
            "p": p,
            "p_holm": holm(p),
        }
    )


def _per_order(
    estimate: Callable[[NDArray[np.float64]], float], record: Interactions
) -> NDArray[np.float64]:
    return np.array([estimate(record.replicates(o)) for o in range(len(record.orders_O))])


def _part(replicates_PR: NDArray[np.float64], size: int) -> float:
    """f(size): the plug-in of ``size`` replicates, averaged over subsets of that size."""
    subsets = _subsets(replicates_PR.shape[1], size)
    return float(np.mean([plug_in(replicates_PR[:, subset]) for subset in subsets]))


def _subsets(R: int, size: int) -> list[list[int]]:
    """Subsets of R replicates: all of them if there are at most 70, else R cyclic windows."""
    if comb(R, size) <= 70:
        return [list(subset) for subset in combinations(range(R), size)]
    return [[(start + k) % R for k in range(size)] for start in range(R)]


def _divisible(replicates_PR: NDArray[np.float64], by: int, what: str) -> int:
    R = replicates_PR.shape[1]
    if R % by:
        raise ValueError(
            f"expected a number of replicates divisible by {by} for the {what}, got {R}; "
            "use the plug-in for contexts without replicates"
        )
    return R


def _rho(records: Sequence[Interactions]) -> NDArray[np.float64]:
    """Context noise over signal per order, each unbiased before the root is taken."""
    rho = []
    for o in range(len(records[0].orders_O)):
        x_IPR = [record.replicates(o) for record in records]
        R, W = x_IPR[0].shape[1], records[0].per_replicate
        if R < 2:
            rho.append(np.nan)
            continue
        variance = np.mean([_total(x.var(axis=1, ddof=1)).mean() for x in x_IPR])
        square = np.mean([_total(x.mean(axis=1) ** 2).mean() for x in x_IPR])
        signal = square - variance / R
        # The variance of a replicate of W contexts, times W: one context if W were independent.
        rho.append(np.sqrt(W * variance / signal) if signal > 0 else np.nan)
    return np.array(rho)
