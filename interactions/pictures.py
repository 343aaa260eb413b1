"""Pictures of interactions: pairs over an image, heat maps of patches, a matrix, partners.

Functions draw arrays into axes that are given. Positive values are orange and negative ones blue,
also for colour-blind eyes; the image below is grey, and what is drawn over it has a light and a
dark outline, so that it can be read on bright and on dark images. Colour scales are symmetric
around 0 and are shared by panels that have one ``limit``.

Shapes: H x W pixels, N players, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from interactions.patches import Players

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

Array = NDArray[np.float64]

ENDS = ("#0b4f9e", "#7fb2e5", "#f4f4f2", "#f0a45d", "#b23a05")
"""Colours from the most negative over 0 to the most positive value."""

DARK, LIGHT = "#111827", "#ffffff"
"""Outlines."""


def cells_of(players: Players, height: int, width: int) -> NDArray[np.int64]:
    """The player of each pixel, ``(H, W)``."""
    alone_NN = torch.eye(players.n, dtype=torch.bool)
    return players.pixels(alone_NN, height, width)[:, 0].long().argmax(dim=0).numpy()


def centres_of(cells_HW: NDArray[np.int64]) -> Array:
    """The centre (x, y) of each player in pixels, ``(N, 2)``."""
    y_HW, x_HW = np.indices(cells_HW.shape)
    counts_N = np.bincount(cells_HW.ravel())
    sums = [np.bincount(cells_HW.ravel(), at_HW.ravel()) for at_HW in (x_HW, y_HW)]
    return np.stack(sums, axis=1) / counts_N[:, None]


def limit_of(*values: ArrayLike) -> float:
    """The largest size of any value, for a common colour scale; 1 if all are 0."""
    sizes = np.abs(np.concatenate([np.ravel(np.asarray(x, dtype=float)) for x in values]))
    largest = float(np.nanmax(sizes)) if np.isfinite(sizes).any() else 0.0
    return largest or 1.0


def pairs_over_image(
    ax: Axes,
    picture_HWC: ArrayLike,
    cells_HW: NDArray[np.int64],
    pairs_P2: NDArray[np.int64],
    values_P: Array,
    *,
    certain_P: NDArray[np.bool_] | None = None,
    limit: float | None = None,
) -> ScalarMappable:
    """Pairs as lines between their players: colour and width tell the interaction.

    Args:
        ax: axes to draw in.
        picture_HWC: the image, in [0, 1].
        cells_HW: the player of each pixel.
        pairs_P2: the pairs to draw.
        values_P: their interactions.
        certain_P: whether their sign is known; other lines are dashed.
        limit: value of the last colours; the largest one if left out.

    Returns:
        What a colour bar is made from.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.patheffects import Normal, Stroke

    _show_grey(ax, picture_HWC)
    largest = limit or limit_of(values_P)
    centres_N2, scale = centres_of(cells_HW), ScalarMappable(**_look(largest))
    for k in np.argsort(np.abs(values_P)):  # the strongest on top
        (x0, y0), (x1, y1) = centres_N2[pairs_P2[k]]
        width = 1.2 + 3.3 * min(abs(values_P[k]) / largest, 1)
        certain = certain_P is None or bool(certain_P[k])
        outline = [(width + 2.6, DARK), (width + 1.4, LIGHT)]
        ax.plot(
            [x0, x1],
            [y0, y1],
            color=scale.to_rgba(values_P[k]),
            linewidth=width,
            linestyle="-" if certain else (0, (2.2, 1.4)),
            marker="o",
            markersize=width + 1.5,
            solid_capstyle="round",
            dash_capstyle="butt",
            path_effects=[*(Stroke(linewidth=w, foreground=c) for w, c in outline), Normal()],
        )
    return scale


def heat_over_image(
    ax: Axes,
    picture_HWC: ArrayLike,
    cells_HW: NDArray[np.int64],
    values_N: Array,
    *,
    limit: float | None = None,
) -> ScalarMappable:
    """A value of each player as its colour; players without one (NaN) show the image.

    Args:
        ax: axes to draw in.
        picture_HWC: the image, in [0, 1].
        cells_HW: the player of each pixel.
        values_N: one for each player.
        limit: value of the last colours; the largest one if left out.

    Returns:
        What a colour bar is made from.
    """
    # Bright, so that colours over it are those of the colour bar, on a dark image too.
    _show_grey(ax, picture_HWC, 0.55, 1.0)
    look = _look(limit or limit_of(values_N))
    values_HW = np.ma.masked_invalid(values_N[cells_HW])
    return ax.imshow(values_HW, **look, alpha=0.65, interpolation="nearest")


def partners_over_image(
    ax: Axes,
    picture_HWC: ArrayLike,
    cells_HW: NDArray[np.int64],
    player: int,
    partners_P: NDArray[np.int64],
    values_P: Array,
    *,
    limit: float | None = None,
) -> ScalarMappable:
    """One player, outlined, and its partners in the colours of their interactions with it.

    Args:
        ax: axes to draw in.
        picture_HWC: the image, in [0, 1].
        cells_HW: the player of each pixel.
        player: which.
        partners_P: the players that it was measured with; others show the image.
        values_P: the interactions.
        limit: value of the last colours; the largest one if left out.

    Returns:
        What a colour bar is made from.
    """
    values_N = np.full(cells_HW.max() + 1, np.nan)
    values_N[partners_P] = values_P
    scale = heat_over_image(ax, picture_HWC, cells_HW, values_N, limit=limit)
    inside_HW = np.pad((cells_HW == player).astype(float), 1)
    extent = (-1, cells_HW.shape[1], -1, cells_HW.shape[0])
    for width, colour in ((4.5, DARK), (2.2, LIGHT)):
        ax.contour(inside_HW, levels=[0.5], colors=colour, linewidths=width, extent=extent)
    return scale


def pair_matrix(
    ax: Axes,
    n: int,
    pairs_P2: NDArray[np.int64],
    values_P: Array,
    *,
    limit: float | None = None,
) -> ScalarMappable:
    """Interactions as a symmetric matrix of players; pairs that were not measured stay grey.

    Args:
        ax: axes to draw in.
        n: number of players.
        pairs_P2: the pairs.
        values_P: their interactions.
        limit: value of the last colours; the largest one if left out.

    Returns:
        What a colour bar is made from.
    """
    matrix_NN = np.full((n, n), np.nan)
    i_P, j_P = pairs_P2.T
    matrix_NN[i_P, j_P] = matrix_NN[j_P, i_P] = values_P
    look = _look(limit or limit_of(values_P))
    ax.set_facecolor("#c9cdd3")
    ax.grid(visible=False)
    ax.set(xlabel="patch j (grey: not measured)", ylabel="patch i")
    return ax.imshow(matrix_NN, **look, interpolation="nearest")


def colour_bar(scale: ScalarMappable, axes: Any, label: str) -> None:
    """A labelled colour bar beside axes, which have to belong to one figure."""
    figure = np.ravel(axes)[0].figure
    bar = figure.colorbar(scale, ax=axes, shrink=0.85, aspect=22, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)


def _look(limit: float) -> dict[str, Any]:
    """Colours and their range, as matplotlib's functions take them."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    colours = LinearSegmentedColormap.from_list("interactions", ENDS)
    return {"cmap": colours, "norm": Normalize(-limit, limit)}


def _show_grey(ax: Axes, picture_HWC: ArrayLike, low: float = 0.15, high: float = 0.85) -> None:
    """The image in tones of grey between two levels, which leave room for colours."""
    grey_HW = np.clip(np.asarray(picture_HWC, dtype=float), 0, 1).mean(axis=2)
    darkest, brightest = np.quantile(grey_HW, [0.01, 0.99])
    tone_HW = np.clip((grey_HW - darkest) / max(brightest - darkest, 0.1), 0, 1)
    tone_HW = low + (high - low) * tone_HW
    ax.imshow(tone_HW, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.grid(visible=False)
