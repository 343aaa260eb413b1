"""Settings of ``a2mim models``, and how all commands turn names and files into networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class WeightsConfig:
    """How weights become a network, where names and files do not tell."""

    model_kwargs: tuple[str, ...] = ()
    """What the network is made with, as NAME=VALUE, such as pad_type=same."""
    layout: str = ""
    """Layout of a file that is not recognised; a2mim models lists them."""
    ema: bool = False
    """Of two sets of weights in a file or run, take the averaged ones (OpenMixup: those under
    ema_*)."""
    image_size: int | None = None
    """Edge of the images in pixels, if not the network's own; positions are resampled."""
    mean: tuple[float, ...] = ()
    """Mean colour of the normalisation, instead of the weights' own."""
    std: tuple[float, ...] = ()
    """Standard deviation of the normalisation, instead of the weights' own."""
    crop_pct: float | None = None
    """Share of the short side that the central crop covers, instead of the weights' own."""
    interpolation: Literal["", "bilinear", "bicubic"] = ""
    """How images are resized, instead of as the weights' own."""


@dataclass(frozen=True)
class ModelsConfig:
    """Settings of ``a2mim models``."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...")] = ()
    """Files of weights, or names, to say what they are recognised as; what can be named, if none
    is given."""
    find: str = ""
    """List the timm names with pretrained weights that contain this, such as mae."""
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
