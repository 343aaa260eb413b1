"""What a comparison found: scores of every network, and paired differences, from tables only.

A score is a mean over images of one value per image (for interactions, J plus the image's
contribution to it). Its interval is that of :mod:`interactions.stats` for its kind: of shares
Wilson's, which stays in [0, 1], of others the t interval. Two networks, measured on the same
images, have the paired difference, with interval and p of one inference: the score test of paired
shares for accuracy, the t test for all else. Where all values, or all paired differences, are the
same there is no interval and no p, because a sample without spread says nothing about other images;
where all differences are 0, p is 1. Fewer than 2 images that have the value make no number.

An image without a value (features that are constant have no cosine) is left out, and so is a pair
of which one is without. Differences beyond the untrained network are left out where two networks
share the untrained one: they would be the differences of the score itself, tested twice.

Holm's correction goes over all differences of a comparison that could be told from 0. Intervals are
those of single numbers. Nothing here covers another training of the networks.

Rows of the results table: ``compare_<score>`` with ``_low`` and ``_high``, and for each pair of
networks ``compare_<score>_difference`` with ``_low``, ``_high``, ``_p`` and ``_p_holm``, where the
setting names the network that is subtracted.

Shapes: I images, F hidden shares of predictions, R of similarity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from a2mim.convert import LoadReport, as_text, assumptions
from experiments.figures import Look, interaction_overlay, occlusion_effects, save
from experiments.figures_compare import looks_of, score_dots
from experiments.figures_features import (
    invariance_over_ratios,
    invariance_table,
    spectra,
    spectrum_table,
    stream_over_depth,
)
from experiments.invariance import read_images_table as read_similarity
from experiments.occlusion_tables import read_images_table as read_predictions
from experiments.results import ENERGY, read_table, strength_from, write_atomic
from experiments.runs import UsageError, is_run
from experiments.spectrum import read_images_table as read_spectrum
from experiments.weights import called, short
from interactions import plots
from interactions.stats import (
    Interval,
    Tested,
    family,
    mean,
    mean_difference,
    share,
    share_difference,
)
from interactions.strength import Strength
from interactions.summaries import area

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
        Network(report.architecture, called(report), title, report.classes, report.sha256, report)
        for report, title in zip(reports, titles, strict=True)
    ]


class Comparison:
    """A finished comparison, read from its folder.

    Args:
        folder: of ``a2mim compare``.

    Raises:
        UsageError: if there is none in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not is_run(self.folder) or not (self.folder / "compare.json").is_file():
            raise UsageError(f"expected a finished comparison in {folder}; see a2mim compare")

    def to_frame(self) -> pd.DataFrame:
        """The results table: one row for each number, of all panels, scores and differences."""
        return self._rows.copy()

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What was done: networks with their titles, images, forwards, notes, what was left out."""
        return json.loads((self.folder / "compare.json").read_text())

    @property
    def titles(self) -> list[str]:
        """What the networks are called in figures, in their order."""
        return [network["title"] for network in self.plan["networks"]]

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Colour and mark of each network, the same in all figures."""
        return looks_of(self.titles)

    @property
    def doubts(self) -> list[str]:
        """What is not known about networks, and which of them are the same weights."""
        assumed = [
            f"{network['title']}: assumed {sentence}."
            for network in self.plan["networks"]
            for sentence in network.get("assumed", [])
        ]
        return assumed + [pair["sentence"] for pair in self.plan.get("same_weights", [])]

    def same(self, a: str, b: str) -> str:
        """In what two networks of the same weights differ; empty for others."""
        pairs = self.plan.get("same_weights", [])
        return next((pair["differ"] for pair in pairs if set(pair["networks"]) == {a, b}), "")

    def assumed(self, *titles: str) -> list[str]:
        """Those of the networks about which something is assumed."""
        doubtful = {n["title"] for n in self.plan["networks"] if n.get("assumed")}
        return [title for title in titles if title in doubtful]

    @property
    def panels(self) -> list[str]:
        """What :meth:`plot` draws."""
        return list(self._draw)

    def scores(self) -> pd.DataFrame:
        """One row for each network and score: network, score, value, low, high, images."""
        return self._wide(self._own(difference=False), ["network", "score"], ["low", "high"])

    def differences(self) -> pd.DataFrame:
        """Paired differences of scores, network minus other.

        Returns:
            network, minus, score, value, low, high (of this difference alone), p, p_holm (corrected
            for all differences of the comparison), images. NaN where there is none; see the top of
            this file.
        """
        rows = self._own(difference=True)
        other = rows["setting"].str.extract(r" minus=(.*)$", expand=False)
        titles = {f"{n['model']} {n['weights']}": n["title"] for n in self.plan["networks"]}
        rows = rows.assign(minus=other.map(titles))
        return self._wide(rows, ["network", "minus", "score"], ["low", "high", "p", "p_holm"])

    def plot(self, panel: str = "scores") -> Figure:
        """One of the figures of :attr:`panels`.

        Raises:
            ValueError: if there is no such panel.
        """
        if panel not in self._draw:
            raise ValueError(f"expected a panel of {', '.join(self._draw)}, got {panel!r}")
        with mpl.rc_context(plots.STYLE):
            return self._draw[panel]()

    def save_figures(self) -> None:
        """Draw all figures into the folder, as PNG and SVG."""
        save(self._draw, self.folder)

    def to_html(self, path: str | Path) -> None:
        """Write the page: one file that needs no other and no network."""
        from experiments.comparison_page import html

        write_atomic(Path(path), html(self))

    def __str__(self) -> str:
        """Scores and differences, for people."""
        return "\n".join(
            [
                shown_networks(self).to_string(index=False),
                *self.doubts,
                "",
                shown_scores(self).to_string(index=False),
                "",
                shown_differences(self).to_string(index=False),
            ]
        )

    def __repr__(self) -> str:
        return f"Comparison of {', '.join(self.titles)} in {self.folder}"

    def _repr_html_(self) -> str:
        tables = (shown_networks(self), shown_scores(self), shown_differences(self))
        networks, *rest = (table.to_html(index=False) for table in tables)
        return "".join([networks, *(f"<p>{escape(text)}</p>" for text in self.doubts), *rest])

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return read_table(self.folder / "rows.csv")

    def titled(self) -> pd.DataFrame:
        """The results table with titles in the place of architectures, and no names of weights."""
        return self._titled.copy()

    @cached_property
    def _titled(self) -> pd.DataFrame:
        titles = {(n["model"], n["weights"]): n["title"] for n in self.plan["networks"]}
        keys = zip(self._rows["model"], self._rows["weights"], strict=True)
        return self._rows.assign(model=[titles[key] for key in keys], weights="")

    @cached_property
    def _draw(self) -> dict[str, Callable[[], Figure]]:
        """How each figure is drawn that there are numbers for."""
        rows = self.titled()
        of = {name: table for name, table in rows.groupby("run", sort=False)}
        draw: dict[str, Callable[[], Figure]] = {}
        draw["scores"] = partial(score_dots, self.scores(), TITLES, SHARES, self.looks)
        if "occlusion" in of:
            draw["predictions"] = partial(occlusion_effects, of["occlusion"], self.looks)
        if "interactions" in of:
            draw["interactions"] = partial(interaction_overlay, of["interactions"], self.looks)
        if "invariance" in of:
            table = invariance_table(of["invariance"])
            draw["similarity"] = partial(invariance_over_ratios, table, self.looks)
        if "spectrum" in of:
            table = spectrum_table(of["spectrum"])
            draw["spectrum"] = partial(spectra, table)
            draw["depth"] = partial(stream_over_depth, table, self.looks)
        return draw

    def _own(self, *, difference: bool) -> pd.DataFrame:
        """The rows of scores, or of differences, with columns network, score and end."""
        rows = self.titled()
        rows = rows[rows["run"] == "compare"]
        rows = rows[rows["setting"].str.contains(" minus=") == difference]
        score = rows["setting"].str.extract(r"^score=(\S+)", expand=False)
        name = "compare_" + score + ("_difference" if difference else "")
        ends = [m[len(n) :] for m, n in zip(rows["measure"], name, strict=True)]
        return rows.assign(network=rows["model"], score=score, end=ends)

    def _wide(self, rows: pd.DataFrame, keys: list[str], ends: list[str]) -> pd.DataFrame:
        if rows.empty:
            return pd.DataFrame(columns=[*keys, "value", *ends, "images"])
        wide = rows.pivot(index=keys, columns="end", values="value")
        wide = wide.rename(columns={"": "value"} | {f"_{end}": end for end in ends})
        images = rows[rows["end"] == ""].set_index(keys)["samples"].rename("images")
        order = rows[keys].drop_duplicates()
        table = order.merge(wide[["value", *ends]].join(images).reset_index(), on=keys)
        return table.rename_axis(columns=None)


def redraw_comparison(folder: Path) -> None:
    """Draw the figures and write the page of a finished comparison again.

    Raises:
        UsageError: if there is none.
    """
    comparison = Comparison(folder)
    comparison.save_figures()
    comparison.to_html(folder / "compare.html")
    print(f"page: {folder / 'compare.html'}")


def shown_networks(comparison: Comparison) -> pd.DataFrame:
    """How networks see their images, and how much of that is assumed, as text, a line each."""
    lines = []
    for network in comparison.plan["networks"]:
        look = network.get("look", {})  # comparisons of before that was kept have none
        size = look.get("input_size")
        lines.append(
            {
                "network": network["title"],
                **{key: as_text(look.get(key, "–")) for key in ("mean", "std")},
                "size": f"{size[1]} px" if size else "–",
                "crop": as_text(look.get("crop_pct", "–")),
                "resizing": look.get("interpolation", "–"),
                "assumed": ("yes" if network["assumed"] else "no") if "assumed" in network else "–",
            }
        )
    return pd.DataFrame(lines)


def reservation(comparison: Comparison, a: str, b: str) -> str:
    """What a difference of two networks rests on, in a word or two; or empty."""
    if comparison.same(a, b):
        return "same weights"
    return "assumed" if comparison.assumed(a, b) else ""


def shown_scores(comparison: Comparison) -> pd.DataFrame:
    """Scores as text: a line for each network, a column for each score."""
    table = comparison.scores()
    text = [shown(row.score, row.value, row.low, row.high) for row in each(table)]
    wide = table.assign(text=text).pivot(index="network", columns="score", values="text")
    columns = [key for key in TITLES if key in wide]
    wide = wide.reindex(index=comparison.titles, columns=columns)
    wide = wide.fillna("–").rename(columns=TITLES).rename_axis(index="network")
    return wide.reset_index().rename_axis(columns=None)


def shown_differences(comparison: Comparison) -> pd.DataFrame:
    """Differences as text, a line each."""
    table = comparison.differences()
    shows = pd.DataFrame(
        {
            "score": table["score"].map(TITLES),
            "network": table["network"],
            "minus": table["minus"],
            "difference [95 %]": [
                shown(row.score, row.value, row.low, row.high, difference=True)
                for row in each(table)
            ],
            "p (Holm)": [shown_p(p) for p in table["p_holm"]],
        }
    )
    if comparison.doubts:
        shows["but"] = [reservation(comparison, row.network, row.minus) for row in each(table)]
    return shows


def shown(score: str, value: float, low: float, high: float, *, difference: bool = False) -> str:
    """A number with its interval; shares in per cent, their differences in points; – for NaN."""
    if np.isnan(value):
        return "–"
    sign = "+" if difference else ""
    scale, digits, unit = 1, 3, ""
    if score in SHARES:
        scale, digits, unit = 100, 1, " points" if difference else " %"
    number, *ends = (f"{scale * x:{sign}.{digits}f}" for x in (value, low, high))
    interval = "–" if np.isnan(low) else ", ".join(ends)
    return f"{number}{unit} [{interval}]"


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
            those of :meth:`~interactions.strength.Strength.band_difference`.
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
