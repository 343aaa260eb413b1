"""From tables of masked images to rows of the results table, and to text.

    curve        every measure over the hidden share
    scores       area, relative area and half point of a curve
    difference   network in the row - the one behind ``minus=`` in its setting, on the same masks

``at`` is the share that was really hidden, the mean over images; ends of intervals over images are
rows of their own, ``_low`` and ``_high``, NaN where there is none. Tables without classes
(:func:`without_truth`) tell how far each network keeps to what it says of the whole image: their
curves, scores and differences are of agreement, and nothing that needs a class is among their rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd

from a2mim.runs.table import COLUMNS, side_by_side
from interactions.occlusion import curves as summaries
from interactions.occlusion.curves import Curve
from interactions.occlusion.predictions import FLAGS, SIZES

ABOUT = ("image", "fraction", "repeat", "hidden", "mask")
"""Columns that say which masked image a row is of."""

PREDICTIONS = ("agreement", "flipped", "confidence", "p_clean", "kl", "js", "tv")
"""Measures of outputs alone, which need no class."""


SAID = {
    "agreement": "share whose class is that of the whole image",
    "confidence": "probability of the predicted class",
    "KL": "divergence of the prediction from that of the whole image",
    "class entropy": "of the predicted classes over images; 0 if all are one",
    "ECE": "expected calibration error: confidence against accuracy",
    "area": "mean height of the curve over hidden shares",
    "relative": "area / value of the whole image",
    "half at": "hidden share at which half of the value of the whole image is left",
    "area of agreement": "area of that curve",
    "p (Holm)": "of a difference of 0, corrected for all hidden shares",
}
"""Columns of what is printed, and what they mean."""

SUMMARY = {
    "model": "network",
    "weights": "its weights",
    "occluder": "what is hidden",
    "minus": "network that is subtracted on the same masks, in a difference",
    "measure": "top1, top5, agreement, ...; _area, _relative and _half are of whole curves",
    "hidden": "hidden share of the image, mean over images; of whole curves the largest",
    "value": "mean over images and masks, or a difference",
    "low": "lower end of its 95 % interval over images",
    "high": "upper end",
    "p": "of a difference of 0",
    "p_holm": "corrected for all hidden shares (Holm)",
}
"""Columns of ``summary.csv`` and what they mean."""


@dataclass(frozen=True)
class Measured:
    """One network under one occluder.

    Attributes:
        model: the architecture.
        weights: what they are called.
        setting: what decides the numbers, with ``occluder=NAME`` in it.
        table: a row per masked image, of :func:`interactions.occlusion.predictions.occlude` or
            :func:`without_truth`.
    """

    model: str
    weights: str
    setting: str
    table: pd.DataFrame


def read_images_table(path: Path) -> pd.DataFrame:
    """The rows of one network and occluder, as they were measured."""
    return pd.read_csv(path, dtype={"image": str, "mask": str}, keep_default_na=False)


def without_truth(table: pd.DataFrame) -> pd.DataFrame:
    """Only what can be said without classes; ``flipped`` is then another class than of the whole.

    Args:
        table: of :func:`interactions.occlusion.predictions.occlude`, whatever classes it was given.
    """
    kept = (*ABOUT, "predicted", "clean_predicted", *PREDICTIONS)
    table = table[[column for column in table.columns if column in kept]]
    return table.assign(flipped=~table["agreement"])


def result_rows(networks: Sequence[Measured], **constant: str | int) -> pd.DataFrame:
    """Curves and scores of each network, and the differences of every two, of one occluder.

    Args:
        networks: measured on the same images and masks.
        constant: the other columns of the results table, but ``samples``.

    Raises:
        ValueError: if masks of growing fractions do not hide growing shares, or tables are not of
            the same images and masks.
    """
    constant["samples"] = networks[0].table["image"].nunique()
    made = []
    for one in networks:
        scores = (_scores(one.table, measure) for measure in _compared(one.table))
        made.append(
            pd.concat([_curves(one.table), *scores]).assign(
                model=one.model, weights=one.weights, setting=one.setting
            )
        )
    for a, b in combinations(networks, 2):
        made.append(
            _differences(a.table, b.table).assign(
                model=a.model,
                weights=a.weights,
                setting=f"{a.setting} minus={b.model} {b.weights}",
            )
        )
    return pd.concat(made, ignore_index=True).assign(**constant)[list(COLUMNS)]


def summarised(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a results table side by side, with the columns :data:`SUMMARY`."""
    parts = rows["measure"].str.extract(r"^occlusion_(.+?)(_low|_high|_p_holm|_p)?$")
    table = rows.assign(
        occluder=rows["setting"].str.extract(r"occluder=(\S+)", expand=False),
        minus=rows["setting"].str.extract(r" minus=(.*)$", expand=False).fillna(""),
        measure=parts[0].str.removesuffix("_difference"),
        hidden=rows["at"],
        number=parts[1].fillna("_value").str.removeprefix("_"),
    )
    keys = ["model", "weights", "occluder", "minus", "measure", "hidden"]
    return side_by_side(table, keys, ["value", "low", "high", "p", "p_holm"])


def summary(rows: pd.DataFrame) -> str:
    """Curves, scores and differences of a results table, for people; shares in per cent."""
    text = []
    rows = rows.assign(occluder=rows["setting"].str.extract(r"occluder=(\S+)", expand=False))
    several = len(rows[["model", "weights"]].drop_duplicates()) > 1
    truth = (rows["measure"] == "occlusion_top1").any()
    lead, title = ("top1", "top-1") if truth else ("agreement", "agreement")
    for occluder, table in rows.groupby("occluder", sort=False):
        key = ["model", "weights", "setting", "at"]
        table = table.assign(number=table["measure"].str.removeprefix("occlusion_"))
        wide = side_by_side(table, key, list(dict.fromkeys(table["number"])))
        judged = "" if truth else ", compared with each network's own prediction of the whole image"
        nats = "KL" if truth else "KL and entropy"
        count = table["samples"].iloc[0]
        text.append(f"\n{occluder}: {count} images{judged}; in %, {nats} in nats")
        curves = wide[wide[lead].notna()]
        kl = curves["kl"].map("{:.3f}".format)
        columns = {
            "model": curves["model"],
            "weights": curves["weights"],
            "hidden": _per_cent(curves["at"]),
            title: _per_cent(curves[lead]),
            "[95 %]": _interval(curves, lead),
        }
        if truth:
            columns |= {
                "top-5": _per_cent(curves["top5"]),
                "agreement": _per_cent(curves["agreement"]),
                "KL": kl,
                "ECE": _per_cent(curves["ece"]),
            }
        else:
            entropy = curves["class_entropy"] + 0.0  # that of one class is -0.0
            columns |= {
                "confidence": _per_cent(curves["confidence"]),
                "KL": kl,
                "class entropy": entropy.map("{:.3f}".format),
            }
        text.append(_printed(columns))
        scores = wide[wide[f"{lead}_area"].notna()]
        half = _per_cent(scores[f"{lead}_half"])
        columns = {
            "model": scores["model"],
            "weights": scores["weights"],
            "area": _per_cent(scores[f"{lead}_area"]),
            "[95 %]": _interval(scores, f"{lead}_area"),
        }
        if truth:
            columns |= {
                "relative": _per_cent(scores["top1_relative"]),
                "half at": half,
                "area of agreement": _per_cent(scores["agreement_area"]),
            }
        else:
            columns["half at"] = half  # the clean value is 1: relative is the area itself
        text.append(_printed(columns))
        if several:
            pairs = wide[wide[f"{lead}_difference"].notna()]
            columns = {
                "model": pairs["model"],
                "weights": pairs["weights"],
                "minus": pairs["setting"].str.extract(r"minus=(.*)$", expand=False),
                "hidden": _per_cent(pairs["at"]),
                title: _per_cent(pairs[f"{lead}_difference"]),
                "[95 %]": _interval(pairs, f"{lead}_difference"),
                "p (Holm)": pairs[f"{lead}_p_holm"].map("{:.2g}".format).replace("nan", "–"),
            }
            text.append(_printed(columns))
    shown = "\n".join(text)
    there = [name for name in SAID if re.search(rf"\s{re.escape(name)}\s", shown)]
    meant = [f"{name}: {SAID[name]}" for name in there]
    return "\n".join([shown, "", *fill("; ".join(meant), 100).splitlines()])


# --------------------------------------------------------------------------------------------------
# rows


def _compared(table: pd.DataFrame) -> tuple[Curve, ...]:
    """Of what scores are made, and in what networks are compared; the first leads."""
    return ("correct", "agreement") if "correct" in table else ("agreement",)


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    """All measures over the hidden share."""
    unknown = [name for name in (*FLAGS, *SIZES) if name not in table]
    curves = summaries.by_fraction(table.assign(**dict.fromkeys(unknown, np.nan)))
    if unknown:
        curves = curves[curves["measure"].isin(PREDICTIONS)]
    curves = curves[curves["measure"] != "clean_correct"]  # the same at every share
    curves = curves.rename(columns={"hidden": "at", "estimate": "value"})
    curves["measure"] = curves["measure"].map(_measure_name)
    parts = [_with_ends(curves)]
    entropy = summaries.class_entropy(table)
    parts.append(_plain(entropy, "entropy", "occlusion_class_entropy"))
    if table["repeat"].nunique() > 1:
        lead = _compared(table)[0]
        variance = summaries.mask_variance(table, lead)
        for part in ("images", "masks"):
            parts.append(_plain(variance, part, f"{_measure_name(lead)}_variance_{part}"))
    return pd.concat(parts)


def _scores(table: pd.DataFrame, measure: Curve) -> pd.DataFrame:
    """Area, relative area and half point; ``at`` is where the curve ends."""
    scores = summaries.scores(table, measure).rename(columns={"estimate": "value"})
    name = _measure_name(measure)
    scores = scores.assign(measure=name + "_" + scores["score"], at=_end(table))
    return _with_ends(scores)


def _differences(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Paired differences at every hidden share, with tests, and of scores."""
    made = []
    for measure in _compared(a):
        name = _measure_name(measure)
        curve = summaries.compare(a, b, measure)
        renamed = curve.rename(columns={"hidden": "at", "difference": "value"})
        made.append(_with_ends(renamed.assign(measure=f"{name}_difference")))
        made += [_plain(curve, p, f"{name}_{p}") for p in ("p", "p_holm")]
        scores = summaries.compare_scores(a, b, measure).rename(columns={"difference": "value"})
        scores = scores.assign(measure=name + "_" + scores["score"] + "_difference", at=_end(a))
        made.append(_with_ends(scores))
    return pd.concat(made)


def _measure_name(measure: str) -> str:
    return "occlusion_" + ("top1" if measure == "correct" else measure)


def _end(table: pd.DataFrame) -> float:
    """The largest hidden share."""
    return float(table.groupby("fraction")["hidden"].mean().iloc[-1])


def _plain(table: pd.DataFrame, column: str, measure: str) -> pd.DataFrame:
    """A column over the hidden share."""
    return pd.DataFrame({"measure": measure, "at": table["hidden"], "value": table[column]})


def _with_ends(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of values, each followed by those of the ends of its interval."""
    parts = [
        pd.DataFrame({"measure": table["measure"] + end, "at": table["at"], "value": table[column]})
        for end, column in (("", "value"), ("_low", "low"), ("_high", "high"))
    ]
    return pd.concat(parts).sort_index(kind="stable")


# --------------------------------------------------------------------------------------------------
# text


def _per_cent(values: pd.Series) -> pd.Series:
    return (100 * values).map("{:.1f}".format)


def _interval(table: pd.DataFrame, name: str) -> pd.Series:
    low, high = _per_cent(table[f"{name}_low"]), _per_cent(table[f"{name}_high"])
    return ("[" + low + ", " + high + "]").where(table[f"{name}_low"].notna(), "[–]")


def _printed(columns: dict[str, pd.Series]) -> str:
    return pd.DataFrame(columns).to_string(index=False) + "\n"
