"""Where each timm family takes its mask tokens, and how it lays out its features.

One row per family: the module whose input receives the tokens, and the layout of that input. These
are the positions of the official A2MIM code (ViT and Swin index 0; CNN index 3, which lies before
the stride of ResNet's last stage and after that of ConvNeXt's and MogaNet's); :func:`site_at` has
the other indices. For every other timm model :func:`site_of` looks at the features of a blank
image: tokens enter where ResNet takes them, before the last stride, or before the first block of a
network without strides. What it finds is a :class:`Site` to print, keep and pass on.

Shapes: B images, E channels, h x w feature cells, N = h w. Prefix tokens are the class
token, registers and the like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

import a2mim.backbones.moganet  # noqa: F401  # registers its models in timm
from interactions.patches import PatchGrid

Layout = Literal["BEhw", "BhwE", "BNE"]
"""Channels first, channels last, or tokens (prefix tokens first)."""
Side = Literal["input", "output"]


@dataclass(frozen=True)
class Site:
    """A place inside a backbone.

    Attributes:
        module: dotted name of the module whose input receives the mask tokens.
        layout: layout of the features there.
        side: whether the module's input or its output receives the tokens.
        prefix: prefix tokens there, if not those of the backbone's last features.
        output: layout of the backbone's last features, if not that of the site.
        output_prefix: prefix tokens of the last features, if not what timm says.
    """

    module: str
    layout: Layout
    side: Side = "input"
    prefix: int | None = None
    output: Layout | None = None
    output_prefix: int | None = None


SITES: dict[str, Site] = {
    "VisionTransformer": Site("blocks.0", "BNE"),
    "VisionTransformerDistilled": Site("blocks.0", "BNE"),
    "Beit": Site("blocks.0", "BNE"),
    "Eva": Site("blocks.0", "BNE"),
    "SwinTransformer": Site("layers.0", "BhwE"),
    "SwinTransformerV2": Site("layers.0", "BhwE"),
    "ResNet": Site("layer4", "BEhw"),
    "ConvNeXt": Site("stages.3.blocks", "BEhw"),
    "MogaNet": Site("patch_embed4", "BEhw", side="output"),
    # Its blocks hold tokens in the order of attention windows; before them they stand row by row.
    "Hiera": Site("patch_embed", "BNE", side="output"),
}
"""The site of each timm class, by class name."""

TOKENS_FIRST = ("VisionTransformer", "VisionTransformerDistilled", "Beit", "Eva")
"""Families of patch tokens, whose position 0 lies before the position embedding."""


def site_of(backbone: nn.Module, image_size: int | None = None) -> Site:
    """The default site of a timm backbone: its family's row, or a place found by running it.

    Args:
        backbone: a timm model.
        image_size: height and width of the images in pixels, for families without a row in
            :data:`SITES`; by default what the backbone was made for.

    Raises:
        ValueError: for a module that is no timm model, or that has no spatial feature map which
            mask tokens could enter.
    """
    family = type(backbone).__name__
    return SITES[family] if family in SITES else _Traced.run(backbone, image_size).default()


def site_at(backbone: nn.Module, index: int, image_size: int | None = None) -> Site:
    """The site of an official position, by its index.

    ==================  ==========================================================================
    ViT, Beit, Eva      0: after the patch embedding, before class token and positions;
                        k: input of block k - 1, for k below the depth
    ResNet              0: after max-pooling; 1, 2, 3: output of layer1, layer2, layer3
    ConvNeXt, MogaNet   k: after the k-th down-sampling, before the blocks of that stage
                        (3 is the official one)
    Swin                0: after the patch embedding; k: before the blocks of stage k - 1, after
                        patch merging, with 2^(k - 1) times the first channels
    Hiera               0: after the patch embedding
    any other           0: the first map of timm's ``feature_info`` that tokens can enter, which
                        in a network without strides is the input of its first block;
                        k: output of map k of ``feature_info``
    ==================  ==========================================================================

    Args:
        backbone: a timm model.
        index: the position.
        image_size: see :func:`site_of`.

    Raises:
        ValueError: for an index that the family does not have.
    """
    family = type(backbone).__name__
    if family in TOKENS_FIRST:
        _check_index(family, index, len(_children(backbone, "blocks")))
        if index:
            return Site(f"blocks.{index - 1}", "BNE")
        # With a dynamic image size timm hands the map over before it flattens it.
        layout: Layout = "BhwE" if getattr(backbone, "dynamic_img_size", False) else "BNE"
        return Site("patch_embed", layout, side="output", prefix=0, output="BNE")
    if family == "ResNet":
        _check_index(family, index, 4)
        return Site(f"layer{index + 1}", "BEhw")
    if family == "ConvNeXt":
        _check_index(family, index, len(_children(backbone, "stages")))
        return Site(f"stages.{index}.blocks", "BEhw")
    if family == "MogaNet":
        _check_index(family, index, 4)
        return Site(f"patch_embed{index + 1}", "BEhw", side="output")
    if family == "Hiera":
        _check_index(family, index, 1)
        return SITES[family]
    if family in ("SwinTransformer", "SwinTransformerV2"):
        _check_index(family, index, 1 + len(_children(backbone, "layers")))
        if index == 0:
            return Site("layers.0", "BhwE")
        return Site(f"layers.{index - 1}.downsample", "BhwE", side="output")
    return _Traced.run(backbone, image_size).position(index)


def prefix_tokens(backbone: nn.Module) -> int:
    """How many tokens of the backbone are not patches, as timm says."""
    return int(getattr(backbone, "num_prefix_tokens", 0))


def site_prefix(backbone: nn.Module, site: Site) -> int:
    """How many tokens at the site are not patches."""
    if site.layout != "BNE":
        return 0
    return prefix_tokens(backbone) if site.prefix is None else site.prefix


def output_layout(backbone: nn.Module, site: Site) -> tuple[Layout, int]:
    """Layout and number of prefix tokens of the backbone's last features."""
    layout = site.output or site.layout
    if layout != "BNE":
        return layout, 0
    known = site.output_prefix
    return layout, prefix_tokens(backbone) if known is None else known


@torch.no_grad()
def shape_at(backbone: nn.Module, site: Site, image_size: int) -> tuple[int, PatchGrid]:
    """Channels and cells of the features at a site, found by running one blank image.

    Args:
        backbone: a timm model.
        site: the place.
        image_size: height and width of the images in pixels.

    Returns:
        E and the grid of feature cells.

    Raises:
        ValueError: if the backbone cannot run images of this size, if the module does not run, or
            if its features do not have the site's layout.
    """
    module = _submodule(backbone, site.module)
    seen: list[Any] = []
    with _hooked([(module, site.side, seen.append)]):
        _probe(backbone, image_size)
    if not seen:
        raise ValueError(f"the module {site.module} did not run in forward_features")
    return _shape(seen[0], site.layout, site_prefix(backbone, site))


@torch.no_grad()
def output_shape(backbone: nn.Module, site: Site, image_size: int) -> tuple[int, PatchGrid]:
    """Channels and cells of the backbone's last features."""
    return _shape(_probe(backbone, image_size), *output_layout(backbone, site))


def as_map(features: Tensor, layout: Layout, prefix: int, grid: PatchGrid) -> Tensor:
    """Features as a map ``(B, E, h, w)``; prefix tokens are left out."""
    if layout == "BEhw":
        return features
    if layout == "BhwE":
        return features.permute(0, 3, 1, 2)
    return features[:, prefix:].transpose(1, 2).unflatten(2, (grid.rows, grid.cols))


def last_norm(backbone: nn.Module) -> nn.Module | None:
    """The norm of the last features that timm keeps behind the pooling, if there is one.

    It belongs to the features, although ``forward_features`` leaves it out: ConvNeXt and Hiera keep
    it in their head, a ViT that pools by averaging in ``fc_norm``. Pre-training applies it to every
    feature, like the official code; otherwise features would reach the decoder as they are and
    the norm would stay untrained.
    """
    for owner, name in ((backbone, "fc_norm"), (getattr(backbone, "head", None), "norm")):
        norm = getattr(owner, name, None)
        if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
            return norm if is_of_features(backbone, norm) else None
    return None


def is_of_features(backbone: nn.Module, norm: nn.Module) -> bool:
    """Whether a norm is for the last features: not for a hidden layer, as in InceptionNeXt's head.

    Args:
        backbone: a timm model.
        norm: of its head.
    """
    weight, width = getattr(norm, "weight", None), getattr(backbone, "num_features", None)
    return weight is None or width is None or len(weight) == width


def with_last_norm(backbone: nn.Module, features_BEhw: Tensor) -> Tensor:
    """Last features as a map, after the norm of :func:`last_norm`."""
    norm = last_norm(backbone)
    if norm is None:
        return features_BEhw
    if type(norm).__name__.endswith("2d") or isinstance(norm, nn.GroupNorm):
        return norm(features_BEhw)
    return norm(features_BEhw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Place:
    """One side of a module that ran, with what was there."""

    module: str
    side: Side
    features: Any


@dataclass
class _Traced:
    """What the modules of a backbone hand over while blank images run through it.

    Two images tell the batch dimension from the others.
    """

    backbone: nn.Module
    image_size: int
    info: list[dict[str, Any]]
    output: Any = None
    places: list[_Place] = field(default_factory=list)
    uneven: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    @torch.no_grad()
    def run(cls, backbone: nn.Module, image_size: int | None) -> _Traced:
        info = getattr(backbone, "feature_info", None)
        if info is None or not hasattr(backbone, "forward_features"):
            raise ValueError(
                f"expected a timm backbone (of the families {', '.join(SITES)}, or any that has "
                f"feature_info), got {type(backbone).__name__}; pass site=Site(module, layout)"
            )
        entries = list(info if isinstance(info, list) else info.info)
        traced = cls(backbone, image_size or _made_for(backbone), entries)
        listed = {entry["module"] for entry in entries}
        hooks = []
        for name, module in backbone.named_modules():
            if name and (name in listed or name.count(".") < 2):
                for side in ("input", "output"):
                    hooks.append((module, side, traced._keep(name, side)))
        with _hooked(hooks):
            traced.output = _probe(backbone, traced.image_size, count=2)
        return traced

    def _keep(self, name: str, side: Any) -> Any:
        return lambda features: self.places.append(_Place(name, side, features))

    def default(self) -> Site:
        """Before the last stride; before the first block where there are no strides."""
        last = self._output()
        for name, side in self._before_last_stride():
            if (site := self._site(name, side, last)) is not None:
                return site
        # Some families list modules that they do not have, or that hand over several maps. Their
        # own children come next, and then theirs: the last of them before the last stride.
        ran = [place.module for place in reversed(self.places) if place.side == "output"]
        for name in sorted(ran, key=lambda name: name.count(".")):
            site = self._site(name, "output", last) if name.count(".") < 2 else None
            if site is not None and self._rows(site) > last[2].rows:
                return site
        raise self._error(
            f"a map of {self.uneven[0][1]} x {self.uneven[0][1]} cells at {self.uneven[0][0]} does "
            "not divide the image"
            if self.uneven
            else "none of its modules hands over one such map before the last stride"
        )

    def _before_last_stride(self) -> list[tuple[str, Side]]:
        """Where timm lists feature maps, from the last to the first before the last stride."""
        strides = [entry["reduction"] for entry in self.info]
        before = [k for k, stride in enumerate(strides) if stride < max(strides)]
        if before:
            return [(str(self.info[k]["module"]), "output") for k in reversed(before)]
        return [(str(entry["module"]), "input") for entry in self.info[:1]]

    def position(self, index: int) -> Site:
        """The place of one of timm's feature maps; 0 is the first that tokens can enter."""
        _check_index(type(self.backbone).__name__, index, len(self.info))
        last = self._output()
        names = [str(entry["module"]) for entry in self.info]
        if index == 0:
            for name, side in reversed(self._before_last_stride()):
                if (site := self._site(name, side, last)) is not None:
                    return site
            return self.default()
        site = self._site(names[index], "output", last)
        if site is None:
            raise self._error(f"feature map {index} ({names[index]}) is not one")
        return site

    def _output(self) -> tuple[Layout, int, PatchGrid]:
        """Layout, prefix and cells of the last features."""
        width = getattr(self.backbone, "num_features", None)
        found = self._layout(self.output, width)
        if found is None:
            what = (
                f"the shape {tuple(self.output.shape)}"
                if isinstance(self.output, Tensor)
                else f"a {type(self.output).__name__}"
            )
            raise self._error(f"its last features are {what}")
        layout, prefix, grid = found
        strides = [entry["reduction"] for entry in self.info]
        # PiT, for example, ends in its class token alone, which would pass as a map of one cell.
        if layout == "BNE" and strides and grid.rows < self.image_size // max(strides):
            raise self._error(f"its last features are {self.output.shape[1]} token(s)")
        return layout, prefix, grid

    def _site(self, name: str, side: Any, last: tuple[Layout, int, PatchGrid]) -> Site | None:
        """The site on this side of a module, if tokens can enter there."""
        here = [p for p in self.places if (p.module, p.side) == (name, side)]
        # A module that runs twice would take its tokens twice.
        if len(here) != 1:
            return None
        known = [e["num_chs"] for e in self.info if e["module"] == name and side == "output"]
        found = self._layout(here[0].features, known[0] if known else None)
        if found is None:
            return None
        if self.image_size % found[2].rows:
            self.uneven.append((name, found[2].rows))
            return None
        layout, prefix, _ = found
        return Site(
            name,
            layout,
            side=side,
            prefix=prefix if layout == "BNE" else None,
            output=last[0],
            output_prefix=last[1] if last[0] == "BNE" else None,
        )

    def _rows(self, site: Site) -> int:
        return shape_at(self.backbone, site, self.image_size)[1].rows

    def _layout(self, features: Any, width: int | None) -> tuple[Layout, int, PatchGrid] | None:
        """Layout, prefix and cells of features, or None if they are no square map of two images."""
        if not isinstance(features, Tensor) or len(features) != 2:
            return None
        if features.ndim == 4:
            _, a, b, c = features.shape
            last_is_square, first_is_square = b == c, a == b
            if last_is_square and first_is_square:  # as many channels as rows: ask timm
                first_is_square = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
            elif last_is_square == first_is_square:
                return None
            if first_is_square:
                return "BhwE", 0, PatchGrid(a, b)
            return "BEhw", 0, PatchGrid(b, c)
        if features.ndim == 3 and (width is None or features.shape[2] == width):
            tokens = features.shape[1]
            said = prefix_tokens(self.backbone)
            for prefix in (said, *range(9)):
                patches = tokens - prefix
                if patches > 0 and isqrt(patches) ** 2 == patches:
                    return "BNE", prefix, PatchGrid(isqrt(patches), isqrt(patches))
        return None

    def _error(self, reason: str) -> ValueError:
        return ValueError(
            "expected a backbone with a square spatial feature map that mask tokens can enter, got "
            f"{type(self.backbone).__name__}: {reason} (images of {self.image_size} px); pass "
            "site=Site(module, layout)"
        )


def _check_index(family: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise ValueError(f"expected a position from 0 to {count - 1} of {family}, got {index}")


def _children(backbone: nn.Module, name: str) -> Sequence[nn.Module]:
    return list(backbone.get_submodule(name).children())


def _made_for(backbone: nn.Module) -> int:
    """The image size that timm made a backbone for."""
    size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if size is None:
        size = getattr(backbone, "default_cfg", {}).get("input_size", (3, 224, 224))[1:]
    return int(size[0] if isinstance(size, Sequence) else size)


def _submodule(backbone: nn.Module, name: str) -> nn.Module:
    try:
        return backbone.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"expected a module of {type(backbone).__name__}, got {name!r}; see named_modules()"
        ) from error


@contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Any, Any]]) -> Iterator[None]:
    """Show the input or output of modules to functions while the context is open."""
    handles = []
    for module, side, see in hooks:
        if side == "input":
            handle = module.register_forward_pre_hook(
                lambda _module, inputs, see=see: see(inputs[0]) if inputs else None
            )
        else:
            handle = module.register_forward_hook(
                lambda _module, _inputs, output, see=see: see(output)
            )
        handles.append(handle)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _probe(backbone: nn.Module, image_size: int, count: int = 1) -> Any:
    training = {module: module.training for module in backbone.modules()}
    backbone.eval()  # a blank image must not enter the statistics of batch normalisation
    parameter = next(backbone.parameters())
    try:
        return backbone.forward_features(  # type: ignore[operator]  # a timm method
            torch.zeros(
                count,
                getattr(backbone, "in_chans", 3),
                image_size,
                image_size,
                device=parameter.device,
                dtype=parameter.dtype,
            )
        )
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"expected a backbone for images of {image_size} px, but "
            f"{type(backbone).__name__} cannot run one ({error}); create it with "
            f"img_size={image_size} or choose another size"
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode


def _shape(features: Any, layout: Layout, prefix: int) -> tuple[int, PatchGrid]:
    if not isinstance(features, Tensor) or features.ndim != len(layout):
        got = (
            f"the shape {tuple(features.shape)}"
            if isinstance(features, Tensor)
            else f"a {type(features).__name__}"
        )
        raise ValueError(f"expected features {layout}, got {got}")
    if layout == "BEhw":
        _, E, h, w = features.shape
    elif layout == "BhwE":
        _, h, w, E = features.shape
    else:
        _, tokens, E = features.shape
        h = w = round(max(tokens - prefix, 0) ** 0.5)
        if h * w != tokens - prefix:
            raise ValueError(f"expected a square number of patch tokens, got {tokens - prefix}")
    return E, PatchGrid(h, w)
