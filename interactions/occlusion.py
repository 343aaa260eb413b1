"""What occlusion does to predictions.

Every image gets its own masks, drawn by key, and the masks of growing fractions are nested, so that
curves compare images with themselves and models on identical masks. (IPViT shares one mask in a
batch and draws anew for every fraction, which makes runs differ by more than their images do.)

Shapes: I images, F fractions, R repeats, N players, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interactions import fills
from interactions.forwards import device_of
from interactions.patches import PatchGrid, hide, random_order
from interactions.strength import Interval, t_interval

TENTHS = tuple(k / 10 for k in range(10))
"""Hidden fractions 0, 0.1, ... 0.9."""


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

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """Accuracy at each fraction, with the interval over images."""
        return [t_interval(x.mean(), x, level) for x in self.correct_IF.T]

    @property
    def area_I(self) -> NDArray[np.float64]:
        """Mean accuracy over the range of fractions (trapezoid), for each image."""
        width = self.fractions_F[-1] - self.fractions_F[0]
        return np.trapezoid(self.correct_IF, self.fractions_F, axis=1) / width

    def area(self, level: float = 0.95) -> Interval:
        """Area under the curve, with the interval over images."""
        return t_interval(self.area_I.mean(), self.area_I, level)

    def area_minus(self, other: OcclusionCurve, level: float = 0.95) -> Interval:
        """Difference of areas to another model, paired over common images and masks."""
        if self.images != other.images or not np.array_equal(self.fractions_F, other.fractions_F):
            raise ValueError("expected two curves of the same images and fractions")
        difference_I = self.area_I - other.area_I
        return t_interval(difference_I.mean(), difference_I, level)


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
    if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError(f"expected hidden fractions between 0 and 1, got {tuple(fractions)}")
    hidden_F1 = torch.tensor([round(n * fraction) for fraction in fractions])[:, None]
    return random_order(n, images, seed, "random drop", repeat)[:, None] >= hidden_F1


def occlusion_curve(
    model: nn.Module,
    images_ICHW: Tensor,
    labels_I: Tensor,
    grid: PatchGrid,
    *,
    fractions: Sequence[float] = TENTHS,
    repeats: int = 1,
    fill: fills.Fill = fills.zero,
    names: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> OcclusionCurve:
    """Top-1 predictions under random patch drop.

    Args:
        model: a classifier in eval mode.
        images_ICHW: images ready for the model.
        labels_I: their classes.
        grid: the players.
        fractions: hidden fractions, ascending.
        repeats: independent masks per image.
        fill: what hidden patches become.
        names: image names, the keys of their masks; ``"0"``, ``"1"``, ... if left out.
        seed: the seed of the experiment.
        batch_size: masked images through the model at once; it does not change the masks.

    Raises:
        ValueError: if the model is in training mode, if labels or distinct names are not as many
            as images, or if outputs are not finite.
    """
    if model.training:
        raise ValueError("expected a model in eval mode, got one in training mode")
    if list(fractions) != sorted(fractions):
        raise ValueError(f"expected ascending fractions, got {tuple(fractions)}")
    if repeats < 1 or batch_size < 1:
        raise ValueError(f"expected at least 1 repeat and batch, got {repeats} and {batch_size}")
    names = tuple(map(str, range(len(images_ICHW)))) if names is None else tuple(names)
    for what, count in (("labels", len(labels_I)), ("distinct names", len(set(names)))):
        if count != len(images_ICHW) or len(names) != len(images_ICHW):
            raise ValueError(f"expected {len(images_ICHW)} {what}, got {count}")
    F, R = len(fractions), repeats
    visible_IFRN = torch.stack(
        [random_drop(grid.n, fractions, names, seed, repeat) for repeat in range(R)], dim=2
    )
    device = device_of(model)
    correct = []
    with torch.inference_mode():
        # One flat stream (image, fraction, repeat), so that batches are full whatever F and R are.
        image_K = torch.arange(len(names)).repeat_interleave(F * R)
        for which, visible_BN in zip(
            image_K.split(batch_size), visible_IFRN.flatten(0, 2).split(batch_size), strict=True
        ):
            images_BCHW = images_ICHW[which].to(device)
            logits = model(hide(images_BCHW, visible_BN.to(device), grid, fill(images_BCHW)))
            if not logits.isfinite().all():
                raise ValueError("the model gave outputs that are not finite")
            correct.append(logits.argmax(dim=1).cpu() == labels_I[which])
    return OcclusionCurve(
        images=names,
        fractions_F=np.array([round(grid.n * fraction) / grid.n for fraction in fractions]),
        correct_IF=torch.cat(correct).reshape(-1, F, R).double().mean(dim=2).numpy(),
    )
