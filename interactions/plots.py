"""Drawing: curves with intervals, and images with hidden patches.

Functions draw into axes that are given, so they serve reports and notebooks alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from interactions.stats import Interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLOURS = ("#6b7280", "#0f62b4", "#c2410c", "#0f766e")
"""Reference grey first, then blue, orange and teal: distinct in print and for colour-blind eyes."""

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "svg.hashsalt": "a2mim",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # text stays text, which journals ask for
}
"""Settings for ``matplotlib.rc_context``."""

Layout = Literal["intervals", "published"]
"""How strengths over orders are laid out: with intervals; or as the papers draw them: the mean of
|I|, lines without bands, and orders as shares of n."""

Scale = Literal["linear", "log", "broken"]
"""How strengths are drawn: as they are; by their logarithms; or with a break below an end of the
curves that is much above the rest."""

LOWER_PART = 0.72
"""Share of a broken axis below the break."""


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes that are given, or those of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(6, 3.8), layout="constrained")[1]


def as_html(title: str, table: pd.DataFrame | None = None, most: int = 10) -> str:
    """A title and the first and last rows of a table, as a notebook shows them."""
    from html import escape

    shown = (
        ""
        if table is None
        else table.to_html(index=False, border=0, max_rows=most, float_format="{:.3g}".format)
    )
    return f"<p>{escape(title)}</p>{shown}"


def literal(text: str) -> str:
    """A name, such as that of a file, for matplotlib to show letter by letter.

    Dollars are no formula, an underscore at its beginning does not keep it out of a legend, and
    control characters are written out.
    """
    text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def values_of_players(ax: Axes, values_N: ArrayLike, se_N: ArrayLike, what: str) -> None:
    """A value of each player with two standard errors."""
    values, error = np.asarray(values_N), 2 * np.asarray(se_N)
    ax.errorbar(np.arange(len(values)), values, error, color=COLOURS[1], fmt="o", linewidth=1)
    ax.axhline(0, color="#9ca3af", linewidth=0.8, zorder=0)
    ax.set(xlabel="patch", ylabel=what)


def curve(
    ax: Axes,
    x: ArrayLike,
    intervals: Sequence[Interval],
    *,
    label: str | None = None,
    colour: str = COLOURS[1],
    marker: str = "o",
    least: float = -np.inf,
) -> None:
    """A line through estimates with a band for their intervals.

    Args:
        ax: axes to draw in.
        x: where.
        intervals: estimates with their intervals.
        label: name of the curve in the legend.
        colour: of line and band.
        marker: of matplotlib.
        least: the smallest possible value, at which the band stops.
    """
    estimate, low, high = np.array([(i.estimate, i.low, i.high) for i in intervals]).T
    low, high = np.maximum(low, least), np.maximum(high, least)
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(x, estimate, color=colour, marker=marker, label=label)


def strength_curve(
    ax: Axes,
    ratios_O: ArrayLike,
    intervals_O: Sequence[Interval],
    *,
    bracket: tuple[ArrayLike, ArrayLike] | None = None,
    unresolved_O: ArrayLike = (),
    label: str | None = None,
    colour: str = COLOURS[1],
    scale: Scale = "linear",
) -> None:
    """J^(m) over m/(n-2) with intervals over images, whose bands stop at 0.

    A mean of |I| is drawn between the ends of its bracket, dotted, and with open marks at orders
    where that leaves J unresolved; its intervals include the bracket.
    """
    x_O = np.asarray(ratios_O)
    curve(ax, x_O, intervals_O, label=label, colour=colour, least=0)
    if bracket is not None:
        open_O = np.asarray(unresolved_O, dtype=bool)
        J_O = np.array([interval.estimate for interval in intervals_O])
        ax.plot(x_O[open_O], J_O[open_O], "o", color=colour, markerfacecolor="white")
        for end_O in bracket:
            ax.plot(x_O, end_O, color=colour, linestyle=":", linewidth=1)
    ax.axhline(1, color="#9ca3af", linewidth=0.8, zorder=0)
    ax.set(xlabel="order m / (n−2)", ylabel="interaction strength J", xlim=(-0.02, 1.02))
    ax.autoscale(axis="y")  # room for this curve where an earlier one has set the limits
    if ax.get_yscale() == "log":  # of an earlier curve
        scale = "log"
    else:
        ax.set_ylim(bottom=0)
    rescale(ax, scale)


def rescale(ax: Axes, scale: Scale) -> None:
    """Another scale for the values of all curves in these axes.

    Args:
        ax: with curves over orders.
        scale: ``"broken"`` compresses what lies above all estimates but the higher end of each
            curve, where that is more than half as high again; otherwise nothing is changed.

    Raises:
        ValueError: for an unknown scale.
    """
    marked = [line for line in ax.get_lines() if line.get_marker() not in ("None", "")]
    curves = [xy for line in marked if len(xy := np.asarray(line.get_xydata()))]
    values = np.concatenate([np.empty(0), *(xy[:, 1] for xy in curves)])
    if scale == "log":
        positive = values[values > 0]
        ax.set_yscale("log")
        if len(positive):  # bands that reach 0 would stretch the axis without end
            ax.set_ylim(bottom=positive.min() / 2)
        return
    if scale == "linear":
        return
    if scale != "broken":
        raise ValueError(f"expected a scale of linear, log or broken, got {scale!r}")
    heights = np.concatenate([np.empty(0), *map(_without_higher_end, curves)])
    if len(heights) and np.nanmax(values) > 1.5 * np.nanmax(heights):
        _break_above(ax, 1.15 * float(np.nanmax(heights)))


def _without_higher_end(xy: np.ndarray) -> np.ndarray:
    """The heights of a curve without that of its higher end."""
    heights = xy[xy[:, 0].argsort(), 1]
    return heights[1:] if heights[0] > heights[-1] else heights[:-1]


def _break_above(ax: Axes, knee: float) -> None:
    """An axis whose part above ``knee`` is compressed, marked on its left."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    bottom, top = ax.get_ylim()
    squeeze = (1 - LOWER_PART) / LOWER_PART * (knee - bottom) / (top - knee)

    def forward(y: np.ndarray) -> np.ndarray:
        return np.where(y > knee, knee + (y - knee) * squeeze, y)

    def inverse(y: np.ndarray) -> np.ndarray:
        return np.where(y > knee, knee + (y - knee) / squeeze, y)

    below = [t for t in MaxNLocator(5).tick_values(bottom, knee) if bottom <= t < knee]
    near = (below[-1] if below else bottom) + 0.06 * (knee - bottom) / LOWER_PART  # its text ends
    above = [t for t in MaxNLocator(3).tick_values(knee, top) if knee < t <= top]
    above = [t for t in above if forward(np.asarray(t)) > near]
    ax.set_yscale("function", functions=(forward, inverse))
    ax.set_ylim(bottom, top)
    ax.yaxis.set_major_locator(FixedLocator([*below, *above]))
    ax.yaxis.set_minor_locator(NullLocator())
    for mark in [line for line in ax.lines if line.get_gid() == "break"]:
        mark.remove()
    across: Any = ax.get_yaxis_transform()
    for shift in (0.0, 0.025):
        y = knee + shift * (top - bottom)
        (mark,) = ax.plot([-0.015, 0.015], [y, y], transform=across, color="#111827", clip_on=False)
        mark.set(linewidth=1, gid="break")
    (mark,) = ax.plot(
        [0, 1], [knee, knee], transform=across, color="#9ca3af", linestyle=(0, (1, 3))
    )
    mark.set(linewidth=1, gid="break")


def orders_axis(ax: Axes, n: int) -> None:
    """Orders m themselves, above the axis of m / (n - 2); none where curves have different n.

    Args:
        ax: with curves over m / (n - 2).
        n: number of players.
    """
    from matplotlib.ticker import MaxNLocator

    name = f"order m, {n} patches"
    there = [child for child in ax.child_axes if str(child.get_xlabel()).startswith("order m,")]
    if there or n < 3:
        if any(child.get_xlabel() != name for child in there):
            for child in there:
                child.set_visible(False)
        return
    to_orders: Any = lambda ratio: ratio * (n - 2)  # noqa: E731
    to_ratios: Any = lambda order: order / (n - 2)  # noqa: E731
    above = ax.secondary_xaxis("top", functions=(to_orders, to_ratios))
    above.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    above.set_xlabel(name, fontsize="small", color="#4b5563")
    above.tick_params(labelsize="small", labelcolor="#4b5563", color="#9ca3af")
    above.spines["top"].set(visible=True, color="#9ca3af")


def published_curve(
    ax: Axes,
    ratios_O: ArrayLike,
    J_O: ArrayLike,
    *,
    label: str | None = None,
    colour: str = COLOURS[1],
    marker: str = "o",
) -> None:
    """J of the mean of |I|, as the papers draw it: a line from 0 on, orders as shares of n."""
    ax.plot(np.asarray(ratios_O), np.asarray(J_O), color=colour, marker=marker, label=label)
    ticks = np.linspace(0, 1, 6)
    ax.set_xticks(ticks, [f"{tick:.1f}n" if tick else "0" for tick in ticks])
    ax.set(xlabel="order m", ylabel="interaction strength J")
    ax.autoscale(axis="y")  # room for this curve where an earlier one has set the limits
    ax.set_ylim(bottom=0)


DIRECT = 6
"""Curves that are labelled at their ends, at most; a legend names more."""

DIRECT_CHARACTERS = 30
"""Of the longest of their labels."""


def can_be_labelled(labels: Sequence[str]) -> bool:
    """Whether curves can be named at their ends, where there is room for short names."""
    return len(labels) <= DIRECT and all(len(label) <= DIRECT_CHARACTERS for label in labels)


def label_curves(ax: Axes) -> None:
    """The name of each curve at its right end, apart from each other, with the limits as they are.

    Limits stay so: names would be left behind.
    """
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = [to_axes.transform(np.asarray(line.get_xydata())[-1])[1] for line in lines]
    order = np.argsort(ends, kind="stable")
    gap, at = 0.075, np.asarray(ends, dtype=float)
    for low, high in pairwise(order):
        at[high] = max(at[high], at[low] + gap)
    if len(order) and at[order[-1]] > 1:  # down again, from the top
        at[order[-1]] = 1
        for high, low in pairwise(order[::-1]):
            at[low] = min(at[low], at[high] - gap)
    for line, end, y in zip(lines, ends, at.tolist(), strict=True):
        x = to_axes.transform(np.asarray(line.get_xydata())[-1])[0]
        ax.annotate(
            str(line.get_label()),
            xy=(x, end),
            xytext=(1.06, y),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=line.get_color(),
            va="center",
            annotation_clip=False,
            arrowprops={  # to where the name begins: across no other name
                **{"arrowstyle": "-", "relpos": (0.0, 0.5)},
                **{"color": line.get_color(), "lw": 0.6, "alpha": 0.6},
            },
        )


def caption(ax: Axes, text: str) -> None:
    """What a figure shows, in small print above its panels; below its title, if it has one."""
    from textwrap import fill

    figure: Any = ax.figure
    text = fill(text, int(figure.get_figwidth() * 17))
    title = figure.get_suptitle()
    if title:
        figure.suptitle(f"{title}\n{text}", fontsize=8.5, x=0.01, ha="left", fontweight="normal")
    else:
        figure.suptitle(text, fontsize=7.5, color="#4b5563", x=0.01, ha="left")


def accuracy_curve(
    ax: Axes,
    fractions_F: ArrayLike,
    intervals_F: Sequence[Interval],
    *,
    label: str | None = None,
    colour: str = COLOURS[1],
) -> None:
    """Accuracy over the hidden fraction with intervals over images."""
    curve(ax, fractions_F, intervals_F, label=label, colour=colour)
    ax.set(xlabel="hidden fraction of patches", ylabel="accuracy", ylim=(-0.02, 1.02))


def note(ax: Axes, text: str) -> None:
    """A remark in the upper right corner, once."""
    if text not in [said.get_text() for said in ax.texts]:
        ax.text(
            *(0.98, 0.97, text),
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize="small",
            color="#4b5563",
        )


def show_image(ax: Axes, image_CHW: Tensor, title: str | None = None) -> None:
    """An image with values in [0, 1]; values outside are clipped."""
    ax.imshow(image_CHW.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    ax.set_axis_off()
    if title is not None:
        ax.set_title(title)
