"""What holds for every results table; a table that breaks it is not written.

    one key, one row    run, measure, model, weights, dataset, image, setting, at and seed
    ranges              shares, probabilities and their areas in [0, 1]; cosines, CKA and
                        differences of shares in [-1, 1]; errors, spreads, divergences and
                        variances from 0
    intervals           low <= estimate <= high
    nothing hidden      CKA is 1 at ratio 0, for a network and its baselines of the same images
    mean of J           1 over the orders

Unbiased HSIC is an inner product of K and L with centred rows and no diagonal (Szekely and Rizzo
2014), so unbiased CKA may be below 0, but not below -1. The ends of t intervals have no range, and
a percentile interval of a bootstrap may leave its estimate out: that of a calibration error often
does.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

KEY = ("run", "measure", "model", "weights", "dataset", "image", "setting", "at", "seed")
"""Columns of the results table that tell rows apart."""

ROUNDING = 1e-6
"""Of numbers that are computed in single precision, and written with 8 digits."""

SAME = 0.01
"""How far CKA may be from 1 with nothing hidden: dropping no token takes another way through a
network, which rounds otherwise."""

PERCENTILE = ("occlusion",)
"""Runs whose intervals are percentiles of bootstrap samples."""

INTERVAL = re.compile(r"(.+)_(low|high)")
"""An end of an interval, and the measure that it belongs to."""

_BESIDE = "(_untrained|_pixels|_permuted)?"
_ANY = (-np.inf, np.inf)
RANGES = {
    re.compile(pattern): limits
    for pattern, limits in {
        r".*_(se|sd)": (0, np.inf),
        r".*_(p|p_holm)": (0, 1),
        r".*_top[15](_mean)?|accuracy|occlusion_accuracy": (0, 1),
        r"occlusion_(agreement|flipped|kept|confidence|p_true|p_clean|tv|ece)": (0, 1),
        r"occlusion_(top1|agreement)_(clean|area)": (0, 1),
        r"occlusion_(top1|agreement)(_clean|_area)?_difference": (-1, 1),
        r"occlusion_(drop|overconfidence)": (-1, 1),
        r"occlusion_js": (0, np.log(2)),
        r"occlusion_brier": (0, 2),
        r"occlusion_(kl|nll|class_entropy|.+_variance_masks)": (0, np.inf),
        r"compare_(accuracy|accuracy_area|agreement_area|recall)": (0, 1),
        r"compare_(accuracy|accuracy_area|agreement_area|recall)_difference": (-1, 1),
        r"compare_similarity": (-1, 1),
        rf"invariance_recall@\d+{_BESIDE}": (0, 1),
        rf"invariance_(cka|((centred_)?cosine|pearson)(_median|_p05)?){_BESIDE}": (-1, 1),
        rf"invariance_relative_l2(_median|_p05)?{_BESIDE}": (0, np.inf),
        r"spectrum_variance|reconstruction_mse(_mean)?": (0, np.inf),
        r"interaction_(strength_plug_in|rho|rho_at_least)|noise_floor": (0, np.inf),
    }.items()
}
"""Where the values of measures lie; the first that a measure's whole name matches is its own."""

FINITE = re.compile(r"interaction_(energy|strength_plug_in)")
"""Measures of which no value may be missing: one would make the mean of its order NaN."""

WHOLE = re.compile(r"invariance_cka(_untrained|_pixels)?")
"""Measures that are 1 at ratio 0."""


class InvariantError(ValueError):
    """A table that cannot be right; the message names the measure, the row and the value."""


def check_rows(rows: pd.DataFrame) -> None:
    """Refuse rows of the results table that cannot be right.

    Raises:
        InvariantError: naming the first row that breaks an invariant, and how many more do.
    """
    rows = rows.reset_index(drop=True)
    values = rows["value"].to_numpy(dtype=float)
    unknown = rows[list(KEY)].isna().any(axis=1).to_numpy()
    _refuse(rows, unknown, "a name or number in each column of its key")
    _refuse(rows, rows.duplicated(list(KEY)).to_numpy(), "one row for one key, not a second one")
    measures = rows["measure"].to_numpy(dtype=object)
    for measure in dict.fromkeys(measures):
        of_measure = measures == measure
        if FINITE.fullmatch(measure):
            _refuse(rows, of_measure & ~np.isfinite(values), "a finite value")
        low, high = range_of(measure)
        # NaN is neither: it says that there is no such number
        outside = (values < low - ROUNDING) | (values > high + ROUNDING)
        _refuse(rows, of_measure & outside, f"a value in [{low:g}, {high:g}]")
        if WHOLE.fullmatch(measure):
            single = rows["setting"].str.contains("precision=float32", regex=False).to_numpy(bool)
            whole = of_measure & single & (rows["at"].to_numpy(dtype=float) == 0)
            _refuse(rows, whole & (np.abs(values - 1) > SAME), "1, because nothing is hidden")
    _check_intervals(rows)


def range_of(measure: str) -> tuple[float, float]:
    """Where the values of a measure lie; anywhere if nothing is known of it."""
    return next((limits for name, limits in RANGES.items() if name.fullmatch(measure)), _ANY)


def check_mean_of_J(J_O: ArrayLike, what: str, *, atol: float = ROUNDING) -> None:
    """Refuse normalised strengths J(m) = S(m) / mean S whose mean over the orders is not 1.

    Args:
        J_O: of all measured orders of one network.
        what: whose they are, for the message.
        atol: how far from 1 the mean may be.

    Raises:
        InvariantError: if it is farther, or not a number.
    """
    mean = float(np.mean(np.asarray(J_O, dtype=float)))
    if not abs(mean - 1) <= atol:
        raise InvariantError(f"J of {what}: expected a mean of 1 over the orders, got {mean:.8g}")


def check_side_by_side(
    wide: pd.DataFrame, rows: pd.DataFrame, keys: list[str], numbers: list[str]
) -> None:
    """Refuse a wide table unless it holds each value of the rows, where it belongs, and no other.

    Args:
        wide: a row for each of ``keys``, a column for each of ``numbers``.
        rows: with ``keys``, ``number`` (name of the column) and ``value``.
        keys: columns that tell the rows of the wide table apart.
        numbers: its other columns.

    Raises:
        InvariantError: naming the first value that is elsewhere.
    """
    place = [*keys, "number"]
    found = wide.melt(id_vars=keys, value_vars=numbers, var_name="number", value_name="found")
    both = rows[[*place, "value"]].merge(found, on=place, how="outer", indicator=True)
    value, there = both["value"].to_numpy(dtype=float), both["found"].to_numpy(dtype=float)
    same = (value == there) | (np.isnan(value) & np.isnan(there))
    wrong = ~same | (both["_merge"] == "left_only").to_numpy() | both.duplicated(place).to_numpy()
    if wrong.any():
        first = both[wrong].iloc[0]
        where = ", ".join(f"{key} {first[key]}" for key in place)
        raise InvariantError(
            f"wide table: expected {first['value']:.8g}, as in the rows, for {where}, got "
            f"{first['found']:.8g}{_more(wrong)}"
        )


def _check_intervals(rows: pd.DataFrame) -> None:
    ends = rows["measure"].str.extract(f"^{INTERVAL.pattern}$")
    other = [name for name in KEY if name != "measure"]
    index = pd.MultiIndex.from_frame(rows[list(KEY)])
    value = pd.Series(rows["value"].to_numpy(dtype=float), index)

    def beside(these: pd.DataFrame, measure: pd.Series) -> NDArray[np.float64]:
        """Values of the same key but for the measure; NaN where there is none."""
        key = these[other].assign(measure=measure)[list(KEY)]
        return value.reindex(pd.MultiIndex.from_frame(key)).to_numpy()

    for end, sign in (("low", 1), ("high", -1)):
        these = rows[ends[1] == end]
        if these.empty:
            continue
        base = ends.loc[these.index, 0]
        mine, estimate = these["value"].to_numpy(dtype=float), beside(these, base)
        slack = ROUNDING * np.fmax(1, np.abs(mine))
        with np.errstate(invalid="ignore"):  # inf - inf: a curve that never falls to half
            wrong = sign * (mine - estimate) > slack
        wrong = wrong & ~these["run"].isin(PERCENTILE).to_numpy(bool)
        _refuse(these, wrong, f"an interval around its estimate, {_first(estimate, wrong)}")
        if end == "low":
            high = beside(these, base + "_high")
            with np.errstate(invalid="ignore"):
                wrong = mine - high > slack
            _refuse(these, wrong, f"a lower end below the upper one, {_first(high, wrong)}")


def _first(values: NDArray[np.float64], wrong: NDArray[np.bool_]) -> str:
    return f"{values[wrong.argmax()]:.8g}" if wrong.any() else ""


def _refuse(rows: pd.DataFrame, wrong: NDArray[np.bool_], expected: str) -> None:
    """Raise an InvariantError that names the first row that is wrong."""
    if wrong.any():
        row = rows[wrong].iloc[0]
        where = ", ".join(f"{key} {row[key]}" for key in KEY if key != "measure")
        raise InvariantError(
            f"{row['measure']}: expected {expected}, got {row['value']:.8g} in row "
            f"{rows.index[wrong][0]} ({where}){_more(wrong)}; the table was not written"
        )


def _more(wrong: NDArray[np.bool_]) -> str:
    return f", and {wrong.sum() - 1} more" if wrong.sum() > 1 else ""
