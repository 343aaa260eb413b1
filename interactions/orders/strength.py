"""Interaction strength over orders: unbiased, with intervals that hold where contexts are noisy.

    E^(m)(x) = mean over pairs of I^(m)(i, j | x)^2          energy of an image
    S^(m)    = sqrt(mean over x of E^(m)(x))                  RMS strength
    J^(m)    = S^(m) / mean over orders m' of S^(m')

I is only known up to the noise of its contexts. With R independent replicates of a pair, of mean a
and variance s^2, a^2 - s^2 / R has the mean I^2 whatever the noise (a U-statistic), so E is free of
bias, and everything is inferred from E. An order whose estimate of E is 0 or below has J = 0 and an
interval that begins at 0; the other orders do not suffer from it.

The published strength is another norm, the mean of |I|, and has no unbiased estimate. With f(k) the
mean of |mean of k of the R replicates|,

    plug_in     f(R)                                      as published; too large
    jackknife   2 f(R) - f(R/2)                           less the 1/R term (Quenouille 1956)
    two_level   8/3 f(R) - 2 f(R/2) + 1/3 f(R/4)          less the 1/R^2 term too
    cross_sign  mean of A sign(B) over halves A, B        too small

In expectation the truth is between cross_sign and plug_in. What that leaves open for J is shown
with each of these estimates as a bracket and is part of their intervals; where the bracket is wider
than a tenth of J, J is *unresolved*.

Errors are over images. The influence of an image on J is that of leaving it out (the jackknife of
Tukey 1958), with the root replaced by its tangent where E is lost in its own error. The interval of
J^(m) is that of its square, E^(m) / D^2, on the scale of asinh, which is linear near 0 and
logarithmic away from it; see :func:`interactions.stats.positive_interval`. Its degrees of freedom
are at most those of the *effective* number of images, (sum of energies)^2 / sum of squared
energies: where one image is all of the strength, nothing is known about others. Long tails of the
influences leave fewer.

For a game of vectors |I| is the length ||I||.

Shapes: I images, P pairs, R replicates, O orders. Replicates ``(P, R)`` of a game of vectors have
one more axis, of coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from interactions import plots
from interactions.checks import instance
from interactions.orders.estimator import Interactions, is_exact, order_of
from interactions.stats import (
    Interval,
    Tested,
    degrees_of_freedom,
    effective_images,
    family,
    paired,
    positive_interval,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Normalisation = Literal["ratios", "uniform"]
Array = NDArray[np.float64]

MIDDLE = (0.1, 0.5)
"""Ratios m / (n-2) between which orders count as middle ones: where A2MIM's figure 1 is described
as showing the gain of pre-training (from 0.05 n or 0.1 n to about 0.5 n)."""

UNRESOLVED = 0.1
"""Width of the bracket of a mean of |I|, relative to J, from which an order is unresolved."""


@dataclass(frozen=True)
class Strength:
    """Interaction strengths of a set of images at a list of orders.

    Attributes:
        images: names of the images.
        n: number of players.
        orders_O: the orders m.
        per_image_IO: E^(m)(x), the energy of every image, for ``"rms"``; the mean of |I| for the
            other estimators. Single values can be negative.
        rho_O: how noisy contexts are: sd of Delta v over contexts / RMS of I^(m) over pairs. NaN is
            unknown: from a single replicate there is no telling.
        rho_is_bound_O: where ``rho_O`` is a lower bound, because noise hides the interactions.
        normalise: J has mean 1 over the measured orders (``"ratios"``, as published: denser lists
            of orders near the ends weigh more) or over m by the trapezoid rule (``"uniform"``).
        estimator: a key of :data:`ESTIMATORS`.
        bracket_2IO: for means of |I|, what is too small and what is too large in expectation, of
            every image; NaN where a single replicate leaves it unknown.
    """

    images: tuple[str, ...]
    n: int
    orders_O: NDArray[np.int64]
    per_image_IO: Array
    rho_O: Array
    rho_is_bound_O: NDArray[np.bool_]
    normalise: Normalisation = "ratios"
    estimator: str = "rms"
    bracket_2IO: Array | None = None

    @property
    def ratios_O(self) -> Array:
        """Orders as fractions m / (n-2)."""
        return self.orders_O / (self.n - 2)

    @cached_property
    def S(self) -> Array:
        """S^(m), over all images."""
        mean_O = self.per_image_IO.mean(axis=0)
        return np.sqrt(np.maximum(mean_O, 0)) if self.estimator == "rms" else mean_O

    @cached_property
    def J(self) -> Array:
        """J^(m): S^(m) divided by its mean over orders; NaN if no pair interacts at any order."""
        return _share(self.S, self.weights_O)

    @cached_property
    def bracket(self) -> tuple[Array, Array] | None:
        """Lowest and highest J^(m) with all strengths within their brackets; None for RMS.

        Strengths of other orders move J as well: the ends, though exact, have a bracket too.
        """
        if self.bracket_2IO is None:
            return None
        small_O, large_O = self.bracket_2IO.mean(axis=1)
        # In a small sample the two can be the wrong way round by chance.
        small_O = np.clip(np.minimum(small_O, self.S), 0, None)
        large_O = np.maximum(large_O, self.S)
        w_O = self.weights_O
        with np.errstate(invalid="ignore", divide="ignore"):
            low_O = small_O / (large_O @ w_O + (small_O - large_O) * w_O)
            high_O = large_O / (small_O @ w_O + (large_O - small_O) * w_O)
        return low_O, high_O

    @property
    def unresolved_O(self) -> NDArray[np.bool_]:
        """Orders whose bracket is unknown or wider than a tenth of J; none for RMS."""
        if self.bracket is None:
            return np.zeros(len(self.orders_O), dtype=bool)
        low_O, high_O = self.bracket
        return ~(high_O - low_O <= UNRESOLVED * self.J)

    @property
    def influence_IO(self) -> Array:
        """Each image's contribution to J, by leaving it out; sums to 0."""
        return self._influences[0]

    @cached_property
    def effective_images(self) -> float:
        """How many images the strength hangs on: (sum of energies)^2 / sum of their squares."""
        return effective_images(self.per_image_IO.sum(axis=1))

    @cached_property
    def J_se(self) -> Array:
        """Standard error of J^(m) over images."""
        return self.influence_IO.std(axis=0, ddof=1) / np.sqrt(len(self.images))

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """The interval of J^(m) for each order; for means of |I| it includes the bracket.

        A single image tells nothing about others: its intervals are NaN.
        """
        if len(self.images) < 2:
            return [Interval(float(J), np.nan, np.nan, np.nan) for J in self.J]
        _, squared_IO = self._influences
        found = []
        with np.errstate(invalid="ignore"):  # 0 / 0 where no pair interacts at any order
            square_O = self.per_image_IO.mean(axis=0) / (self.S @ self.weights_O) ** 2
        square_se_O = squared_IO.std(axis=0, ddof=1) / np.sqrt(len(self.images))
        for o, (J, se) in enumerate(zip(self.J, self.J_se, strict=True)):
            if self.estimator == "rms":
                df = degrees_of_freedom(squared_IO[:, o], self.effective_images - 1)
                low, high = np.sqrt(positive_interval(square_O[o], square_se_O[o], df, level))
            else:
                df = degrees_of_freedom(self.influence_IO[:, o], self.effective_images - 1)
                low, high = positive_interval(J, se, df, level)
                low, high = self._with_bracket(J, low, high, np.arange(len(self.J)) == o)
            found.append(Interval(float(J), float(se), *self._possible(J, low, high, o)))
        return found

    def mean_J(self, low: float, high: float, level: float = 0.95) -> Interval:
        """Mean of J over the orders from floor(low (n-2)) to floor(high (n-2)).

        Bounds are floored as the orders themselves are, so that 0.1 means the measured point 0.1.
        The interval of a single image is NaN.

        Raises:
            ValueError: if no measured order lies there.
        """
        return self._mean_over(self._inside(low, high), level)

    def minus(self, other: Strength, low: float, high: float, level: float = 0.95) -> Tested:
        """Difference of :meth:`mean_J` to another model, paired over common images.

        Raises:
            ValueError: if the two were not measured on the same images and orders.
        """
        return self._difference(other, self._inside(low, high), level)

    def compare(self, other: Strength, level: float = 0.95) -> pd.DataFrame:
        """Paired difference J - J' to another model at every order, with Holm's correction.

        Returns:
            One row per order: order, ratio, difference, se, low, high, p, p_holm. Intervals are
            those of single orders; ``p_holm`` is corrected for testing all orders.

        Raises:
            ValueError: if the two were not measured on the same images and orders.
        """
        each_OO = np.eye(len(self.orders_O), dtype=bool)
        tests = [self._difference(other, inside_O, level) for inside_O in each_OO]
        return _table({"order": self.orders_O, "ratio": self.ratios_O}, tests)

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
        intervals = [self._mean_over(inside_O, level) for inside_O in bands.values()]
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
        bands = list(self._bands(middle))
        tests = [self.band_difference(other, band, middle, level) for band in bands]
        return _table({"band": bands}, tests)

    def band_difference(
        self,
        other: Strength,
        band: str,
        middle: tuple[float, float] = MIDDLE,
        level: float = 0.95,
    ) -> Tested:
        """One of the differences of :meth:`compare_bands`: low, middle or high.

        Raises:
            ValueError: if the two were not measured on the same images and orders, or the band was
                not measured.
        """
        bands = self._bands(middle)
        if band not in bands:
            raise ValueError(f"expected a measured band of {', '.join(bands)}, got {band!r}")
        return self._difference(other, bands[band], level)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        colour: str = plots.COLOURS[1],
        level: float = 0.95,
        scale: plots.Scale = "linear",
    ) -> Axes:
        """Draw J over orders with intervals; see :func:`interactions.plots.strength_curve`.

        The curve of a single image has no interval, and the axes say so.

        Args:
            ax: axes to draw in; new ones if left out.
            label: name of the curve in the legend.
            colour: of the curve.
            level: coverage of the intervals.
            scale: ``"log"`` or ``"broken"`` where one end is much higher than all the rest; see
                :func:`interactions.plots.rescale`.
        """
        ax = plots.axes_or_new(ax)
        plots.strength_curve(
            ax,
            self.ratios_O,
            self.intervals(level),
            bracket=self.bracket,
            unresolved_O=self.unresolved_O,
            label=label,
            colour=colour,
            scale=scale,
        )
        plots.orders_axis(ax, self.n)
        if len(self.images) == 1:
            plots.note(ax, "one image: no interval over images")
        return ax

    def __repr__(self) -> str:
        return f"{self._title}\n{self._shown().to_string(index=False)}"

    def _repr_html_(self) -> str:
        shown = self._shown()
        return plots.as_html(self._title, shown, most=len(shown))

    @property
    def _title(self) -> str:
        of, count = TITLES[self.estimator], len(self.images)
        images = f"{count} images" if count > 1 else "one image, no interval over images"
        return f"Interaction strength ({of}), {images}, {self.n} players"

    def _shown(self) -> pd.DataFrame:
        """The table as text; a single image has no intervals."""
        table = self.to_frame()
        if len(self.images) == 1:
            table = table.drop(columns=["J_se", "J_low", "J_high"])
        said = self.rho_said()
        shown = table.map(lambda value: f"{value:.3g}" if isinstance(value, float) else str(value))
        return shown.assign(rho=said).drop(columns="rho_is_bound")

    def rho_said(self) -> list[str]:
        """rho of every order in words: a number, ``"> 7.1"`` for a lower bound, or unknown."""
        return [
            "unknown" if np.isnan(rho) else f"> {rho:.2g}" if bound else f"{rho:.2f}"
            for rho, bound in zip(self.rho_O, self.rho_is_bound_O, strict=True)
        ]

    def normalised(self, normalise: Normalisation) -> Strength:
        """The same strengths with J normalised another way."""
        return replace(self, normalise=normalise)

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per order: order, ratio, S, J, J_se, J_low, J_high, rho, rho_is_bound.

        Means of |I| have three columns more: the bracket of J (J_bracket_low, J_bracket_high) and
        whether it is too wide to read J off (unresolved). The interval of a single image is NaN.
        """
        import pandas as pd

        intervals = self.intervals(level)
        columns: dict[str, Any] = {
            "order": self.orders_O,
            "ratio": self.ratios_O,
            "S": self.S,
            "J": self.J,
            "J_se": [interval.se for interval in intervals],
            "J_low": [interval.low for interval in intervals],
            "J_high": [interval.high for interval in intervals],
            "rho": self.rho_O,
            "rho_is_bound": self.rho_is_bound_O,
        }
        if self.bracket is not None:
            low_O, high_O = self.bracket
            columns |= {"J_bracket_low": low_O, "J_bracket_high": high_O}
            columns |= {"unresolved": self.unresolved_O}
        return pd.DataFrame(columns)

    @cached_property
    def weights_O(self) -> Array:
        """Weights of the orders in the denominator of J; they sum to 1."""
        if self.normalise == "ratios" or len(self.orders_O) == 1:
            return np.full(len(self.orders_O), 1 / len(self.orders_O))
        steps = np.diff(self.orders_O) / 2
        weights_O = np.append(steps, 0) + np.append(0, steps)
        return weights_O / weights_O.sum()

    @cached_property
    def _influences(self) -> tuple[Array, Array]:
        """Influence of every image on J and on its square, ``(I, O)`` each, by leaving it out."""
        values_IO, count = self.per_image_IO, len(self.images)
        _check_several(self.images)
        mean_O = values_IO.mean(axis=0)
        without_IO = (count * mean_O - values_IO) / (count - 1)
        S_IO = without_IO
        if self.estimator == "rms":
            S_IO = _root(without_IO, values_IO.std(axis=0, ddof=1) / np.sqrt(count))
        J_IO = _share(S_IO, self.weights_O)
        if self.estimator == "rms":
            with np.errstate(invalid="ignore", divide="ignore"):
                squared_IO = without_IO / ((S_IO @ self.weights_O) ** 2)[:, None]
        else:
            squared_IO = J_IO**2
        J_IO, squared_IO = ((count - 1) * (x.mean(axis=0) - x) for x in (J_IO, squared_IO))
        return J_IO, squared_IO

    def _mean_over(self, inside_O: NDArray[np.bool_], level: float) -> Interval:
        """Mean of J over some orders."""
        if len(self.images) < 2:
            return Interval(float(self.J[inside_O].mean()), np.nan, np.nan, np.nan)
        influence_I = self.influence_IO[:, inside_O].mean(axis=1)
        J, se = self.J[inside_O].mean(), influence_I.std(ddof=1) / np.sqrt(len(self.images))
        df = degrees_of_freedom(influence_I, self.effective_images - 1)
        low, high = positive_interval(J, se, df, level)
        low, high = self._with_bracket(J, low, high, inside_O)
        return Interval(float(J), float(se), *self._possible(J, low, high, inside_O))

    def _with_bracket(
        self, J: float, low: float, high: float, inside_O: NDArray[np.bool_]
    ) -> tuple[float, float]:
        """An interval moved outwards by what the bracket leaves open."""
        if self.bracket is None:
            return low, high
        least, most = (end_O[inside_O].mean() for end_O in self.bracket)
        held = max(J, 0.0)  # which the ends are around, also where a corrected estimate is negative
        return least - (held - low), most + (high - held)

    def _possible(
        self, J: float, low: float, high: float, inside: int | NDArray[np.bool_]
    ) -> tuple[float, float]:
        """An interval cut to values that J can have, but for an estimate that is no such value."""
        return float(min(max(low, 0.0), J)), float(max(min(high, self._most(inside)), J))

    def _most(self, inside: int | NDArray[np.bool_]) -> float:
        """The largest mean of J over some orders: all strength is at one of them."""
        weights = np.atleast_1d(self.weights_O[inside])
        return float(1 / weights.min() / len(weights))

    def _difference(self, other: Strength, inside_O: NDArray[np.bool_], level: float) -> Tested:
        """Mean difference of J over some orders."""
        if self.images != other.images or not np.array_equal(self.orders_O, other.orders_O):
            raise ValueError("expected two strengths of the same images and orders")
        if self.normalise != other.normalise or self.estimator != other.estimator:
            raise ValueError("expected two strengths of one estimator and normalisation")
        influence_I = (self.influence_IO - other.influence_IO)[:, inside_O].mean(axis=1)
        bracket = None
        if self.bracket is not None and other.bracket is not None:
            (low, high), (low_other, high_other) = (
                [end_O[inside_O].mean() for end_O in one.bracket or ()] for one in (self, other)
            )
            bracket = (float(low - high_other), float(high - low_other))
        if np.isnan([self.J, other.J]).any():  # no pair interacts at any order
            return Tested(np.nan, np.nan, np.nan, np.nan, np.nan)
        found = paired(
            float((self.J - other.J)[inside_O].mean()),
            influence_I,
            scale=float(np.max([self.J[inside_O], other.J[inside_O]])),
            level=level,
            effective=min(self.effective_images, other.effective_images),
            bracket=bracket,
        )
        low, high = np.clip([found.low, found.high], -self._most(inside_O), self._most(inside_O))
        return replace(found, low=float(low), high=float(high))

    def _bands(self, middle: tuple[float, float]) -> dict[str, NDArray[np.bool_]]:
        return bands_of(self.orders_O, self.n, middle)

    def _inside(self, low: float, high: float) -> NDArray[np.bool_]:
        first, last = order_of(low, self.n), order_of(high, self.n)
        inside_O = (first <= self.orders_O) & (self.orders_O <= last)
        if not inside_O.any():
            raise ValueError(f"no measured order from {first} to {last}")
        return inside_O


def bands_of(
    orders_O: NDArray[np.int64], n: int, middle: tuple[float, float] = MIDDLE
) -> dict[str, NDArray[np.bool_]]:
    """Which of the orders are low, middle and high ones, for the bands that have any."""
    first, last = (order_of(ratio, n) for ratio in middle)
    # Of few players, these may be the ends, which are not between other ratios.
    first = max(first, 1) if middle[0] > 0 else first
    last = max(min(last, n - 3), first - 1) if middle[1] < 1 else last
    bands = {
        "low": orders_O < first,
        "middle": (first <= orders_O) & (orders_O <= last),
        "high": last < orders_O,
    }
    return {name: inside_O for name, inside_O in bands.items() if inside_O.any()}


def strength(
    records: Sequence[Interactions],
    estimator: str = "rms",
    normalise: Normalisation = "ratios",
    *,
    floor: float = 0.0,
) -> Strength:
    """Strengths of measured images.

    Args:
        records: one per image, all of one design.
        estimator: ``"rms"`` (default), which is unbiased and what inference is for; or a mean of
            |I|: ``"plug_in"`` (as published), ``"jackknife"``, ``"two_level"``, ``"cross_sign"``;
            see :mod:`interactions.orders.strength`.
        normalise: what J is divided by; see :class:`Strength`.
        floor: numerical noise of one difference at m = 0 and m = n-2, of
            :func:`interactions.noise_floor` for a game in float32, in which they are measured.
            There one context stands for all, so that its square is in the energy; it is taken out,
            as replicates do at other orders.

    Raises:
        ValueError: without records, with records of different designs, or with a number of
            replicates that the estimator cannot split.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"expected an estimator of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if normalise not in ("ratios", "uniform"):
        raise ValueError(f"expected the normalisation 'ratios' or 'uniform', got {normalise!r}")
    if not floor >= 0:
        raise ValueError(f"expected a noise floor of at least 0, got {floor:g}")
    if not records:
        raise ValueError("expected at least one measured image, got none")
    first = records[0]
    for record in records:
        instance(record, Interactions, "a record")
        if record.n != first.n or not np.array_equal(record.orders_O, first.orders_O):
            raise ValueError(
                f"expected images measured with one design: {record.image} has other orders "
                f"than {first.image}"
            )
    per_image_IO = _per_image(records, estimator)
    if estimator == "rms":
        ends_O = (first.orders_O == 0) | (first.orders_O == first.n - 2)
        per_image_IO = per_image_IO - np.where(ends_O, floor**2, 0)
        bracket_2IO = None
    else:
        bracket_2IO = np.stack([_per_image(records, of) for of in ("cross_sign", "plug_in")])
    rho_O, rho_is_bound_O = _rho(records)
    return Strength(
        images=tuple(record.image for record in records),
        n=first.n,
        orders_O=first.orders_O,
        per_image_IO=per_image_IO,
        rho_O=rho_O,
        rho_is_bound_O=rho_is_bound_O,
        normalise=normalise,
        estimator=estimator,
        bracket_2IO=bracket_2IO,
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

    Of an odd number, A is the smaller half.

    Raises:
        ValueError: with a single replicate.
    """
    R = replicates_PR.shape[1]
    if R < 2:
        raise ValueError(f"expected at least 2 replicates for the cross-sign estimate, got {R}")
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
        raise ValueError(
            f"expected at least 2 replicates for the RMS strength, got {R}; measure more contexts, "
            "or take the plug-in, whose bias is then unknown"
        )
    return float(energies(replicates_PR).mean())


def energies(replicates_PR: NDArray[np.float64]) -> Array:
    """Unbiased I^2 of every pair, for one order and at least 2 replicates."""
    square_P = _total(replicates_PR.mean(axis=1) ** 2)
    return square_P - _total(replicates_PR.var(axis=1, ddof=1)) / replicates_PR.shape[1]


ESTIMATORS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "rms": mean_square,
    "plug_in": plug_in,
    "jackknife": jackknife,
    "two_level": two_level,
    "cross_sign": cross_sign,
}
"""From replicates ``(P, R)`` of one image at one order to its energy (rms) or mean of |I|."""


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


TITLES = {
    "rms": "RMS",
    "jackknife": "mean |I|, jackknife",
    "plug_in": "mean |I| as published, too large where contexts vary",
    "two_level": "mean |I|, two-level jackknife",
    "cross_sign": "mean |I|, lower bound",
}
"""What the estimators are called."""


def _table(names: dict[str, Any], tests: Sequence[Tested]) -> pd.DataFrame:
    """Differences with their intervals, tests against 0, and Holm's correction over the rows."""
    import pandas as pd

    return pd.DataFrame(
        {
            **names,
            "difference": [i.estimate for i in tests],
            "se": [i.se for i in tests],
            "low": [i.low for i in tests],
            "high": [i.high for i in tests],
            "p": [i.p for i in tests],
            "p_holm": family(tests),
        }
    )


def _check_several(images: tuple[str, ...]) -> None:
    if len(images) < 2:
        raise ValueError(f"expected at least 2 images for an interval, got {len(images)}")


def _share(S_XO: Array, weights_O: Array) -> Array:
    """Strengths divided by their mean over orders, NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return S_XO / (S_XO @ weights_O)[..., None]


def _root(energy_IO: Array, se_O: Array) -> Array:
    """Roots of energies; below half a standard error the tangent of the root there.

    The root itself has no slope below 0 and an infinite one at 0, so that an energy lost in its own
    error would pass for exactly known. On the tangent its error is that of a root near 0.
    """
    from_O = np.maximum(se_O / 2, np.finfo(float).tiny)
    above_IO = np.sqrt(np.maximum(energy_IO, from_O))
    return np.where(energy_IO >= from_O, above_IO, (energy_IO + from_O) / (2 * np.sqrt(from_O)))


def _per_image(records: Sequence[Interactions], estimator: str) -> Array:
    """The estimate of every image at every order, ``(I, O)``.

    What is exact needs no replicates and has no bias: all estimators are the plain mean there.
    """
    values_IO = np.empty((len(records), len(records[0].orders_O)))
    for values_O, record in zip(values_IO, records, strict=True):
        for o in range(len(values_O)):
            x_PR = record.replicates(o)
            if is_exact(record, o) and estimator != "plug_in":
                # equal halves and quarters: no spread, and nothing to split
                x_PR = np.repeat(x_PR[:, :1], 4, axis=1)
            elif estimator == "cross_sign" and x_PR.shape[1] == 1:
                values_O[o] = np.nan
                continue
            values_O[o] = ESTIMATORS[estimator](x_PR)
    return values_IO


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


def _rho(records: Sequence[Interactions]) -> tuple[Array, NDArray[np.bool_]]:
    """Context noise over signal per order, and where it is a lower bound.

    Where the energy is not above 0 beyond its error (one-sided, 95 %), rho is that of the upper end
    of the energy: it is at least so large.
    """
    rho_O, is_bound_O = np.zeros(len(records[0].orders_O)), []
    for o in range(len(rho_O)):
        if is_exact(records[0], o):
            is_bound_O.append(False)
            continue
        x_IPR = [record.replicates(o) for record in records]
        W = records[0].per_replicate
        if min(x_PR.shape[1] for x_PR in x_IPR) < 2:
            rho_O[o] = np.nan
            is_bound_O.append(False)
            continue
        variances = [_total(x.var(axis=1, ddof=1)) for x in x_IPR]
        energy_IP = [energies(x) for x in x_IPR]
        # Pairs of one image are alike; with a single image they are all there is.
        unit_U = np.array([e_P.mean() for e_P in energy_IP]) if len(records) > 1 else energy_IP[0]
        energy = float(np.mean([e_P.mean() for e_P in energy_IP]))
        variance = float(np.mean([variance_P.mean() for variance_P in variances]))
        error = 1.645 * unit_U.std(ddof=1) / np.sqrt(len(unit_U)) if len(unit_U) > 1 else 0.0
        is_bound_O.append(bool(energy <= error and variance > 0))
        signal = max(energy, 0) + error if is_bound_O[-1] else energy
        # The variance of a replicate of W contexts, times W: one context if W were independent.
        if variance > 0:
            rho_O[o] = np.sqrt(W * variance / signal) if signal > 0 else np.inf
    return rho_O, np.array(is_bound_O)
