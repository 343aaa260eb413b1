"""Scores of every network and paired differences between networks, from tables only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from a2mim.checkpoints.load import LoadReport, as_text, assumptions
from a2mim.measure.invariance import read_images_table as read_similarity
from a2mim.measure.networks import called, short
from a2mim.measure.occlusion_tables import read_images_table as read_predictions
from a2mim.measure.spectrum import read_images_table as read_spectrum
from a2mim.runs.table import ENERGY, read_table, strength_from
from interactions.occlusion.curves import area
from interactions.orders.strength import Strength
from interactions.stats import (
    Interval,
    Tested,
    family,
    mean,
    mean_difference,
    share,
    share_difference,
)

SHARES = ("accuracy", "accuracy_area", "agreement_area", "recall")
"""Scores that are shares: shown in per cent, their differences in points."""

SAME = 1e-6
"""Between cosines to the same untrained network, which a device may round in another way."""

TITLES = {
    "accuracy": "accuracy",
    "accuracy_area": "accuracy under patch drop",
    "agreement_area": "agreement under patch drop",
    "J_low_orders": "J, low orders",
    "J_middle_orders": "J, middle orders",
    "J_high_orders": "J, high orders",
    "similarity": "similarity of occluded features",
    "similarity_excess": "similarity beyond untrained",
    "recall": "occluded image found again",
    "high_frequency": "Δ log amplitude, last map",
}
"""The scores, in their order, and what they are called."""

MEANINGS = {
    "accuracy": "Share of images whose class is predicted, nothing hidden.",
    "accuracy_area": "Accuracy when random patches are hidden, mean over hidden shares 0 to 0.9.",
    "agreement_area": "Share of images whose predicted class stays what it is for the whole image, "
    "mean over hidden shares.",
    "J_low_orders": "Strength of interactions below the order 0.1 (n-2), normalised to a mean of 1 "
    "over orders.",
    "J_middle_orders": "The same, from 0.1 (n-2) to 0.5 (n-2).",
    "J_high_orders": "The same, above 0.5 (n-2).",
    "similarity": "Cosine, after the mean of the batch is subtracted, of the features of an image "
    "and of the image with patches hidden; last layer, mean over hidden shares above 0.",
    "similarity_excess": "The same, minus that of the network with random weights.",
    "recall": "Share of occluded images whose features are most similar to those of their own "
    "whole image among those of their batch; mean over hidden shares above 0.",
    "high_frequency": "Amplitude of the last map of the residual stream at its highest diagonal "
    "frequency relative to its mean, in natural logarithms. Compared where maps are of one size.",
}


@dataclass(frozen=True)
class Network:
    """One checkpoint of a comparison.

    Attributes:
        model: its architecture, as in tables.
        weights: what its weights are called there.
        title: what it is called in figures and on the page; no two have the same.
        classes: outputs of its classifier; 0 without one.
        sha256: of its weights.
        report: what became of the weights.
        classifier: which one predictions are of: ``"own"``, ``"none"``, or a probe and what it was
            trained on.
    """

    model: str
    weights: str
    title: str
    classes: int
    sha256: str
    report: LoadReport = field(repr=False)
    classifier: str = "own"

    def to_dict(self) -> dict[str, Any]:
        """What the page has to know, as JSON takes it."""
        everything = asdict(self)
        everything.pop("report")
        everything["look"] = self.report.look
        everything["contents"] = self.report.contents
        everything["assumed"] = assumptions(self.report.assumed)
        everything["notes"] = list(self.report.notes)
        return json.loads(json.dumps(everything))


def same_weights(networks: Sequence[Network]) -> list[dict[str, Any]]:
    """Pairs of networks of the same weights: titles, in what they differ, and a sentence."""
    found = []
    for a, b in combinations(networks, 2):
        if not a.report.contents or a.report.contents != b.report.contents:
            continue
        looks = [
            f"{key} {as_text(value)} and {as_text(b.report.look[key])}"
            for key, value in a.report.look.items()
            if as_text(value) != as_text(b.report.look[key])
        ]
        made = [(n.model.partition(".")[0], n.report.options) for n in (a, b)]
        differ = ["of preprocessing"] if looks else []
        differ += ["of how the network is built"] if made[0] != made[1] else []
        sentence = f"{a.title} and {b.title} are the same weights"
        if looks:
            sentence += f" under two preprocessings ({'; '.join(looks)})"
        if differ:
            sentence += f": a difference is one {' or '.join(differ)}, not of weights."
        else:
            sentence += " under one preprocessing: one network twice."
        found.append(
            {
                "networks": [a.title, b.title],
                "differ": " or ".join(differ) or "of nothing that is known",
                "sentence": sentence,
            }
        )
    return found


def named_networks(reports: Sequence[LoadReport]) -> list[Network]:
    """Networks with titles as short as tells them apart: architecture, weights, or both."""
    models = [report.architecture for report in reports]
    weights = [short(report) for report in reports]
    both = [f"{model} ({weight})" for model, weight in zip(models, weights, strict=True)]
    full = [f"{report.architecture} ({called(report)})" for report in reports]
    choices = (models, weights, both, full)
    titles = next((names for names in choices if len(set(names)) == len(names)), full)
    return [
        Network(
            *(report.architecture, called(report), report.title or title),
            *(report.classes, report.sha256, report),
        )
        for report, title in zip(reports, titles, strict=True)
    ]


def shown(score: str, value: float, low: float, high: float, *, difference: bool = False) -> str:
    """A number with its interval; shares in per cent, their differences in points; – for NaN."""
    if np.isnan(value):
        return "–"
    sign, scale, digits = "+" if difference else "", *_scale(score)
    unit = {(True, True): " points", (True, False): " %"}.get((score in SHARES, difference), "")
    number, *ends = (f"{scale * x:{sign}.{digits}f}" for x in (value, low, high))
    interval = "–" if np.isnan(low) else ", ".join(ends)
    return f"{number}{unit} [{interval}]"


def shown_value(score: str, value: float) -> str:
    """A number alone; shares in per cent."""
    scale, digits = _scale(score)
    return f"{scale * value:.{digits}f}" + (" %" if score in SHARES else "")


def _scale(score: str) -> tuple[int, int]:
    """What a score is multiplied by to be shown, and its digits after the point."""
    return (100, 1) if score in SHARES else (1, 3)


def shown_p(p: float) -> str:
    """A p-value; – where nothing was tested."""
    return "–" if np.isnan(p) else f"{p:.2g}"


@dataclass(frozen=True)
class Score:
    """A number of one network and the values of images that it is the mean of.

    Attributes:
        estimate: the number.
        low, high: its 95 % interval.
        values_I: by image; NaN where an image has none.
        setting: what a difference needs to be the same in both networks.
        baseline_I: what was subtracted from the values of another score, if this one is such.
        strength: of which it is the mean over a band of orders, if it is such; differences are then
            those of :meth:`~interactions.orders.strength.Strength.band_difference`.
        band: of orders.
    """

    estimate: float
    low: float
    high: float
    values_I: pd.Series
    setting: str = ""
    baseline_I: pd.Series | None = field(default=None, repr=False)
    strength: Strength | None = field(default=None, repr=False)
    band: str = ""


def scores_and_differences(
    rows: pd.DataFrame, panels: Path, networks: Sequence[Network]
) -> pd.DataFrame:
    """Scores and differences as rows of the results table, but for dataset, seed and commit.

    Args:
        rows: of all panels.
        panels: where the panels' own run folders are, with their tables of single images.
        networks: what was compared, in order.
    """
    found = [network_scores(rows, panels, network) for network in networks]
    made = []
    for network, scores in zip(networks, found, strict=True):
        for key, score in scores.items():
            numbers = {"": score.estimate, "_low": score.low, "_high": score.high}
            made += _rows(key, numbers, network, f"score={key}", int(score.values_I.count()))
    tested = []
    for (a, of_a), (b, of_b) in combinations(zip(networks, found, strict=True), 2):
        for key in TITLES:
            one, two = of_a.get(key), of_b.get(key)
            if one is not None and two is not None and comparable(one, two):
                tested.append((a, b, key, *difference(key, one, two)))
    adjusted = family([test for *_, test, _ in tested])
    for (a, b, key, test, images), p_holm in zip(tested, adjusted, strict=True):
        setting = f"score={key} minus={b.model} {b.weights}"
        ends = {"_low": test.low, "_high": test.high, "_p": test.p, "_p_holm": p_holm}
        made += _rows(f"{key}_difference", {"": test.estimate, **ends}, a, setting, images)
    return pd.DataFrame(made).assign(run="compare", image="all")


def network_scores(rows: pd.DataFrame, panels: Path, network: Network) -> dict[str, Score]:
    """The scores of one network, in the order of :data:`TITLES`."""
    mine = rows[(rows["model"] == network.model) & (rows["weights"] == network.weights)]
    scores: dict[str, Score] = {}
    if (table := _images_of("predictions", panels, network)) is not None:
        scores |= _of_predictions(read_predictions(table), _has(mine, "occlusion_top1"))
    if _has(mine, ENERGY):
        scores |= _of_interactions(mine)
    if (table := _images_of("similarity", panels, network)) is not None:
        scores |= _of_similarity(read_similarity(table))
    if (table := _images_of("spectrum", panels, network)) is not None:
        scores |= _of_spectrum(read_spectrum(table))
    return {key: scores[key] for key in TITLES if key in scores}


def comparable(a: Score, b: Score) -> bool:
    """Whether the difference of two networks' score is one, and not that of another score."""
    if a.baseline_I is None or b.baseline_I is None:
        return a.setting == b.setting
    b_I = b.baseline_I.reindex(a.baseline_I.index)
    return not np.allclose(a.baseline_I, b_I, rtol=0, atol=SAME, equal_nan=True)


def difference(key: str, a: Score, b: Score) -> tuple[Tested, int]:
    """The paired difference a - b, all of it NaN for a single image, and the number of images.

    Raises:
        ValueError: if the two were not measured on the same images.
    """
    if set(a.values_I.index) != set(b.values_I.index):
        raise ValueError(f"expected {key} of two networks on the same images, got others")
    if a.strength is not None and b.strength is not None:
        return a.strength.band_difference(b.strength, a.band), len(a.values_I)
    both = pd.DataFrame({"a": a.values_I, "b": b.values_I}).dropna()
    a_I, b_I = both.to_numpy(dtype=float).T
    if len(both) < 2:
        return Tested(np.nan, np.nan, np.nan, np.nan, np.nan), len(both)
    of = share_difference if key in SHARES else mean_difference
    return of(a_I, b_I), len(both)


def _score(key: str, values_I: pd.Series, setting: str = "") -> Score:
    """The mean of values of images; NaN for a single image."""
    values_I = values_I.astype(float)
    values_I = values_I.where(np.isfinite(values_I))
    known_I = np.asarray(values_I.dropna(), dtype=np.float64)
    found = Interval(np.nan, np.nan, np.nan, np.nan)
    if len(known_I) > 1:
        found = share(known_I) if key in SHARES else mean(known_I)
    return Score(found.estimate, found.low, found.high, values_I, setting)


def _of_predictions(images: pd.DataFrame, judged: bool) -> dict[str, Score]:
    """Accuracy where classes are known, and areas under curves."""
    hidden_F = images.groupby("fraction")["hidden"].mean().to_numpy()

    def area_of(key: str, column: str) -> Score:
        values_IF = images.pivot_table(index="image", columns="fraction", values=column)
        areas_I = pd.Series(area(hidden_F, values_IF.to_numpy(dtype=float)), values_IF.index)
        return _score(key, areas_I)

    scores = {"agreement_area": area_of("agreement_area", "agreement")}
    if judged:
        correct_I = images.groupby("image")["clean_correct"].first().astype(float)
        scores["accuracy"] = _score("accuracy", correct_I)
        scores["accuracy_area"] = area_of("accuracy_area", "correct")
    return scores


def _of_interactions(rows: pd.DataFrame) -> dict[str, Score]:
    """J of low, middle and high orders."""
    strength = strength_from(rows)
    scores = {}
    for band in each(strength.bands()):
        energies_I = pd.Series(strength.per_image_IO.sum(axis=1), strength.images)
        scores[f"J_{band.band}_orders"] = Score(
            band.J, band.low, band.high, energies_I, strength=strength, band=band.band
        )
    return scores


def _of_similarity(images: pd.DataFrame) -> dict[str, Score]:
    """Of the last readout of the last layer, where something is hidden."""
    last = images[(images["readout"] == images["readout"].iloc[-1]) & (images["ratio"] > 0)]

    def mean_of(column: str) -> pd.Series:
        """Over hidden shares; NaN where one is."""
        values_IR = last.pivot(index="image", columns="ratio", values=column)
        return values_IR.mean(axis=1, skipna=False)

    cosine_I, untrained_I = mean_of("centred_cosine"), mean_of("untrained_centred_cosine")
    scores = {
        "similarity": _score("similarity", cosine_I),
        "recall": _score("recall", mean_of("recall@1")),
    }
    if untrained_I.notna().any():
        excess = _score("similarity_excess", cosine_I - untrained_I)
        scores["similarity_excess"] = replace(excess, baseline_I=untrained_I)
    return scores


def _of_spectrum(images: pd.DataFrame) -> dict[str, Score]:
    """Of the last map."""
    last = images[images["index"] == images["index"].max()].set_index("image")
    setting = f"cells={int(last['cells'].iloc[0])}"
    return {"high_frequency": _score("high_frequency", last["highest"], setting)}


def each(table: pd.DataFrame) -> Iterator[Any]:
    """The lines of a table, by name of column."""
    return table.itertuples(index=False)


def _has(rows: pd.DataFrame, measure: str) -> bool:
    return bool((rows["measure"] == measure).any())


def _images_of(panel: str, panels: Path, network: Network) -> Path | None:
    """The table of single images of a network in a panel: tables are numbered in its order."""
    folder = panels / panel / "images"
    if not folder.is_dir():
        return None
    inside = read_table(panels / panel / "rows.csv")[["model", "weights"]].drop_duplicates()
    order = list(inside.itertuples(index=False, name=None))
    if (network.model, network.weights) not in order:
        return None
    (table,) = folder.glob(f"{order.index((network.model, network.weights)):02d}-*.csv.gz")
    return table


def _rows(
    key: str, numbers: dict[str, float], network: Network, setting: str, images: int
) -> list[dict[str, Any]]:
    common = {
        "model": network.model,
        "weights": network.weights,
        "setting": setting,
        "at": 0.0,
        "samples": images,
    }
    return [
        {"measure": f"compare_{key}{end}", "value": value, **common}
        for end, value in numbers.items()
    ]
