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
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from a2mim.checkpoints.load import as_text
from a2mim.files import write_whole
from a2mim.measure.checkpoints import left_out_of
from a2mim.measure.comparison_pictures import figures_of_images
from a2mim.measure.scores import SHARES, TITLES, each, shown, shown_p
from a2mim.messages import UsageError
from a2mim.report.comparison_page import html
from a2mim.report.figures import Look, captioned, interaction_overlay, occlusion_effects, save
from a2mim.report.figures_compare import looks_of, score_dots
from a2mim.report.figures_features import (
    invariance_over_ratios,
    invariance_table,
    spectra,
    spectrum_table,
    stream_over_depth,
)
from a2mim.report.page import escape
from a2mim.runs.folder import is_run
from a2mim.runs.table import read_table
from interactions import plots

PICTURES = "pictures"
"""Folder of the explanations of single images."""


class Comparison:
    """A finished comparison, read from its folder.

    Args:
        folder: of ``a2mim compare``.
        scale: of interaction strengths; see :func:`interactions.plots.rescale`.
        layout: of their curves; see :data:`interactions.plots.Layout`.

    Raises:
        UsageError: if there is none in it.
    """

    def __init__(
        self,
        folder: str | Path,
        scale: plots.Scale = "linear",
        layout: plots.Layout = "intervals",
    ) -> None:
        self.folder = Path(folder)
        self._scale: plots.Scale = scale
        self._layout: plots.Layout = layout
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
    def left_out(self) -> dict[str, str]:
        """What could not be measured, of the whole comparison or of a panel: name -> why."""
        return left_out_of(self.folder)

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

    def shown_networks(self) -> pd.DataFrame:
        """How networks see their images, and how much of that is assumed, as text, a line each."""
        lines = []
        for network in self.plan["networks"]:
            look = network.get("look", {})  # comparisons of before that was kept have none
            size = look.get("input_size")
            lines.append(
                {
                    "network": network["title"],
                    **{key: as_text(look.get(key, "–")) for key in ("mean", "std")},
                    "size": f"{size[1]} px" if size else "–",
                    "crop": as_text(look.get("crop_pct", "–")),
                    "resizing": look.get("interpolation", "–"),
                    "assumed": ("yes" if network["assumed"] else "no")
                    if "assumed" in network
                    else "–",
                }
            )
        return pd.DataFrame(lines)

    def reservation(self, a: str, b: str) -> str:
        """What a difference of two networks rests on, in a word or two; or empty."""
        if self.same(a, b):
            return "same weights"
        return "assumed" if self.assumed(a, b) else ""

    def scores(self) -> pd.DataFrame:
        """One row for each network and score: network, score, value, low, high, images."""
        return self._wide(self._own(difference=False), ["network", "score"], ["low", "high"])

    def differences(self) -> pd.DataFrame:
        """Paired differences of scores, network minus other.

        Returns:
            network, minus, score, value, low, high (of this difference alone), p, p_holm (corrected
            for all differences of the comparison), images. NaN where there is none; see
            :mod:`a2mim.measure.comparison`.
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
        """Draw all figures into the folder, as PNG, SVG and PDF."""
        save(self._draw, self.folder)

    def to_html(self, path: str | Path) -> None:
        """Write the page: one file that needs no other and no network."""
        write_whole(Path(path), html(self))

    def __str__(self) -> str:
        """Scores, differences and doubts, for people."""
        return self.shown(self.doubts)

    def shown(self, doubts: Sequence[str] = ()) -> str:
        """Networks, scores and differences, for people.

        Args:
            doubts: to be said too: those that have not been said yet.
        """
        return "\n".join(
            [
                self.shown_networks().to_string(index=False),
                *doubts,
                "",
                shown_scores(self).to_string(index=False),
                "",
                shown_differences(self).to_string(index=False),
            ]
        )

    def __repr__(self) -> str:
        return f"Comparison of {', '.join(self.titles)} in {self.folder}"

    def _repr_html_(self) -> str:
        tables = (self.shown_networks(), shown_scores(self), shown_differences(self))
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
        scores = {"scores": partial(score_dots, self.scores(), TITLES, SHARES, self.looks)}
        draw |= captioned(scores, rows[rows["run"] == "compare"], "bars")
        if "occlusion" in of:
            effects = partial(occlusion_effects, of["occlusion"], self.looks)
            draw |= captioned({"predictions": effects}, of["occlusion"])
        if "interactions" in of:
            overlay = partial(interaction_overlay, of["interactions"], self.looks)
            draw["interactions"] = partial(overlay, scale=self._scale, layout=self._layout)
        if "invariance" in of:
            table = invariance_table(of["invariance"])
            similarity = partial(invariance_over_ratios, table, self.looks)
            draw |= captioned({"similarity": similarity}, of["invariance"])
        if "spectrum" in of:
            table = spectrum_table(of["spectrum"])
            over_depth = partial(stream_over_depth, table, self.looks)
            draw |= captioned({"spectrum": partial(spectra, table)}, of["spectrum"], band="")
            draw |= captioned({"depth": over_depth}, of["spectrum"])
        count = len(self.plan.get("pictured", []))  # comparisons of before have none
        return draw | figures_of_images(self.folder / PICTURES, self.titles, count)

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


def redraw_comparison(
    folder: Path, scale: plots.Scale = "linear", layout: plots.Layout = "intervals"
) -> None:
    """Draw the figures and write the page of a finished comparison again.

    Args:
        folder: of ``a2mim compare``.
        scale: as for :class:`Comparison`.
        layout: as for :class:`Comparison`.

    Raises:
        UsageError: if there is none.
    """
    comparison = Comparison(folder, scale, layout)
    comparison.save_figures()
    comparison.to_html(folder / "compare.html")
    print(f"page: {folder / 'compare.html'}")


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
        shows["but"] = [comparison.reservation(row.network, row.minus) for row in each(table)]
    return shows
