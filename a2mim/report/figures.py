"""Every figure, from tables only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from a2mim.files import whole
from a2mim.runs.table import ENERGY, strength_from
from interactions import plots
from interactions.stats import Interval

NAMES = {"vit": "ViT", "resnet": "ResNet", "scratch": "from scratch", "a2mim": "A2MIM-pretrained"}
"""How models and weights are called in figures and sentences."""


class Look(NamedTuple):
    """How a network is drawn.

    Attributes:
        colour: of its lines and marks.
        marker: of matplotlib.
    """

    colour: str
    marker: str


Looks = Mapping[str, Look]
"""By what networks are called in legends (:func:`titled`)."""


def named(key: str) -> str:
    """The display name of a model or of weights."""
    return NAMES.get(key, key)


def titled(model: object, weights: object) -> str:
    """What a network is called in legends: its model and weights, or a title that stands alone."""
    return f"{named(str(model))} ({named(str(weights))})" if weights else str(model)


def networks(rows: pd.DataFrame) -> dict[str, list[str]]:
    """The weights that were measured, by model, in the order of the table."""
    return {
        str(model): list(dict.fromkeys(group["weights"]))
        for model, group in rows.groupby("model", sort=False)
    }


def of(rows: pd.DataFrame, model: str, weights: str) -> pd.DataFrame:
    """The rows of one network."""
    return rows[(rows["model"] == model) & (rows["weights"] == weights)]


def interaction_overlay(
    rows: pd.DataFrame,
    looks: Looks | None = None,
    scale: plots.Scale = "linear",
    layout: plots.Layout = "intervals",
) -> Figure:
    """J over orders, all networks of a table in one panel.

    Args:
        rows: of ``a2mim interactions``.
        looks: of the networks; by their order if left out.
        scale: see :func:`interactions.plots.rescale`.
        layout: see :data:`interactions.plots.Layout`.
    """
    pairs = [(model, arm) for model, arms in networks(rows).items() for arm in arms]
    titles = [titled(model, weights) for model, weights in pairs]
    direct = plots.can_be_labelled(titles)
    figure = Figure(figsize=(7.2 if direct else 6, 3.8), layout="constrained")
    ax = figure.subplots()
    for k, ((model, weights), title) in enumerate(zip(pairs, titles, strict=True)):
        look = looks[title] if looks else Look(_colour(k), "o")
        if layout == "published":
            strength = strength_from(of(rows, model, weights), "plug_in")
            drawn: dict[str, Any] = {"colour": look.colour, "marker": look.marker}
            drawn["label"] = plots.literal(title)
            plots.published_curve(ax, strength.ratios_O, strength.J, **drawn)
            continue
        strength = strength_from(of(rows, model, weights))
        strength.plot(ax, label=plots.literal(title), colour=look.colour)
        line, _one = ax.get_lines()[-2:]  # the other is the line at J = 1
        line.set_marker(look.marker)
    ax.set_ylim(bottom=0)
    plots.rescale(ax, scale)
    if direct and len(pairs) > 1:
        plots.label_curves(ax)
    elif len(pairs) > 1:
        _legend_below(figure, columns=3 if looks else 1)
    else:
        ax.legend()
    plots.caption(ax, interactions_caption(rows, layout))
    return figure


def interactions_caption(rows: pd.DataFrame, layout: plots.Layout = "intervals") -> str:
    """What curves of J were measured on: images, pairs, contexts, players, seed, estimator."""
    single = rows[rows["measure"] == ENERGY]
    setting = single["setting"].iloc[0]
    told = dict(part.split("=", 1) for part in setting.split() if "=" in part)
    said = [f"{single['image'].nunique()} images"]
    if told.get("pairs", "").isdigit():
        pairs = int(told["pairs"])
        inner = single[(single["at"] > 0) & (single["at"] < 1)]
        contexts = sorted(set((inner["samples"] // pairs).tolist())) or [1]
        most = "" if len(contexts) == 1 else f" to {contexts[-1]}"
        said += [f"{pairs} pairs each", f"{contexts[0]}{most} contexts"]
    said += [f"{told[key]} {what}" for key, what in (("grid", "patches"),) if key in told]
    said += _seeds(single)
    estimators = {
        "intervals": "RMS strength (root of the unbiased mean of I²); bands: 95 % intervals "
        "over images",
        "published": "mean of |I| as published, which is too large where contexts vary; no "
        "intervals",
    }
    return f"{', '.join(said)}; {estimators[layout]}"


def caption_of(rows: pd.DataFrame, band: str = "bands") -> str:
    """What other figures were measured on: images, masks, players, fill, seed.

    Args:
        rows: of one command.
        band: what shows intervals; empty if nothing does.
    """
    settings = rows["setting"].unique()
    told: dict[str, str] = {}
    for setting in settings:
        told |= dict(part.split("=", 1) for part in str(setting).split() if "=" in part)
    counts = sorted({int(count) for count in rows["samples"].unique()})
    said = [f"{counts[-1]} images" + (f" (some {counts[0]})" if len(counts) > 1 else "")]
    if "repeats" in told:
        said.append(
            f"{told['repeats']} mask{'s' * (told['repeats'] != '1')} of each at every share"
        )
    said += [f"{told['grid']} patches"] if "grid" in told else []
    said += [f"fill {told[key]}" for key in ("fill", "hiding") if key in told]
    ends = f"; {band}: 95 % intervals over images" if band else ""
    return ", ".join(said + _seeds(rows)) + ends


def _seeds(rows: pd.DataFrame) -> list[str]:
    seeds = sorted({str(seed) for seed in rows["seed"].unique()})
    return [f"random seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"]


def captioned(
    draw: Mapping[str, Callable[[], Figure]], rows: pd.DataFrame, band: str = "bands"
) -> dict[str, Callable[[], Figure]]:
    """The same figures with :func:`caption_of` the rows that they are drawn from."""

    def drawn(one: Callable[[], Figure]) -> Figure:
        figure = one()
        plots.caption(figure.axes[0], caption_of(rows, band))
        return figure

    return {name: partial(drawn, one) for name, one in draw.items()}


def reconstructions(pictures: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Images as they are, and by model: as it saw them, its prediction, the two together."""
    first = next(iter(pictures.values()))
    lines = [("original", first["original"])]
    for model, stacks in pictures.items():
        for key, title in (
            ("masked", "input"),
            ("prediction", "prediction"),
            ("completed", "completed"),
        ):
            if key in stacks:
                lines.append((f"{named(model)}: {title}", stacks[key]))
    rows, count = len(lines), len(first["original"])
    figure = Figure(figsize=(1.15 * count + 1.2, 1.15 * rows), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for row, (title, images) in zip(axes, lines, strict=True):
        for ax, image in zip(row, images, strict=True):
            plots.show_image(ax, torch.from_numpy(image) / 255)
        row[0].text(
            -0.12,
            0.5,
            plots.literal(title.replace(": ", "\n")),
            transform=row[0].transAxes,
            ha="right",
            va="center",
        )
    return figure


_SAVED = ContextVar("saved", default=True)


@contextmanager
def none_saved() -> Iterator[None]:
    """Within, :func:`save` draws nothing: for runs that are part of another one."""
    before = _SAVED.set(False)
    try:
        yield
    finally:
        _SAVED.reset(before)


def save(
    figures: Mapping[str, Callable[[], Figure]],
    folder: Path,
    kinds: Sequence[str] = ("png", "svg", "pdf"),
) -> None:
    """Draw figures in the house style, each as every kind; the same table gives the same bytes."""
    if not _SAVED.get():
        return
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(plots.STYLE):
        for name, draw in figures.items():
            figure = draw()
            for kind in kinds:
                with whole(folder / f"{name}.{kind}") as file:
                    figure.savefig(file, format=kind, metadata=undated[kind])


def figures_of_pictures(run: Path) -> dict[str, Callable[[], Figure]]:
    """How :func:`reconstructions` is drawn from a run's files, if it has any."""
    pictures = {}
    for file in sorted(run.glob("reconstructions-*.npz"), reverse=True):
        with np.load(file, allow_pickle=False) as stacks:
            pictures[re.sub(r"^reconstructions-(\d+-)?", "", file.stem)] = dict(stacks)
    return {"reconstructions": partial(reconstructions, pictures)} if pictures else {}


def occlusion_curve(ax: Axes, table: pd.DataFrame, measure: str, title: str, look: Look) -> None:
    """A measure of one network under one occluder over what is hidden, with its band."""
    ends = [
        table[table["measure"] == f"occlusion_{measure}{end}"].set_index("at")["value"]
        for end in ("", "_low", "_high")
    ]
    plots.curve(
        ax,
        ends[0].index.to_numpy(),
        [Interval(x, np.nan, low, high) for x, low, high in zip(*ends, strict=True)],
        label=plots.literal(title),
        colour=look.colour,
        marker=look.marker,
    )


def occlusion_effects(rows: pd.DataFrame, looks: Looks | None = None) -> Figure:
    """Top-1 accuracy and agreement over what is hidden, with bands; all networks in each panel.

    Args:
        rows: of ``a2mim occlusion``; each occluder is a line of panels, of one panel where there
            is no accuracy.
        looks: of the networks; by their order if left out.
    """
    occluders = rows["setting"].str.extract(r"occluder=(\S+)", expand=False)
    names = list(dict.fromkeys(occluders))
    titles = {"top1": "top-1 accuracy", "agreement": "agreement"}
    measured = set(rows["measure"])
    measures = {key: title for key, title in titles.items() if f"occlusion_{key}" in measured}
    width = 9.2 if len(measures) > 1 else 6.4
    figure = Figure(figsize=(width, 3.1 * len(names) + 0.6), layout="constrained")
    axes = figure.subplots(len(names), len(measures), sharex=True, sharey=True, squeeze=False)
    pairs = [(model, arm) for model, arms in networks(rows).items() for arm in arms]
    for line, occluder in zip(axes, names, strict=True):
        for ax, (measure, what) in zip(line, measures.items(), strict=True):
            for k, (model, weights) in enumerate(pairs):
                table = of(rows[occluders == occluder], model, weights)
                title = titled(model, weights)
                marker = "os^Dv"[k // len(plots.COLOURS) % 5]
                look = looks[title] if looks else Look(_colour(k), marker)
                occlusion_curve(ax, table, measure, title, look)
            ax.set_title(f"{occluder}: {what}" if len(names) > 1 else what)
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for ax in axes[-1]:
        ax.set_xlabel("hidden share of the image")
    labels = axes[0, 0].get_legend_handles_labels()[1]
    if plots.can_be_labelled(labels) and len(labels) > 1:
        for line in axes:
            plots.label_curves(line[-1])
    else:
        _legend_below(figure, columns=3 if looks else 1)  # names of files are wider than panels
    return figure


def _legend_below(figure: Figure, columns: int) -> None:
    """Of the first panel."""
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns)


def _colour(k: int) -> str:
    """Of the k-th network where nothing else is said; grey comes last."""
    return plots.COLOURS[(k + 1) % len(plots.COLOURS)]
