"""Vector figures of the study, from ``means.csv`` and ``claims.csv`` alone.

One style, colours that colour-blind eyes tell apart, names at the curves, intervals over images and
training seeds as bands (none from one seed), orders as m and as m/(n-2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from a2mim.report.figures import save
from experiments.cifar10.arms import ABLATED, ABLATIONS, NAMES
from experiments.cifar10.claims import DECIDED
from experiments.cifar10.plan import Plan
from experiments.cifar10.stages import GRID
from interactions import plots

COLOURS = {
    "scratch": "#6b7280",
    "strong": "#111827",
    "a2mim": "#c2410c",
    "simmim": "#0f62b4",
    "mae": "#0f766e",
    "cmae": "#a21caf",
    "mae-10-images": "#ca8a04",
    "untrained": "#9ca3af",
}
MARKERS = {"scratch": "o", "strong": "s", "a2mim": "^", "simmim": "v", "mae": "D", "untrained": "x"}
MARKERS |= {"cmae": "P", "mae-10-images": "*"}
OCCLUDERS = ("random", "salient", "non_salient")
KINDS = {"^J": "J", "accuracy|probe": "accuracy", "similarity": "similarity"}
"""What measures of claims are called, and the unit of their differences."""

RMS = "RMS, unbiased energies"


def _curves(ax: Axes, table: pd.DataFrame) -> None:
    """A curve with its band for each arm."""
    for arm, of in table.groupby("arm", sort=False):
        if arm in ABLATIONS:
            continue
        of = of.sort_values("at")
        colour = COLOURS[str(arm)]
        if of["low"].notna().any():
            ax.fill_between(of["at"], of["low"], of["high"], color=colour, alpha=0.15, linewidth=0)
        ax.plot(of["at"], of["estimate"], color=colour, marker=MARKERS[str(arm)], label=arm)
    if not ax.get_lines():
        plots.note(ax, "not measured")


def orders(means: pd.DataFrame, plan: Plan, measure: str = "J") -> Figure:
    """J over orders, a panel for each architecture; A2MIM's figure 1 with ``J published``."""
    published = measure != "J"
    figure, axes = _panels(2)
    of = means[(means["measure"] == measure) & (means["setting"] == "fine-tuned")]
    for ax, (arch, title) in zip(axes, NAMES.items(), strict=True):
        ax.set(title=title, xlabel="order m / (n−2)", xlim=(-0.02, 1.02))
        _curves(ax, of[of["arch"] == arch])
        ax.set_ylim(bottom=0)
        plots.rescale(ax, "broken")
        plots.label_curves(ax)
        if not published:
            ax.axhline(1, color="#9ca3af", linewidth=0.8, zorder=0)
        plots.orders_axis(ax, GRID**2)
        ax.set_ylabel("J, mean |I| as published" if published else "interaction strength J")
    bias = "plug-in, too large where contexts vary" if published else RMS
    return _captioned(figure, plan, plan.size.strength, f"interaction strength: {bias}")


def occluded(means: pd.DataFrame, plan: Plan, filled: str) -> Figure:
    """Accuracy over the hidden fraction: architectures by occluders."""
    of = means[means["measure"] == "occluded accuracy"]
    columns = {name: f"accuracy, {name.replace('_', '-')}" for name in OCCLUDERS}
    tables = {name: of[of["setting"] == f"{name} {filled}"] for name in OCCLUDERS}
    figure = _by_arch(tables, columns, "hidden fraction", one_scale=True)
    return _captioned(figure, plan, plan.size.occlusion, f"fill: {filled}; one saliency for all")


def along(means: pd.DataFrame, plan: Plan) -> Figure:
    """J of middle orders over epochs of pre-training."""
    of = means[(means["measure"] == "J middle") & means["setting"].str.startswith("epoch ")].copy()
    of["at"] = of["setting"].str.removeprefix("epoch ").astype(float)
    figure, axes = _panels(2)
    for ax, (arch, title) in zip(axes, NAMES.items(), strict=True):
        _curves(ax, of[of["arch"] == arch])
        ax.set_ylim(bottom=0)
        plots.label_curves(ax)
        ax.set(title=title, xlabel="epoch of pre-training", ylabel="J of middle orders")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    what = f"interaction strength: {RMS}; value: projection on the whole image's features"
    return _captioned(figure, plan, plan.size.along, what)


def depth(means: pd.DataFrame, plan: Plan) -> Figure:
    """High frequencies and variance of maps over depth, of fine-tuned networks."""
    columns = {
        "high frequencies": "Δ log amplitude, highest frequency",
        "variance": "variance",
    }
    of = means[means["setting"] == "fine-tuned"]
    tables = {name: of[of["measure"] == name] for name in columns}
    figure = _by_arch(tables, columns, "map, from the stem on")
    return _captioned(figure, plan, plan.size.features, "feature maps of the residual stream")


def invariance(means: pd.DataFrame, plan: Plan) -> Figure:
    """Similarity of features of whole and occluded images over layers: encoders and fine-tuned."""
    of = means[means["measure"] == "similarity"]
    columns = {
        "encoder": "centred cosine, encoder",
        "fine-tuned": "centred cosine, fine-tuned",
    }
    tables = {state: of[of["setting"] == state] for state in columns}
    figure = _by_arch(tables, columns, "layer", one_scale=True)
    what = (
        f"features of whole and occluded images ({GRID} x {GRID} patches, mean colour), mean over "
    )
    what += "hidden fractions"
    return _captioned(figure, plan, plan.size.features, what)


def differences(claims: pd.DataFrame, plan: Plan) -> Figure:
    """Every claim's difference with its interval, in panels of one unit each."""
    known = claims[claims["difference"].notna()]
    measured = {what: known[known["measure"].str.contains(name)] for name, what in KINDS.items()}
    kinds = {what: part for what, part in measured.items() if len(part)}
    heights = [len(part) + 2 for part in kinds.values()] or [3]
    figure = Figure(figsize=(12, 0.8 + 0.27 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    inks = {"holds": "#0f766e", "does not hold": "#c2410c"}
    for ax, (what, part) in zip(axes, kinds.items(), strict=False):
        rows = part.iloc[::-1].to_dict("records")
        for y, row in enumerate(rows):
            ink = inks.get(row["verdict"], "#6b7280")
            unsure = row["verdict"] in DECIDED and row["p_holm"] >= 0.05
            _interval(ax, y, row["difference"], (row["low"], row["high"]), ink, unsure)
        ax.axvline(0, color="#111827", linewidth=0.8)
        ax.set_yticks(range(len(rows)), [row["claim"] for row in rows], fontsize="small")
        ax.set(ylim=(-0.7, len(rows) - 0.3))
        images = sorted(part["images"].astype(int).unique())
        of = f"{images[0]} to {images[-1]}" if len(images) > 1 else f"{images[0]}"
        ax.set_xlabel(f"difference of {what} ({of} test images)", fontsize="small")
    said = (
        f"interaction strength J: {RMS}; differences of arms, paired over images; teal: holds, "
        "orange: does not hold, grey: not decided; open: not after Holm's correction over all"
    )
    return _captioned(figure, plan, None, said)


def ablations(table: pd.DataFrame, plan: Plan) -> Figure:
    """Differences of every change of the ViT's A2MIM from A2MIM, in accuracy and J."""
    units = {measure: what for (measure, _), what in ABLATED.items()}
    changes = list(dict.fromkeys(table["arm"]))[::-1]
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(changes)), layout="constrained")
    for ax, (measure, unit) in zip(figure.subplots(1, 2, sharey=True), units.items(), strict=True):
        for row in table[table["measure"] == measure].to_dict("records"):
            y = changes.index(row["arm"])
            ink = "#0f62b4" if row["p"] < 0.05 else "#6b7280"
            unsure = row["p"] < 0.05 <= row["p_holm"]
            _interval(ax, y, row["estimate"], (row["low"], row["high"]), ink, unsure)
        ax.axvline(0, color="#111827", linewidth=0.8)
        ax.set_yticks(range(len(changes)), changes, fontsize="small")
        images = table.loc[table["measure"] == measure, "images"].max()
        ax.set_xlabel(f"{unit}, less A2MIM's ({images} test images)", fontsize="small")
    trainings = plan.size.ablation_seeds
    what = f"interaction strength J: {RMS}; one change each, {trainings} training"
    what += f"{'s' * (trainings > 1)} a change; blue: p < 0.05, open: not after Holm's correction"
    return _captioned(figure, plan, None, what)


def _interval(
    ax: Axes, y: int, at: float, ends: tuple[float, float], ink: str, unsure: bool
) -> None:
    """A difference and its interval; open where Holm's correction does not leave it."""
    if not np.isnan(ends[0]):
        ax.plot(ends, [y, y], color=ink)
    ax.plot(at, y, "o", color=ink, markerfacecolor="white" if unsure else ink)


def draw(folder: Path, plan: Plan) -> list[str]:
    """Draw all figures of a folder's tables again, as SVG and PDF; their names."""
    words = ("measure", "setting", "arch", "arm")
    means = pd.read_csv(folder / "means.csv", dtype=dict.fromkeys(words, str))
    means[list(words)] = means[list(words)].fillna("")
    claims = pd.read_csv(folder / "claims.csv")
    figures: dict[str, Callable[[], Figure]] = {
        "orders": lambda: orders(means, plan),
        "orders-published": lambda: orders(means, plan, "J published"),
        **{
            f"occlusion-{filled}": partial(occluded, means, plan, filled)
            for filled in plan.size.fills
        },
        "along": lambda: along(means, plan),
        "depth": lambda: depth(means, plan),
        "invariance": lambda: invariance(means, plan),
        "claims": lambda: differences(claims, plan),
    }
    if (changes := folder / "ablations.csv").exists():
        figures["ablations"] = lambda: ablations(pd.read_csv(changes), plan)
    save(figures, folder, kinds=("svg", "pdf"))
    return list(figures)


def _panels(columns: int, rows: int = 1, one_scale: bool = False) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, columns, sharey="row" if one_scale else False)
    return figure, np.atleast_1d(np.array(axes))


def _by_arch(
    tables: dict[str, pd.DataFrame], columns: dict[str, str], x: str, *, one_scale: bool = False
) -> Figure:
    """Curves of arms: a row for each architecture, a column with its own table and name."""
    figure, axes = _panels(len(columns), 2, one_scale)
    for row, (arch, title) in zip(axes, NAMES.items(), strict=True):
        for ax, (name, y) in zip(row, columns.items(), strict=True):
            _curves(ax, tables[name][tables[name]["arch"] == arch])
            ax.set(title=title, xlabel=x, ylabel=y)
            ax.tick_params(labelleft=True)
            if x != "hidden fraction":
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for ax in row:  # where all of them have their scale
            plots.label_curves(ax)
    return figure


def _captioned(figure: Figure, plan: Plan, images: int | None, what: str) -> Figure:
    """What a reader has to know, below the figure."""
    size = plan.size
    sampled = f"{images} test images" if images else "test images"
    design = f", {size.pairs} pairs x {size.replicates} contexts" if "strength" in what else ""
    over = "95 % intervals over images and seeds" if size.seeds > 1 else "no intervals: one seed"
    text = f"{plan.data}: {sampled}{design}, {size.seeds} training seeds; {what}; {over}."
    figure.supxlabel(
        fill(text, int(figure.get_figwidth() * 17)),
        fontsize="x-small",
        x=0.01,
        ha="left",
    )
    return figure
