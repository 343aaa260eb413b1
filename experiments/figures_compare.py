"""The figure of a comparison's scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd
from matplotlib.figure import Figure

from experiments.figures_features import COLOURS

COLUMNS = 3
"""Panels beside each other."""


def score_dots(
    scores: pd.DataFrame, titles: Mapping[str, str], shares: Collection[str] = ()
) -> Figure:
    """A panel for each score: a dot for every network, with its interval.

    Args:
        scores: network, score, value, low, high.
        titles: what scores are called, in their order.
        shares: scores that are drawn in per cent.
    """
    networks = list(dict.fromkeys(scores["network"]))
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
            colour = COLOURS[k % len(COLOURS)]
            ax.hlines(k, low, high, color=colour, linewidth=2.5, alpha=0.45)
            ax.plot(value, k, "o", color=colour)
        ax.set_title(titles[key] + (", %" if key in shares else ""), fontsize=10)
        ax.margins(x=0.12)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(networks)), networks)
    axes[0].set_ylim(len(networks) - 0.5, -0.5)  # the first network on top
    for ax in axes[len(keys) :]:
        ax.set_axis_off()
    return figure
