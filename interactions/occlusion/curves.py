"""From rows of :mod:`interactions.occlusion.predictions` to curves, scores and paired comparisons.

    area       trapezoid over the realised hidden shares / their range
    relative   area / clean value
    half       hidden share at which half of the clean value is left, by linear interpolation
    ece        sum over equal bins of confidence of |sum of (confidence - correct) in the bin| / K

Images are what was sampled. Repeats of an image are averaged first, and intervals and tests are
those of :mod:`interactions.stats` for the kind of the number:

    flags, kept, clean, area      shares (kept: of the images whose clean prediction is correct)
    other measures                means, cut at the bounds of the measure
    relative                      a ratio of means, by its influence values; that of agreement is
                                  the area itself
    ece                           a sum of gaps
    half                          percentiles of a bootstrap over images, whose draws are keyed: the
                                  same rows give the same interval

What a clean image is compared with itself in is known, not estimated: its interval has no width.
Two models are compared on the same images and masks; interval and p of a difference are of one
inference, and Holm's correction goes over the fractions.

Shapes: I images, F fractions, R repeats, D bootstrap draws, X columns, one or more per fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, log
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from interactions.keys import raw_words
from interactions.occlusion.predictions import FLAGS, SIZES
from interactions.stats import (
    Interval,
    Tested,
    family,
    mean,
    mean_difference,
    paired,
    percentiles,
    share,
    share_difference,
    sum_of_gaps,
    t_interval,
)

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

Curve = Literal["correct", "agreement"]
"""Measures whose value for clean images is known, so that scores exist."""

BINS = 15
"""Bins of confidence of the calibration error."""

BOUNDS = {
    "confidence": (0, 1),
    "p_true": (0, 1),
    "p_clean": (0, 1),
    "drop": (-1, 1),
    "nll": (0, inf),
    "brier": (0, 2),
    "kl": (0, inf),
    "js": (0, log(2)),
    "tv": (0, 1),
}
"""What a measure can be at the least and at the most."""

WITH_ITSELF = ("agreement", "kept", "flipped", "drop", "kl", "js", "tv")
"""Measures that compare an image with its clean self: known where nothing is hidden."""


def by_fraction(rows: pd.DataFrame, *, bins: int = BINS, level: float = 0.95) -> pd.DataFrame:
    """Every measure at every fraction, with intervals.

    Args:
        rows: of :func:`~interactions.occlusion.predictions.occlude`.
        bins: of the calibration error.
        level: coverage of the intervals, each on its own.

    Returns:
        One row per measure and fraction: measure, fraction, hidden (mean over images), estimate,
        se, low, high. Measures are those of ``occlude`` but classes, and ``kept`` (agreement where
        the clean prediction is correct; NaN where none is), ``overconfidence`` (mean confidence -
        accuracy) and ``ece`` (of a finite sample, so it is above 0 for a calibrated model too; its
        interval then holds 0).

    Raises:
        ValueError: for rows that are not complete, or of fewer than 2 images.
    """
    import pandas as pd

    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    table = _Table.of(rows, level=level)
    confidence_IFR = table.values("confidence")
    gap_IFR = confidence_IFR - table.values("correct")
    # Bins hold their upper ends; rounding can bring a confidence a little above 1.
    bin_IFR = np.clip(np.ceil(confidence_IFR * bins) - 1, 0, bins - 1)
    gap_IFK = np.stack([np.where(bin_IFR == k, gap_IFR, 0).mean(2) for k in range(bins)], axis=2)
    was_I = table.mean("clean_correct")[:, 0] == 1
    found: dict[str, list[Interval]] = {
        name: [_estimated(name, x_I, level) for x_I in table.mean(name).T]
        for name in (*FLAGS, *SIZES)
    }
    nothing = Interval(np.nan, np.nan, np.nan, np.nan)
    found["kept"] = [
        share(x_I[was_I], level) if was_I.any() else nothing for x_I in table.mean("agreement").T
    ]
    found["overconfidence"] = [mean(x_I, level, low=-1, high=1) for x_I in gap_IFR.mean(axis=2).T]
    found["ece"] = [sum_of_gaps(gap_IFK[:, f], level) for f in range(gap_IFK.shape[1])]
    for name in WITH_ITSELF:
        found[name] = [
            _known(interval.estimate) if hidden == 0 else interval
            for interval, hidden in zip(found[name], table.hidden_F, strict=True)
        ]
    places = {"fraction": table.fractions_F, "hidden": table.hidden_F}
    made = [
        pd.DataFrame({"measure": name, **places, **_columns(intervals)})
        for name, intervals in found.items()
    ]
    return pd.concat(made, ignore_index=True)


def scores(
    rows: pd.DataFrame,
    measure: Curve = "correct",
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """One number for a curve: its area and the fraction at half of the clean value.

    Args:
        rows: of :func:`~interactions.occlusion.predictions.occlude`.
        measure: ``"correct"``, or ``"agreement"``, whose clean value is 1.
        draws: bootstrap samples for ``half``.
        level: coverage of the intervals, each on its own.
        seed: of the bootstrap.

    Returns:
        Four rows: score (clean, area, relative, half), estimate, se, low, high. ``half`` is
        infinite where the curve stays above half of the clean value, and then has no se.

    Raises:
        ValueError: for rows that are not complete, of fewer than 2 images or 2 fractions, or
            hidden shares that do not grow.
    """
    import pandas as pd

    scored = _Scored.of(_Table.of(rows, draws, level), measure, draws, seed)
    area = share(scored.area_I, level)
    if measure == "agreement":  # the clean value is 1 by definition
        clean, relative = _known(1.0), area
    else:
        clean = share(scored.clean_I, level)
        relative = t_interval(scored.relative, scored.relative_I, level, scale=1)
        relative = replace(relative, low=float(np.maximum(relative.low, 0)))
    half = percentiles(scored.half, scored.half_D, level)
    return pd.DataFrame({"score": _SCORES, **_columns([clean, area, relative, half])})


def compare(
    rows_a: pd.DataFrame, rows_b: pd.DataFrame, measure: str = "correct", *, level: float = 0.95
) -> pd.DataFrame:
    """Paired difference A - B of two models at every fraction, on the same images and masks.

    Args:
        rows_a: of one model.
        rows_b: of the other.
        measure: a column of the rows, such as ``"correct"`` or ``"nll"``.
        level: coverage of the intervals, each on its own.

    Returns:
        One row per fraction: fraction, hidden, a, b, difference, se, low, high, p (below 1 - level
        exactly where the interval does not hold 0), p_holm (corrected for testing all fractions
        where the models could differ).

    Raises:
        ValueError: if images, fractions, repeats or masks differ.
    """
    import pandas as pd

    if measure not in (*FLAGS, *SIZES):
        raise ValueError(f"expected a measure of {', '.join((*FLAGS, *SIZES))}, got {measure!r}")
    a, b = _Table.of(rows_a, level=level), _Table.of(rows_b, level=level)
    a.check_paired(b)
    a_IF, b_IF = a.mean(measure), b.mean(measure)
    tests = []
    for a_I, b_I, hidden in zip(a_IF.T, b_IF.T, a.hidden_F, strict=True):
        if hidden == 0 and measure in WITH_ITSELF:
            tests.append(Tested(0.0, 0.0, 0.0, 0.0, 1.0))
        elif measure in FLAGS:
            tests.append(share_difference(a_I, b_I, level))
        else:
            low, high = BOUNDS[measure]
            tests.append(mean_difference(a_I, b_I, level, bound=high - low))
    columns = _columns(tests)
    return pd.DataFrame(
        {
            "fraction": a.fractions_F,
            "hidden": a.hidden_F,
            "a": a_IF.mean(axis=0),
            "b": b_IF.mean(axis=0),
            "difference": columns.pop("estimate"),
            **columns,
            "p": [test.p for test in tests],
            "p_holm": family(tests),
        }
    )


def compare_scores(
    rows_a: pd.DataFrame,
    rows_b: pd.DataFrame,
    measure: Curve = "correct",
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired differences A - B of :func:`scores` of two models, on the same images and masks.

    Args:
        rows_a: of one model.
        rows_b: of the other.
        measure: as for :func:`scores`.
        draws: bootstrap samples for ``half``, the same images for both models.
        level: coverage of the intervals, each on its own.
        seed: of the bootstrap.

    Returns:
        Four rows: score, a, b, difference, se, low, high; NaN where a model has no such score.

    Raises:
        ValueError: if images, fractions, repeats or masks differ.
    """
    import pandas as pd

    a, b = _Table.of(rows_a, draws, level), _Table.of(rows_b, draws, level)
    a.check_paired(b)
    one, two = (_Scored.of(table, measure, draws, seed) for table in (a, b))
    area = share_difference(one.area_I, two.area_I, level)
    clean: Interval
    if measure == "agreement":
        clean, relative = _known(0.0), area
    else:
        clean = share_difference(one.clean_I, two.clean_I, level)
        difference_I = one.relative_I - two.relative_I
        relative = paired(one.relative - two.relative, difference_I, 1, level)
    with np.errstate(invalid="ignore"):  # inf - inf: neither falls to half
        half = percentiles(one.half - two.half, one.half_D - two.half_D, level)
    columns = _columns([clean, area, relative, half])
    scores = {"a": one.all_S, "b": two.all_S, "difference": columns.pop("estimate")}
    return pd.DataFrame({"score": _SCORES, **scores, **columns})


def mask_variance(rows: pd.DataFrame, measure: str = "correct") -> pd.DataFrame:
    """How much of the spread comes from the draw of masks, and how much from that of images.

    With x_ir of image i and repeat r: ``masks`` = mean over i of var_r x_ir, and ``images`` =
    var_i (mean over r of x_ir) - masks / R, which is unbiased and may be negative. The variance of
    a mean over I images with R masks each, all drawn independently, is (images + masks / R) / I.

    Returns:
        One row per fraction: fraction, hidden, images, masks.

    Raises:
        ValueError: for rows of fewer than 2 images or repeats.
    """
    import pandas as pd

    table = _Table.of(rows)
    x_IFR = table.values(measure)
    R = x_IFR.shape[2]
    if R < 2:
        raise ValueError(f"expected at least 2 repeats, got {R}")
    masks_F = x_IFR.var(axis=2, ddof=1).mean(axis=0)
    return pd.DataFrame(
        {
            "fraction": table.fractions_F,
            "hidden": table.hidden_F,
            "images": x_IFR.mean(axis=2).var(axis=0, ddof=1) - masks_F / R,
            "masks": masks_F,
        }
    )


def class_entropy(rows: pd.DataFrame) -> pd.DataFrame:
    """Entropy of the predicted classes of all images: low where all are given the same few classes.

    Returns:
        One row per fraction: fraction, hidden, entropy in nats (log 10 for 10 classes alike).
    """
    import pandas as pd

    table = _Table.of(rows)
    predicted_IFR = table.values("predicted")
    entropy = []
    for f in range(len(table.fractions_F)):
        share = np.unique(predicted_IFR[:, f], return_counts=True)[1] / predicted_IFR[:, f].size
        entropy.append(-(share * np.log(share)).sum())
    return pd.DataFrame(
        {"fraction": table.fractions_F, "hidden": table.hidden_F, "entropy": entropy}
    )


def area(hidden_F: Array, value_DF: Array) -> Array:
    """Mean height of curves ``(D, F)`` over the range of hidden shares, by the trapezoid rule.

    Raises:
        ValueError: unless hidden shares are at least two and grow.
    """
    if len(hidden_F) < 2 or not (np.diff(hidden_F) > 0).all():
        raise ValueError(f"expected at least 2 growing hidden shares, got {hidden_F.tolist()}")
    return np.trapezoid(value_DF, hidden_F, axis=1) / (hidden_F[-1] - hidden_F[0])


def half(hidden_F: Array, value_DF: Array, clean_D: Array) -> Array:
    """Hidden share at which curves ``(D, F)`` first fall to half of their clean value.

    Linear between measured points, starting from the clean value at 0; infinite for curves that
    stay above it, NaN for a clean value of 0.
    """
    if hidden_F[0] > 0:
        hidden_F = np.append(0, hidden_F)
        value_DF = np.concatenate([clean_D[:, None], value_DF], axis=1)
    below_DF = value_DF <= clean_D[:, None] / 2
    below_DF[:, 0] = False  # the clean value itself, unless that is 0
    k = below_DF.argmax(axis=1)
    before = np.maximum(k - 1, 0)
    d = np.arange(len(value_DF))
    left, right = value_DF[d, before], value_DF[d, k]
    with np.errstate(invalid="ignore", divide="ignore"):  # where no point is found
        step = (left - clean_D / 2) / (left - right)
        found = hidden_F[before] + step * (hidden_F[k] - hidden_F[before])
    found = np.where(below_DF.any(axis=1), found, np.inf)
    return np.where(clean_D > 0, found, np.nan)


_SCORES = ("clean", "area", "relative", "half")


@dataclass(frozen=True)
class _Scored:
    """What the scores of a curve, and their intervals, are made of."""

    clean_I: Array
    area_I: Array
    half: float
    half_D: Array

    @classmethod
    def of(cls, table: _Table, measure: Curve, draws: int, seed: int) -> _Scored:
        if measure not in ("correct", "agreement"):
            raise ValueError(f"expected the measure 'correct' or 'agreement', got {measure!r}")
        value_IF, hidden_F = table.mean(measure), table.hidden_F
        correct = measure == "correct"
        clean_I = table.mean("clean_correct")[:, 0] if correct else np.ones(len(value_IF))
        both_IX = np.concatenate([clean_I[:, None], value_IF], axis=1)
        means = (both_IX.mean(axis=0, keepdims=True), table.resampled(both_IX, draws, seed))
        half_1, half_D = (half(hidden_F, mean_DX[:, 1:], mean_DX[:, 0]) for mean_DX in means)
        return cls(clean_I, area(hidden_F, value_IF), float(half_1[0]), half_D)

    @property
    def relative(self) -> float:
        """Area / clean value; NaN for a clean value of 0."""
        clean = float(self.clean_I.mean())
        return float(self.area_I.mean() / clean) if clean > 0 else np.nan

    @property
    def relative_I(self) -> Array:
        """Each image's contribution to :attr:`relative`, by the delta method; sums to 0."""
        if np.isnan(self.relative):
            return np.full(len(self.area_I), np.nan)
        return (self.area_I - self.relative * self.clean_I) / self.clean_I.mean()

    @property
    def all_S(self) -> list[float]:
        return [float(self.clean_I.mean()), float(self.area_I.mean()), self.relative, self.half]


@dataclass(frozen=True)
class _Table:
    """Rows, sorted by image, fraction and repeat."""

    rows: pd.DataFrame
    images: tuple[str, ...]
    fractions_F: Array
    repeats: int

    @classmethod
    def of(cls, rows: pd.DataFrame, draws: int = 1, level: float = 0.95) -> _Table:
        import pandas as pd

        if draws < 1 or not 0 < level < 1:
            raise ValueError(
                f"expected at least 1 draw and a level in (0, 1), got {draws} and {level}"
            )
        image_K, images = pd.factorize(rows["image"], sort=True)
        fraction_K, fractions_F = pd.factorize(rows["fraction"], sort=True)
        repeat_K, repeats = pd.factorize(rows["repeat"], sort=True)
        shape = len(images), len(fractions_F), len(repeats)
        if len(images) < 2:
            raise ValueError(f"expected rows of at least 2 images, got {len(images)}")
        cell_K = np.ravel_multi_index((image_K, fraction_K, repeat_K), shape)
        if len(rows) != np.prod(shape) or len(np.unique(cell_K)) != len(rows):
            raise ValueError(
                f"expected one row for each of {shape[0]} images, {shape[1]} fractions and "
                f"{shape[2]} repeats, got {len(rows)} rows; concatenate each image once"
            )
        rows = rows.iloc[cell_K.argsort()]
        return cls(rows, tuple(images), np.asarray(fractions_F, dtype=float), len(repeats))

    def values(self, name: str) -> Array:
        """A column as ``(I, F, R)``."""
        values_K = self.rows[name].to_numpy(dtype=float)
        return values_K.reshape(len(self.images), -1, self.repeats)

    def mean(self, name: str) -> Array:
        """A column as ``(I, F)``: the mean over repeats."""
        return self.values(name).mean(axis=2)

    @property
    def hidden_F(self) -> Array:
        """Realised hidden share at each fraction, over all images."""
        return self.mean("hidden").mean(axis=0)

    def check_paired(self, other: _Table) -> None:
        """Raise a ValueError unless the other rows are of the same images and masks."""
        if self.images != other.images or not np.array_equal(self.fractions_F, other.fractions_F):
            raise ValueError("expected two models measured on the same images and fractions")
        if self.repeats != other.repeats or not np.array_equal(
            self.rows["mask"].to_numpy(), other.rows["mask"].to_numpy()
        ):
            raise ValueError(
                "expected two models measured on the same masks; use one occluder, grid and seed"
            )

    def resampled(self, values_IX: Array, draws: int, seed: int) -> Array:
        """Means of columns over bootstrap samples of the images, ``(D, X)``."""
        I = len(values_IX)
        parts = []
        for start in range(0, draws, 64):
            counts_DI = _counts(I, seed, start, min(start + 64, draws))
            parts.append(counts_DI.astype(float) @ values_IX / I)
        return np.concatenate(parts)


@lru_cache(maxsize=16)  # the same samples for every measure, layer and network
def _counts(count: int, seed: int, start: int, stop: int) -> NDArray[np.uint16]:
    """How often each image is in the bootstrap samples from ``start`` to ``stop``."""
    words_DI = np.stack([raw_words(count, "bootstrap", seed, d) for d in range(start, stop)])
    picks_DI = (words_DI % np.uint64(count)).astype(np.int64)  # uneven by less than count / 2^64
    counts = [np.bincount(picks_I, minlength=count) for picks_I in picks_DI]
    return np.stack(counts).astype(np.uint16)


def _estimated(measure: str, values_I: Array, level: float) -> Interval:
    """The mean of a measure of ``occlude``."""
    if measure in FLAGS:
        return share(values_I, level)
    low, high = BOUNDS[measure]
    return mean(values_I, level, low=low, high=high)


def _known(value: float) -> Interval:
    """A number that is not estimated."""
    return Interval(value, 0.0, value, value)


def _columns(intervals: Sequence[Interval]) -> dict[str, list[float]]:
    """Estimates with their intervals, as columns of a table."""
    names = ("estimate", "se", "low", "high")
    return {name: [getattr(interval, name) for interval in intervals] for name in names}
