"""Where each timm family takes its mask tokens, and how it lays out its features.

One row per family: the module whose input receives the tokens, and the layout of that input. These
are the positions of the official A2MIM code (ViT index 0; CNN index 3, which lies before the stride
of ResNet's last stage and after that of ConvNeXt's).

Shapes: B images, E channels, h x w feature cells, T prefix tokens (class token, registers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from interactions.patches import PatchGrid

Layout = Literal["BEhw", "BhwE", "BNE"]
"""Channels first, channels last, or tokens (prefix tokens first)."""


@dataclass(frozen=True)
class Site:
    """A place inside a backbone.

    Attributes:
        module: dotted name of the module whose input receives the mask tokens.
        layout: layout of that input.
        last_norm: dotted name of a norm that timm keeps in the classifier head and that belongs to
            the features; pre-training applies it to the last feature map, like the official code.
    """

    module: str
    layout: Layout
    last_norm: str | None = None


SITES: dict[str, Site] = {
    "VisionTransformer": Site("blocks.0", "BNE"),
    "ResNet": Site("layer4", "BEhw"),
    "ConvNeXt": Site("stages.3.blocks", "BEhw", last_norm="head.norm"),
}
"""The site of each timm class, by class name."""


def site_of(backbone: nn.Module) -> Site:
    """The default site of a timm backbone.

    Raises:
        ValueError: for a family without a row in :data:`SITES`.
    """
    family = type(backbone).__name__
    if family not in SITES:
        raise ValueError(
            f"expected a timm backbone of a family with a known site ({', '.join(SITES)}), "
            f"got {family}; pass site=Site(module, layout)"
        )
    return SITES[family]


def prefix_tokens(backbone: nn.Module) -> int:
    """How many tokens of the backbone are not patches."""
    return int(getattr(backbone, "num_prefix_tokens", 0))


@torch.no_grad()
def shape_at(backbone: nn.Module, site: Site, image_size: int) -> tuple[int, PatchGrid]:
    """Channels and cells of the features at a site, found by running one blank image.

    Args:
        backbone: a timm model.
        site: the place.
        image_size: height and width of the images in pixels.

    Returns:
        E and the grid of feature cells.
    """
    seen: list[Tensor] = []
    hook = backbone.get_submodule(site.module).register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0])
    )
    try:
        _probe(backbone, image_size)
    finally:
        hook.remove()
    if not seen:
        raise ValueError(f"the module {site.module} did not run in forward_features")
    return _shape(seen[0], site.layout, prefix_tokens(backbone))


@torch.no_grad()
def output_shape(backbone: nn.Module, site: Site, image_size: int) -> tuple[int, PatchGrid]:
    """Channels and cells of the backbone's last features, which have the layout of its site."""
    return _shape(_probe(backbone, image_size), site.layout, prefix_tokens(backbone))


def as_map(features: Tensor, layout: Layout, prefix: int, grid: PatchGrid) -> Tensor:
    """Features as a map ``(B, E, h, w)``; prefix tokens are left out."""
    if layout == "BEhw":
        return features
    if layout == "BhwE":
        return features.permute(0, 3, 1, 2)
    return features[:, prefix:].transpose(1, 2).unflatten(2, (grid.rows, grid.cols))


def _probe(backbone: nn.Module, image_size: int) -> Tensor:
    training = backbone.training
    backbone.eval()  # a blank image must not enter the statistics of batch normalisation
    parameter = next(backbone.parameters())
    try:
        return backbone.forward_features(  # type: ignore[operator]  # a timm method
            torch.zeros(
                1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype
            )
        )
    finally:
        backbone.train(training)


def _shape(features: Tensor, layout: Layout, prefix: int) -> tuple[int, PatchGrid]:
    if features.ndim != len(layout):
        raise ValueError(f"expected features {layout}, got the shape {tuple(features.shape)}")
    if layout == "BEhw":
        _, E, h, w = features.shape
    elif layout == "BhwE":
        _, h, w, E = features.shape
    else:
        _, tokens, E = features.shape
        h = w = round((tokens - prefix) ** 0.5)
        if h * w != tokens - prefix:
            raise ValueError(f"expected a square number of patch tokens, got {tokens - prefix}")
    return E, PatchGrid(h, w)
