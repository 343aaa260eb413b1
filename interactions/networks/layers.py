"""What a network holds on its way: features of an image layer by layer, and the residual stream.

:func:`layer_features` pools what timm's ``forward_intermediates`` gives (every block of a vision
transformer, every stage of other networks) to one vector per image, the stages of torchvision's
networks, and what any module puts out that is named: a vector, a map, or tokens on a grid as wide
and high as the image is. :func:`residual_stream` hands over every map of the stream itself,

    x_0,    x_0 + f_1(x_0),    x_1 + f_2(x_1),    ...

as it is inside the true network, whatever scales, positions and shortcuts that has: a transformer
after its embedding, after every attention and after every MLP; a CNN after its stem and after every
block. That much is certain, since a table says where the stream of these timm networks is.

Of any other network of timm that has tokens, or layers beside convolutions, it is the maps that
timm's ``forward_intermediates`` gives: the outputs of its stages or blocks.

Any other convolutional network is searched for blocks, and what is handed over is the output of
each, whether or not a shortcut leads around it. A block is

- an element of an ``nn.Sequential`` or ``nn.ModuleList`` that has a convolution inside; elements
  that are containers themselves are opened instead, and nothing inside a block counts again;
- a child of the network that has a convolution inside and is more than a container or a mere
  convolution. (Of a network that only wraps another, it is the other that is meant.)

A mere convolution of the network itself counts if it comes after the last block and before the
pooling, as EfficientNet's ``conv_head`` does. Norms, activations and the like right after such a
convolution, or after a block in the same container, belong to it, and a map has the name of the
module that puts it out: ``features.2`` is VGG's first convolution with its norm and ReLU. A ReLU
that is a function in ``forward`` and no module cannot be seen. Children called ``head``,
``classifier``, ``fc``, ``pre_logits`` or ``aux`` only read the features.

A network is refused where its maps could have another layout: parameters that are not those of 2d
layers (of tokens, of a norm or ``nn.Linear`` over the last axis) may only come after the last
block, as those of a classifier do. That sees modules; a ``forward`` that turns the axes of a map
of convolutions around goes unseen.

Shapes: B images, C channels, H x W pixels, N players, L tokens (patches), D or E features,
h x w cells of a map. Prefix tokens are the class token, registers and the like.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interactions.games.token_drop import KeepVisible, first_visible
from interactions.networks.inference import Precision, arithmetic, check_eval
from interactions.networks.masking import made_of, token_grid, with_modules
from interactions.patches import PatchGrid, Players

Readout = Literal["class", "mean", "visible"]
"""The class token; the mean of all patch tokens or cells that the network has; the mean of those
that are wholly visible, which are all where nothing is said to be hidden."""

OUTPUT = "output"
"""The layer, with its only readout, that a classifier reads (timm's ``pre_logits``); of a network
that is not from timm, what it returns."""

NORM = "norm"
"""The layer behind the last norm of a network of tokens."""

LayerFeatures = dict[tuple[str, str], Tensor]
"""(layer, readout) -> features ``(B, D)``, at least float32."""

Visit = Callable[[str, Tensor], None]
"""Takes the name of a map and the map ``(B, E, h, w)``."""

_Named = tuple[str, nn.Module]  # a module and where it is


class _Stream(NamedTuple):
    """Where the residual blocks of a timm class are, and the layout of what they pass on."""

    layout: Literal["BNE", "BhwE", "BEhw"]
    blocks: tuple[str, ...]  # {} counts stages


_STREAMS = {
    "VisionTransformer": _Stream("BNE", ("blocks",)),
    "VisionTransformerDistilled": _Stream("BNE", ("blocks",)),
    "Beit": _Stream("BNE", ("blocks",)),
    "Eva": _Stream("BNE", ("blocks",)),
    "SwinTransformer": _Stream("BhwE", ("layers.{}.blocks",)),
    "SwinTransformerV2": _Stream("BhwE", ("layers.{}.blocks",)),
    "ResNet": _Stream("BEhw", ("layer1", "layer2", "layer3", "layer4")),
    "ConvNeXt": _Stream("BEhw", ("stages.{}.blocks",)),
}

_AFTER_ATTENTION = {
    "Block": "norm2",
    "EvaBlock": "norm2",
    "SwinTransformerBlock": "norm2",
    "ResPostBlock": "mlp",
    "EvaBlockPostNorm": "mlp",
    "SwinTransformerV2Block": "mlp",
}
"""The module of a transformer block whose input is the stream between attention and MLP."""

_SINGLE = ("BasicBlock", "Bottleneck", "ConvNeXtBlock")
"""Blocks of a single residual."""

_HEADS = ("head", "classifier", "fc", "pre_logits", "aux", "aux1", "aux2", "AuxLogits")
"""Children of a network that are not searched: they read features, some only in training."""

_STAGES = ("RegStage",)
"""Classes that run their children one after the other without being containers."""

_TORCHVISION = {
    "AlexNet": (r"features\.\d+", "MaxPool2d"),
    "ConvNeXt": (r"features\.[1357]", ""),
    "DenseNet": (r"features\.denseblock\d+", ""),
    "EfficientNet": (r"features\.\d+", ""),
    "MNASNet": (r"layers\.(8|9|1\d)", "Sequential"),
    "MobileNetV2": (r"features\.\d+", ""),
    "MobileNetV3": (r"features\.\d+", ""),
    "RegNet": (r"trunk_output\.block\d+", ""),
    "ResNet": (r"layer\d+", ""),
    "SwinTransformer": (r"features\.[1357]", ""),
    "VGG": (r"features\.\d+", "MaxPool2d"),
    "VisionTransformer": (r"encoder\.layers\.encoder_layer_\d+", ""),
}
"""Network of torchvision -> the names of its stages or blocks, and a part of their class."""

_CLASS_TOKENS = ("cls_token", "class_token")
"""What timm, torchvision and others call it."""

_RESIZES = ("Pool", "Pad", "Flatten", "Shuffle", "sample")
"""In the names of modules that never belong to the block before them."""


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """The layers of a network that :func:`layer_features` can read, from first to last.

    Returns:
        For a timm model the modules whose outputs ``forward_intermediates`` gives, :data:`NORM` if
        it has tokens, and :data:`OUTPUT`; for one of torchvision its stages or blocks, and
        :data:`OUTPUT`; for any other network :data:`OUTPUT` alone. Other modules can be read too,
        by the names that ``named_modules`` gives them.
    """
    if not _is_timm(model):
        return (*_stages_of_torchvision(model), OUTPUT)
    modules = tuple(str(info["module"]) for info in model.feature_info)  # type: ignore[union-attr]
    return (*modules, *((NORM,) if _has_tokens(model) else ()), OUTPUT)


def readouts_of(model: nn.Module) -> tuple[Readout, ...]:
    """The readouts of a network by default.

    Returns:
        All for tokens, without ``"class"`` if there is no class token; only the mean for maps,
        whose cells are larger than patches, so that often none is wholly visible.
    """
    if not (_has_tokens(model) or _has_class(model)):
        return ("mean",)
    return ("class", "mean", "visible") if _has_class(model) else ("mean", "visible")


def layer_features(
    model: nn.Module,
    images_BCHW: Tensor,
    *,
    layers: Sequence[str] | None = None,
    readouts: Sequence[Readout] | None = None,
    players: Players | None = None,
    visible_BN: Tensor | None = None,
    token_drop: bool = False,
    precision: Precision = "float32",
) -> LayerFeatures:
    """One vector per image, layer and readout.

    Args:
        model: a network in eval mode, on the device of the images.
        images_BCHW: what the network sees: images whose hidden pixels have been filled, or whole
            images of which ``token_drop`` drops tokens.
        layers: which layers: those of :func:`layer_names`, all of them if left out, or modules
            that run once (``"layer3"``, ``"features.12"``, ``"blocks.5.attn"``).
        readouts: how tokens or cells become one vector; :func:`readouts_of` if left out. The layer
            ``"output"``, and a module that puts out vectors, has the readout ``"output"`` alone.
        players: the regions that ``visible_BN`` speaks of.
        visible_BN: bool, who is visible; all if left out.
        token_drop: leave the tokens of hidden patches out of a vision transformer, after their
            positions were added. Then ``"mean"`` and ``"visible"`` are the same.
        precision: of the network, as in :func:`~interactions.networks.inference.arithmetic`.

    Raises:
        ValueError: for a model in training mode, layers or readouts that it does not have, an image
            without a visible cell, or tokens that cannot be dropped.
    """
    check_eval(model)
    names = layer_names(model)
    layers = names if layers is None else tuple(layers)
    of_all = readouts is None  # what holds no class token has none of its own
    readouts = readouts_of(model) if readouts is None else tuple(readouts)
    modules = {name for name, _ in model.named_modules() if name}
    unknown = [layer for layer in layers if layer not in names and layer not in modules]
    if unknown or not layers:
        raise ValueError(
            f"expected layers of {', '.join(names)}, or other modules of {type(model).__name__}, "
            f"got {unknown or 'none'}"
        )
    for readout in readouts:
        if readout not in ("class", "mean", "visible"):
            raise ValueError(f"expected a readout class, mean or visible, got {readout!r}")
        if readout == "class" and not _has_class(model):
            raise ValueError(
                f"expected a model with a class token, got {type(model).__name__}; read the mean"
            )
    if (players is None) != (visible_BN is None):
        raise ValueError("expected both players and visible_BN, or neither")
    if token_drop:
        model = _dropping(model, images_BCHW, players, visible_BN)
        players = visible_BN = None  # every token that is left is visible
    features: LayerFeatures = {}
    with torch.inference_mode(), arithmetic(precision, images_BCHW.device):
        inside = names if _is_timm(model) else ()
        named = [layer for layer in layers if layer not in inside and layer != OUTPUT]
        with _outputs_of(model, named) as outputs:
            final = None
            tokens: dict[str, _Tokens] = {}
            if inside:
                tokens, final = _layer_tokens(model, images_BCHW, layers, token_drop)
            else:
                final = model(images_BCHW)
        for layer, output in outputs.items():
            if output.ndim == 2:
                features[layer, OUTPUT] = _at_least_float32(output)
            else:
                size = (images_BCHW.shape[-2], images_BCHW.shape[-1])
                tokens[layer] = _on_a_grid(model, layer, output, size, token_drop)
        visible: dict[tuple[int, int], Tensor] = {}  # by grid: many layers have the same
        for layer, (patches_BLD, prefix_BPD, grid) in tokens.items():
            patches_BLD = _at_least_float32(patches_BLD)
            for readout in readouts:
                if readout == "class" and not prefix_BPD.shape[1]:
                    if of_all:
                        continue
                    raise ValueError(f"expected a class token in {layer}, got none; read the mean")
                if readout == "class":
                    feature_BD = _at_least_float32(prefix_BPD[:, 0])
                elif readout == "mean":
                    feature_BD = patches_BLD.mean(dim=1)
                else:
                    if grid not in visible:
                        visible[grid] = torch.ones_like(patches_BLD[..., 0], dtype=torch.bool)
                        if players is not None and visible_BN is not None:
                            size = (images_BCHW.shape[-2], images_BCHW.shape[-1])
                            visible[grid] = _visible_cells(visible_BN, players, size, grid)
                            _check_cells(visible[grid], layer)
                    feature_BD = mean_of_visible(patches_BLD, visible[grid])
                features[layer, readout] = feature_BD
        if OUTPUT in layers:
            head: Any = model
            read = head.forward_head(final, pre_logits=True) if inside else final
            features[OUTPUT, OUTPUT] = _vector(read)
    return features


def mean_of_visible(patches_BLD: Tensor, visible_BL: Tensor) -> Tensor:
    """The mean of the patches that are visible, of which each image has at least one.

    Args:
        patches_BLD: a vector for each patch.
        visible_BL: bool, who is visible.

    Returns:
        ``(B, D)``.
    """
    # A sum and no product of matrices, which autocast would compute in half precision.
    weights_BL1 = visible_BL[:, :, None].to(patches_BLD)
    return (patches_BLD * (weights_BL1 / weights_BL1.sum(dim=1, keepdim=True))).sum(dim=1)


def stream_names(model: nn.Module) -> tuple[str, ...]:
    """The maps of a network's residual stream, in order; of others, those after blocks or stages.

    Returns:
        25 names for 12 transformer blocks, 17 for a ResNet-50. The first is ``"stem"`` where the
        stream is known from the table; names found by search are those of modules.

    Raises:
        ValueError: for a network whose stream is not known and that is not certainly a sequence of
            convolutional blocks; see the top of this file.
    """
    known = _known(model)
    if not known:
        found = _listed(model) or [name for name, _ in _found(model)]
        return tuple(found)
    names = ["stem"]
    for name, block in known:
        after_attention = _AFTER_ATTENTION.get(type(block).__name__)
        names += [f"{name}/attention", f"{name}/mlp"] if after_attention else [name]
    return tuple(names)


@contextmanager
def residual_stream(
    model: nn.Module, visit: Visit, layers: Sequence[str] | None = None
) -> Iterator[None]:
    """See every map of the residual stream while the network runs.

    Inside the context each forward pass calls ``visit`` once per name of :func:`stream_names`, in
    that order, with the map ``(B, E, h, w)``: prefix tokens left out, patch tokens on their grid.
    Nothing is kept, and the network computes what it always does.

    Args:
        model: a timm ViT (also BEiT, EVA, DeiT), Swin, ResNet or ConvNeXt, whose stream this is; or
            another network of timm or of convolutions, for the outputs of its blocks or stages.
        visit: takes names and maps; a map may be a view of what the network computes with.
        layers: which maps; all if left out. Blocks that never run, or whose output is no map, can
            be left out.

    Raises:
        ValueError: for a network that :func:`stream_names` refuses or layers it does not have; and
            while a network that was searched runs, if an output is no map ``(B, E, h, w)`` or the
            blocks do not run once each and in order.
    """
    names = stream_names(model)
    layers = names if layers is None else tuple(layers)
    unknown = [layer for layer in layers if layer not in names]
    if unknown:
        raise ValueError(f"expected layers of {', '.join(names)}, got {unknown}")

    def see(name: str, map_BEhw: Tensor) -> None:
        if name in layers:
            visit(name, map_BEhw)

    if known := _known(model):
        stream = _known_stream(model, known, see)
    elif _listed(model):
        stream = _listed_stream(model, see, layers)
    else:
        stream = _found_stream(model, see, layers)
    with stream:
        yield


@contextmanager
def _known_stream(model: nn.Module, blocks: list[_Named], visit: Visit) -> Iterator[None]:
    """The residual stream of a network of the table."""
    layout = _STREAMS[type(model).__name__].layout
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    grid: tuple[int, int] = (0, 0)

    def on_grid(x: Tensor) -> Tensor:
        if layout == "BEhw":
            return x
        return x.reshape(len(x), -1, x.shape[-1])[:, prefix:].unflatten(1, grid).movedim(3, 1)

    def measure_images(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal grid
        grid = _token_cells(model, args[0])

    def measure_map(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal grid
        grid = tuple(args[0].shape[1:3])

    def input_of(name: str) -> Callable[..., None]:
        return lambda module, args: visit(name, on_grid(args[0]))

    def output_of(name: str) -> Callable[..., None]:
        return lambda module, args, out: visit(name, on_grid(out))

    with ExitStack() as hooks:

        def hook(handle: Any) -> None:
            hooks.callback(handle.remove)

        if layout == "BNE":
            hook(model.get_submodule("patch_embed").register_forward_pre_hook(measure_images))
        for k, (name, block) in enumerate(blocks):
            if layout == "BhwE":
                hook(block.register_forward_pre_hook(measure_map))
            if k == 0:
                hook(block.register_forward_pre_hook(input_of("stem")))
            after_attention = _AFTER_ATTENTION.get(type(block).__name__)
            if after_attention:
                between = block.get_submodule(after_attention)
                hook(between.register_forward_pre_hook(input_of(f"{name}/attention")))
                name += "/mlp"
            hook(block.register_forward_hook(output_of(name)))
        yield


@contextmanager
def _found_stream(model: nn.Module, visit: Visit, layers: Sequence[str]) -> Iterator[None]:
    """The outputs of the blocks of a network that was searched."""
    family, found = type(model).__name__, _found(model)
    # A module with several names takes them in turn, so that all of them count if one is asked for.
    asked = {block for name, block in found if name in layers}
    order = [(name, block) for name, block in found if block in asked]
    runs = 0

    def output_of(name: str) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], out: object) -> None:
            nonlocal runs
            due, block = order[runs % len(order)]
            if block is not module:
                raise ValueError(
                    f"expected the blocks of {family} to run once each and in the order in which "
                    f"they are registered, got {name} where {due} was due; leave one of them out "
                    "of the layers"
                )
            runs += 1
            if not isinstance(out, Tensor) or out.ndim != 4:
                what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ValueError(
                    f"{due}: expected a map (B, E, h, w), got {what}; leave the layer out"
                )
            visit(due, out)

        return see

    with ExitStack() as hooks:
        for block, name in {block: name for name, block in reversed(order)}.items():
            hooks.callback(block.register_forward_hook(output_of(name)).remove)
        yield
    if order and runs % len(order):
        raise ValueError(
            f"expected the blocks of {family} to run once each, got no "
            f"{order[runs % len(order)][0]} after {order[runs % len(order) - 1][0]}; leave it out "
            "of the layers"
        )


@contextmanager
def _listed_stream(model: nn.Module, visit: Visit, layers: Sequence[str]) -> Iterator[None]:
    """The maps that timm itself gives, by a second pass beside each of the network's own."""
    names = _listed(model)
    asked = [k for k, name in enumerate(names) if name in layers]

    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        timm_model: Any = model
        maps = timm_model.forward_intermediates(args[0], indices=asked, intermediates_only=True)
        for k, map_BEhw in zip(asked, maps, strict=True):
            visit(names[k], map_BEhw)

    handle = model.register_forward_pre_hook(see)
    try:
        yield
    finally:
        handle.remove()


def _listed(model: nn.Module) -> list[str]:
    """The maps that timm lists of a network of its own, where its blocks cannot be searched."""
    if not _is_timm(model):
        return []
    try:
        _found(model)
    except ValueError:
        names = [name for name in layer_names(model) if name not in (NORM, OUTPUT)]
        return names if len(set(names)) == len(names) > 1 else []
    return []


class _Tokens(NamedTuple):
    """What one layer holds: patch tokens or cells of a map, and prefix tokens."""

    patches_BLD: Tensor
    prefix_BPD: Tensor
    grid: tuple[int, int]


def _layer_tokens(
    model: nn.Module, images_BCHW: Tensor, layers: Sequence[str], dropped: bool
) -> tuple[dict[str, _Tokens], Tensor]:
    """The tokens of layers, in the order of the network, and what its head reads."""
    names = layer_names(model)
    inside = [k for k, name in enumerate(names) if name in layers and name not in (NORM, OUTPUT)]
    asked = inside or [0]  # timm wants one at least
    timm_model: Any = model
    if not _has_tokens(model):
        final, maps = timm_model.forward_intermediates(images_BCHW, indices=asked, stop_early=False)
        return dict(zip([names[k] for k in inside], map(_cells, maps), strict=False)), final
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    final, taken = timm_model.forward_intermediates(
        images_BCHW,
        indices=asked,
        stop_early=False,  # the head reads the end
        output_fmt="NLC" if dropped else "NCHW",  # tokens that are left have no grid
        **({"return_prefix_tokens": True} if prefix else {}),
    )
    found = []
    for one in taken:
        patches, prefix_BPD = one if prefix else (one, one[:, :0])
        grid = (0, 0) if dropped else (patches.shape[2], patches.shape[3])
        # Tokens lie in memory as the network has them, so that their mean is the same to the bit.
        patches_BLD = patches if dropped else patches.flatten(2).mT.contiguous()
        found.append(_Tokens(patches_BLD, prefix_BPD if prefix else patches_BLD[:, :0], grid))
    tokens = dict(zip([names[k] for k in inside], found, strict=False))
    if NORM in layers:
        tokens[NORM] = _last_tokens(final, prefix, found[-1].grid)
    return tokens, final


def _stages_of_torchvision(model: nn.Module) -> list[str]:
    """The stages or blocks of a network of torchvision, by name; none of another network."""
    where, kind = _TORCHVISION.get(type(model).__name__, ("", ""))
    if not type(model).__module__.startswith("torchvision.models"):
        return []
    return [
        name
        for name, module in model.named_modules()
        if re.fullmatch(where, name) and name and kind in type(module).__name__
    ]


@contextmanager
def _outputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What modules put out while the network runs, in the order in which they do."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], out: object) -> None:
            if name in outputs:
                raise ValueError(f"expected a layer that runs once, {name} runs several times")
            if not isinstance(out, Tensor) or out.ndim not in (2, 3, 4):
                what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ValueError(f"expected vectors, maps or tokens of {name}, got {what}")
            outputs[name] = out

        return see

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(model.get_submodule(name).register_forward_hook(keep(name)).remove)
        yield outputs
    if silent := [name for name in names if name not in outputs]:
        raise ValueError(f"expected layers that run, got {', '.join(silent)}, which did not")


def _on_a_grid(
    model: nn.Module, name: str, out: Tensor, size: tuple[int, int], dropped: bool
) -> _Tokens:
    """What a module puts out as tokens: a map of either layout, or patches behind a prefix."""
    if out.ndim == 4:
        first = _of_an_image(out.shape[2], out.shape[3], size)
        last = _of_an_image(out.shape[1], out.shape[2], size)
        if first and last:  # as many channels as there are rows
            inside = [type(module).__name__ for module in model.get_submodule(name).modules()]
            convolves = any("Conv" in kind for kind in inside)
            mixes = any(kind in ("Linear", "LayerNorm", "Permute") for kind in inside)
            first, last = not mixes, mixes and not convolves
        if first == last:
            raise ValueError(
                f"expected a map (B, E, h, w) or (B, h, w, E) of images of {size[0]} x {size[1]} "
                f"px, got {tuple(out.shape)} of {name}; read another layer or use another image "
                "size"
            )
        return _cells(out if first else out.movedim(3, 1))
    class_token = any(getattr(model, key, None) is not None for key in _CLASS_TOKENS)
    prefix = int(getattr(model, "num_prefix_tokens", class_token))
    grid = (0, 0) if dropped else _grid_of(out.shape[1] - prefix, size)
    if grid is None and (grid := _grid_of(out.shape[1], size)):
        prefix = 0  # before the others were put in front
    if grid is None:
        raise ValueError(
            f"expected tokens of a grid behind {prefix} others, got {tuple(out.shape)} of {name}; "
            "num_prefix_tokens of the network says how many others there are"
        )
    return _Tokens(out[:, prefix:], out[:, :prefix], grid)


def _grid_of(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of so many patches of an image, None if there is no such grid."""
    H, W = size
    if count < 1:
        return None
    divisors = (h for h in range(1, count + 1) if count % h == 0)
    return next(((h, count // h) for h in divisors if h * W == count // h * H), None)


def _of_an_image(h: int, w: int, size: tuple[int, int]) -> bool:
    """Whether a map has the sides of an image, up to a cell that is cut off."""
    H, W = size
    return h == w == 1 or abs(h * W - w * H) <= max(H, W) * (min(h, w) > 1)


def _cells(map_BEhw: Tensor) -> _Tokens:
    """The cells of a map as tokens."""
    h, w = map_BEhw.shape[2:]
    return _Tokens(map_BEhw.flatten(2).mT, map_BEhw[:, :0].flatten(2), (h, w))


def _last_tokens(final: Tensor, prefix: int, grid: tuple[int, int]) -> _Tokens:
    """What is behind the last norm: tokens, or a map with its channels last."""
    if final.ndim == 4:
        return _cells(final.movedim(3, 1))
    return _Tokens(final[:, prefix:], final[:, :prefix], grid)


def _dropping(
    model: nn.Module, images_BCHW: Tensor, players: Players | None, visible_BN: Tensor | None
) -> nn.Module:
    """The network without the tokens of hidden patches."""
    tokens = token_grid(model, *images_BCHW.shape[2:])
    if tokens is None or "patch_drop" not in model._modules:
        raise ValueError(
            "expected a timm VisionTransformer, whose tokens can be dropped, got "
            f"{type(model).__name__}; hide pixels instead"
        )
    if not isinstance(players, PatchGrid) or visible_BN is None or not made_of(players, tokens):
        raise ValueError(
            f"expected players made of whole patches of {tokens} and their visibility, "
            f"got {players}"
        )
    fewest, most = torch.stack(visible_BN.sum(dim=1).aminmax()).tolist()  # one wait for the device
    if fewest != most or not fewest:
        raise ValueError(
            "expected as many visible players, at least 1, in each image of a batch, "
            f"got {fewest} to {most}"
        )
    keep = KeepVisible(int(getattr(model, "num_prefix_tokens", 0)))
    kept = fewest * (tokens.n // players.n)
    keep.kept_BK = first_visible(players.refine(visible_BN, tokens), kept)
    return with_modules(model, patch_drop=keep)


def _visible_cells(
    visible_BN: Tensor, players: Players, size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Which cells of a map lie wholly over visible pixels: bool ``(B, L)``."""
    hidden_B1HW = ~players.pixels(visible_BN, *size)
    return F.adaptive_max_pool2d(hidden_B1HW.float(), grid).flatten(1) == 0


def _check_cells(visible_BL: Tensor, layer: str) -> None:
    """Raise a ValueError unless each image has a visible cell."""
    counts_B = visible_BL.sum(dim=1)
    if not counts_B.all():
        raise ValueError(
            f"expected a wholly visible cell in each image, {layer} has none in image "
            f"{int((counts_B == 0).nonzero()[0, 0])} of the batch; hide larger regions or fewer, "
            "or read the mean"
        )


def _known(model: nn.Module) -> list[_Named]:
    """The residual blocks of a network of the table, by name, in order; none for another."""
    stream = _STREAMS.get(type(model).__name__)
    if stream is None:
        return []
    paths = stream.blocks
    try:
        if "{}" in paths[0]:
            stages = model.get_submodule(paths[0].partition(".")[0])
            paths = tuple(paths[0].format(k) for k, _ in enumerate(stages.children()))
        found = [
            (f"{path}.{name}", block)
            for path in paths
            for name, block in model.get_submodule(path).named_children()
        ]
    except AttributeError:  # another network of the same name, as those of torchvision
        return []
    for name, block in found:
        if type(block).__name__ not in (*_AFTER_ATTENTION, *_SINGLE):
            if stream.layout == "BEhw":
                return []
            raise ValueError(
                f"expected blocks of {', '.join((*_AFTER_ATTENTION, *_SINGLE))}, "
                f"got {type(block).__name__} at {name}"
            )
    return found


def _found(model: nn.Module) -> list[_Named]:
    """The blocks of a convolutional network, by the names of the modules that put them out."""
    path, network = _network_inside(model)
    blocks: list[_Named] = []
    tail: list[_Named] = []  # mere convolutions of the network itself behind the last block
    growing: list[_Named] | None = None  # ends in the block that the next sibling may belong to
    pooled, last_holder, classifier = False, "", ""
    for holder, name, part in _parts(path, network, _HEADS):
        loose = holder == path and not _is_container(network)
        growing, last_holder = growing if holder == last_holder else None, holder
        vectors = _vectors(name, part)
        if _convolves(part):
            if vectors or classifier:
                raise _refusal(model, vectors or f"{classifier}, before {name}")
            if not loose or not isinstance(part, nn.Conv2d):
                tail.clear()
                blocks.append((name, part))
                # What is registered beside it runs next only in a container.
                pooled, growing = False, None if loose else blocks
            elif not pooled:
                tail.append((name, part))
                growing = tail
        elif vectors:
            if any(True for _ in part.children()):
                raise _refusal(model, vectors)
            classifier, growing = vectors, None
        elif any(word in type(part).__name__ for word in _RESIZES):
            pooled, growing = pooled or loose, None
        elif growing is not None:
            growing[-1] = (name, part)
    if not blocks or len(blocks + tail) < 2:
        raise _refusal(model, "fewer than 2 such blocks")
    return blocks + tail


def _network_inside(model: nn.Module) -> tuple[str, nn.Module]:
    """A network without those around it that convolve nothing else; its path comes first."""
    path, network = "", model
    while True:
        if not _is_2d(network):
            raise _refusal(model, f"parameters of {type(network).__name__} itself")
        parts = [
            (name, part)
            for name, part in network.named_children()
            if name not in _HEADS and _convolves(part)
        ]
        if len(parts) != 1 or _is_container(parts[0][1]) or isinstance(parts[0][1], nn.Conv2d):
            return path, network
        path, network = f"{path}{parts[0][0]}.", parts[0][1]


def _parts(
    path: str, holder: nn.Module, without: Sequence[str] = ()
) -> Iterator[tuple[str, str, nn.Module]]:
    """The path of the container, the name and the module of each part; containers are opened."""
    for name, part in holder._modules.items():  # named_children would list shared modules once
        if part is None or name in without:
            continue
        if _is_container(part):
            yield from _parts(f"{path}{name}.", part)
        else:
            yield path, f"{path}{name}", part


def _is_container(module: nn.Module) -> bool:
    """Whether a module does nothing but run its children, or leaves that to others."""
    inherited = (nn.Sequential.forward, nn.Module.forward)
    forward = getattr(type(module), "forward", None)  # scripted modules have none
    return forward in inherited or type(module).__name__ in _STAGES


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(inside, nn.Conv2d) for inside in module.modules())


def _vectors(name: str, module: nn.Module) -> str:
    """The first layer inside that may not be for maps ``(B, E, h, w)``, in words."""
    inside = module.named_modules(prefix=name)
    return next((f"{type(m).__name__} at {path}" for path, m in inside if not _is_2d(m)), "")


def _is_2d(module: nn.Module) -> bool:
    """Whether the parameters that are a module's own can only be for maps ``(B, E, h, w)``."""
    return (
        isinstance(module, nn.GroupNorm | nn.PReLU)
        or any("2d" in cls.__name__ for cls in type(module).__mro__)
        or all(p.numel() == 1 or p.shape[-2:] == (1, 1) for p in module.parameters(recurse=False))
    )


def _refusal(model: nn.Module, what: str) -> ValueError:
    return ValueError(
        f"expected a timm network of {', '.join(_STREAMS)}, whose residual stream is known, or one "
        f"of blocks of convolutions with maps (B, E, h, w), got {type(model).__name__} with {what}"
    )


def _is_timm(model: nn.Module) -> bool:
    return all(hasattr(model, a) for a in ("forward_intermediates", "forward_head", "feature_info"))


def _has_tokens(model: nn.Module) -> bool:
    """Whether ``forward_intermediates`` gives patch tokens and prefix tokens."""
    method = getattr(model, "forward_intermediates", None)
    return method is not None and "return_prefix_tokens" in inspect.signature(method).parameters


def _has_class(model: nn.Module) -> bool:
    inside = _has_tokens(model) or not _is_timm(model)
    return inside and any(getattr(model, key, None) is not None for key in _CLASS_TOKENS)


def _token_cells(model: nn.Module, images_BCHW: Tensor) -> tuple[int, int]:
    embedding: Any = model.get_submodule("patch_embed")
    return embedding.dynamic_feat_size(tuple(images_BCHW.shape[-2:]))


def _vector(output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"expected features (B, D) from the network, got {what}; pool them first")
    return _at_least_float32(output)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
