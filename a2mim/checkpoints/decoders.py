"""Masked models as the files of pre-training hold them: a backbone with its decoder and mask token.

    mae       facebookresearch/mae        decoder_embed, decoder_blocks.K, decoder_pred, mask_token
    vit_mae   Hugging Face transformers   the same below decoder., with query, key and value apart
    simmim    microsoft/SimMIM            decoder.0, encoder.mask_token

Sources: ``models_mae.py``, ``convert_vit_mae_to_pytorch.py`` and ``models/simmim.py`` of these.
Most files that are passed around hold the backbone alone; they reconstruct nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from a2mim.checkpoints.files import StateFile, WeightsError, first_names
from a2mim.methods.mae import MaskedAutoencoder, vision_transformer
from a2mim.methods.masked_image_model import MaskedImageModel, simmim
from a2mim.methods.masking import BlockMask

MAE_RATIO, SIMMIM_RATIO, SIMMIM_BLOCK = 0.75, 0.6, 32
"""What was hidden in the official pre-trainings: no file tells."""

HEADS = 16
"""Attention heads of all official decoders of MAE, where a file does not tell its own."""

_MAE = re.compile(r"(?:decoder\.)?(decoder_.+|mask_token)")
_HUGGING_FACE = (
    (r"^layers\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^pred\.", "predict."),
)
_QKV = re.compile(r"(.+\.attention)\.(?:attention|self)\.query\.(weight|bias)")


def with_decoder(
    tensors: Mapping[str, Tensor],
    backbone: nn.Module,
    *,
    image_size: int,
    ratio: float | None = None,
    block: int | None = None,
    heads: int | None = None,
    where: str = "the file",
) -> MaskedAutoencoder | MaskedImageModel:
    """The masked model of a file, around its backbone.

    Args:
        tensors: of the file, by its own names.
        backbone: with the weights of the same file.
        image_size: edge of the images in pixels.
        ratio: hidden share; None: that of the official pre-training, 0.75 for MAE, 0.6 for SimMIM.
        block: edge of a mask block in pixels, for SimMIM; None: 32.
        heads: attention heads of the decoder of an MAE, which shapes do not tell; None: 16.
        where: what errors call the file.

    Returns:
        MAE predicts pixels relative to each patch, or not: files do not tell, see ``norm_pix``.

    Raises:
        WeightsError: one line, if there is no decoder, or not all of it fits.
        ValueError: for a ratio or block that cannot be.
        TypeError: if the backbone is none that MAE can be built around.
    """
    if kind_of(tensors, where) == "mae":
        ratio = MAE_RATIO if ratio is None else ratio
        return _mae(tensors, backbone, ratio, block, heads or HEADS, where)
    mask = BlockMask(
        image_size,
        SIMMIM_BLOCK if block is None else block,
        SIMMIM_RATIO if ratio is None else ratio,
    )
    method = simmim(backbone, mask)
    _fill(method.token_blend, {"token": tensors["encoder.mask_token"].flatten()}, where)
    decoder = {
        name.replace("decoder.0.", "project."): tensor
        for name, tensor in tensors.items()
        if name.startswith("decoder.")
    }
    _fill(method.decoder, decoder, where)
    return method


def kind_of(tensors: Collection[str], where: str = "the file") -> Literal["mae", "simmim"]:
    """What was pre-trained, by the names of the tensors of a file.

    Raises:
        WeightsError: one line, if there is no decoder.
    """
    if any(name.endswith(("decoder_embed.weight", "decoder_pred.weight")) for name in tensors):
        return "mae"
    if {"encoder.mask_token", "decoder.0.weight"} <= set(tensors):
        return "simmim"
    raise WeightsError(
        f"expected a decoder in {where}, found a backbone alone; give a run of a2mim pretrain, or "
        "an official file of MAE, Hugging Face's ViTMAE or SimMIM that was saved with its decoder"
    )


def decoder_heads(file: StateFile) -> int | None:
    """Attention heads of a decoder, as the arguments in a file say, or ``config.json`` beside it.

    Args:
        file: what was read.

    Returns:
        None where nothing tells.
    """
    told = file.settings
    beside = file.path.parent / "config.json"
    if beside.is_file():
        try:
            said = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError:
            said = {}
        told = told | (said if isinstance(said, dict) else {})
    heads = [told.get(name) for name in ("decoder_num_heads", "decoder_num_attention_heads")]
    return next((number for number in heads if isinstance(number, int) and number > 0), None)


def _mae(
    tensors: Mapping[str, Tensor],
    backbone: nn.Module,
    ratio: float,
    block: int | None,
    heads: int,
    where: str,
) -> MaskedAutoencoder:
    decoder = mae_decoder(tensors)
    if "pos_embed" not in decoder:
        raise WeightsError(f"expected a whole decoder in {where}, it has no positions")
    positions_1NF = decoder.pop("pos_embed")
    vit = vision_transformer(backbone)
    method = MaskedAutoencoder(
        vit,
        ratio,
        decoder_width=positions_1NF.shape[-1],
        decoder_depth=len({name.split(".")[1] for name in decoder if name.startswith("blocks.")}),
        decoder_heads=heads,
    )
    patch = vit.patch_embed.patch_size[0]
    if block not in (None, patch):
        raise ValueError(f"expected --block {patch}, the patches that MAE hides, got {block}")
    _fill(method.decoder, decoder, where)
    prefix = vit.num_prefix_tokens
    places = method.decoder.positions
    if positions_1NF.shape[1] != prefix + len(places):
        raise WeightsError(
            f"expected {len(places)} positions in the decoder of {where}, found "
            f"{positions_1NF.shape[1] - prefix}; leave out --image-size"
        )
    places.copy_(positions_1NF[0, prefix:])
    return method


def mae_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder of MAE under our names, ``pos_embed`` ``(1, 1 + N, F)`` with them."""
    found = {}
    for name, tensor in _joined(tensors).items():
        match = _MAE.fullmatch(name)
        if match is None:
            continue
        name = match[1].removeprefix("decoder_")
        for pattern, ours in _HUGGING_FACE:
            name = re.sub(pattern, ours, name)
        found[name] = tensor
    return found


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value as one tensor, as timm has them."""
    joined = dict(tensors)
    for name in tensors:
        if match := _QKV.fullmatch(name):
            parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            if not set(parts) <= joined.keys():
                raise WeightsError(f"expected queries, keys and values, found only some of {name}")
            joined[f"{match[1]}.qkv.{match[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def _fill(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load tensors that are all of a module's, none left over."""
    own = module.state_dict()
    wrong = [
        name
        for name in sorted(own.keys() | state.keys())
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"expected the decoder in {where} to be complete and of known shape, "
            f"{first_names(wrong)} is not"
        )
    module.load_state_dict(dict(state))
