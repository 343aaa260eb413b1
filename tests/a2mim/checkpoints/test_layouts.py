import re

import numpy as np
import pytest
import timm
import torch

from a2mim.checkpoints.layouts import (
    DIALECTS,
    FAMILIES,
    LAYOUTS,
    fixed_positions,
    has_fixed_positions,
)


@pytest.mark.parametrize("rows_first", [True, False])
def test_fixed_positions_by_loops(rows_first):
    width, grid = 8, 3
    table = fixed_positions(width, grid, rows_first=rows_first)[0].numpy()
    np.testing.assert_array_equal(table[0], 0)
    for row in range(grid):
        for column in range(grid):
            first, second = (row, column) if rows_first else (column, row)
            for k, frequency in enumerate((1.0, 1 / 100)):
                expected = [
                    *(np.sin(first * frequency), np.cos(first * frequency)),
                    *(np.sin(second * frequency), np.cos(second * frequency)),
                ]
                got = table[1 + row * grid + column][[k, 2 + k, 4 + k, 6 + k]]
                np.testing.assert_allclose(got, expected, atol=1e-6)


def test_fixed_positions_are_recognised_only_where_they_are():
    moco, mae = (fixed_positions(16, 4, rows_first=way) for way in (True, False))
    assert has_fixed_positions({"pos_embed": moco.half()}, rows_first=True)
    assert not has_fixed_positions({"pos_embed": moco}, rows_first=False)
    assert has_fixed_positions({"backbone.pos_embed": mae}, rows_first=False)
    assert not has_fixed_positions({"pos_embed": mae + 0.01}, rows_first=False)
    for other in (torch.zeros(1, 16, 16), torch.zeros(1, 17, 15), torch.zeros(3), None):
        state = {} if other is None else {"pos_embed": other}
        assert not has_fixed_positions(state, rows_first=False)


KEYS = {
    "dinov2": ["register_tokens", "blocks.0.norm1.weight"],
    "dinov3": ["storage_tokens", "blocks.0.norm1.weight"],
    "huggingface-dinov2": ["encoder.layer.0.layer_scale1.lambda1"],
    "huggingface-mae": [
        "vit.encoder.layer.0.attention.attention.query.weight",
        "decoder.mask_token",
    ],
    "huggingface": ["vit.encoder.layer.0.attention.attention.query.weight"],
    "clip": ["visual.class_embedding", "token_embedding.weight"],
    "huggingface-clip": ["vision_model.embeddings.class_embedding"],
    "open_clip": ["visual.trunk.cls_token"],
    "beitv2": [
        *("rel_pos_bias.relative_position_bias_table", "lm_head.weight"),
        "cls_pt_layers.0.norm1.weight",
    ],
    "beit": ["rel_pos_bias.relative_position_bias_table", "mask_token"],
    "mocov2": ["encoder_q.conv1.weight", "encoder_k.conv1.weight", "queue"],
    "simclr": ["backbone.layer1.0.conv1.weight", "backbone.fc.0.weight"],
    "byol": ["online_encoder.net.conv1.weight", "net.conv1.weight"],
    "solo-learn": ["backbone.conv1.weight", "projector.0.weight"],
    "ijepa": ["blocks.0.attn.qkv.weight", "pos_embed"],
    "mocov3": ["base_encoder.conv1.weight", "momentum_encoder.conv1.weight"],
    "simmim": ["encoder.mask_token", "decoder.0.weight"],
    "spark": ["sparse_encoder.sp_cnn.conv1.weight"],
    "ibot": ["backbone.masked_embed", "backbone.blocks.0.norm1.weight"],
    "dino": ["backbone.blocks.0.norm1.weight", "head.mlp.0.weight"],
    "mae": ["cls_token", "blocks.0.attn.qkv.bias", "decoder_embed.weight"],
    "openmixup": ["backbone.conv1.weight", "backbone.mask_gamma"],
    "mmpretrain-mocov3": ["backbone.layers.0.ln1.weight", "head.predictor.fc0.weight"],
    "mmpretrain": ["backbone.conv1.weight", "head.fc.weight"],
    "efficientnet-lite": ["_conv_stem.weight", "_blocks.0._depthwise_conv.weight"],
    "efficientnet-pytorch": ["_conv_stem.weight", "_blocks.0._se_reduce.weight"],
    "torchvision": ["conv_proj.weight", "class_token"],
    "timm": ["conv1.weight", "fc.weight"],
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_first_that_tells_is_right(layout):
    state = dict.fromkeys(KEYS[layout.name], torch.zeros(1))
    if layout.name == "ijepa":
        state["pos_embed"] = fixed_positions(16, 4, rows_first=False)[:, 1:]
    assert next(row for row in LAYOUTS if row.tell(state, None)) is layout


def test_dinov3_sees_images_as_timms_registry_has_it():
    (layout,) = (one for one in LAYOUTS if one.name == "dinov3")
    names = [name for name in timm.list_pretrained("vit_*dinov3*") if "sat493m" not in name]
    assert len(names) > 10
    for name in names:
        cfg = timm.get_pretrained_cfg(name).to_dict()
        assert {key: cfg[key] for key in layout.data} == layout.data


def test_a_file_that_calls_itself_by_the_names_of_mocov3():
    fixed = fixed_positions(16, 4, rows_first=True)
    for positions, arch, name in (
        (fixed, "vit_small", "mocov3"),
        (fixed, "vit_small_patch16_224", "timm"),
        (fixed, None, "timm"),
        (fixed + 0.1, "vit_small", "timm"),
    ):
        state = {"blocks.0.attn.qkv.weight": torch.zeros(1), "pos_embed": positions}
        assert next(row.name for row in LAYOUTS if row.tell(state, arch)) == name


def test_tables_are_sound():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
    for layout in LAYOUTS:
        re.compile(layout.prefix)
        assert all(re.compile(pattern) and why for pattern, why in layout.drops.items())
        assert all(width % heads == 0 for width, heads in layout.heads.items())
    for dialect in DIALECTS:
        assert re.compile(dialect.tell)
        assert all(re.compile(rename.pattern) for rename in dialect.renames)
    for family in FAMILIES:
        names = [name for members in family.members.values() for name in members]
        assert len(names) == len(set(names))
