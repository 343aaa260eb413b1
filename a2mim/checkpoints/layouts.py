"""Public checkpoint layouts, as tables: what each holds and how its names become timm's.

A layout has two parts. Its *source* (:data:`LAYOUTS`) says which prefix carries the backbone, what
is dropped and why, and how images were normalised. Its *dialect* (:data:`DIALECTS`) says how the
modules of the backbone are called; what no row renames keeps its name, and a name that the timm
model does not have is an error later. So OpenMixup's ViT is (``backbone.``, mmcv names) and
SimMIM's Swin is (``encoder.``, Microsoft names).

Sources: the key tables of the public repositories facebookresearch/mae, moco-v3, dino, ConvNeXt,
microsoft/SimMIM, Swin-Transformer, bytedance/ibot, keyu-tian/SparK, Westlake-AI/openmixup,
open-mmlab/mmpretrain, pytorch/vision, facebookresearch/moco, ijepa, vturrisi/solo-learn; the
converters of huggingface/transformers (vit_mae, dinov2_with_registers, dinov3_vit, ijepa,
data2vec), and of timm (DINOv2, DINOv3, CLIP).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from torch import Tensor

State = Mapping[str, Tensor]

IMAGENET: Mapping[str, object] = {
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "crop_pct": 0.875,
    "interpolation": "bicubic",
}
_BILINEAR = {**IMAGENET, "interpolation": "bilinear"}


@dataclass(frozen=True)
class Rename:
    """One row of a dialect: names that begin with ``pattern`` and what it becomes.

    Attributes:
        pattern: a regular expression, matched at the start of a name.
        becomes: a template as of ``re.sub``, or a function of the match. Names that end in ``#0``,
            ``#1``, ... are parts of one tensor, one below the other: queries, keys and values.
        change: what happens to the values, where names are not all that differs.
    """

    pattern: str
    becomes: str | Callable[[re.Match[str]], str]
    change: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Dialect:
    """How a code base calls the modules of a backbone.

    Attributes:
        name: of the code base and the architecture.
        tell: a pattern; some name of the backbone matches it in full.
        renames: the first row that matches a name is used.
        drops: pattern -> why such tensors are not needed.
        note: what to mind when weights without a classifier are used.
        settle: what is left to do with all tensors at once, by timm's names.
    """

    name: str
    tell: str
    renames: tuple[Rename, ...]
    drops: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    settle: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None


@dataclass(frozen=True)
class Layout:
    """What a published kind of file holds.

    Attributes:
        name: to choose it by.
        tell: whether weights with these names, from a file that calls its architecture so, are it.
        prefix: pattern of what stands before the names of the backbone.
        drops: pattern -> why such tensors are not needed.
        heads: width -> attention heads, where they differ from :data:`HEADS`.
        data: normalisation, crop and interpolation; None if files of this kind differ.
        variant: what timm's names of its networks begin with, where the same tensors have several.
    """

    name: str
    tell: Callable[[State, str | None], bool]
    prefix: str = ""
    drops: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[int, int] = field(default_factory=dict)
    data: Mapping[str, object] | None = field(default_factory=lambda: IMAGENET)
    variant: str = ""


HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}
"""Width of a ViT -> its attention heads, which the shapes of its tensors do not tell."""


def fixed_positions(width: int, grid: int, *, rows_first: bool) -> Tensor:
    """The fixed position embedding of MoCo v3 (``rows_first``) and MAE, ``(1, 1 + grid^2, D)``.

    With w_k = 10000^(-4k/D), k < D/4, a patch at row r, column c has
    ``[sin(a w), cos(a w), sin(b w), cos(b w)]``, (a, b) = (r, c) in MoCo v3 and (c, r) in MAE. The
    class token has zeros. (Chen et al., ICCV 2021; He et al., CVPR 2022.)
    """
    frequencies_K = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows_N = torch.arange(grid).repeat_interleave(grid)
    columns_N = torch.arange(grid).repeat(grid)
    parts = []
    for place_N in (rows_N, columns_N) if rows_first else (columns_N, rows_N):
        angles_NK = place_N[:, None] * frequencies_K
        parts += [angles_NK.sin(), angles_NK.cos()]
    table_ND = torch.cat(parts, dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table_ND])[None].float()


def has_fixed_positions(state: State, *, rows_first: bool) -> bool:
    """Whether ``pos_embed`` is the fixed table of MoCo v3 (``rows_first``) or of MAE."""
    names = ("pos_embed", "backbone.pos_embed", *(f"{p}{_HF_POSITIONS}" for p in ("", "vit.")))
    table = next((state[name] for name in names if name in state), None)
    if table is None or table.ndim != 3 or table.shape[2] % 4:
        return False
    grid = round((table.shape[1] - 1) ** 0.5)
    if grid < 2 or 1 + grid**2 != table.shape[1]:
        return False
    fixed = fixed_positions(table.shape[2], grid, rows_first=rows_first)
    return torch.allclose(table.float(), fixed, atol=1e-3)


def _without_class(state: State) -> bool:
    """Whether ``pos_embed`` is MAE's fixed table for patches alone, as in I-JEPA."""
    table = state.get("pos_embed")
    if "cls_token" in state or table is None or table.ndim != 3:
        return False
    none = torch.zeros_like(table[:, :1])
    return has_fixed_positions({"pos_embed": torch.cat([none, table], dim=1)}, rows_first=False)


def _starts(state: State, *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in state)


def _mocov3(state: State, arch: str | None) -> bool:
    named = arch in ("vit_small", "vit_base") and "blocks.0.attn.qkv.weight" in state
    linear = named and has_fixed_positions(state, rows_first=True)
    return linear or _starts(state, "base_encoder.")


def _mae(state: State, arch: str | None) -> bool:
    if "blocks.0.attn.qkv.bias" not in state or "cls_token" not in state:
        return False
    finetuned = "fc_norm.weight" in state and "norm.weight" not in state
    with_decoder = "decoder_embed.weight" in state
    return with_decoder or finetuned or has_fixed_positions(state, rows_first=False)


def _dino(state: State, arch: str | None) -> bool:
    projected = _starts(state, "head.mlp.", "head.last_layer.")
    return "backbone.blocks.0.norm1.weight" in state or (
        projected and "backbone.conv1.weight" in state
    )


def _ibot(state: State, arch: str | None) -> bool:
    return "masked_embed" in state or "backbone.masked_embed" in state


def _dinov2(state: State, arch: str | None) -> bool:
    token = state.get("mask_token")
    flat = token is not None and token.ndim == 2 and "blocks.0.ls1.gamma" in state
    return (flat and "storage_tokens" not in state) or "register_tokens" in state


def _dinov3(state: State, arch: str | None) -> bool:
    return "storage_tokens" in state or "layer.0.attention.q_proj.weight" in state


def _hf_dinov2(state: State, arch: str | None) -> bool:
    return any(key.endswith("encoder.layer.0.layer_scale1.lambda1") for key in state)


def _hf_mae(state: State, arch: str | None) -> bool:
    return any(key.endswith(_HF_QUERY) for key in state) and (
        "decoder.mask_token" in state or has_fixed_positions(state, rows_first=False)
    )


def _beit(state: State, arch: str | None) -> bool:
    shared = "rel_pos_bias.relative_position_bias_table" in state
    return shared and ("mask_token" in state or "lm_head.weight" in state)


def _simclr(state: State, arch: str | None) -> bool:
    return "backbone.layer1.0.conv1.weight" in state and "backbone.fc.0.weight" in state


def _solo(state: State, arch: str | None) -> bool:
    heads = ("projector.", "predictor.", "momentum_backbone.", "prototypes.", "classifier.")
    return _starts(state, "backbone.") and _starts(state, *heads)


def _openmixup(state: State, arch: str | None) -> bool:
    marks = ("backbone.mask_token", "backbone.mask_gamma", "neck.decoder_pred.0.weight")
    names = ("layers.0.attn.q_bias", "mask_gamma")
    return any(key in state for key in marks) or any(
        f"{prefix}{name}" in state for name in names for prefix in ("", "backbone.")
    )


def _mmpretrain(state: State, arch: str | None) -> bool:
    names = ("layers.0.ln1.weight", "stages.0.0.depthwise_conv.weight")
    return _starts(state, "backbone.") or any(name in state for name in names)


def _mm_mocov3(state: State, arch: str | None) -> bool:
    return "backbone.layers.0.ln1.weight" in state and _starts(
        state, "momentum_encoder.", "head.predictor."
    )


def _efficientnet_lite(state: State, arch: str | None) -> bool:
    """Lite networks have no squeeze-and-excitation."""
    return "_conv_stem.weight" in state and not any("._se_" in key for key in state)


_HF_POSITIONS = "embeddings.position_embeddings"
_HF_QUERY = "encoder.layer.0.attention.attention.query.weight"
_PROJECTION = "projection head of pre-training"
_DECODER = "decoder of pre-training"
_TOKEN = "mask token of pre-training"
_COPY = "momentum copy of the network"
_MM_DROPS = {
    r"(backbone\.)?mask_(token|gamma)$": _TOKEN,
    r"neck\.": "decoder or neck of pre-training",
    r"head\.predictor\.": _PROJECTION,
    r"momentum_encoder\.": _COPY,
}

_TEXT = "the text tower"
CLIP: Mapping[str, object] = {
    "mean": OPENAI_CLIP_MEAN,
    "std": OPENAI_CLIP_STD,
    "crop_pct": 1.0,
    "interpolation": "bicubic",
}

LITE: Mapping[str, object] = {
    "mean": IMAGENET_INCEPTION_MEAN,
    "std": IMAGENET_INCEPTION_STD,
    "interpolation": "bicubic",
}
"""Of EfficientNet-Lite, as measured: lite0 knows 888 of 1,000 photographs with this normalisation
and 776 with that of :data:`IMAGENET`, which the instructions of its package name."""

LAYOUTS = (
    Layout(
        "dinov2",
        _dinov2,
        "",
        {r"mask_token$": _TOKEN, r"(dino|ibot)_head\.": _PROJECTION},
    ),
    Layout(
        "dinov3",
        _dinov3,
        r"(dinov3_vit\.|model\.)?",
        {
            r"(.*\.)?mask_token$": _TOKEN,
            r"(.*\.)?attn\.qkv\.bias_mask$": "the mask of the key bias, which is 0",
            r"rope_embed\.periods$": "computed by timm",
            r"local_cls_norm\.": "norm of local crops in pre-training",
        },
        heads={1280: 20, 4096: 32},
        # As timm's registry has it for all of them. The examples of their README squash the whole
        # image; only the evaluation on ImageNet of their repository crops 224 of 256.
        data={**IMAGENET, "crop_pct": 1.0},
    ),
    Layout(
        "huggingface-dinov2",
        _hf_dinov2,
        r"(dinov2(_with_registers)?\.)?",
        {
            r"(.*\.)?mask_token$": _TOKEN,
            r"classifier\.": "a classifier of class token and mean patch, which timm does not have",
        },
    ),
    Layout(
        "huggingface-mae",
        _hf_mae,
        r"(vit\.)?",
        {r"decoder\.": _DECODER, r"(vit\.)?pooler\.": "pooler that MAE does not train"},
    ),
    Layout(
        "huggingface",
        lambda state, arch: any(key.endswith(_HF_QUERY) for key in state),
        r"(vit|deit|ijepa)\.",
        {
            r"(\w+\.)?pooler\.": "a pooler of the class token, which timm does not have",
            r"(\w+\.)?embeddings\.mask_token$": _TOKEN,
        },
        data=None,
    ),
    Layout(
        "clip",
        lambda state, arch: "visual.class_embedding" in state,
        r"visual\.",
        {
            r"(transformer|token_embedding|ln_final)\.": _TEXT,
            r"(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)$": _TEXT,
            r"text\.": _TEXT,
            r"(input_resolution|context_length|vocab_size)$": "a size",
            r"visual\.proj$": "projection to the space of texts",
        },
        data=CLIP,
    ),
    Layout(
        "huggingface-clip",
        lambda state, arch: "vision_model.embeddings.class_embedding" in state,
        r"vision_model\.",
        {
            r"(text_model|text_projection|logit_scale)\b": _TEXT,
            r"visual_projection\.": "projection to the space of texts",
            r".*position_ids$": "numbers of the positions",
        },
        data=CLIP,
    ),
    Layout(
        "open_clip",
        lambda state, arch: _starts(state, "visual.trunk."),
        r"visual\.trunk\.",
        {
            r"(text|transformer|token_embedding|ln_final)\.": _TEXT,
            r"(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)$": _TEXT,
            r"visual\.head\.": "projection to the space of texts",
        },
        data=None,
    ),
    Layout(
        "beitv2",
        lambda state, arch: _beit(state, arch) and _starts(state, "cls_pt_layers."),
        "",
        {
            r"(mask_token|lm_head\.)": _TOKEN,
            r"cls_pt_(layers|norm|lm_head)\.": "blocks of pre-training alone",
        },
    ),
    Layout("beit", _beit, "", {r"mask_token$": _TOKEN, r"lm_head\.": _PROJECTION}, data=None),
    Layout(
        "mocov2",
        lambda state, arch: _starts(state, "encoder_q."),
        r"encoder_q\.",
        {
            r"encoder_k\.": _COPY,
            r"queue": "the queue of pre-training",
            r"encoder_q\.fc\.": _PROJECTION,
        },
        data=_BILINEAR,
    ),
    Layout("simclr", _simclr, r"backbone\.", {r"backbone\.fc\.\d": _PROJECTION}),
    Layout(
        "byol",
        lambda state, arch: _starts(state, "online_encoder.net."),
        r"online_encoder\.net\.",
        {
            r"net\.": "the network under its other name",
            r"target_encoder\.": _COPY,
            r"online_encoder\.projector\.|online_predictor\.": _PROJECTION,
            r"online_encoder\.net\.fc\.": "a classifier that BYOL does not train",
        },
    ),
    Layout(
        "solo-learn",
        _solo,
        r"backbone\.",
        {
            r"momentum_": _COPY,
            r"(projector|predictor|prototypes|head)\b|queue|dino_loss_func\.": _PROJECTION,
            r"decoder\.": _DECODER,
            r"classifier\.": "a classifier trained beside",
        },
    ),
    Layout(
        "ijepa",
        lambda state, arch: "blocks.0.attn.qkv.weight" in state and _without_class(state),
    ),
    Layout(
        "mocov3",
        _mocov3,
        r"base_encoder\.",
        {
            r"momentum_encoder\.": _COPY,
            r"predictor\.": _PROJECTION,
            r"base_encoder\.(head|fc)\.\d": _PROJECTION,
        },
        heads={384: 12},
        data=_BILINEAR,
    ),
    Layout(
        "simmim",
        lambda state, arch: _starts(state, "encoder.mask_token", "decoder.0."),
        r"encoder\.",
        {r"encoder\.mask_token$": _TOKEN, r"decoder\.": _DECODER},
    ),
    Layout(
        "spark",
        lambda state, arch: _starts(state, "sparse_encoder."),
        r"sparse_encoder\.(sp_cnn\.)?",
        {
            r"dense_decoder\.|densify_": _DECODER,
            r"mask_tokens?\b": _TOKEN,
            r"(imn_[ms]|norm_black)$": "normalisation of pre-training",
        },
    ),
    Layout(
        "ibot",
        _ibot,
        r"backbone\.",
        {r"(backbone\.)?masked_embed$": _TOKEN, r"head\.": _PROJECTION},
    ),
    Layout("dino", _dino, r"backbone\.", {r"head\.": _PROJECTION}),
    Layout("mae", _mae, "", {r"decoder_": _DECODER, r"mask_token$": _TOKEN}),
    Layout("openmixup", _openmixup, r"backbone\.", _MM_DROPS),
    Layout("mmpretrain-mocov3", _mm_mocov3, r"backbone\.", _MM_DROPS, heads={384: 12}),
    Layout("mmpretrain", _mmpretrain, r"backbone\.", _MM_DROPS),
    Layout("efficientnet-lite", _efficientnet_lite, data=LITE, variant="tf_"),
    Layout(
        "efficientnet-pytorch",
        lambda state, arch: "_conv_stem.weight" in state,
        data=None,
        variant="tf_",
    ),
    Layout(
        "torchvision",
        lambda state, arch: "conv_proj.weight" in state or "features.0.0.weight" in state,
        data=_BILINEAR,
    ),
    Layout("timm", lambda state, arch: True, data=None),
)
"""The first whose ``tell`` holds is taken; the last is what timm itself and torchvision write."""


def _to_next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample."


def _from_unfold(merge: Tensor) -> Tensor:
    """Patch merging of mmcv (channel, row, column) -> of timm (column, row, channel), last axis."""
    *outer, inner = merge.shape
    by_place = merge.reshape(*outer, inner // 4, 2, 2)
    order = tuple(range(len(outer)))
    k = len(outer)
    return by_place.permute(*order, k + 2, k + 1, k).reshape(merge.shape)


def _flat(values: Tensor) -> Tensor:
    return values.reshape(-1)


_COMPUTED = {r".*\battn_mask$": "computed by timm from the image size"}
_BLOCK = r"(stages\.\d+)\.(\d+)\."
_TV_STAGE = r"features\.([1357])\.(\d+)\."


def _tv_stage(rest: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"stages.{int(match[1]) // 2}.blocks.{match[2]}.{rest}"


def _first_axes(count: int) -> Callable[[Tensor], Tensor]:
    return lambda values: values.reshape(*(1,) * count, *values.shape)


def _dinov2_registers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The position of the class token is added to it: with registers timm gives it none."""
    if "reg_token" in state and "pos_embed" in state and "cls_token" in state:
        positions = state["pos_embed"]
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    return state


def _dinov3_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries and values have a bias of their own in timm; that of the keys is masked."""
    for name in [name for name in state if name.endswith("attn.qkv.bias")]:
        of_q, _, of_v = state.pop(name).chunk(3)
        state[name.replace("qkv.bias", "q_bias")] = of_q
        state[name.replace("qkv.bias", "v_bias")] = of_v
    gated = "blocks.0.mlp.gate.weight" in state
    for name in [name for name in state if ".mlp.up." in name or ".mlp.gate." in name]:
        to = {True: "fc1_g", False: "fc1_x" if gated else "fc1"}[".gate." in name]
        state[re.sub(r"\.(up|gate)\.", f".{to}.", name)] = state.pop(name)
    return state


def _by_stage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blocks that are numbered throughout, by stage: with each, the width changes."""
    number = {}
    stage, block, width = -1, 0, 0
    for k in range(sum(name.endswith(".conv_dw.weight") for name in state)):
        out = state.get(f"blocks.{k}.conv_pwl.weight", state.get(f"blocks.{k}.conv_pw.weight"))
        if out is None:
            return state
        stage, block = (stage, block + 1) if len(out) == width else (stage + 1, 0)
        width, number[str(k)] = len(out), f"{stage}.{block}"

    def staged(match: re.Match[str]) -> str:
        return f"blocks.{number.get(match[1], match[1])}."

    return {re.sub(r"^blocks\.(\d+)\.", staged, name): value for name, value in state.items()}


def _separable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blocks that do not expand have one norm and one pointwise convolution less."""
    expands = {name.split(".")[1] for name in state if name.endswith(".conv_pw.weight")}
    named = {}
    for name, value in state.items():
        root, number, *rest = name.split(".")
        if root == "blocks" and number not in expands:
            rest = [_NOT_EXPANDED.get(rest[0], rest[0]), *rest[1:]]
            name = ".".join((root, number, *rest))
        named[name] = value
    return _by_stage(named)


_NOT_EXPANDED = {"conv_pwl": "conv_pw", "bn2": "bn1", "bn3": "bn2"}
_EFFICIENT = r"_blocks\.(\d+)\."
_HF = r"encoder\.layer\.(\d+)\."
_HF_ROWS = (
    Rename(r"embeddings\.cls_token$", "cls_token"),
    Rename(r"embeddings\.distillation_token$", "dist_token"),
    Rename(r"embeddings\.register_tokens$", "reg_token"),
    Rename(r"embeddings\.position_embeddings$", "pos_embed"),
    Rename(r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    Rename(_HF + r"attention\.attention\.query\.(\w+)$", r"blocks.\1.attn.qkv.\2#0"),
    Rename(_HF + r"attention\.attention\.key\.(\w+)$", r"blocks.\1.attn.qkv.\2#1"),
    Rename(_HF + r"attention\.attention\.value\.(\w+)$", r"blocks.\1.attn.qkv.\2#2"),
    Rename(_HF + r"attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    Rename(_HF + r"layernorm_before\.", r"blocks.\1.norm1."),
    Rename(_HF + r"layernorm_after\.", r"blocks.\1.norm2."),
    Rename(_HF + r"intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    Rename(_HF + r"output\.dense\.", r"blocks.\1.mlp.fc2."),
    Rename(_HF + r"layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    Rename(_HF + r"mlp\.weights_in\.", r"blocks.\1.mlp.fc1."),
    Rename(_HF + r"mlp\.weights_out\.", r"blocks.\1.mlp.fc2."),
    Rename(_HF, r"blocks.\1."),
    Rename(r"layernorm\.", "norm."),
    Rename(r"classifier\.", "head."),
    Rename(r"cls_classifier\.", "head."),
    Rename(r"distillation_classifier\.", "head_dist."),
)
_CLIP = r"transformer\.resblocks\.(\d+)\."
_HF_CLIP = r"encoder\.layers\.(\d+)\."

DIALECTS = (
    Dialect(
        "DINOv2",
        r"register_tokens",
        (
            Rename(r"register_tokens$", "reg_token"),
            Rename(r"blocks\.(\d+)\.mlp\.w12\.", r"blocks.\1.mlp.fc1."),
            Rename(r"blocks\.(\d+)\.mlp\.w3\.", r"blocks.\1.mlp.fc2."),
        ),
        settle=_dinov2_registers,
    ),
    Dialect(
        "DINOv2, gated",
        r"blocks\.0\.mlp\.w12\.weight",
        (
            Rename(r"blocks\.(\d+)\.mlp\.w12\.", r"blocks.\1.mlp.fc1."),
            Rename(r"blocks\.(\d+)\.mlp\.w3\.", r"blocks.\1.mlp.fc2."),
        ),
    ),
    Dialect(
        "DINOv3",
        r"storage_tokens",
        (
            Rename(r"storage_tokens$", "reg_token"),
            Rename(r"blocks\.(\d+)\.ls([12])\.gamma$", r"blocks.\1.gamma_\2"),
            Rename(r"blocks\.(\d+)\.mlp\.w1\.", r"blocks.\1.mlp.fc1_g."),
            Rename(r"blocks\.(\d+)\.mlp\.w2\.", r"blocks.\1.mlp.fc1_x."),
            Rename(r"blocks\.(\d+)\.mlp\.w3\.", r"blocks.\1.mlp.fc2."),
        ),
        settle=_dinov3_biases,
    ),
    Dialect(
        "Hugging Face DINOv3",
        r"layer\.0\.attention\.q_proj\.weight",
        (
            Rename(r"embeddings\.cls_token$", "cls_token"),
            Rename(r"embeddings\.register_tokens$", "reg_token"),
            Rename(r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
            Rename(r"layer\.(\d+)\.attention\.q_proj\.weight$", r"blocks.\1.attn.qkv.weight#0"),
            Rename(r"layer\.(\d+)\.attention\.k_proj\.weight$", r"blocks.\1.attn.qkv.weight#1"),
            Rename(r"layer\.(\d+)\.attention\.v_proj\.weight$", r"blocks.\1.attn.qkv.weight#2"),
            Rename(r"layer\.(\d+)\.attention\.([qv])_proj\.bias$", r"blocks.\1.attn.\2_bias"),
            Rename(r"layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
            Rename(r"layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.gamma_\2"),
            Rename(r"layer\.(\d+)\.mlp\.up_proj\.", r"blocks.\1.mlp.up."),
            Rename(r"layer\.(\d+)\.mlp\.gate_proj\.", r"blocks.\1.mlp.gate."),
            Rename(r"layer\.(\d+)\.mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
            Rename(r"layer\.(\d+)\.", r"blocks.\1."),
        ),
        settle=_dinov3_biases,
    ),
    Dialect(
        "Hugging Face ViT",
        _HF + r"attention\.attention\.query\.weight",
        _HF_ROWS,
        settle=_dinov2_registers,
    ),
    Dialect(
        "CLIP",
        _CLIP + r"attn\.in_proj_weight",
        (
            Rename(r"class_embedding$", "cls_token", _first_axes(2)),
            Rename(r"positional_embedding$", "pos_embed", _first_axes(1)),
            Rename(r"conv1\.", "patch_embed.proj."),
            Rename(r"ln_pre\.", "norm_pre."),
            Rename(r"ln_post\.", "norm."),
            Rename(_CLIP + r"ln_([12])\.", r"blocks.\1.norm\2."),
            Rename(_CLIP + r"attn\.in_proj_", r"blocks.\1.attn.qkv."),
            Rename(_CLIP + r"attn\.out_proj\.", r"blocks.\1.attn.proj."),
            Rename(_CLIP + r"mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
            Rename(_CLIP + r"mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
        ),
    ),
    Dialect(
        "Hugging Face CLIP",
        _HF_CLIP + r"self_attn\.q_proj\.weight",
        (
            Rename(r"embeddings\.class_embedding$", "cls_token", _first_axes(2)),
            Rename(r"embeddings\.position_embedding\.weight$", "pos_embed", _first_axes(1)),
            Rename(r"embeddings\.patch_embedding\.", "patch_embed.proj."),
            Rename(r"pre_layrnorm\.", "norm_pre."),
            Rename(r"post_layernorm\.", "norm."),
            Rename(_HF_CLIP + r"self_attn\.q_proj\.(\w+)$", r"blocks.\1.attn.qkv.\2#0"),
            Rename(_HF_CLIP + r"self_attn\.k_proj\.(\w+)$", r"blocks.\1.attn.qkv.\2#1"),
            Rename(_HF_CLIP + r"self_attn\.v_proj\.(\w+)$", r"blocks.\1.attn.qkv.\2#2"),
            Rename(_HF_CLIP + r"self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
            Rename(_HF_CLIP + r"layer_norm([12])\.", r"blocks.\1.norm\2."),
            Rename(_HF_CLIP, r"blocks.\1."),
        ),
    ),
    Dialect(
        "mmcv ViT",
        r"layers\.0\.ln1\.weight",
        (
            Rename(r"patch_embed\.projection\.", "patch_embed.proj."),
            Rename(r"layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
            Rename(r"layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
            Rename(r"layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
            Rename(r"layers\.(\d+)\.(?:attn|ffn)\.gamma([12])\.weight", r"blocks.\1.ls\2.gamma"),
            Rename(r"layers\.(\d+)\.", r"blocks.\1."),
            Rename(r"ln1\.", "norm."),
            Rename(r"ln2\.", "fc_norm."),
            Rename(r"head\.(?:fc|fc_cls|layers\.head)\.", "head."),
        ),
    ),
    Dialect(
        "mmcv ConvNeXt",
        r"stages\.0\.0\.depthwise_conv\.weight",
        (
            Rename(r"downsample_layers\.0\.", "stem."),
            Rename(r"downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
            Rename(_BLOCK + r"depthwise_conv\.", r"\1.blocks.\2.conv_dw."),
            Rename(_BLOCK + r"pointwise_conv([12])\.", r"\1.blocks.\2.mlp.fc\3."),
            Rename(_BLOCK + r"grn\.gamma", r"\1.blocks.\2.mlp.grn.weight", _flat),
            Rename(_BLOCK + r"grn\.beta", r"\1.blocks.\2.mlp.grn.bias", _flat),
            Rename(_BLOCK, r"\1.blocks.\2."),
            Rename(r"norm3\.", "head.norm."),
        ),
        note="pre-training normalised the last map; timm pools it first, then normalises",
    ),
    Dialect(
        "mmcv Swin",
        r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",
        (
            Rename(r"patch_embed\.projection\.", "patch_embed.proj."),
            Rename(
                r"stages\.(\d+)\.downsample\.(?=reduction\.|norm\.)", _to_next_stage, _from_unfold
            ),
            Rename(r"stages\.(\d+)\.(blocks\.\d+\.attn)\.w_msa\.", r"layers.\1.\2."),
            Rename(r"stages\.(\d+)\.(blocks\.\d+)\.ffn\.layers\.0\.0\.", r"layers.\1.\2.mlp.fc1."),
            Rename(r"stages\.(\d+)\.(blocks\.\d+)\.ffn\.layers\.1\.", r"layers.\1.\2.mlp.fc2."),
            Rename(r"stages\.(\d+)\.", r"layers.\1."),
            Rename(r"norm3\.", "norm."),
        ),
        _COMPUTED,
    ),
    Dialect(
        "EfficientNet-PyTorch",
        r"_conv_stem\.weight",
        (
            Rename(r"_conv_stem\.", "conv_stem."),
            Rename(r"_bn0\.", "bn1."),
            Rename(r"_conv_head\.", "conv_head."),
            Rename(r"_bn1\.", "bn2."),
            Rename(r"_fc\.", "classifier."),
            Rename(_EFFICIENT + r"_expand_conv\.", r"blocks.\1.conv_pw."),
            Rename(_EFFICIENT + r"_bn0\.", r"blocks.\1.bn1."),
            Rename(_EFFICIENT + r"_depthwise_conv\.", r"blocks.\1.conv_dw."),
            Rename(_EFFICIENT + r"_bn1\.", r"blocks.\1.bn2."),
            Rename(_EFFICIENT + r"_se_(reduce|expand)\.", r"blocks.\1.se.conv_\2."),
            Rename(_EFFICIENT + r"_project_conv\.", r"blocks.\1.conv_pwl."),
            Rename(_EFFICIENT + r"_bn2\.", r"blocks.\1.bn3."),
        ),
        settle=_separable,
    ),
    Dialect("ResNet", r"layer1\.0\.conv1\.weight", (Rename(r"head\.fc\.", "fc."),)),
    Dialect(
        "Meta ConvNeXt",
        r"stages\.0\.0\.dwconv\.weight",
        (
            Rename(r"downsample_layers\.0\.", "stem."),
            Rename(r"downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
            Rename(_BLOCK + r"dwconv\.", r"\1.blocks.\2.conv_dw."),
            Rename(_BLOCK + r"pwconv([12])\.", r"\1.blocks.\2.mlp.fc\3."),
            Rename(_BLOCK + r"grn\.gamma", r"\1.blocks.\2.mlp.grn.weight", _flat),
            Rename(_BLOCK + r"grn\.beta", r"\1.blocks.\2.mlp.grn.bias", _flat),
            Rename(_BLOCK, r"\1.blocks.\2."),
            Rename(r"norm\.", "head.norm."),
            Rename(r"head\.", "head.fc."),
        ),
    ),
    Dialect(
        "Microsoft Swin",
        r"layers\.0\.downsample\.reduction\.weight",
        (
            Rename(r"layers\.(\d+)\.downsample\.", _to_next_stage),
            Rename(r"head\.", "head.fc."),
        ),
        _COMPUTED,
    ),
    Dialect(
        "torchvision ViT",
        r"conv_proj\.weight",
        (
            Rename(r"conv_proj\.", "patch_embed.proj."),
            Rename(r"class_token$", "cls_token"),
            Rename(r"encoder\.pos_embedding$", "pos_embed"),
            Rename(r"encoder\.ln\.", "norm."),
            Rename(r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
            Rename(
                r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_",
                r"blocks.\1.attn.qkv.",
            ),
            Rename(
                r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.",
                r"blocks.\1.attn.proj.",
            ),
            Rename(
                r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.",
                r"blocks.\1.mlp.fc1.",
            ),
            Rename(
                r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.",
                r"blocks.\1.mlp.fc2.",
            ),
            Rename(r"heads\.head\.", "head."),
        ),
    ),
    Dialect(
        "torchvision ConvNeXt",
        r"features\.1\.0\.layer_scale",
        (
            Rename(r"features\.0\.", "stem."),
            Rename(
                r"features\.([246])\.",
                lambda match: f"stages.{int(match[1]) // 2}.downsample.",
            ),
            Rename(_TV_STAGE + r"block\.0\.", _tv_stage("conv_dw.")),
            Rename(_TV_STAGE + r"block\.2\.", _tv_stage("norm.")),
            Rename(_TV_STAGE + r"block\.3\.", _tv_stage("mlp.fc1.")),
            Rename(_TV_STAGE + r"block\.5\.", _tv_stage("mlp.fc2.")),
            Rename(_TV_STAGE + r"layer_scale", _tv_stage("gamma"), _flat),
            Rename(r"classifier\.0\.", "head.norm."),
            Rename(r"classifier\.2\.", "head.fc."),
        ),
    ),
)
"""The first whose ``tell`` matches a name of the backbone is taken; else names are timm's."""

PLAIN = Dialect("timm", "", ())

FOREIGN = {
    r"features\.\d+\.squeeze\.weight": "a SqueezeNet (torchvision)",
    r"patch_embed1\.": "a MogaNet",
    r"(backbone\.)?res2\.0\.conv1\.": "a ResNet of detectron2",
    r"patch_embed\.proj\.1?\d\.": "a ViT with a convolutional stem (MoCo v3)",
    r"linear\.weight": "the CIFAR ResNet of He et al.",
}
"""Pattern of a name -> what such weights are, for networks that timm does not have."""


@dataclass(frozen=True)
class Family:
    """Networks of timm whose weights have the same names.

    Attributes:
        name: of the family.
        tell: a name that all of them have.
        block: pattern of names in a block; its groups are the stage and the block.
        members: blocks per stage -> timm names.
        doubt: what else a file would have to tell; such files need their architecture named.
        options: arguments of the timm model that weights do not tell -> timm's value.
    """

    name: str
    tell: str
    block: str
    members: Mapping[tuple[int, ...], tuple[str, ...]]
    doubt: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


FAMILIES = (
    Family(
        "ResNet",
        "layer1.0.conv1.weight",
        r"layer(\d)\.(\d+)\.",
        {
            (1, 1, 1, 1): ("test_resnet",),
            (2, 2, 2, 2): ("resnet18", "resnet26", "resnet26d"),
            (3, 4, 6, 3): (
                *("resnet34", "resnet50", "resnet50d"),
                *("wide_resnet50_2", "resnext50_32x4d"),
            ),
            (3, 4, 23, 3): ("resnet101", "resnet101d", "wide_resnet101_2", "resnext101_32x8d"),
            (3, 8, 36, 3): ("resnet152",),
            (3, 24, 36, 3): ("resnet200",),
        },
    ),
    Family(
        "ConvNeXt",
        "stages.0.blocks.0.conv_dw.weight",
        r"stages\.(\d)\.blocks\.(\d+)\.",
        {
            (1, 2, 4, 2): ("test_convnext",),
            (2, 2, 6, 2): (
                *("convnext_atto", "convnext_femto", "convnext_pico"),
                *("convnextv2_atto", "convnextv2_femto", "convnextv2_pico"),
            ),
            (2, 2, 8, 2): ("convnext_nano", "convnextv2_nano"),
            (3, 3, 9, 3): ("convnext_tiny", "convnextv2_tiny"),
            (3, 3, 27, 3): (
                *("convnext_small", "convnext_base", "convnext_large", "convnext_xlarge"),
                *("convnextv2_base", "convnextv2_large", "convnextv2_huge"),
            ),
        },
    ),
    Family(
        "Swin",
        "layers.0.blocks.0.attn.relative_position_bias_table",
        r"layers\.(\d)\.blocks\.(\d+)\.",
        {
            (2, 2, 6, 2): ("swin_tiny_patch4_window7_224",),
            (2, 2, 18, 2): (
                *(f"swin_{size}_patch4_window7_224" for size in ("small", "base", "large")),
                *(f"swin_{size}_patch4_window12_384" for size in ("base", "large")),
            ),
        },
    ),
    Family(
        "MobileNet or EfficientNet",
        "conv_stem.weight",
        r"blocks\.(\d)\.(\d+)\.",
        {
            (1, 2, 2, 6, 2): ("mobilenetv1_100",),
            (1, 2, 3, 4, 3, 3, 1): ("mobilenetv2_050", "mobilenetv2_100", "mobilenetv2_140"),
            (1, 2, 3, 4, 2, 3, 1): ("mobilenetv3_large_100",),
            (1, 2, 3, 2, 3, 1): ("mobilenetv3_small_100",),
            (1, 2, 2, 3, 3, 4, 1): ("efficientnet_b0", "efficientnet_lite0"),
            (1, 3, 3, 4, 4, 5, 1): ("efficientnet_lite1", "efficientnet_lite2"),
            (1, 3, 3, 5, 5, 6, 1): ("efficientnet_lite3",),
            (1, 4, 4, 6, 6, 8, 1): ("efficientnet_lite4",),
            (2, 3, 3, 4, 4, 5, 2): ("efficientnet_b1", "efficientnet_b2"),
            (2, 3, 3, 5, 5, 6, 2): ("efficientnet_b3",),
            (2, 4, 4, 6, 6, 8, 2): ("efficientnet_b4",),
            (3, 5, 5, 7, 7, 9, 3): ("efficientnet_b5",),
            (3, 6, 6, 8, 8, 11, 3): ("efficientnet_b6",),
            (4, 7, 7, 10, 10, 13, 4): ("efficientnet_b7",),
        },
        "weights from TensorFlow need options={'pad_type': 'same'} and their own normalisation",
        {"pad_type": "symmetric", "bn_eps": "1e-05"},
    ),
    Family(
        "MLP-Mixer",
        "blocks.0.mlp_tokens.fc1.weight",
        r"(blocks)\.(\d+)\.",
        {(8,): ("mixer_s16_224",), (12,): ("mixer_b16_224",), (24,): ("mixer_l16_224",)},
        "they differ in normalisation",
    ),
)
"""Families whose members are found by their blocks and shapes; ViTs and BEiTs are read off."""
