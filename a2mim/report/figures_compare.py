"""The figure of a comparison's scores, and how its networks look in all its figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from a2mim.report.figures import Look, Looks
from a2mim.report.figures_features import COLOURS
from interactions import plots

MARKERS = "os^vP"
"""Not the diamonds that mark down-samplings; with 7 colours they tell 35 networks apart."""

COLUMNS = 3
"""Panels beside each other."""


def looks_of(titles: Sequence[str]) -> dict[str, Look]:
    """A colour and a mark for each network; both change from one to the next."""
    return {
        title: Look(COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)])
        for k, title in enumerate(titles)
    }


def score_dots(
    scores: pd.DataFrame,
    titles: Mapping[str, str],
    shares: Collection[str] = (),
    looks: Looks | None = None,
) -> Figure:
    """A panel for each score: a dot for every network, with its interval.

    Args:
        scores: network, score, value, low, high.
        titles: what scores are called, in their order.
        shares: scores that are drawn in per cent.
        looks: of the networks; by their order if left out.
    """
    networks = list(dict.fromkeys(scores["network"]))
    looks = looks or looks_of(networks)
    keys = [key for key in titles if key in set(scores["score"])]
    lines = -(-len(keys) // COLUMNS)
    height = 0.75 + 0.3 * len(networks)
    figure = Figure(figsize=(10.5, lines * height), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False, sharey=True).ravel()
    for ax, key in zip(axes, keys, strict=False):
        of = scores[scores["score"] == key].set_index("network")
        scale = 100 if key in shares else 1
        for k, network in enumerate(networks):
            if network not in of.index:
                continue
            value, low, high = scale * of.loc[network, ["value", "low", "high"]].astype(float)
            colour, marker = looks[network]
            ax.hlines(k, low, high, color=colour, linewidth=2.5, alpha=0.45)
            ax.plot(value, k, marker, color=colour)
        ax.set_title(titles[key] + (", %" if key in shares else ""), fontsize=10)
        ax.margins(x=0.12)
        ax.locator_params(axis="x", nbins=5)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(networks)), [plots.literal(network) for network in networks])
    axes[0].set_ylim(len(networks) - 0.5, -0.5)  # the first network on top
    for ax in axes[len(keys) :]:
        ax.set_axis_off()
    return figure
