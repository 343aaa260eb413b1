"""Accuracy under random patch drop, as a curve over the hidden fraction.

Every image gets its own masks, drawn by key, and the masks of growing fractions are nested, so that
curves compare images with themselves and models on identical masks. (IPViT shares one mask in a
batch and draws anew for every fraction, which makes runs differ by more than their images do.)
Other masks are in :mod:`interactions.occlusion.masks`, other measures in
:mod:`interactions.occlusion.predictions`.

Shapes: I images, F fractions, R repeats, N players, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from interactions import fills, plots
from interactions.occlusion.masks import OCCLUDERS, TENTHS, Scene
from interactions.occlusion.predictions import occlude
from interactions.patches import PatchGrid
from interactions.stats import Interval, Tested, share, share_difference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class OcclusionCurve:
    """Correct predictions under random patch drop.

    Attributes:
        images: names of the images.
        fractions_F: hidden fraction of the players, as realised.
        correct_IF: share of correct predictions over the repeats.
    """

    images: tuple[str, ...]
    fractions_F: NDArray[np.float64]
    correct_IF: NDArray[np.float64]

    def __repr__(self) -> str:
        F = self.fractions_F
        return (
            f"OcclusionCurve({len(self.images)} images, {len(F)} fractions {F[0]:g} to {F[-1]:g}, "
            f"area {self.area()})"
        )

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per fraction: fraction, accuracy, low, high."""
        import pandas as pd

        rows = [(i.estimate, i.low, i.high) for i in self.intervals(level)]
        table = pd.DataFrame(rows, columns=["accuracy", "low", "high"])
        table.insert(0, "fraction", self.fractions_F)
        return table

    def _repr_html_(self) -> str:
        return plots.as_html(repr(self), self.to_frame())

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """Accuracy at each fraction, with the interval over images."""
        return [share(correct_I, level) for correct_I in self.correct_IF.T]

    @property
    def area_I(self) -> NDArray[np.float64]:
        """Mean accuracy over the range of fractions (trapezoid), for each image."""
        width = self.fractions_F[-1] - self.fractions_F[0]
        return np.trapezoid(self.correct_IF, self.fractions_F, axis=1) / width

    def area(self, level: float = 0.95) -> Interval:
        """Area under the curve, with the interval over images."""
        return share(self.area_I, level)

    def area_minus(self, other: OcclusionCurve, level: float = 0.95) -> Tested:
        """Difference of areas to another model, paired over common images and masks.

        Raises:
            ValueError: if the two were not measured on the same images and fractions.
        """
        if self.images != other.images or not np.array_equal(self.fractions_F, other.fractions_F):
            raise ValueError("expected two curves of the same images and fractions")
        return share_difference(self.area_I, other.area_I, level)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        colour: str = plots.COLOURS[1],
        level: float = 0.95,
    ) -> Axes:
        """Draw accuracy over the hidden fraction with intervals.

        Args:
            ax: axes to draw in; new ones if left out.
            label: name of the curve in the legend.
            colour: of the curve.
            level: coverage of the intervals.
        """
        ax = plots.axes_or_new(ax)
        intervals = self.intervals(level)
        plots.accuracy_curve(ax, self.fractions_F, intervals, label=label, colour=colour)
        return ax


def random_drop(
    n: int, fractions: Sequence[float], images: Sequence[str], seed: int, repeat: int
) -> Tensor:
    """Visibility under random patch drop.

    Args:
        n: number of players.
        fractions: hidden fractions; round(n fraction) players are hidden.
        images: one name for each image, the key of its masks.
        seed: the seed of the experiment.
        repeat: which of several independent masks.

    Returns:
        bool ``(I, F, n)``; for one image the hidden sets of growing fractions are nested.
    """
    return OCCLUDERS["random"](Scene(PatchGrid(1, n), tuple(images), seed, repeat), fractions)


def occlusion_curve(
    model: nn.Module,
    images_ICHW: Any,
    labels_I: Any,
    grid: PatchGrid,
    *,
    fractions: Sequence[float] = TENTHS,
    repeats: int = 1,
    fill: str | fills.Fill = fills.zero,
    names: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> OcclusionCurve:
    """Top-1 predictions under random patch drop.

    Args:
        model: a classifier in eval mode.
        images_ICHW: images, as for :func:`~interactions.occlusion.predictions.occlude`.
        labels_I: their classes, or ``"prediction"``.
        grid: the players.
        fractions: hidden fractions, ascending.
        repeats: independent masks per image.
        fill: what hidden patches become.
        names: image names, the keys of their masks; ``"0"``, ``"1"``, ... if left out.
        seed: the seed of the experiment.
        batch_size: masked images through the model at once; it does not change the masks.
        progress: show a progress bar; an interrupt then leaves the images that are done.

    Raises:
        ValueError: if the model is in training mode, if labels or distinct names are not as many
            as images, or if outputs are not finite.
    """
    rows = occlude(
        model,
        images_ICHW,
        labels_I,
        grid,
        OCCLUDERS["random"],
        fractions=fractions,
        repeats=repeats,
        fill=fill,
        names=names,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    shape = len(rows) // (len(fractions) * repeats), len(fractions), repeats
    return OcclusionCurve(
        images=tuple(rows["image"][:: shape[1] * repeats]),
        fractions_F=rows["hidden"].to_numpy().reshape(shape)[0, :, 0],  # the same for all images
        correct_IF=rows["correct"].to_numpy(dtype=float).reshape(shape).mean(axis=2),
    )
