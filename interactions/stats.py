"""Every interval and every test: one function for each kind of quantity.

Interval and p of one number come from one inference: p < 0.05 exactly where the 95 % interval is
off 0. Images are what was sampled, so repeats of an image are averaged before.

    share              share of images, or of flags in images: Wilson's interval for I p (1-p) / s^2
                       images, where s^2 is the variance between images (I for a flag per image)
    share_difference   of the same images: for one flag per image the score interval of paired
                       shares (Tango 1998) and the score test that it inverts, which is McNemar's;
                       else the t interval and test of the paired differences
    mean               of any other value: t interval, cut at the bounds that the value has
    mean_difference    t interval and t test of the paired differences
    t_interval         an estimate with an influence value per image (delta method), such as a ratio
    share_of, mean_of  the first and the third from moments
    positive_interval  what cannot be negative though its estimate can, such as an energy
    paired             a difference of two such estimates: t interval and t test
    correlation        in [-1, 1], such as CKA, from influence values: t interval of Fisher's z
    sum_of_gaps        sum of |means|, such as a calibration error: t interval, longer below by the
                       bias that noise gives to |means|
    percentiles        what has no influence values: from bootstrap samples
    two_level          a mean over training seeds and images, or a difference of two such means
    holm, family       p-values adjusted for testing all of them (Holm 1979)
    effective_images   how many images an estimate really hangs on
    degrees_of_freedom of a variance, by the tails of what it is of

A sample without spread says nothing about images outside of it. A share then still has an interval,
because flags can vary only so much; other values have none (NaN) instead of one without width. What
varies by less than arithmetic does has no spread: see :data:`ROUNDING`.

Shapes: I images, B batches, K bins, D bootstrap samples, S and T training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interactions.checks import level_of_interval

Array = NDArray[np.float64]

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


FEWEST = 1.5
"""Effective images that an interval needs; see :func:`effective_images`."""

CORRECTION = 0.5
"""Images by which a paired difference of shares is moved towards the tested one; 1 below 10 images.

With it the test is wrong in at most 5 % of all samples whatever share of images is discordant:
without it in 7.8 % (5 images), 6.5 % (50); with 1 it is about McNemar's exact test, which is wrong
in 2 to 4 %. All by enumeration.
"""


def share(values_I: ArrayLike, level: float = 0.95) -> Interval:
    """A share of images, with Wilson's interval (1927).

    Of images with several flags the values are shares of their own. Then the interval is Wilson's
    for I p (1-p) / s^2 images, where s^2 is the variance between the images and one more, of the
    largest variance that the mean allows: it keeps images that happen to agree from being certain.
    For one flag per image this is I. It never has a width of 0, and never leaves [0, 1].

    Args:
        values_I: one in [0, 1] for each image: a flag, or a mean of flags.
        level: coverage.

    Returns:
        The interval, and as ``se`` the standard error of the mean of the values.

    Raises:
        ValueError: without images, or for values outside of [0, 1].
    """
    x_I = np.asarray(values_I, dtype=float)
    count = len(x_I)
    if not count:
        raise ValueError("expected at least 1 image for a share, got none")
    if (x_I < -ROUNDING).any() or (x_I > 1 + ROUNDING).any():
        raise ValueError(f"expected values in [0, 1], got {x_I.min():g} to {x_I.max():g}")
    return share_of(float(x_I.mean()), float(x_I.var()), count, level)


def share_of(p: float, variance: float, count: int, level: float = 0.95) -> Interval:
    """:func:`share` of values of which only moments are known.

    Args:
        p: their mean.
        variance: mean square of their deviations from it.
        count: of images.
        level: coverage.
    """
    from scipy.stats import norm

    level_of_interval(level)
    p = min(max(p, 0.0), 1.0)
    if np.isnan(p):
        return Interval(p, np.nan, np.nan, np.nan)
    se = float(np.sqrt(variance / (count - 1))) if count > 1 else np.nan
    most = p * (1 - p)
    images = count * most * (count + 1) / (count * variance + most) if most > 0 else count
    z2 = float(norm.ppf(0.5 + level / 2)) ** 2
    centre = (p + z2 / (2 * images)) / (1 + z2 / images)
    half = np.sqrt(z2 * (most / images + z2 / (4 * images**2))) / (1 + z2 / images)
    # Ends at 0 and 1 are exact, not rounded.
    low = float(centre - half) if p > 0 else 0.0
    high = float(centre + half) if p < 1 else 1.0
    return Interval(p, se, max(low, 0.0), min(high, 1.0))


def share_difference(a_I: ArrayLike, b_I: ArrayLike, level: float = 0.95) -> Tested:
    """A difference a - b of two shares of the same images.

    For one flag per image the test asks of a difference d how far the images with only the first
    flag, x, and those with only the second, y, are from it,

        T(d) = (|x - y - I d| - c) / sqrt(I (2 q + d (1 - d))),

    where q is the most likely share of images with only the second, given d (Tango 1998, Statistics
    in Medicine 17, 891), and c is :data:`CORRECTION`. The interval are all d with T(d) up to the
    normal quantile; T(0) is McNemar's test. For means of several flags see :func:`mean_difference`.

    Args:
        a_I: flags, or shares in [0, 1], of each image.
        b_I: what is subtracted.
        level: coverage.

    Raises:
        ValueError: with fewer than 2 images, for images that are not paired, or for values outside
            of [0, 1].
    """
    from scipy.stats import norm

    a_I, b_I = _pairs(a_I, b_I)
    both_2I = np.stack([a_I, b_I])
    if both_2I.min() < -ROUNDING or both_2I.max() > 1 + ROUNDING:
        raise ValueError(f"expected values in [0, 1], got {both_2I.min():g} to {both_2I.max():g}")
    if not _size(both_2I - np.rint(both_2I)) <= ROUNDING:
        return mean_difference(a_I, b_I, level, bound=1)
    count, difference_I = len(a_I), np.rint(a_I) - np.rint(b_I)
    x, y = int((difference_I > 0).sum()), int((difference_I < 0).sum())
    found, z = (x - y) / count, float(norm.ppf(0.5 + level / 2))

    def end(side: int) -> float:
        """The last difference on a side, -1 or 1, that is not rejected: by bisection."""
        if _tango(x, y, count, float(side)) <= z:
            return float(side)
        inside, outside = found, float(side)
        while abs(outside - inside) > 1e-12:
            middle = (inside + outside) / 2
            if _tango(x, y, count, middle) <= z:
                inside = middle
            else:
                outside = middle
        return inside

    se = float(difference_I.std(ddof=1) / np.sqrt(count))
    p = float(2 * norm.sf(_tango(x, y, count, 0.0)))
    return Tested(found, se, end(-1), end(1), p)


def _tango(x: int, y: int, count: int, d: float) -> float:
    """T(d) of :func:`share_difference`."""
    correction = CORRECTION if count >= 10 else 1.0
    off = max(abs(x - y - count * d) - correction, 0.0)
    linear = (2 * count - x + y) * d - x - y
    root = np.sqrt(max(linear**2 + 8 * count * y * d * (1 - d), 0.0))
    only_second = max((root - linear) / (4 * count), 0.0)
    variance = count * (2 * only_second + d * (1 - d))
    if variance <= 1e-12 * count:
        return np.inf if off > 0 else 0.0
    return float(off / np.sqrt(variance))


def mean(
    values_I: ArrayLike, level: float = 0.95, *, low: float = -np.inf, high: float = np.inf
) -> Interval:
    """A mean over images with its t interval.

    Args:
        values_I: one of each image.
        level: coverage.
        low: the least that a value can be; the interval is cut there, which costs no coverage.
        high: the most that it can be.

    Raises:
        ValueError: with fewer than 2 images.
    """
    x_I = np.asarray(values_I, dtype=float)
    found = t_interval(float(x_I.mean()) if len(x_I) else np.nan, x_I, level, _size(x_I))
    ends = np.clip([found.low, found.high], low, high)
    return Interval(found.estimate, found.se, float(ends[0]), float(ends[1]))


def mean_difference(
    a_I: ArrayLike, b_I: ArrayLike, level: float = 0.95, *, bound: float = np.inf
) -> Tested:
    """A mean of paired differences a - b, with their t interval and t test; see :func:`paired`.

    Args:
        a_I: one value of each image.
        b_I: what is subtracted.
        level: coverage.
        bound: the most that values can differ; the interval is cut there.

    Raises:
        ValueError: with fewer than 2 images, or for images that are not paired.
    """
    a_I, b_I = _pairs(a_I, b_I)
    difference_I = a_I - b_I
    found = paired(float(difference_I.mean()), difference_I, max(_size(a_I), _size(b_I)), level)
    ends = np.clip([found.low, found.high], -bound, bound)
    return Tested(found.estimate, found.se, float(ends[0]), float(ends[1]), found.p)


def t_interval(
    estimate: float,
    influence_I: Array,
    level: float = 0.95,
    scale: float = 0.0,
    *,
    effective: float | None = None,
) -> Interval:
    """A t interval from one influence value per image (the image's own contribution).

    Args:
        estimate: the value that the interval is for.
        influence_I: contributions of the images; their standard deviation / sqrt(I) is the error.
        level: coverage.
        scale: size of the numbers that contributions were computed from; a spread up to
            :data:`ROUNDING` times this counts as 0.
        effective: images that the estimate hangs on (:func:`effective_images`), if they weigh
            differently, as those of a ratio of sums do: e of them have e - 1 degrees of freedom,
            and a variance that was too small by (1 - 1/e) / (1 - 1/I).

    Returns:
        The interval; its ends are NaN where contributions have no spread, or fewer than
        :data:`FEWEST` images are effective.

    Raises:
        ValueError: with fewer than 2 images.
    """
    if len(influence_I) < 2:
        raise ValueError(f"expected at least 2 images for an interval, got {len(influence_I)}")
    # The deviations of equal numbers from their mean are rounding, however small the scale is.
    spread = float(influence_I.std(ddof=1)) if np.ptp(influence_I) != 0 else 0.0
    return mean_of(estimate, spread, len(influence_I), level, scale, effective=effective)


def mean_of(
    estimate: float,
    spread: float,
    count: int,
    level: float = 0.95,
    scale: float = 0.0,
    *,
    effective: float | None = None,
) -> Interval:
    """:func:`t_interval` of values of which only moments are known.

    Args:
        estimate: the value that the interval is for.
        spread: standard deviation of the values.
        count: of images, at least 2.
        level: coverage.
        scale: see :func:`t_interval`.
        effective: see :func:`t_interval`.
    """
    units = count if effective is None else min(effective, count)
    if units < FEWEST:
        return Interval(float(estimate), np.nan, np.nan, np.nan)
    if spread <= ROUNDING * scale:
        return Interval(float(estimate), 0.0, np.nan, np.nan)
    se = spread / np.sqrt(count) * np.sqrt((1 - 1 / count) / (1 - 1 / units))
    half = _t_quantile(level, units - 1) * se
    return Interval(float(estimate), float(se), float(estimate - half), float(estimate + half))


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
    influence_I: Array,
    scale: float,
    level: float = 0.95,
    *,
    effective: float | None = None,
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
        effective: see :func:`t_interval`; of two estimates the smaller one. With fewer than
            :data:`FEWEST` there is no p either.
        bracket: ends between which the difference is known to lie for these images, around the
            estimate. The interval goes from the lower end's to the upper end's, and p is that of
            the end nearer to 0, or 1 if the bracket holds 0.

    Raises:
        ValueError: with fewer than 2 images, or for a scale that is negative.
    """
    from scipy.special import stdtr  # many times as fast as scipy.stats.t

    if scale < 0:
        raise ValueError(f"expected a scale of at least 0, got {scale:g}")
    interval = t_interval(estimate, influence_I, level, scale, effective=effective)
    none = ROUNDING * scale
    if abs(estimate) <= none and (np.ptp(influence_I) == 0 or influence_I.std(ddof=1) <= none):
        return Tested(0.0, 0.0, np.nan, np.nan, 1.0)  # of however few images
    if interval.se == 0:
        return Tested(interval.estimate, 0.0, np.nan, np.nan, np.nan)
    units = len(influence_I) if effective is None else min(effective, len(influence_I))
    least, most = bracket or (estimate, estimate)
    nearest = max(least, 0.0) - min(most, 0.0)  # 0 where the bracket holds 0
    p = float(2 * stdtr(units - 1, -nearest / interval.se))
    low, high = interval.low - (estimate - least), interval.high + (most - estimate)
    return Tested(interval.estimate, interval.se, low, high, p)


def _t_quantile(level: float, df: float) -> float:
    """Half the width of a t interval in standard errors; infinite without degrees of freedom."""
    from scipy.special import stdtrit

    level_of_interval(level)
    return float(stdtrit(df, 0.5 + level / 2)) if df > 0 else np.inf


def effective_images(parts_I: NDArray[np.float64]) -> float:
    """How many images a sum hangs on: (sum)^2 / (sum of squares) of its parts (Kish 1965).

    I for equal parts, 1 for one image that outweighs all others: a ratio of sums is then a number
    of that image alone, and its computed standard error is near 0 because there is no other.
    Intervals of ratios of skewed sums cover 0.93 to 0.96 with it (:func:`t_interval`; 0.98 and more
    below 2), where those of all I images cover 0.74 to 0.92 (4 to 20 images, whose sizes are
    log-normal with sigma from 0.5 to 3).

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


def degrees_of_freedom(influence_I: Array, most: float) -> float:
    """Those of the variance of contributions, by their kurtosis (Satterthwaite 1946).

    A variance is less certain where contributions have long tails: with excess kurtosis k it has
    2 / (k / I + 2 / (I - 1)) degrees of freedom.

    Args:
        influence_I: each image's contribution.
        most: the most that there can be.
    """
    count = len(influence_I)
    centred_I = influence_I - influence_I.mean()
    variance = (centred_I**2).mean()
    if not variance > 0:
        return most
    excess = max(float((centred_I**4).mean() / variance**2) - 3, 0.0)
    return min(most, 2 / (excess / count + 2 / (count - 1)))


def family(tests: Sequence[Tested]) -> NDArray[np.float64]:
    """Holm's p-values of a family of tests.

    Where two models do not differ on any image, no test could have found a difference at any level:
    such a one is no part of the family and keeps its p (Tarone 1990), and so is one without a p.
    """
    p = np.array([test.p for test in tests], dtype=float)
    could = np.array([test.p >= 0 and (test.se > 0 or test.estimate != 0) for test in tests], bool)
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


def correlation(
    estimate: float, influence_B: Array, level: float = 0.95, *, units: float | None = None
) -> Interval:
    """An estimate in [-1, 1] with the t interval of Fisher's z = artanh, which stays in (-1, 1).

    Args:
        estimate: the correlation, or the CKA.
        influence_B: contributions of what was sampled, such as batches, by the delta method.
        level: coverage.
        units: how many of them are effective if they do not weigh the same; see
            :func:`t_interval`.

    Returns:
        The interval; its ends are NaN where contributions have no spread, or there is only one.
    """
    if len(influence_B) < 2:
        return Interval(float(estimate), np.nan, np.nan, np.nan)
    found, slope = t_interval(estimate, influence_B, level, 1, effective=units), 1 - estimate**2
    if np.isnan(found.low) or not slope > 0:
        return found
    z = t_interval(np.arctanh(estimate), influence_B / slope, level, effective=units)
    return Interval(found.estimate, found.se, float(np.tanh(z.low)), float(np.tanh(z.high)))


def sum_of_gaps(parts_IK: Array, level: float = 0.95) -> Interval:
    """A sum over bins of |mean over images|, such as a calibration error, with its interval.

    Noise has a length too: with s the standard error of a bin's mean m, |m| is too large by up to
    s sqrt(2 / pi), which it is where the true mean is 0. A resample is too large once more, so
    that percentiles of a bootstrap lie above the estimate. Here the ends are

        estimate - bias - t se    and    estimate + t se,

    where se is that of sum sign(m) m, and the bias is that of bins whose true means are |m| - 2 s,
    or 0: the least that noise leaves plausible. The estimate lies inside, and so does 0 for a
    calibrated model.

    Args:
        parts_IK: contributions of every image to every bin's mean.
        level: coverage.

    Raises:
        ValueError: with fewer than 2 images.
    """
    from scipy.stats import norm

    m_K = parts_IK.mean(axis=0)
    estimate = float(np.abs(m_K).sum())
    influence_I = parts_IK @ np.where(m_K < 0, -1.0, 1.0)
    found = t_interval(estimate, influence_I, level, _size(parts_IK))
    s_K = parts_IK.std(axis=0, ddof=1) / np.sqrt(len(parts_IK))
    # Mean of |x| of a normal x with mean r s: s (2 phi(r) + r (1 - 2 Phi(-r))).
    r_K = np.maximum(np.abs(m_K) / np.where(s_K > 0, s_K, np.inf) - 2, 0)
    bias = float((s_K * (2 * norm.pdf(r_K) - 2 * r_K * norm.cdf(-r_K))).sum())
    return Interval(estimate, found.se, float(np.maximum(found.low - bias, 0)), found.high)


def percentiles(estimate: float, drawn_D: Array, level: float = 0.95) -> Interval:
    """The percentile interval of a bootstrap, made longer where it would not hold the estimate.

    Args:
        estimate: of the sample itself.
        drawn_D: of the bootstrap samples; some may be infinite.
        level: coverage.

    Returns:
        The interval; NaN where the estimate or a draw is undefined, and no ``se`` where one is
        infinite.
    """
    if np.isnan(estimate) or np.isnan(drawn_D).any():
        return Interval(float(estimate), np.nan, np.nan, np.nan)
    finite = len(drawn_D) > 1 and np.isfinite(drawn_D).all()
    se = float(drawn_D.std(ddof=1)) if finite else np.nan
    # Order statistics, as infinities cannot be interpolated.
    low, high = np.quantile(drawn_D, [0.5 - level / 2, 0.5 + level / 2], method="inverted_cdf")
    return Interval(float(estimate), se, float(min(low, estimate)), float(max(high, estimate)))


@dataclass(frozen=True)
class TwoLevel(Tested):
    """An interval over images and training seeds.

    Attributes:
        df: degrees of freedom.
        seed_variance: what seeds add to the squared error; NaN if there is only one.
        image_variance: what images add.
        image_df: degrees of freedom of what images add, alone.
    """

    df: float
    seed_variance: float
    image_variance: float
    image_df: float


def two_level(
    a_SI: ArrayLike,
    b_TI: ArrayLike | None = None,
    level: float = 0.95,
    *,
    alike: Sequence[ArrayLike] = (),
    low: float = -np.inf,
    high: float = np.inf,
) -> TwoLevel:
    """A mean over training seeds and images, or a difference a - b of two: t interval and t test.

    All networks see the same images, and seeds belong to an arm: seed and image are crossed in an
    arm, images are paired between arms. With the model x_si = mean + s_s + i_i + e_si of each arm,

        V = sum over arms (seed_a - noise_a) + image
        seed_a = var over seeds of the means over images / S          both hold e:
        image  = var over images of the (difference of) means over seeds / I
        noise_a = mean square of x_si less its seed's and image's mean / (S I)

    Its degrees of freedom are Satterthwaite's (1946), of S - 1 for each arm and I - 1, fewer where
    images have long tails (:func:`degrees_of_freedom`). V is at least its largest part. With 3 and
    5 seeds and 50 to 200 images 95 % intervals cover 0.93 to 0.97 where seeds are half of the
    squared error or more, and up to 0.99 where they add nothing (simulated in
    ``tests/interactions/test_stats.py``).

    An arm of one training says nothing about others. If trainings vary as much in it as in arms
    that have several (``alike``), one variance of seeds, and one of e, is that of all arms together

        seed_a = sum of squares of all arms' seeds about their arm's mean / sum of (S - 1) / S_a

    with as many degrees of freedom; then one training of an arm is enough. Where its
    standard deviation was twice that of the others after all, 95 % intervals covered 0.76 to 0.84.

    Args:
        a_SI: a value of each training seed and image; of an estimate such as J its value for the
            seed plus the image's influence on it.
        b_TI: those of the other arm, of the same images.
        level: coverage.
        alike: values ``(seeds, images)`` of further arms whose trainings vary alike, of the same
            images.
        low: the least that the mean or difference can be; the interval is cut there.
        high: the most.

    Returns:
        The interval; with a single seed in an arm (in all, if some are ``alike``), a value that is
        NaN, or no spread, it is NaN.

    Raises:
        ValueError: with fewer than 2 images, without seeds, or for other images.
    """
    from scipy.special import stdtr

    arms = [np.asarray(x, dtype=float) for x in (a_SI, b_TI) if x is not None]
    every = [*arms, *(np.asarray(x, dtype=float) for x in alike)]
    if any(x.ndim != 2 or not len(x) or x.shape[1] < 2 for x in every) or (
        len({x.shape[1] for x in every}) > 1
    ):
        shapes = [x.shape for x in every]
        raise ValueError(f"expected values (seeds, images) of the same 2 or more, got {shapes}")
    images = arms[0].shape[1]
    means = [x.mean(axis=0) for x in arms]
    value_I = means[0] - means[1] if len(arms) > 1 else means[0]
    estimate, image = float(value_I.mean()), float(value_I.var(ddof=1)) / images
    image_df = degrees_of_freedom(value_I, images - 1)
    groups = [every] if alike else [[x] for x in arms]  # arms that share a variance of seeds
    spreads = [_spread(group) for group in groups]
    if np.isnan(estimate) or any(np.isnan(seed) for seed, _, _ in spreads):
        unknown = dict.fromkeys(("se", "low", "high", "p", "df", "seed_variance"), np.nan)
        return TwoLevel(estimate, **unknown, image_variance=image, image_df=image_df)
    shares = [1 / len(x) for x in arms]
    weights = [sum(shares)] if alike else shares
    seeds = [weight * seed for weight, (seed, _, _) in zip(weights, spreads, strict=True)]
    noise = sum(weight * of for weight, (_, of, _) in zip(weights, spreads, strict=True))
    variance = max(sum(seeds) + image - noise, image, *seeds)
    scale = max(_size(x) for x in arms)
    if not np.sqrt(variance) > ROUNDING * scale:
        p = 1.0 if abs(estimate) <= ROUNDING * scale else np.nan
        return TwoLevel(estimate, 0.0, np.nan, np.nan, p, np.nan, sum(seeds), image, image_df)
    parts = [seed**2 / count for seed, (_, _, count) in zip(seeds, spreads, strict=True)]
    df = variance**2 / (sum(parts) + image**2 / image_df)
    se = float(np.sqrt(variance))
    half = _t_quantile(level, df) * se
    low, high = (float(np.clip(end, low, high)) for end in (estimate - half, estimate + half))
    p = float(2 * stdtr(df, -abs(estimate) / se))
    net = sum(seeds) - noise
    net = net if net > ROUNDING * sum(seeds) else 0.0
    return TwoLevel(estimate, se, low, high, p, float(df), net, image, image_df)


def _spread(arms: Sequence[Array]) -> tuple[float, float, int]:
    """How trainings of arms that vary alike spread, from those with several seeds.

    Returns:
        Variance of a seed's mean over images, the part of it that e is, and degrees of freedom; NaN
        without two seeds.
    """
    several = [x for x in arms if len(x) > 1]
    if not several:
        return np.nan, np.nan, 0
    images, count = several[0].shape[1], sum(len(x) - 1 for x in several)
    squares = rest = 0.0
    for x_SI in several:
        of_S = x_SI.mean(axis=1)
        squares += float(of_S.var()) * len(of_S)
        centred_SI = x_SI - of_S[:, None]
        rest += float(((centred_SI - centred_SI.mean(axis=0)) ** 2).sum())
    return squares / count, rest / (count * (images - 1)) / images, count


def _pairs(a_I: ArrayLike, b_I: ArrayLike) -> tuple[Array, Array]:
    a_I, b_I = np.asarray(a_I, dtype=float), np.asarray(b_I, dtype=float)
    if a_I.shape != b_I.shape or a_I.ndim != 1 or len(a_I) < 2:
        raise ValueError(
            f"expected paired values of at least 2 images, got shapes {a_I.shape} and {b_I.shape}"
        )
    return a_I, b_I


def _size(values: Array) -> float:
    """The largest of some numbers, whatever its sign."""
    return float(np.abs(values).max(initial=0))
