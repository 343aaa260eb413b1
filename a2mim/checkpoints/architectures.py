"""Which timm network weights belong to, from the names and shapes of their tensors.

ViTs and BEiTs of any size are read off their tensors. Of other families the published members with
as many blocks are built without memory (torch's meta device) and compared key by key. What shapes
do not tell, such as attention heads, is looked up, asked for, or refused: networks that differ only
there give wrong numbers without any error.

Shapes: N position-embedding rows, D width, h heads; g patches along an edge: a BEiT table of
relative positions has (2g - 1)^2 + 3 rows, three of them for the class token.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint
from torch import Tensor

from a2mim.checkpoints.files import WeightsError, first_names
from a2mim.checkpoints.layouts import (
    FAMILIES,
    FOREIGN,
    HEADS,
    Family,
    Layout,
    State,
    has_fixed_positions,
)

_SIZES = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
}
_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
_OWN_TABLE = "blocks.0.attn.relative_position_bias_table"
_AXES = {
    "patch_embed.proj.weight": 4,
    "pos_embed": 3,
    "reg_token": 3,
    "blocks.0.mlp.fc1.weight": 2,
    _SHARED_TABLE: 2,
    _OWN_TABLE: 2,
}
_MODULES = ("vision_transformer", "deit", "beit")
_VIT_DOUBT = "they differ in normalisation"


def infer(
    state: State, layout: Layout, options: Mapping[str, Any], where: str
) -> tuple[str, dict[str, Any]]:
    """The timm name and the arguments of the network that has these tensors.

    Args:
        state: tensors by timm names.
        layout: tells heads, and whether the normalisation is known.
        options: what the caller knows; only ``num_heads`` is looked at.
        where: the file, for messages.

    Raises:
        WeightsError: if there is no such network in timm, or several.
    """
    if "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state:
        _check_shapes(state, where)
        _one_of_each_block(state, where)
        if layout.name == "dinov3":
            return _dinov3(state, layout, options, where)
        if "norm_pre.weight" in state:
            raise _doubt(_clip_choices(state), "they differ in the activation", where)
        beit = _is_beit(state)
        if layout.data is None:
            names = _beit_choices() if beit else _vit_choices(state)
            raise _doubt(names, _VIT_DOUBT, where)
        return (_beit if beit else _vit)(state, layout, options, where)
    family = _family(state)
    members = () if family is None else family.members.get(_stages(state, family.block), ())
    fitting = [layout.variant + name for name in members if _fits(name, state)]
    if not fitting or family is None:
        raise _unknown(state, family, where)
    if family.doubt is not None and not layout.variant:
        raise _doubt(fitting, family.doubt, where)
    if len(fitting) > 1:
        raise _doubt(fitting, "they have the same shapes", where)
    return fitting[0], {}


def structure(
    name: str, state: State, layout: Layout, options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Arguments of the named network that its tensors tell, beyond its size.

    Args:
        name: of a timm network.
        state: tensors by timm names.
        layout: tells heads that differ from the usual ones.
        options: what the caller knows; only ``num_heads`` is looked at.
        where: the file, for messages.

    Raises:
        WeightsError: if the tensors cannot be of such a network.
    """
    module = model_entrypoint(name.split(".")[0]).__module__.rpartition(".")[2]
    if "patch_embed.proj.weight" not in state or module not in _MODULES:
        return {}
    _check_shapes(state, where)
    if module == "beit":
        return _beit_structure(state, where)
    told: dict[str, Any] = {}
    width = state["patch_embed.proj.weight"].shape[0]
    if width in layout.heads:
        told["num_heads"] = layout.heads[width]
    elif "num_heads" not in options:
        _refuse_doubtful_heads(state, width, where)
    if "fc_norm.weight" in state and "norm.weight" not in state:
        told["global_pool"] = "avg"
    if "reg_token" in state:
        told["reg_tokens"] = state["reg_token"].shape[1]
    if "pos_embed" in state:
        told["img_size"] = _image_size(state, _position_grid(state, where))
        if "reg_token" in state:
            told["no_embed_class"] = (
                isqrt(state["pos_embed"].shape[1]) ** 2 == (state["pos_embed"].shape[1])
            )
    return told


def classes_of(name: str, state: State) -> int | None:
    """Outputs of the classifier in these tensors; 0 without one, None if timm does not name it."""
    cfg = get_pretrained_cfg(name)
    found = cfg.classifier if cfg else None
    classifier = found[0] if isinstance(found, tuple | list) else found
    if classifier is None:
        return None
    weight = state.get(f"{classifier}.weight")
    return 0 if weight is None or weight.ndim == 0 else weight.shape[0]


def channels_of(name: str, state: State) -> int | None:
    """Channels of the images that the first layer in these tensors takes; None if it is not there.

    Args:
        name: of the network.
        state: by timm names.
    """
    cfg = get_pretrained_cfg(name)
    found = cfg.first_conv if cfg else None
    first = found[0] if isinstance(found, tuple | list) else found
    weight = state.get(f"{first}.weight")
    return None if weight is None or weight.ndim != 4 else weight.shape[1]


def _vit(
    state: State, layout: Layout, options: Mapping[str, Any], where: str
) -> tuple[str, dict[str, Any]]:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth, ratio = _depth(state), _mlp_ratio(state, width)
    name = f"vit_{_SIZES.get((width, depth))}_patch{patch}_224"
    made: dict[str, Any] = {}
    heads = options.get("num_heads") or _heads(state, layout, width, where)
    if ratio != 4 or not timm.is_model(name):
        name = "vit_base_patch16_224"
        made = {
            "patch_size": patch,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": ratio,
        }
    elif heads != HEADS[width]:
        made["num_heads"] = heads
    if "blocks.0.attn.qkv.bias" not in state:
        made["qkv_bias"] = False
    if "blocks.0.ls1.gamma" in state:
        made["init_values"] = 1e-5
    gate = state.get("blocks.0.mlp.fc2.weight")
    if gate is not None and gate.ndim == 2 and 2 * gate.shape[1] == ratio * width:
        name = "vit_giant_patch14_dinov2"
        made |= {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
        made["mlp_ratio"] = ratio
    if "cls_token" not in state:
        made |= {"class_token": False, "global_pool": "avg", "fc_norm": "fc_norm.weight" in state}
    return name, made | structure(name, state, layout, options, where)


def _dinov3(
    state: State, layout: Layout, options: Mapping[str, Any], where: str
) -> tuple[str, dict[str, Any]]:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    gated = "blocks.0.mlp.fc1_g.weight" in state
    biased = "_qkvb" if "blocks.0.attn.q_bias" in state else ""
    if width in (1024, 4096):
        size = {1024: "large", 4096: "7b"}[width]
        names = [f"vit_{size}_patch16_dinov3{biased}.{data}" for data in ("lvd1689m", "sat493m")]
        raise _doubt(names, "they differ in normalisation", where)
    hidden = state["blocks.0.mlp.fc2.weight"].shape[1]
    return f"vit_small{'_plus' if gated else ''}_patch16_dinov3{biased}", {
        "patch_size": patch,
        "embed_dim": width,
        "depth": _depth(state),
        "num_heads": options.get("num_heads") or _heads(state, layout, width, where),
        "mlp_ratio": hidden / width,
        "num_reg_tokens": state["reg_token"].shape[1],
        "global_pool": "token",
    }


def _clip_choices(state: State) -> list[str]:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    size = _SIZES.get((width, _depth(state)))
    names = [f"vit_{size}_patch{patch}_clip_{of}224" for of in ("", "quickgelu_")]
    return [name for name in names if timm.is_model(name)]


def _beit(
    state: State, layout: Layout, options: Mapping[str, Any], where: str
) -> tuple[str, dict[str, Any]]:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    table = state.get(_OWN_TABLE, state.get(_SHARED_TABLE))
    heads = options.get("num_heads") or (
        _heads(state, layout, width, where) if table is None else table.shape[1]
    )
    return "beit_base_patch16_224", {
        "patch_size": patch,
        "embed_dim": width,
        "depth": _depth(state),
        "num_heads": heads,
        "mlp_ratio": _mlp_ratio(state, width),
        **_beit_structure(state, where),
    }


def _beit_structure(state: State, where: str) -> dict[str, Any]:
    positions = "pos_embed" in state
    table = state.get(_OWN_TABLE, state.get(_SHARED_TABLE))
    told: dict[str, Any] = {
        "use_abs_pos_emb": positions,
        "use_rel_pos_bias": _OWN_TABLE in state,
        "use_shared_rel_pos_bias": _SHARED_TABLE in state,
        "qkv_bias": "blocks.0.attn.q_bias" in state,
        "init_values": 0.1 if "blocks.0.gamma_1" in state else 0.0,
        "global_pool": "avg" if "fc_norm.weight" in state else "token",
    }
    if positions:
        told["img_size"] = _image_size(state, _position_grid(state, where))
    elif table is not None:
        edge = isqrt(max(table.shape[0] - 3, 0))
        if edge**2 != table.shape[0] - 3 or edge % 2 == 0:
            raise WeightsError(
                f"expected (2g - 1)^2 + 3 relative positions, {where} has {table.shape[0]}; name "
                "architecture= and options="
            )
        told["img_size"] = _image_size(state, (edge + 1) // 2)
    return told


def _check_shapes(state: State, where: str) -> None:
    """Of the tensors that sizes of transformers are read off."""
    for name, axes in _AXES.items():
        if name in state and state[name].ndim != axes:
            raise WeightsError(
                f"expected {axes} axes of {name}, {where} has shape {tuple(state[name].shape)}; "
                "give architecture= and options= if it is not a transformer of timm"
            )
    widths = {
        name: state[name].shape[axis]
        for name, axis in (("patch_embed.proj.weight", 0), ("pos_embed", 2))
        if name in state
    }
    if len(set(widths.values())) > 1:
        raise WeightsError(f"expected one width, {where} has {widths}")


def _is_beit(state: State) -> bool:
    return any(key in state for key in ("blocks.0.attn.q_bias", _OWN_TABLE, _SHARED_TABLE))


def _position_grid(state: State, where: str) -> int:
    rows = state["pos_embed"].shape[1]
    tokens = sum(key in state for key in ("cls_token", "dist_token"))
    if "reg_token" in state:
        tokens += state["reg_token"].shape[1]
    for prefix in (tokens, 0):
        if rows > prefix and isqrt(rows - prefix) ** 2 == rows - prefix:
            return isqrt(rows - prefix)
    raise WeightsError(
        f"expected a square grid of position embeddings, {where} has {rows} rows with {tokens} "
        "tokens before the patches"
    )


def _image_size(state: State, grid: int) -> int:
    return grid * state["patch_embed.proj.weight"].shape[-1]


def _depth(state: State) -> int:
    return len(_block_numbers(state))


def _block_numbers(state: Iterable[str]) -> set[int]:
    return {int(m[1]) for m in (re.match(r"blocks\.(\d{1,9})\.", key) for key in state) if m}


def _one_of_each_block(state: State, where: str) -> None:
    numbers = _block_numbers(state)
    last = max(numbers)
    if len(numbers) <= last:
        absent = next(k for k in range(last) if k not in numbers)
        raise WeightsError(f"expected blocks 0 to {last}, {where} lacks blocks.{absent}")


def _mlp_ratio(state: State, width: int) -> float:
    hidden = state.get("blocks.0.mlp.fc1.weight")
    return 4.0 if hidden is None else hidden.shape[0] / width


def _heads(state: State, layout: Layout, width: int, where: str) -> int:
    if width in layout.heads:
        return layout.heads[width]
    _refuse_doubtful_heads(state, width, where)
    if width not in HEADS:
        raise WeightsError(
            f"expected to know the attention heads: {where} has width {width}, and shapes do not "
            "tell; give options={'num_heads': ...}"
        )
    return HEADS[width]


def _refuse_doubtful_heads(state: State, width: int, where: str) -> None:
    """ViT-S has 6 heads, but 12 in MoCo v3; fixed position embeddings are a mark of it."""
    if width == 384 and any(has_fixed_positions(state, rows_first=way) for way in (True, False)):
        raise WeightsError(
            f"expected to know the attention heads: {where} has width 384 and fixed positions, "
            "which is 12 heads in MoCo v3 (layout='mocov3') and 6 elsewhere; give "
            "options={'num_heads': ...}"
        )


def _vit_choices(state: State) -> list[str]:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    size = _SIZES.get((width, _depth(state)))
    distilled = "_distilled" if "dist_token" in state else ""
    names = (
        f"deit_{size}{distilled}_patch{patch}_224",
        f"vit_{size}_patch{patch}_224.dino",
        f"vit_{size}_patch{patch}_224.augreg_in21k_ft_in1k",
    )
    return [name for name in names if timm.is_model(name) and get_pretrained_cfg(name)]


def _beit_choices() -> list[str]:
    return ["beit_base_patch16_224", "beitv2_base_patch16_224"]


def _stages(state: State, block: str) -> tuple[int, ...]:
    """Blocks per stage, in the order of stages."""
    found = {m.groups() for m in (re.match(block, key) for key in state) if m}
    stages = Counter(stage for stage, _ in found)
    return tuple(stages[stage] for stage in sorted(stages))


def _fits(name: str, state: State) -> bool:
    """Whether the network has these keys and shapes; buffers and counters aside."""
    classes = classes_of(name, state)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=classes)
    own = _shapes(model.state_dict())
    computed = dict(model.named_buffers())
    return own == {k: v for k, v in _shapes(state).items() if k in own or k not in computed}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _doubt(names: list[str], why: str, where: str) -> WeightsError:
    choices = f" out of {', '.join(names)}" if names else ""
    return WeightsError(
        f"expected architecture={choices} for {where}: the file does not tell, and {why}; "
        "layout= helps too, where it comes from a published method"
    )


def untold(architecture: str, state: State, options: Mapping[str, Any]) -> dict[str, str]:
    """Options that neither the weights nor the caller tell -> timm's value.

    None where the name does: by a tag, or by ``tf_`` for networks as in TensorFlow.
    """
    family = _family(state)
    if family is None or "." in architecture or architecture.startswith("tf_"):
        return {}
    return {key: value for key, value in family.options.items() if key not in options}


def _family(state: State) -> Family | None:
    """The family of which a file has the names."""
    return next((row for row in FAMILIES if row.tell in state), None)


def _unknown(state: State, family: Family | None, where: str) -> WeightsError:
    """The error for weights of no network that is known here."""
    for pattern, what in FOREIGN.items():
        if any(re.match(pattern, key) for key in state):
            return WeightsError(
                f"expected weights of a network that timm has, {where} is {what}; fill a module of "
                "your own with it, by a2mim.checkpoints.load.fill"
            )
    likeness = "" if family is None else f" (names as in a {family.name}, of unusual shapes)"
    return WeightsError(
        f"expected the weights of a known network, {where} has {len(state)} tensors such as "
        f"{first_names(sorted(state))}{likeness}; give architecture= and options=, or "
        "fill a module of your own with it, by a2mim.checkpoints.load.fill"
    )
