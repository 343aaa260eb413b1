"""What a comparison found: scores of every network, and paired differences, from tables only.

A score is a mean over images of one value per image (for interactions, of the image's contribution
to J), so that every score has a t interval over images, and two networks, measured on the same
images, the interval and t test of the mean of paired differences; accuracy has Wilson's interval
and McNemar's exact test. Holm's correction goes over all differences of a comparison. Intervals are
those of single numbers. Nothing here covers another training of the networks.

Rows of the results table: ``compare_<score>`` with ``_low`` and ``_high``, and for each pair of
networks ``compare_<score>_difference`` with ``_low``, ``_high``, ``_p`` and ``_p_holm``, where the
setting names the network that is subtracted.

Shapes: I images, F hidden shares.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest, t

from a2mim.convert import LoadReport
from a2mim.features import wilson
from experiments import figures_features
from experiments.figures import interaction_overlay, occlusion_effects
from experiments.figures_compare import score_dots
from experiments.figures_features import invariance_table, spectrum_table
from experiments.invariance import read_images_table as read_similarity
from experiments.occlusion_tables import read_images_table as read_predictions
from experiments.results import read_table, strength_from, write_atomic
from experiments.runs import UsageError, is_run
from experiments.spectrum import read_images_table as read_spectrum
from experiments.weights import called
from interactions import plots
from interactions.strength import holm, t_interval
from interactions.summaries import area

SHARES = ("accuracy", "accuracy_area", "agreement_area", "recall")
"""Scores that are shares: shown in per cent, their differences in points."""

TITLES = {
    "accuracy": "accuracy",
    "accuracy_area": "accuracy under patch drop",
    "agreement_area": "agreement under patch drop",
    "J_low": "J, low orders",
    "J_middle": "J, middle orders",
    "J_high": "J, high orders",
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
    "J_low": "Strength of interactions below the order 0.1 (n-2), normalised to a mean of 1.",
    "J_middle": "The same, from 0.1 (n-2) to 0.5 (n-2).",
    "J_high": "The same, above 0.5 (n-2).",
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
    """

    model: str
    weights: str
    title: str
    classes: int
    sha256: str
    report: LoadReport = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the report, as JSON takes it."""
        everything = asdict(self)
        everything.pop("report")
        return everything


def named_networks(reports: Sequence[LoadReport]) -> list[Network]:
    """Networks with titles as short as tells them apart: architecture, weights, or both."""
    models = [report.architecture for report in reports]
    weights = [Path(called(report)).stem for report in reports]
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
            for all differences of the comparison), images.
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
        figures_features.save(self._draw, self.folder)

    def to_html(self, path: str | Path) -> None:
        """Write the page: one file that needs no other and no network."""
        from experiments.comparison_page import html

        write_atomic(Path(path), html(self))

    def __str__(self) -> str:
        """Scores and differences, for people."""
        return "\n".join(
            [
                shown_scores(self).to_string(index=False),
                "",
                shown_differences(self).to_string(index=False),
            ]
        )

    def __repr__(self) -> str:
        return f"Comparison of {', '.join(self.titles)} in {self.folder}"

    def _repr_html_(self) -> str:
        tables = (shown_scores(self), shown_differences(self))
        return "".join(table.to_html(index=False) for table in tables)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return read_table(self.folder / "rows.csv")

    def titled(self) -> pd.DataFrame:
        """The results table with titles in the place of architectures, and no names of weights."""
        titles = {(n["model"], n["weights"]): n["title"] for n in self.plan["networks"]}
        keys = zip(self._rows["model"], self._rows["weights"], strict=True)
        return self._rows.assign(model=[titles[key] for key in keys], weights="")

    @cached_property
    def _draw(self) -> dict[str, Callable[[], Figure]]:
        """How each figure is drawn that there are numbers for."""
        rows = self.titled()
        of = {name: table for name, table in rows.groupby("run", sort=False)}
        draw: dict[str, Callable[[], Figure]] = {}
        draw["scores"] = partial(score_dots, self.scores(), TITLES, SHARES)
        if "occlusion" in of:
            draw["predictions"] = partial(occlusion_effects, of["occlusion"])
        if "interactions" in of:
            draw["interactions"] = partial(interaction_overlay, of["interactions"])
        if "invariance" in of:
            table = invariance_table(of["invariance"])
            draw["similarity"] = partial(figures_features.invariance_over_ratios, table)
        if "spectrum" in of:
            table = spectrum_table(of["spectrum"])
            draw["spectrum"] = partial(figures_features.spectra, table)
            draw["depth"] = partial(figures_features.stream_over_depth, table)
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


def shown_scores(comparison: Comparison) -> pd.DataFrame:
    """Scores as text: a line for each network, a column for each score."""
    table = comparison.scores()
    text = [shown(row.score, row.value, row.low, row.high) for row in each(table)]
    wide = table.assign(text=text).pivot(index="network", columns="score", values="text")
    columns = [key for key in TITLES if key in wide]
    wide = wide.loc[comparison.titles, columns].fillna("–").rename(columns=TITLES)
    return wide.reset_index().rename_axis(columns=None)


def shown_differences(comparison: Comparison) -> pd.DataFrame:
    """Differences as text, a line each."""
    table = comparison.differences()
    return pd.DataFrame(
        {
            "score": table["score"].map(TITLES),
            "network": table["network"],
            "minus": table["minus"],
            "difference [95 %]": [
                shown(row.score, row.value, row.low, row.high, difference=True)
                for row in each(table)
            ],
            "p (Holm)": table["p_holm"].map("{:.2g}".format),
        }
    )


def shown(score: str, value: float, low: float, high: float, *, difference: bool = False) -> str:
    """A number with its interval; shares in per cent, their differences in points."""
    sign = "+" if difference else ""
    if score in SHARES:
        unit = " points" if difference else " %"
        return f"{100 * value:{sign}.1f}{unit} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


@dataclass(frozen=True)
class Score:
    """A number of one network and what each image contributes to it.

    Attributes:
        estimate: the number.
        low, high: its 95 % interval.
        influence_I: contribution by image; the mean of differences of two networks' contributions
            has the error of the difference of their scores.
        setting: what a difference needs to be the same in both networks.
    """

    estimate: float
    low: float
    high: float
    influence_I: pd.Series
    setting: str = ""


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
            made += _rows(key, numbers, network, f"score={key}", len(score.influence_I))
    tested = []
    for (a, of_a), (b, of_b) in combinations(zip(networks, found, strict=True), 2):
        for key in TITLES:
            one, two = of_a.get(key), of_b.get(key)
            if one is not None and two is not None and one.setting == two.setting:
                tested.append((a, b, key, difference(key, one, two)))
    adjusted = holm([numbers["_p"] for *_, (numbers, _) in tested])
    for (a, b, key, (numbers, images)), p in zip(tested, adjusted, strict=True):
        setting = f"score={key} minus={b.model} {b.weights}"
        made += _rows(f"{key}_difference", numbers | {"_p_holm": p}, a, setting, images)
    return pd.DataFrame(made).assign(run="compare", image="all")


def network_scores(rows: pd.DataFrame, panels: Path, network: Network) -> dict[str, Score]:
    """The scores of one network, in the order of :data:`TITLES`."""
    mine = rows[(rows["model"] == network.model) & (rows["weights"] == network.weights)]
    scores: dict[str, Score] = {}
    if (table := _images_of("predictions", panels, rows, network)) is not None:
        scores |= _of_predictions(read_predictions(table), bool(_has(mine, "occlusion_top1")))
    if _has(mine, "interaction_strength"):
        scores |= _of_interactions(mine)
    if (table := _images_of("similarity", panels, rows, network)) is not None:
        scores |= _of_similarity(read_similarity(table))
    if (table := _images_of("spectrum", panels, rows, network)) is not None:
        scores |= _of_spectrum(read_spectrum(table))
    return {key: scores[key] for key in TITLES if key in scores}


def difference(key: str, a: Score, b: Score) -> tuple[dict[str, float], int]:
    """The paired difference a - b: value, interval and p, and the number of images.

    Raises:
        ValueError: if the two were not measured on the same images.
    """
    if set(a.influence_I.index) != set(b.influence_I.index):
        raise ValueError(f"expected {key} of two networks on the same images, got others")
    paired_I = (a.influence_I - b.influence_I).to_numpy()
    interval = t_interval(a.estimate - b.estimate, paired_I)
    if key == "accuracy":
        better, worse = int((paired_I > 0).sum()), int((paired_I < 0).sum())
        p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    elif interval.se:
        p = float(2 * t.sf(abs(interval.estimate) / interval.se, len(paired_I) - 1))
    else:
        p = float(not interval.estimate)
    numbers = {"": interval.estimate, "_low": interval.low, "_high": interval.high, "_p": p}
    return numbers, len(paired_I)


def _of_predictions(images: pd.DataFrame, judged: bool) -> dict[str, Score]:
    """Accuracy where classes are known, and areas under curves."""
    hidden_F = images.groupby("fraction")["hidden"].mean().to_numpy()

    def area_of(column: str) -> Score:
        values_IF = images.pivot_table(index="image", columns="fraction", values=column)
        areas_I = pd.Series(area(hidden_F, values_IF.to_numpy(dtype=float)), values_IF.index)
        return _mean(areas_I)

    scores = {"agreement_area": area_of("agreement")}
    if judged:
        correct_I = images.groupby("image")["clean_correct"].first().astype(float)
        low, high = wilson(torch.from_numpy(correct_I.to_numpy() > 0))
        scores["accuracy"] = Score(correct_I.mean(), low, high, correct_I)
        scores["accuracy_area"] = area_of("correct")
    return scores


def _of_interactions(rows: pd.DataFrame) -> dict[str, Score]:
    """J of low, middle and high orders."""
    strength = strength_from(rows)
    scores = {}
    for band in each(strength.bands()):
        inside_O = (band.first <= strength.orders_O) & (strength.orders_O <= band.last)
        influence_I = pd.Series(strength.influence_IO[:, inside_O].mean(axis=1), strength.images)
        scores[f"J_{band.band}"] = Score(band.J, band.low, band.high, influence_I)
    return scores


def _of_similarity(images: pd.DataFrame) -> dict[str, Score]:
    """Of the last readout of the last layer, where something is hidden."""
    last = images[(images["readout"] == images["readout"].iloc[-1]) & (images["ratio"] > 0)]
    means = last.drop(columns=["layer", "readout", "ratio"]).groupby("image").mean()
    scores = {"similarity": _mean(means["centred_cosine"]), "recall": _mean(means["recall@1"])}
    if means["untrained_centred_cosine"].notna().all():
        beyond_I = means["centred_cosine"] - means["untrained_centred_cosine"]
        scores["similarity_excess"] = _mean(beyond_I)
    return scores


def _of_spectrum(images: pd.DataFrame) -> dict[str, Score]:
    """Of the last map."""
    last = images[images["index"] == images["index"].max()]
    score = _mean(last.set_index("image")["highest"])
    cells = int(last["cells"].iloc[0])
    return {
        "high_frequency": Score(
            score.estimate, score.low, score.high, score.influence_I, f"cells={cells}"
        )
    }


def each(table: pd.DataFrame) -> Iterator[Any]:
    """The lines of a table, by name of column."""
    return table.itertuples(index=False)


def _mean(values_I: pd.Series) -> Score:
    values_I = values_I.dropna()
    interval = t_interval(values_I.mean(), values_I.to_numpy(dtype=float))
    return Score(interval.estimate, interval.low, interval.high, values_I)


def _has(rows: pd.DataFrame, measure: str) -> bool:
    return bool((rows["measure"] == measure).any())


def _images_of(panel: str, panels: Path, rows: pd.DataFrame, network: Network) -> Path | None:
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
