"""Every interval and every test: one function for each kind of quantity.

    t_interval         mean of one value per image, or an estimate with an influence value per image
    positive_interval  what cannot be negative though its estimate can, such as an energy
    paired             a difference of two means on the same images: t interval, t test
    effective_images   how many images an estimate really hangs on
    holm, family       p-values adjusted for testing all of them (Holm 1979)

What varies less than arithmetic does, does not vary: see :data:`ROUNDING`.

Shapes: I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6
"""Share of the size of numbers that is put down to arithmetic.

Networks say float32, whose numbers are 1.2e-7 of their size apart, and sums add up a few such
steps. The same network on another device, or with outputs times 1.7, differs by this much.
"""


@dataclass(frozen=True)
class Interval:
    """An estimate with its standard error and confidence interval.

    Attributes:
        estimate: the value.
        se: standard error over images.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    estimate: float
    se: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Tested(Interval):
    """An interval with the p of the same inference: p < 0.05 where the 95 % interval is off 0.

    Attributes:
        p: of a true value of 0, two-sided; NaN where nothing can be inferred.
    """

    p: float


def t_interval(estimate: float, influence_I: NDArray[np.float64], level: float = 0.95) -> Interval:
    """A t interval from one influence value per image (the image's own contribution).

    Args:
        estimate: the value that the interval is for.
        influence_I: contributions of the images; their standard deviation / sqrt(I) is the error.
        level: coverage.

    Raises:
        ValueError: with fewer than 2 images.
    """
    count = len(influence_I)
    if count < 2:
        raise ValueError(f"expected at least 2 images for an interval, got {count}")
    se = float(influence_I.std(ddof=1) / np.sqrt(count))
    half = _t_quantile(level, count - 1) * se
    return Interval(float(estimate), se, float(estimate) - half, float(estimate) + half)


def positive_interval(
    estimate: float, se: float, df: float, level: float = 0.95
) -> tuple[float, float]:
    """The interval of a number that cannot be negative, though its estimate can.

    With h(x) = asinh(x / 2 se), which is linear near 0 and logarithmic far from it (the generalised
    logarithm of Durbin et al. 2002), the ends are those of h +- t se h'. Far from 0 the interval is
    that of the logarithm, as suits means of squares, whose error grows with them; near 0 it is the
    plain one, and begins at 0. An estimate below 0 has the upper end of 0.

    Args:
        estimate: the number.
        se: its standard error.
        df: degrees of freedom of that.
        level: coverage.

    Returns:
        The ends; (0, infinity) without degrees of freedom.
    """
    if np.isnan(estimate):
        return np.nan, np.nan
    if df <= 0:
        return 0.0, np.inf
    if np.isnan(se):
        return np.nan, np.nan
    if se == 0:
        return max(float(estimate), 0.0), max(float(estimate), 0.0)
    quantile = _t_quantile(level, df)
    ends = []
    for sign, x in ((-1, estimate), (1, max(estimate, 0.0))):
        x = x / (2 * se)
        with np.errstate(over="ignore"):
            ends.append(2 * se * np.sinh(np.arcsinh(x) + sign * quantile / 2 / np.hypot(x, 1)))
    return max(float(ends[0]), 0.0), float(ends[1])


def paired(
    estimate: float,
    influence_I: NDArray[np.float64],
    scale: float,
    level: float = 0.95,
    *,
    df: float | None = None,
    bracket: tuple[float, float] | None = None,
) -> Tested:
    """A difference that should be 0 if two models are alike: t interval and t test over images.

    Differences of the size of rounding are none: the estimate is then 0, p is 1, and without a
    spread there is no interval (NaN). Where all images differ by the same, there is neither an
    interval nor a p: a spread of 0 in a sample says nothing about images outside of it.

    Args:
        estimate: the difference.
        influence_I: each image's contribution to it, of any mean: paired differences of values, or
            of influence values.
        scale: size of the numbers that were subtracted, such as the largest of them. Spread and
            estimate count as 0 up to :data:`ROUNDING` times this.
        level: coverage.
        df: degrees of freedom, if not those of as many images.
        bracket: ends between which the difference is known to lie for these images, around the
            estimate. The interval goes from the lower end's to the upper end's, and p is that of
            the end nearer to 0, or 1 if the bracket holds 0.

    Raises:
        ValueError: with fewer than 2 images, or for a scale that is negative.
    """
    from scipy.special import stdtr  # many times as fast as scipy.stats.t

    if not scale >= 0:
        raise ValueError(f"expected a scale of at least 0, got {scale:g}")
    se = t_interval(estimate, influence_I, level).se
    low, high = bracket or (estimate, estimate)
    if se * np.sqrt(len(influence_I)) <= ROUNDING * scale:
        if abs(estimate) <= ROUNDING * scale:
            return Tested(0.0, 0.0, np.nan, np.nan, 1.0)
        return Tested(float(estimate), 0.0, np.nan, np.nan, np.nan)
    df = len(influence_I) - 1 if df is None else df
    half = _t_quantile(level, df) * se
    nearest = max(low, 0.0) - min(high, 0.0)  # 0 where the bracket holds 0
    p = float(2 * stdtr(df, -nearest / se)) if df > 0 else 1.0
    return Tested(float(estimate), se, low - half, high + half, p)


def _t_quantile(level: float, df: float) -> float:
    """Half the width of a t interval in standard errors; infinite without degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2)) if df > 0 else np.inf


def effective_images(parts_I: NDArray[np.float64]) -> float:
    """How many images a sum hangs on: (sum)^2 / (sum of squares) of its parts (Kish 1965).

    I for equal parts, 1 for one image that outweighs all others. Below 2 there is no spread that an
    interval could be made from, however small the standard error.

    Args:
        parts_I: each image's part; negative ones, which noise alone makes, count as 0.

    Returns:
        0 where no part is positive.
    """
    parts_I = np.maximum(np.asarray(parts_I, dtype=float), 0)
    most = parts_I.max(initial=0)
    if not most > 0:
        return 0.0
    parts_I = parts_I / most  # squares of tiny numbers would be 0
    return float(parts_I.sum() ** 2 / (parts_I**2).sum())


def family(tests: Sequence[Tested]) -> NDArray[np.float64]:
    """Holm's p-values of a family of tests.

    A difference without any spread could not have been found by its test (p is 1 or NaN whatever
    the level), so it is no part of the family and keeps its p (Tarone 1990).
    """
    p = np.array([test.p for test in tests], dtype=float)
    could = np.array([test.se > 0 and not np.isnan(test.p) for test in tests], dtype=bool)
    p[could] = holm(p[could].tolist())
    return p


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """P-values adjusted for testing all of them (Holm 1979): step-down, valid under dependence."""
    p = np.asarray(p_values, dtype=float)
    order = p.argsort()
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
