"""Vector figures of ``results/photographs``, from its tables alone.

Names stand at the curves, bands are 95 % intervals over photographs, colours are told apart by
colour-blind eyes and markers without colour.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from a2mim.report.figures import save
from interactions import plots
from interactions.stats import Interval

COLOURS = {
    "MobileNetV1-0.25": "#0f766e",
    "SqueezeNet 1.1": "#c2410c",
    "MobileNetV2": "#0f62b4",
    "EfficientNet-Lite0": "#111827",
}
MARKERS = {
    "MobileNetV1-0.25": "D",
    "SqueezeNet 1.1": "^",
    "MobileNetV2": "o",
    "EfficientNet-Lite0": "s",
}
PLAYERS = 196
PUBLISHED = "#6b7280"
TITLES = {"random": "random", "salient": "salient", "non_salient": "non-salient"}


def orders(table: pd.DataFrame, caption: str) -> Figure:
    """J over orders of each network: unbiased with its interval, and as published."""
    figure, axes = _panels(2, 2)
    for ax, (network, of) in zip(axes, table.groupby("network", sort=False), strict=False):
        colour = COLOURS[str(network)]
        ends = zip(of["J"], of["J_low"], of["J_high"], strict=True)
        found = [Interval(J, np.nan, low, high) for J, low, high in ends]
        marker = MARKERS[str(network)]
        curve: dict[str, Any] = {"colour": colour, "marker": marker, "label": "unbiased"}
        plots.curve(ax, of["ratio"], found, least=0, **curve)
        ax.plot(of["ratio"], of["published_J"], "x--", color=PUBLISHED, label="published")
        ax.set(title=network, xlim=(-0.02, 1.02), ylim=(0, None))
        plots.rescale(ax, "broken")
        plots.label_curves(ax)
        ax.set(xlabel="order m / (n−2)", ylabel="interaction strength J")
        plots.orders_axis(ax, PLAYERS)
    return _captioned(figure, caption)


def noise(table: pd.DataFrame, caption: str) -> Figure:
    """Context noise over signal of every network; lower bounds as arrows."""
    figure, axes = _panels(2, 2)
    noisy = table[table["rho"] > 0]
    for ax, (network, of) in zip(axes, noisy.groupby("network", sort=False), strict=False):
        colour, bound = COLOURS[str(network)], of["rho_is_bound"].astype(bool)
        high = of["rho_high"].clip(upper=100)  # the axis ends before: infinite ones leave it
        ax.fill_between(of["ratio"], of["rho_low"], high, color=colour, alpha=0.15, lw=0)
        known, least = of[~bound], of[bound]
        ax.plot(known["ratio"], known["rho"], color=colour, marker=MARKERS[str(network)], ls="")
        ax.plot(least["ratio"], least["rho"], color=colour, marker=r"$\uparrow$", ms=11, ls="")
        ax.set(title=network, yscale="log", xlim=(-0.02, 1.02), ylim=(0.3, 20))
        ax.set(xlabel="order m / (n−2)", ylabel="ρ: sd over contexts / RMS")
        ax.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        ax.minorticks_off()
        plots.orders_axis(ax, PLAYERS)
    return _captioned(figure, caption)


def contexts(table: pd.DataFrame, bands: pd.DataFrame, caption: str) -> Figure:
    """The published J of middle orders by its number of contexts, and what it is without bias."""
    of_band = table[table["band"] == "middle"]
    debiased = bands[(bands["norm"] == "mean") & (bands["band"] == "middle")]
    figure, (ax,) = _panels(1)
    figure.set_size_inches(7.2, 4.6)
    few, many = (of_band[of_band["measured"] == f"{k} contexts"] for k in (8, 50))
    for shift, (network, of) in enumerate(few.groupby("network", sort=False)):
        colour, marker = COLOURS[str(network)], MARKERS[str(network)]
        ax.plot(of["contexts"], of["published_J"], color=colour, marker=marker)
        row, x = debiased[debiased["network"] == network].iloc[0], 220 * 1.14**shift
        ax.plot([x, x], [row["low"], row["high"]], color=colour, lw=1.4)
        ax.plot(x, row["J"], color=colour, marker=marker, label=network)
    for network, of in many.groupby("network", sort=False):
        colour, last = COLOURS[str(network)], of.iloc[-1]
        ax.plot(of["contexts"], of["published_J"], color=colour, ls=":", marker="x")
        said, at = f"  {last['images']} photographs", (last["contexts"], last["published_J"])
        ax.annotate(said, at, color=colour, va="center", fontsize="small")
    ax.set(xscale="log", xlabel="contexts a pair and order", ylabel="J of middle orders, mean |I|")
    ax.set_xticks([1, 2, 4, 8, 25, 50, 268], ["1", "2", "4", "8", "25", "50", "debiased"])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    plots.label_curves(ax)
    return _captioned(figure, caption)


def verdicts(table: pd.DataFrame, caption: str) -> Figure:
    """Differences of J of every two networks: published numbers, and unbiased with intervals."""
    table = table.iloc[::-1].reset_index(drop=True)
    figure = Figure(figsize=(8.6, 1.6 + 0.3 * len(table)), layout="constrained")
    ax = figure.subplots()
    inks = {"the same": "#0f62b4", "the other": "#c2410c", "not decided": "#9ca3af"}
    for y, row in enumerate(table.to_dict("records")):
        colour = inks[row["outcome"]]
        ax.plot([row["low"], row["high"]], [y, y], color=colour)
        ax.plot(row["difference"], y, "o", color=colour)
        ax.plot(row["published"], y, "x", color="#111827", ms=6)
    ax.axvline(0, color="#111827", linewidth=0.8)
    named = table["network"] + " − " + table["minus"] + ", " + table["band"]
    ax.set_yticks(range(len(table)), named, fontsize="small")
    ax.set_xlabel("difference of J")
    return _captioned(figure, caption)


def occlusion(table: pd.DataFrame, caption: str) -> Figure:
    """Accuracy over the hidden share: fills by occluders."""
    table = table[table["score"] == "accuracy"]
    fills = list(table["fill"].unique())
    figure, axes = _panels(3, len(fills))
    for row, fill in zip(axes.reshape(len(fills), 3), fills, strict=True):
        for ax, (occluder, title) in zip(row, TITLES.items(), strict=True):
            of_panel = table[(table["fill"] == fill) & (table["occluder"] == occluder)]
            for network, of in of_panel.groupby("network", sort=False):
                colour = COLOURS[str(network)]
                ax.fill_between(of["hidden"], of["low"], of["high"], color=colour, alpha=0.1, lw=0)
                marker = MARKERS[str(network)]
                ax.plot(of["hidden"], of["estimate"], color=colour, marker=marker, label=network)
            ax.set(title=f"{title}, {fill}", ylim=(-0.02, 1.02), xlim=(-0.02, 0.92))
            ax.set(xlabel="hidden share", ylabel="accuracy")
            if occluder == list(TITLES)[-1]:
                plots.label_curves(ax)
    return _captioned(figure, caption)


def draw(folder: Path, captions: dict[str, str]) -> list[str]:
    """Draw the figures of a folder's tables, as SVG and PDF; their names."""
    table = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}
    figures: dict[str, Callable[[], Figure]] = {
        "orders": lambda: orders(table["orders"], captions["orders"]),
        "noise": lambda: noise(table["orders"], captions["noise"]),
        "contexts": lambda: contexts(table["contexts"], table["bands"], captions["contexts"]),
        "verdicts": lambda: verdicts(table["verdicts"], captions["verdicts"]),
        "occlusion": lambda: occlusion(table["occlusion-accuracies"], captions["occlusion"]),
    }
    save(figures, folder, kinds=("svg", "pdf"))
    return list(figures)


TABLES = ("orders", "bands", "contexts", "verdicts", "occlusion-accuracies")


def _panels(columns: int, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
    return figure, np.atleast_1d(np.array(figure.subplots(rows, columns))).ravel()


def _captioned(figure: Figure, caption: str) -> Figure:
    """What a reader has to know, below the figure."""
    figure.supxlabel(caption, fontsize="x-small", x=0.01, ha="left")
    return figure
