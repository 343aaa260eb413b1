"""Drawing: curves with intervals, and images with hidden patches.

Functions draw into axes that are given, so they serve reports and notebooks alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from interactions.stats import Interval

if TYPE_CHECKING:
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
}
"""Settings for ``matplotlib.rc_context``."""


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes that are given, or those of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(6, 3.8), layout="constrained")[1]


def curve(
    ax: Axes,
    x: ArrayLike,
    intervals: Sequence[Interval],
    *,
    label: str | None = None,
    colour: str = COLOURS[1],
    marker: str = "o",
) -> None:
    """A line through estimates with a band for their intervals."""
    estimate, low, high = np.array([(i.estimate, i.low, i.high) for i in intervals]).T
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
) -> None:
    """J^(m) over m/(n-2) with intervals over images.

    A mean of |I| is drawn between the ends of its bracket, dotted, and with open marks at orders
    where that leaves J unresolved; its intervals include the bracket.
    """
    x_O = np.asarray(ratios_O)
    curve(ax, x_O, intervals_O, label=label, colour=colour)
    if bracket is not None:
        open_O = np.asarray(unresolved_O, dtype=bool)
        J_O = np.array([interval.estimate for interval in intervals_O])
        ax.plot(x_O[open_O], J_O[open_O], "o", color=colour, markerfacecolor="white")
        for end_O in bracket:
            ax.plot(x_O, end_O, color=colour, linestyle=":", linewidth=1)
    ax.axhline(1, color="#9ca3af", linewidth=0.8, zorder=0)
    ax.set(xlabel="order m / (n−2)", ylabel="interaction strength J", xlim=(-0.02, 1.02))


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
