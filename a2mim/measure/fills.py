"""Fills by name: what a hidden patch becomes in the commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import interactions as ix

Colours = Sequence[float]
AnyFill = ix.fills.Fill | ix.fills.NamedFill

FILLS: dict[str, Callable[[Colours, Colours, int], AnyFill]] = {
    "zero": lambda mean, std, seed: ix.fills.zero,
    "black": lambda mean, std, seed: ix.fills.black(mean, std),
    "white": lambda mean, std, seed: ix.fills.white(mean, std),
    "image_mean": lambda mean, std, seed: ix.fills.image_mean,
    "blur": lambda mean, std, seed: ix.fills.blur(),
    "blur21": lambda mean, std, seed: ix.fills.blur(10, radius=10),
    "noise": lambda mean, std, seed: ix.fills.noise(seed),
    "random_colour": ix.fills.random_colour,
    "uniform_noise": ix.fills.uniform_noise,
}
"""Fills by name, from the mean and deviation of a network's normalisation and a seed."""


def plain_fill(name: str, mean: Colours, std: Colours, seed: int = 0) -> ix.fills.Fill:
    """One of :data:`FILLS` that is not drawn for each image, so that it needs no names of images.

    Args:
        name: of the fill.
        mean: of the normalisation.
        std: of the normalisation.
        seed: of the pattern of ``noise``.
    """
    return cast(ix.fills.Fill, FILLS[name](mean, std, seed))
