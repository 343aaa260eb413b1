"""Settings of ``a2mim models``, and how all commands turn names and files into networks."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from a2mim.messages import UsageError


def model_options(pairs: Sequence[str]) -> dict[str, object]:
    """Options as NAME=VALUE, with values as Python writes them, or words.

    Raises:
        UsageError: for anything else.
    """
    options: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name.isidentifier()):
            raise UsageError(f"expected --model-kwargs as NAME=VALUE, got {pair!r}")
        try:
            options[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            options[name] = value
    return options


def options_as_text(options: dict[str, object]) -> list[str]:
    """What :func:`model_options` reads: NAME=VALUE for each."""
    return [f"{name}={value}".replace(" ", "") for name, value in options.items()]


ModelKwargs = Annotated[
    dict[str, object],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=lambda words: dict(model_options(words)),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=options_as_text,
    ),
]
"""Options that a network is made with, each as NAME=VALUE."""


@dataclass(frozen=True)
class WeightsConfig:
    """How weights become a network, where names and files do not tell."""

    model_kwargs: tuple[str, ...] = ()
    """What the network is made with, as NAME=VALUE, such as pad_type=same."""
    layout: str = ""
    """Layout of a file that is not recognised; a2mim models lists them."""
    ema: bool = False
    """Of two sets of weights in a file, take the averaged ones (OpenMixup: those under ema_*)."""
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
