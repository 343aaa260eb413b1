"""From rows of :mod:`interactions.effects` to curves, scores and paired comparisons.

    area       trapezoid over the realised hidden shares / their range
    relative   area / clean value
    half       hidden share at which half of the clean value is left, by linear interpolation
    ece        sum over equal bins of confidence of |sum of (confidence - correct) in the bin| / K

Images are what was sampled. Repeats of an image are averaged first, and intervals are percentiles
of the bootstrap over images, whose draws are keyed: the same rows give the same interval. Two
models are compared on the same images and masks; the test of one fraction counts the images where
either is the better one (exact sign test; for single masks and "correct" McNemar's exact test), and
Holm's correction goes over the fractions.

Shapes: I images, F fractions, R repeats, D bootstrap draws, X columns, one or more per fraction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from interactions.effects import FLAGS, SIZES
from interactions.keys import raw_words
from interactions.stats import Interval, holm

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

Curve = Literal["correct", "agreement"]
"""Measures whose value for clean images is known, so that scores exist."""

BINS = 15
"""Bins of confidence of the calibration error."""


def by_fraction(
    rows: pd.DataFrame, *, bins: int = BINS, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Every measure at every fraction, with intervals.

    Args:
        rows: of :func:`~interactions.effects.effects`.
        bins: of the calibration error.
        draws: bootstrap samples.
        level: coverage of the intervals, each on its own.
        seed: of the bootstrap.

    Returns:
        One row per measure and fraction: measure, fraction, hidden (mean over images), estimate,
        se, low, high. Measures are those of ``effects`` but classes, and ``kept`` (agreement where
        the clean prediction is correct; NaN where none is), ``overconfidence`` (mean confidence -
        accuracy) and ``ece`` (of a finite sample, so it is above 0 for a calibrated model too).

    Raises:
        ValueError: for rows that are not complete, or of fewer than 2 images.
    """
    import pandas as pd

    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    table = _Table.of(rows, draws, level)
    F = len(table.fractions_F)
    parts: dict[str, tuple[Array, Callable[[Array], Array]]] = {
        name: (table.mean(name), lambda mean_DF: mean_DF) for name in (*FLAGS, *SIZES)
    }
    both_IFR = table.values("agreement") * table.values("clean_correct")
    parts["kept"] = (
        np.concatenate([both_IFR.mean(axis=2), table.mean("clean_correct")], axis=1),
        lambda mean_DX: _ratio(mean_DX[:, :F], mean_DX[:, F:]),
    )
    parts["overconfidence"] = (
        table.mean("confidence") - table.mean("correct"),
        lambda mean_DF: mean_DF,
    )
    confidence_IFR = table.values("confidence")
    gap_IFR = confidence_IFR - table.values("correct")
    # Bins hold their upper ends; rounding can bring a confidence a little above 1.
    bin_IFR = np.clip(np.ceil(confidence_IFR * bins) - 1, 0, bins - 1)
    gaps = [np.where(bin_IFR == b, gap_IFR, 0).mean(axis=2) for b in range(bins)]
    parts["ece"] = (
        np.concatenate(gaps, axis=1),
        lambda mean_DX: abs(mean_DX.reshape(len(mean_DX), bins, F)).sum(axis=1),
    )
    values_IX = np.concatenate([values for values, _ in parts.values()], axis=1)
    estimate_1X, drawn_DX = table.resampled(values_IX, draws, seed)
    made = []
    start = 0
    for name, (values, finish) in parts.items():
        columns = slice(start, start + values.shape[1])
        start += values.shape[1]
        estimate_F, drawn_DF = finish(estimate_1X[:, columns])[0], finish(drawn_DX[:, columns])
        made.append(
            pd.DataFrame(
                {
                    "measure": name,
                    "fraction": table.fractions_F,
                    "hidden": table.hidden_F,
                    **_columns(estimate_F, drawn_DF, level),
                }
            )
        )
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
        rows: of :func:`~interactions.effects.effects`.
        measure: ``"correct"``, or ``"agreement"``, whose clean value is 1.
        draws: bootstrap samples.
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

    table = _Table.of(rows, draws, level)
    estimate_S, drawn_DS = _scored(table, measure, draws, seed)
    return pd.DataFrame({"score": _SCORES, **_columns(estimate_S, drawn_DS, level)})


def compare(
    rows_a: pd.DataFrame,
    rows_b: pd.DataFrame,
    measure: str = "correct",
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired difference A - B of two models at every fraction, on the same images and masks.

    Args:
        rows_a: of one model.
        rows_b: of the other.
        measure: a column of the rows, such as ``"correct"`` or ``"nll"``.
        draws: bootstrap samples.
        level: coverage of the intervals, each on its own.
        seed: of the bootstrap.

    Returns:
        One row per fraction: fraction, hidden, a, b, difference, se, low, high, higher_a and
        higher_b (images where that model's mean over repeats is higher), p, p_holm (corrected for
        testing all fractions).

    Raises:
        ValueError: if images, fractions, repeats or masks differ.
    """
    import pandas as pd
    from scipy.stats import binomtest

    if measure not in (*FLAGS, *SIZES):
        raise ValueError(f"expected a measure of {', '.join((*FLAGS, *SIZES))}, got {measure!r}")
    a, b = _Table.of(rows_a, draws, level), _Table.of(rows_b, draws, level)
    a.check_paired(b)
    a_IF, b_IF = a.mean(measure), b.mean(measure)
    _, drawn_DF = a.resampled(a_IF - b_IF, draws, seed)
    difference_F = a_IF.mean(axis=0) - b_IF.mean(axis=0)
    higher_a, higher_b = (a_IF > b_IF).sum(axis=0), (b_IF > a_IF).sum(axis=0)
    p = [
        float(binomtest(int(k), int(k + m)).pvalue) if k + m else 1.0
        for k, m in zip(higher_a, higher_b, strict=True)
    ]
    columns = _columns(difference_F, drawn_DF, level)
    return pd.DataFrame(
        {
            "fraction": a.fractions_F,
            "hidden": a.hidden_F,
            "a": a_IF.mean(axis=0),
            "b": b_IF.mean(axis=0),
            "difference": columns.pop("estimate"),
            **columns,
            "higher_a": higher_a,
            "higher_b": higher_b,
            "p": p,
            "p_holm": holm(p),
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
        draws: bootstrap samples, the same images for both models.
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
    a_S, a_DS = _scored(a, measure, draws, seed)
    b_S, b_DS = _scored(b, measure, draws, seed)
    with np.errstate(invalid="ignore"):  # inf - inf: neither falls to half
        difference_S, drawn_DS = a_S - b_S, a_DS - b_DS
    columns = _columns(difference_S, drawn_DS, level)
    return pd.DataFrame(
        {"score": _SCORES, "a": a_S, "b": b_S, "difference": columns.pop("estimate"), **columns}
    )


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


def _scored(table: _Table, measure: Curve, draws: int, seed: int) -> tuple[Array, Array]:
    """The scores ``(4,)`` and those of bootstrap samples ``(D, 4)``."""
    if measure not in ("correct", "agreement"):
        raise ValueError(f"expected the measure 'correct' or 'agreement', got {measure!r}")
    value_IF = table.mean(measure)
    clean_I = table.mean("clean_correct")[:, 0] if measure == "correct" else np.ones(len(value_IF))
    both = table.resampled(np.concatenate([clean_I[:, None], value_IF], axis=1), draws, seed)
    made = []
    for mean_DX in both:
        clean_D, value_DF = mean_DX[:, 0], mean_DX[:, 1:]
        area_D = area(table.hidden_F, value_DF)
        half_D = half(table.hidden_F, value_DF, clean_D)
        made.append(np.stack([clean_D, area_D, _ratio(area_D, clean_D), half_D], axis=1))
    return made[0][0], made[1]


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

    def resampled(self, values_IX: Array, draws: int, seed: int) -> tuple[Array, Array]:
        """Means of columns over images, ``(1, X)``, and over bootstrap samples, ``(D, X)``."""
        I = len(values_IX)
        parts = []
        for start in range(0, draws, 64):
            counts = [
                np.bincount(_picks(I, seed, draw), minlength=I)
                for draw in range(start, min(start + 64, draws))
            ]
            parts.append(np.stack(counts).astype(float) @ values_IX / I)
        return values_IX.mean(axis=0, keepdims=True), np.concatenate(parts)


def _picks(count: int, seed: int, draw: int) -> NDArray[np.int64]:
    """Which images one bootstrap sample takes."""
    words = raw_words(count, "bootstrap", seed, draw)
    return (words % np.uint64(count)).astype(np.int64)  # uneven by less than count / 2^64


def _interval(estimate: float, drawn_D: Array, level: float) -> Interval:
    """The percentile interval. Scores can be infinite or undefined in some draws."""
    defined = drawn_D[~np.isnan(drawn_D)]
    if np.isnan(estimate) or len(defined) < len(drawn_D):
        return Interval(float(estimate), np.nan, np.nan, np.nan)
    finite = len(drawn_D) > 1 and np.isfinite(drawn_D).all()
    se = float(drawn_D.std(ddof=1)) if finite else np.nan
    # Order statistics, as infinities cannot be interpolated.
    ends = np.quantile(drawn_D, [0.5 - level / 2, 0.5 + level / 2], method="inverted_cdf")
    return Interval(float(estimate), se, float(ends[0]), float(ends[1]))


def _columns(estimates_X: Array, drawn_DX: Array, level: float) -> dict[str, list[float]]:
    """Estimates with their intervals, as columns of a table."""
    intervals = [_interval(e, d, level) for e, d in zip(estimates_X, drawn_DX.T, strict=True)]
    names = ("estimate", "se", "low", "high")
    return {name: [getattr(interval, name) for interval in intervals] for name in names}


def _ratio(a: Array, b: Array) -> Array:
    """a / b, NaN where b is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b > 0, a / b, np.nan)
