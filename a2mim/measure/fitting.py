"""Settings that fit networks and images where none are given: the grid of patches, and the label.

A grid is the same for all networks of a run, so that the same parts of images are hidden. That of
vision transformers with the same patches is their own. Otherwise it is the largest of up to 14
patches per side that divides what all networks have: the patches of a vision transformer, the
pixels of another network; or the pixels alone, where that would be fewer than 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from a2mim.messages import UsageError
from interactions.networks.masking import token_grid
from interactions.patches import PatchGrid

FEWEST, USUAL = 4, 14
"""Patches per side of an automatic grid; ten hidden fractions need 4."""


@dataclass(frozen=True)
class Sight:
    """How a network sees images.

    Attributes:
        name: of the network.
        height: of its images in pixels.
        width: of its images in pixels.
        tokens: the grid of its patches; None if it has none.
        classes: of its classifier; 0 without one.
    """

    name: str
    height: int
    width: int
    tokens: PatchGrid | None = None
    classes: int = 0


def sight_of(name: str, model: nn.Module, size: Sequence[int], classes: int = 0) -> Sight:
    """How a network sees images.

    Args:
        name: of the network, for messages.
        model: the network.
        size: channels, height and width of its images.
        classes: of its classifier.
    """
    _, H, W = size
    return Sight(name, H, W, token_grid(model, H, W), classes)


def parsed_grid(setting: int | str) -> PatchGrid:
    """The patches that are meant by ``N`` or ``ROWSxCOLS``.

    Raises:
        UsageError: for anything else.
    """
    found = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4}))?", str(setting))
    rows, cols = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not rows or not cols:
        raise UsageError(f"expected --grid of N or ROWSxCOLS, such as 14 or 4x8, got {setting}")
    return PatchGrid(rows, cols)


def as_setting(grid: PatchGrid) -> int | str:
    """What :func:`parsed_grid` reads, and runs record: N, or ROWSxCOLS."""
    return grid.rows if grid.rows == grid.cols else f"{grid.rows}x{grid.cols}"


def fitting_grid(setting: int | str | None, sights: Sequence[Sight]) -> PatchGrid:
    """The grid of a run: as given, or one that fits all networks.

    Raises:
        UsageError: if it does not divide the images of a network, or no grid does.
    """
    if setting is None:
        return _common(sights)
    grid = parsed_grid(setting)
    for sight in sights:
        if sight.height % grid.rows or sight.width % grid.cols:
            raise UsageError(
                f"expected an image that a {grid.rows} x {grid.cols} grid divides, got "
                f"{sight.height} x {sight.width} px for {sight.name}; leave --grid out, or give "
                f"{as_setting(_common([sight]))}"
            )
    return grid


def _common(sights: Sequence[Sight]) -> PatchGrid:
    first = sights[0].tokens
    if first is not None and all(sight.tokens == first for sight in sights):
        return first
    sides = []
    for axis in (0, 1):
        pixels = [(sight.height, sight.width)[axis] for sight in sights]
        cells = [
            size if sight.tokens is None else (sight.tokens.rows, sight.tokens.cols)[axis]
            for size, sight in zip(pixels, sights, strict=True)
        ]
        side = _largest(math.gcd(*cells)) or _largest(math.gcd(*pixels))
        if not side:
            told = ", ".join(f"{s.height} x {s.width}" for s in dict.fromkeys(sights))
            raise UsageError(
                f"expected images that {FEWEST} to {USUAL} patches per side divide, got {told} px; "
                "give --grid or --image-size"
            )
        sides.append(side)
    return PatchGrid(*sides)


def _largest(size: int) -> int:
    """The most patches, of those that divide a size; 0 if that is too few."""
    return max((n for n in range(FEWEST, USUAL + 1) if size % n == 0), default=0)


def coarse(grid: PatchGrid) -> PatchGrid:
    """A grid whose cells are made of those of another one: 3 to 8 on a side, where there are."""
    sides = [
        max((n for n in range(FEWEST, 9) if side % n == 0), default=side)
        for side in (grid.rows, grid.cols)
    ]
    return PatchGrid(*sides)


def unlike(
    classifiers: Sequence[int], of_data: int | None, highest: int | None, data: str = ""
) -> str:
    """Why labels cannot judge these classifiers, in plain words; empty if they can.

    Args:
        classifiers: numbers of classes.
        of_data: classes of the images; None if only labels are known.
        highest: label of the images; None if there is none.
        data: what the images are called.
    """
    numbers = sorted(set(classifiers))
    told = ", ".join(map(str, numbers))
    if len(numbers) > 1:
        return f"classifiers have different numbers of classes ({told})"
    if not numbers:
        return ""
    if of_data not in (None, numbers[0]):
        return f"classifiers have {told} classes and {data} has {of_data}"
    if highest is not None and highest >= numbers[0]:
        return f"classifiers have {told} classes and an image has the class index {highest}"
    return ""
