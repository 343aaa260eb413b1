"""Vector figures of the study, from ``means.csv`` and ``claims.csv`` alone.

One style, colours that colour-blind eyes tell apart, names at the curves, intervals over images and
training seeds as bands (none from one seed), orders as m and as m/(n-2).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from a2mim.report.figures import save
from experiments.cifar10.plan import Plan
from interactions import plots

COLOURS = {
    "scratch": "#6b7280",
    "strong": "#111827",
    "a2mim": "#c2410c",
    "simmim": "#0f62b4",
    "mae": "#0f766e",
}
MARKERS = {"scratch": "o", "strong": "s", "a2mim": "^", "simmim": "v", "mae": "D"}
TITLES = {"vit": "ViT", "resnet": "ResNet"}
PLAYERS = 64


def _curves(ax: Axes, table: pd.DataFrame, *, shift: float = 0.0) -> None:
    """A curve with its band for each arm, named at its right end."""
    ends: list[tuple[float, float, str, str]] = []
    for arm, of in table.groupby("arm", sort=False):
        if arm not in COLOURS:
            continue
        of = of.sort_values("at")
        colour = COLOURS[str(arm)]
        if of["low"].notna().any():
            ax.fill_between(of["at"], of["low"], of["high"], color=colour, alpha=0.15, linewidth=0)
        ax.plot(of["at"], of["estimate"], color=colour, marker=MARKERS[str(arm)])
        last = of.iloc[-1]
        ends.append((float(last["estimate"]), float(last["at"]), str(arm), colour))
    if not ends:
        plots.note(ax, "not measured")
        return
    name_ends(ax, ends)


def name_ends(ax: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the right ends of curves; those that would overlap are moved up.

    Args:
        ax: with the curves, in their scale.
        ends: height, place, name and colour of each.
    """
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.get_ylim()))
    apart, y = (high - low) * 0.06, -np.inf
    for value, x, name, colour in sorted(ends):
        y = max(float(scale.transform(np.array([value]))[0]), y + apart)
        ax.annotate(
            *(name, (x, float(scale.inverted().transform(np.array([y]))[0]))),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize="small",
            annotation_clip=False,
        )


def orders(means: pd.DataFrame, plan: Plan, measure: str = "J") -> Figure:
    """J over orders, a panel for each architecture; A2MIM's figure 1 with ``J published``."""
    published = measure != "J"
    figure, axes = _panels(2)
    for ax, (arch, title) in zip(axes, TITLES.items(), strict=True):
        of = means[
            (means["measure"] == measure)
            & (means["arch"] == arch)
            & (means["setting"] == "fine-tuned")
        ]
        _curves(ax, of)
        ax.set(title=title, xlabel="order m / (n−2)", xlim=(-0.02, 1.02))
        if not published:
            ax.axhline(1, color="#9ca3af", linewidth=0.8, zorder=0)
        plots.orders_axis(ax, PLAYERS)
        ax.set_ylabel("interaction strength J" + (", mean |I| as published" if published else ""))
    bias = "; plug-in estimate, too large where contexts vary" if published else ", unbiased RMS"
    return _captioned(figure, plan, plan.size.strength, f"interaction strength{bias}")


def occluded(means: pd.DataFrame, plan: Plan) -> Figure:
    """Accuracy over the hidden fraction: architectures by occluders."""
    figure, axes = _panels(3, 2)
    of = means[means["measure"] == "occluded accuracy"]
    for row, (arch, title) in zip(axes.reshape(2, 3), TITLES.items(), strict=True):
        for ax, occluder in zip(row, ("random", "salient", "non_salient"), strict=True):
            setting = f"{occluder} {plan.size.fills[0]}"
            _curves(ax, of[(of["arch"] == arch) & (of["setting"] == setting)])
            name = occluder.replace("_", "-")
            ax.set(title=f"{title}, {name}", xlabel="hidden fraction", ylabel="accuracy")
    fill = plan.size.fills[0]
    return _captioned(figure, plan, plan.size.occlusion, f"fill: {fill}; one saliency for all")


def along(means: pd.DataFrame, plan: Plan) -> Figure:
    """J of middle orders over epochs of pre-training."""
    figure, axes = _panels(2)
    of = means[(means["measure"] == "J middle") & means["setting"].str.startswith("epoch ")].copy()
    of["at"] = of["setting"].str.removeprefix("epoch ").astype(float)
    for ax, (arch, title) in zip(axes, TITLES.items(), strict=True):
        _curves(ax, of[of["arch"] == arch])
        ax.set(title=title, xlabel="epoch of pre-training", ylabel="J of middle orders")
    return _captioned(
        figure, plan, plan.size.along, "value: projection on the whole image's features"
    )


def depth(means: pd.DataFrame, plan: Plan) -> Figure:
    """High frequencies and variance of maps over depth, of fine-tuned networks."""
    figure, axes = _panels(2, 2)
    titles = {
        "high frequencies": "Δ log amplitude of the highest frequency",
        "variance": "variance",
    }
    for row, (arch, title) in zip(axes.reshape(2, 2), TITLES.items(), strict=True):
        for ax, (measure, name) in zip(row, titles.items(), strict=True):
            of = means[(means["measure"] == measure) & (means["arch"] == arch)]
            _curves(ax, of[of["setting"] == "fine-tuned"])
            ax.set(title=title, xlabel="map, from the stem on", ylabel=name)
    return _captioned(figure, plan, plan.size.features, "feature maps of the residual stream")


def differences(claims: pd.DataFrame, plan: Plan) -> Figure:
    """Every claim's difference with its interval."""
    known = claims[claims["difference"].notna()].iloc[::-1]
    figure = Figure(figsize=(9, 1.5 + 0.3 * max(len(known), 1)), layout="constrained")
    ax = figure.subplots()
    colours = {"holds": "#0f766e", "does not hold": "#c2410c"}
    for y, row in enumerate(known.to_dict("records")):
        colour = colours.get(row["verdict"], "#6b7280")
        if not pd.isna(row["low"]):
            ax.plot([row["low"], row["high"]], [y, y], color=colour)
        ax.plot(row["difference"], y, "o", color=colour)
    ax.axvline(0, color="#111827", linewidth=0.8)
    ax.set_yticks(range(len(known)), known["claim"], fontsize="small")
    ax.set_xlabel("difference (teal: holds, orange: does not hold, grey: not decided)")
    return _captioned(figure, plan, None, "differences of arms, paired over images")


def ablations(means: pd.DataFrame, plan: Plan) -> Figure:
    """J of middle orders of every change of the ViT's A2MIM, and of A2MIM and scratch."""
    of = means[
        (means["measure"] == "J middle")
        & (means["arch"] == "vit")
        & (means["setting"] == "fine-tuned")
    ].iloc[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.28 * max(len(of), 1)), layout="constrained")
    ax = figure.subplots()
    for y, row in enumerate(of.to_dict("records")):
        colour = COLOURS.get(row["arm"], "#6b7280")
        if not pd.isna(row["low"]):
            ax.plot([row["low"], row["high"]], [y, y], color=colour)
        ax.plot(row["estimate"], y, "o", color=colour)
    ax.set_yticks(range(len(of)), of["arm"], fontsize="small")
    ax.set_xlabel("J of middle orders, ViT")
    return _captioned(figure, plan, plan.size.strength, "one change each")


def draw(folder: Path, plan: Plan) -> list[str]:
    """Draw all figures of a folder's tables again, as SVG and PDF; their names."""
    means = pd.read_csv(
        folder / "means.csv",
        keep_default_na=False,
        na_values={
            c: [""]
            for c in ("estimate", "low", "high", "se", "p", "df", "seed_variance", "image_variance")
        },
    )
    claims = pd.read_csv(folder / "claims.csv")
    figures: dict[str, Callable[[], Figure]] = {
        "orders": lambda: orders(means, plan),
        "orders-published": lambda: orders(means, plan, "J published"),
        "occlusion": lambda: occluded(means, plan),
        "along": lambda: along(means, plan),
        "depth": lambda: depth(means, plan),
        "ablations": lambda: ablations(means, plan),
        "claims": lambda: differences(claims, plan),
    }
    save(figures, folder, kinds=("svg", "pdf"))
    return list(figures)


def _panels(columns: int, rows: int = 1) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
    return figure, np.atleast_1d(np.array(figure.subplots(rows, columns)))


def _captioned(figure: Figure, plan: Plan, images: int | None, what: str) -> Figure:
    """What a reader has to know, below the figure."""
    size = plan.size
    sampled = f"{images} test images" if images else "test images"
    design = f", {size.pairs} pairs x {size.replicates} contexts" if "strength" in what else ""
    over = "95 % intervals over images and seeds" if size.seeds > 1 else "no intervals: one seed"
    figure.supxlabel(
        f"{plan.data}: {sampled}{design}, {size.seeds} training seeds; {what}; {over}.",
        fontsize="x-small",
        x=0.01,
        ha="left",
    )
    return figure
