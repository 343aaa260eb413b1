"""Figures of occluded predictions, occlusion invariance and spectra, from tables only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from a2mim.report.figures import Look, Looks, occlusion_curve, titled
from a2mim.runs.table import side_by_side
from interactions import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINES = ("untrained", "pixels", "permuted")
ENDS = ("", "_low", "_high", "_mask_sd", *(f"_{name}" for name in BASELINES))
"""How rows of one number end: itself, its interval, its spread over masks, its baselines."""

SHOWN = {"cka": "CKA", "cosine": "cosine", "recall@1": "recall@1"}
"""The measures in figures and printed tables, and how they are called there."""

STYLES: dict[str, tuple[Any, float]] = {
    "value": ("-", 1.8),
    "untrained": ((0, (5, 2)), 1.2),
    "pixels": ((0, (5, 2, 1, 2)), 1.2),
    "permuted": ((0, (1, 1.6)), 1.5),
}
"""Dashes and width of the network's own line and of those of its baselines."""

CAPTIONS = {
    "value": "the network",
    "untrained": "same network, untrained",
    "pixels": "raw pixels",
    "permuted": "another image, permuted",
}

CHARACTERS = 12
"""Of a legend, in an inch."""

TITLE_WIDTH = 36
"""Characters in a line of a title above a panel of 3.9 inches."""

RATIOS_SHOWN = 4
"""Ratios in the figure of layers; the table has them all."""

DEPTHS = mpl.colormaps["viridis"].with_extremes(over="white")
GREY, *_HOUSE = plots.COLOURS
COLOURS = (*_HOUSE, "#7c3aed", "#a16207", "#be185d", "#4d7c0f")
"""Of networks: the house's, then violet, ochre, pink and green; grey is for captions."""


PREDICTIONS = {
    "top1": "top-1 accuracy",
    "agreement": "agreement with clean",
    "js": "JS divergence (nats)",
    "confidence": "confidence",
    "ece": "calibration error (ECE)",
}
"""Measures of occluded predictions, and how they are called in figures."""

FULL_RANGE = ("top1", "agreement")
"""Those of them that are shown from 0 to 1; the others are often so small that none is seen."""


def occlusion_measures(rows: pd.DataFrame) -> Figure:
    """What is measured of occluded predictions over what is hidden, with bands.

    A column per measure, with one scale from 0, and a line of panels per occluder; without classes
    there is no accuracy and no calibration.

    Args:
        rows: of the results table of ``a2mim occlusion``.
    """
    occluders = rows["setting"].str.extract(r"occluder=(\S+)", expand=False)
    names = list(dict.fromkeys(occluders))
    measured = set(rows["measure"])
    shown = {key: title for key, title in PREDICTIONS.items() if f"occlusion_{key}" in measured}
    figure = Figure(figsize=(0.6 + 2.7 * len(shown), 0.9 + 2.6 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(shown), sharex=True, sharey="col", squeeze=False)
    for line, occluder in zip(axes, names, strict=True):
        for ax, measure in zip(line, shown, strict=True):
            found = rows[occluders == occluder].groupby(["model", "weights"], sort=False)
            for k, ((model, weights), table) in enumerate(found):
                look = Look(COLOURS[k % len(COLOURS)], "os^Dv"[k // len(COLOURS) % 5])
                occlusion_curve(ax, table, measure, titled(model, weights), look)
        if len(names) > 1:
            line[0].set_ylabel(occluder)
    for top, bottom, (measure, title) in zip(axes[0], axes[-1], shown.items(), strict=True):
        top.set_title(title)
        most = 1 if measure in FULL_RANGE else top.get_ylim()[1]  # one scale for the column
        top.set(xlim=(-0.02, 1.02), xticks=(0, 0.5, 1), ylim=(-0.02 * most, 1.02 * most))
        bottom.set_xlabel("hidden share of the image")
    handles = axes[0, 0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, **below(handles, figure))
    return figure


def invariance_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per network, layer, readout, measure and ratio, in the order of the results table.

    Args:
        rows: of the results table of ``a2mim invariance``.

    Returns:
        ``model``, ``weights``, ``hiding``, ``against`` (``"whole"`` or ``"complement"``),
        ``layer``, ``readout``, ``metric`` (with its statistic), ``ratio``, ``value``, ``low``,
        ``high``, ``mask_sd`` and the baselines; NaN where there is none.
    """
    ends = "|".join(end for end in ENDS if end)
    parts = rows["measure"].str.extract(rf"^invariance_(.+?)({ends})?$")
    table = rows.assign(
        **_told(rows, "layer", "readout", "hiding", "against"),
        metric=parts[0],
        number=parts[1].fillna("_value").str.removeprefix("_"),
        ratio=rows["at"],
    )
    keys = ["model", "weights", "hiding", "against", "layer", "readout", "metric", "ratio"]
    return side_by_side(table, keys, [end.removeprefix("_") or "value" for end in ENDS])


def last_layer(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`invariance_table` of one network's last layer and readout."""
    layer, readout = table.iloc[-1][["layer", "readout"]]
    return table[(table["layer"] == layer) & (table["readout"] == readout)]


def hidden(table: pd.DataFrame) -> str:
    """What became of patches in the rows of :func:`invariance_table`, and what that is beside."""
    hiding, against = table.iloc[0][["hiding", "against"]]
    done = "dropped as tokens" if hiding == "token_drop" else f"filled ({hiding})"
    return f"{done}, against the complement" if against == "complement" else done


def invariance_over_ratios(table: pd.DataFrame, looks: Looks | None = None) -> Figure:
    """Last layers of all networks over the hidden ratio, each beside its own baselines.

    Args:
        table: of :func:`invariance_table`.
        looks: of the networks; if left out, colours by their order, and no marks.
    """
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    axes = figure.subplots(1, len(SHOWN))
    networks = list(table.groupby(["model", "weights"], sort=False))
    for k, ((model, weights), rows) in enumerate(networks):
        last = last_layer(rows)
        title = titled(model, weights)
        colour, marker = looks[title] if looks else (COLOURS[k % len(COLOURS)], "")
        for ax, metric in zip(axes, SHOWN, strict=True):
            of = last[last["metric"] == metric]
            for name, (dashes, width) in STYLES.items():
                marks = marker if name == "value" else ""
                ax.plot(of["ratio"], of[name], color=colour, ls=dashes, lw=width, marker=marks)
            ax.fill_between(
                of["ratio"], of["low"], of["high"], color=colour, alpha=0.18, linewidth=0
            )
        label = f"{plots.literal(title)}, {last.iloc[0]['layer']}"
        axes[0].plot([], [], color=colour, marker=marker, label=label)
    for ax, title in zip(axes, SHOWN.values(), strict=True):
        what = hidden(table).replace(", ", ",\n")
        ax.set(title=title, xlabel=f"share of patches, {what}", xlim=(-0.02, 1.0))
        ax.set_ylim(top=1.03, bottom=min(-0.03, ax.get_ylim()[0]))
    handles = [*axes[0].get_legend_handles_labels()[0], *_style_handles()]
    figure.legend(handles=handles, **below(handles, figure))
    return figure


def invariance_over_layers(table: pd.DataFrame) -> Figure:
    """One network layer by layer: a row of panels per readout, a colour per hidden ratio.

    Raw pixels stand in front of the first layer; the output, which has a readout of its own, stands
    behind the last one, in every row of panels.
    """
    readouts = [r for r in table["readout"].unique() if r != "output"] or ["output"]
    layers = list(table["layer"].unique())
    ratios = _some_ratios(sorted(table["ratio"].unique()))
    colours = DEPTHS(np.linspace(0.88, 0.0, len(ratios)))
    figure = Figure(figsize=(10.5, 0.9 + 2.5 * len(readouts)), layout="constrained")
    axes = figure.subplots(len(readouts), len(SHOWN), sharex=True, sharey="col", squeeze=False)
    for (r, readout), (c, metric) in product(enumerate(readouts), enumerate(SHOWN)):
        ax = axes[r, c]
        of = table[(table["metric"] == metric) & table["readout"].isin((readout, "output"))]
        for ratio, colour in zip(ratios, colours, strict=True):
            at = of[of["ratio"] == ratio].assign(x=lambda rows: rows["layer"].map(layers.index) + 1)
            ax.plot(0, at["pixels"].iloc[0], marker="D", ms=5, color=colour)
            # A line joins what is read out the same way, and the output is not.
            for _, part in at.groupby("readout", sort=False):
                _over_layers(ax, part, colour)
        ax.axvline(0.5, color="#9ca3af", linewidth=0.8)
        ax.grid(visible=False, axis="x")
        if r == 0:
            ax.set_title(SHOWN[metric])
        if c == 0:
            ax.set_ylabel(f"readout: {readout}")
    for ax in axes[0]:  # the limits of a column are shared
        ax.set_ylim(bottom=min(-0.03, ax.get_ylim()[0]), top=1.03)
    ticks = ["pixels", *(layer.removeprefix("blocks.") for layer in layers)]
    for ax in axes[-1]:
        ax.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=8)
        ax.set_xlabel("layer" + (" (numbers: blocks)" if "blocks.0" in layers else ""))
    model, weights = table.iloc[0][["model", "weights"]]
    title = f"{plots.literal(titled(model, weights))}: patches {hidden(table)}"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    handles = [
        *(
            Line2D([], [], color=colour, label=f"{ratio:.2g} of the patches")
            for ratio, colour in zip(ratios, colours, strict=True)
        ),
        *(handle for handle in _style_handles() if handle.get_label() != CAPTIONS["pixels"]),
        Line2D([], [], color=GREY, ls="", marker="D", ms=5, label=CAPTIONS["pixels"]),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def spectrum_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per network, map and frequency, in the order of the results table.

    Args:
        rows: of the results table of ``a2mim spectrum``.

    Returns:
        ``model``, ``weights``, ``layer``, ``index``, ``maps`` (of the whole stream), ``cells``,
        ``depth`` (index / last index), ``measure`` (``"delta_log_amplitude"`` or ``"variance"``),
        ``at`` (the frequency in units of pi per cell, or again the depth), ``value``, ``low`` and
        ``high``.
    """
    parts = rows["measure"].str.extract(r"^spectrum_(.+?)(_low|_high)?$")
    table = rows.assign(
        **_told(rows, "layer", "index", "maps", "cells"),
        measure=parts[0],
        number=parts[1].fillna("_value").str.removeprefix("_"),
    ).astype({"index": int, "maps": int, "cells": int})
    keys = ["model", "weights", "layer", "index", "maps", "cells", "measure", "at"]
    wide = side_by_side(table, keys, ["value", "low", "high"])
    return wide.assign(depth=wide["index"] / (wide["maps"] - 1))


def ends_of_stream(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network and map: the amplitude at its highest frequency, and its variance.

    Returns:
        ``model``, ``weights``, ``layer``, ``index``, ``depth``, ``cells``, ``frequency`` (the
        highest, in units of pi per cell), for the amplitude there ``high_frequency`` with ``_low``
        and ``_high``, ``variance`` likewise.
    """
    keys = ["model", "weights", "layer", "index", "depth", "cells"]
    amplitudes = table[table["measure"] == "delta_log_amplitude"].rename(
        columns={"at": "frequency"}
    )
    # The last row: last() would take each column's last number that is known.
    highest = amplitudes.groupby(keys, sort=False).tail(1)
    variance = table[table["measure"] == "variance"]

    def called(found: pd.DataFrame, name: str, *others: str) -> pd.DataFrame:
        names = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
        return found.rename(columns=names)[[*keys, *others, *names.values()]]

    return called(highest, "high_frequency", "frequency").merge(
        called(variance, "variance"), on=keys, validate="one_to_one"
    )


def spectra(table: pd.DataFrame) -> Figure:
    """Delta log amplitude over frequency: a panel per network, a line per map, colour is depth."""
    amplitudes = table[table["measure"] == "delta_log_amplitude"]
    networks = list(amplitudes.groupby(["model", "weights"], sort=False))
    columns = min(len(networks), 3)
    lines = -(-len(networks) // columns)
    figure = Figure(figsize=(3.9 * columns + 1.2, 3.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for ax, ((model, weights), rows) in zip(axes, networks, strict=False):
        for _, of in rows.groupby("index"):
            ax.plot(of["at"], of["value"], color=DEPTHS(0.92 * of["depth"].iloc[0]), lw=1.3)
        ax.set(title=plots.literal(fill(titled(model, weights), TITLE_WIDTH)), xlim=(0, 1))
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25π", "0.5π", "0.75π", "π"])
        ax.set_xlabel("frequency, per cell of the map")
    for ax in axes[::columns]:
        ax.set_ylabel("Δ log amplitude")
    for ax in axes[len(networks) :]:
        ax.set_axis_off()
    colours = mpl.colors.ListedColormap(DEPTHS(np.linspace(0, 0.92, 256)))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colours), ax=list(axes), pad=0.02)
    bar.set_label("depth: 0 first map, 1 last")
    bar.outline.set_visible(False)
    return figure


def stream_over_depth(table: pd.DataFrame, looks: Looks | None = None) -> Figure:
    """High frequencies and variance over depth, a curve per network.

    Filled marks are maps after a block or an MLP, hollow ones those after attention, diamonds the
    first maps after a down-sampling.

    Args:
        table: of :func:`spectrum_table`.
        looks: of the networks, whose marks replace circles; if left out, colours by their order.
    """
    ends = ends_of_stream(table)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = {
        "high_frequency": "Δ log amplitude at the highest frequency",
        "variance": "variance over the cells of a map",
    }
    for k, ((model, weights), rows) in enumerate(ends.groupby(["model", "weights"], sort=False)):
        smaller = rows["cells"].diff().lt(0).to_numpy()
        attention = rows["layer"].str.endswith("/attention").to_numpy()
        title = titled(model, weights)
        look = looks[title] if looks else Look(COLOURS[k % len(COLOURS)], "o")
        for ax, name in zip(axes, titles, strict=True):
            _marked(ax, rows, name, look, attention, smaller)
        label, marker = plots.literal(title), look.marker if looks else ""
        axes[0].plot([], [], color=look.colour, marker=marker, label=label)
    for ax, title in zip(axes, titles.values(), strict=True):
        ax.set(title=title, xlabel="depth: 0 first map, 1 last")
    axes[1].set_yscale("log")
    marks = [
        Line2D([], [], color=GREY, ls="", marker="o", label="after a block or an MLP"),
        Line2D([], [], color=GREY, ls="", marker="o", mfc="white", label="after attention"),
        Line2D([], [], color=GREY, ls="", marker="D", ms=7, label="first after a down-sampling"),
    ]
    handles = [*axes[0].get_legend_handles_labels()[0], *marks]
    figure.legend(handles=handles, **below(handles, figure))
    return figure


def _marked(
    ax: Axes, rows: pd.DataFrame, name: str, look: Look, hollow: np.ndarray, large: np.ndarray
) -> None:
    """A curve over depth with its band and marks."""
    colour, marker = look
    x, y = rows["depth"].to_numpy(), rows[name].to_numpy()
    low, high = rows[f"{name}_low"], rows[f"{name}_high"]
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(x, y, color=colour, lw=1.4)
    plain = ~hollow & ~large
    ax.plot(x[plain], y[plain], color=colour, ls="", marker=marker)
    ax.plot(x[hollow & ~large], y[hollow & ~large], color=colour, ls="", marker=marker, mfc="white")
    face = "white" if hollow[large].all() else colour
    ax.plot(x[large], y[large], color=colour, ls="", marker="D", ms=7, mfc=face)


def _over_layers(ax: Axes, rows: pd.DataFrame, colour: ArrayLike) -> None:
    """A network and its baselines over layers; a single layer is a point, its baselines dashes."""
    single = len(rows) == 1
    x = rows["x"].to_numpy()
    ax.plot(x, rows["value"], color=colour, lw=STYLES["value"][1], marker="o", ms=3)
    if single:
        ax.vlines(x, rows["low"], rows["high"], color=colour, alpha=0.35, linewidth=2)
    else:
        ax.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    for name in ("untrained", "permuted"):
        dashes, width = STYLES[name]
        wide = [x[0] - 0.4, x[0] + 0.4] if single else x
        ax.plot(wide, rows[name].repeat(1 + single), color=colour, ls=dashes, lw=width)


def _style_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=GREY, ls=dashes, lw=width, label=CAPTIONS[name])
        for name, (dashes, width) in STYLES.items()
    ]


def below(handles: Sequence[Any], figure: Figure) -> dict[str, Any]:
    """Where a legend goes: below the panels, in as many columns as its labels leave room for."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    room = int(figure.get_figwidth() * CHARACTERS // (longest + 8))
    return {"loc": "outside lower center", "ncols": max(1, min(room, 3)), "frameon": False}


def _some_ratios(ratios: Sequence[float]) -> list[float]:
    """A few ratios, at even distances, without 0 where all is 1."""
    some = [ratio for ratio in ratios if ratio > 0] or list(ratios)
    if len(some) <= RATIOS_SHOWN:
        return some
    return [some[round(k)] for k in np.linspace(0, len(some) - 1, RATIOS_SHOWN)]


def _told(rows: pd.DataFrame, *keys: str) -> dict[str, pd.Series]:
    """What settings, written ``key=value key=value``, say of some keys.

    Features are compared with those of the whole image where nothing else is said.
    """
    unique = pd.Series(rows["setting"].unique())
    said = {
        s: {"against": "whole"} | dict(pair.split("=", 1) for pair in s.split(" ")) for s in unique
    }
    return {key: rows["setting"].map(lambda s, key=key: said[s][key]) for key in keys}
