"""Schedules against published values and torch; parameter groups against the published tables.

Published values are those of the official configurations, computed with the official code.
"""

import pytest
import torch
from timm import create_model
from timm.models.beit import Beit
from timm.models.resnet import Bottleneck, ResNet
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from a2mim.methods.decoder import PixelDecoder
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask
from a2mim.training.optim import (
    OFFICIAL_CNN,
    OFFICIAL_CNN_GAMMA,
    OFFICIAL_MOGANET,
    OFFICIAL_VIT,
    GroupRule,
    adamw,
    cosine_lr,
    explain_groups,
    fused_on,
    layer_decay_rules,
    parameter_groups,
    plain_cosine_lr,
    step_lr,
)

# --- schedules ---


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, 1.911363e-7),
        (626, 1.197174e-4),
        (3130, 5.995637e-4),
        (6260, 1.2e-3),
        (50_000, 1.037533e-3),
        (100_000, 5.744325e-4),
        (187_799, 1e-5),
        (187_800, 1e-5),
    ],
)
def test_published_schedule_of_resnet50(step, expected):
    """300 epochs of 626 steps, 10 of them warm-up: values of the official configuration."""
    got = cosine_lr(step, steps=187_800, warmup=6_260, peak=1.2e-3, final=1e-5)
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 5.0e-8), (626, 1.000013e-3), (3130, 4.996575e-3), (100_000, 2.245885e-3)],
)
def test_published_schedule_of_rsb_a2(step, expected):
    """300 epochs of 626 steps, 5 of them warm-up."""
    got = plain_cosine_lr(step, 187_800, 3_130, peak=5e-3, final=1e-6, warmup_ratio=1e-5)
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 8e-10),  # 4e-4 * 2e-6
        (5, 2.000004e-4),  # half-way: 4e-4 * (1 + 2e-6) / 2
        (10, 4e-4),
        (700 - 1 / 626, 4e-4),
        (700, 4e-5),
        (799, 4e-5),
    ],
)
def test_published_schedule_of_vits(epoch, expected):
    """800 epochs of 626 steps, 10 of them warm-up; values by hand, none are published."""
    got = step_lr(round(epoch * 626), 700 * 626, 10 * 626, peak=4e-4, warmup_ratio=2e-6)
    assert got == pytest.approx(expected, rel=1e-9)


def values_of(make_scheduler, steps):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make_scheduler(optimiser)
    seen = []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return seen


def test_schedules_against_torch():
    schedulers = torch.optim.lr_scheduler
    reference = values_of(lambda o: schedulers.CosineAnnealingLR(o, 20, eta_min=0.01), 20)
    for schedule in (cosine_lr, plain_cosine_lr):
        got = [schedule(i, 20, warmup=0, peak=0.1, final=0.01) for i in range(20)]
        assert got == pytest.approx(reference)
    reference = values_of(lambda o: schedulers.MultiStepLR(o, [12]), 20)
    assert [step_lr(i, 12, warmup=0, peak=0.1) for i in range(20)] == pytest.approx(reference)
    reference = values_of(lambda o: schedulers.LinearLR(o, 0.3, total_iters=5), 10)
    got = [step_lr(i, 12, warmup=5, peak=0.1, warmup_ratio=0.3) for i in range(10)]
    assert got == pytest.approx(reference)


@pytest.mark.parametrize("schedule", [cosine_lr, plain_cosine_lr])
def test_warmup_must_end(schedule):
    with pytest.raises(ValueError, match="less warm-up than the 10 steps, got 10"):
        schedule(0, steps=10, warmup=10, peak=0.1)


def test_warmup_must_end_before_the_drop():
    with pytest.raises(ValueError, match="less warm-up than the 10 steps to the drop, got 12"):
        step_lr(0, drop=10, warmup=12, peak=0.1)


# --- AdamW of the demo ---


def test_what_decays():
    model = create_model("test_vit", num_classes=2, reg_tokens=2)
    optimiser = adamw(model, lr=1e-3, weight_decay=0.05)
    decayed, plain = (
        {n for n, p in model.named_parameters() if any(p is q for q in group["params"])}
        for group in optimiser.param_groups
    )
    assert optimiser.param_groups[0]["weight_decay"] == 0.05
    assert optimiser.param_groups[1]["weight_decay"] == 0
    assert decayed | plain == {n for n, _ in model.named_parameters()}
    assert {"pos_embed", "cls_token", "reg_token", "norm.weight", "head.bias"} <= plain
    assert {"head.weight", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= decayed


def test_frozen_parameters_are_left_alone():
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert [len(g["params"]) for g in adamw(layer, 1e-3, 0.1).param_groups] == [1, 0]
    (group,) = parameter_groups(layer, 1e-3, 0.1, ())
    assert [p.shape for p in group["params"]] == [(2, 2)]


# --- tables ---


def pretraining(backbone):
    """A module with the parameter names of pre-training, gamma included."""
    blend = nn.ParameterDict({"token": torch.zeros(4), "gamma": torch.zeros(4)})
    return nn.ModuleDict(
        {"backbone": backbone, "token_blend": blend, "decoder": PixelDecoder(4, 2)}
    )


def resnet():
    """The names of a ResNet-50, with one narrow block a stage."""
    return ResNet(Bottleneck, (1, 1, 1, 1), num_classes=0, channels=(4, 4, 4, 4))


def vit(**kwargs):
    return create_model("test_vit", num_classes=2, **kwargs)


def scales(module, rules):
    """Parameter name -> (lr scale, weight decay scale)."""
    return {
        row.name: (row.lr_scale, row.weight_decay_scale) for row in explain_groups(module, rules)
    }


def undecayed(module, rules):
    return {name for name, (_, decay) in scales(module, rules).items() if decay == 0}


def test_resnet_with_the_official_side_effects():
    module = pretraining(resnet())
    got = scales(module, OFFICIAL_CNN)
    assert got["token_blend.token"] == (0.1, 0.0)
    assert got["token_blend.gamma"] == (1.0, 1.0)  # in the 300-epoch configurations
    plain = undecayed(module, OFFICIAL_CNN)
    assert {"backbone.bn1.weight", "backbone.layer4.0.bn3.weight", "decoder.project.bias"} <= plain
    # the norm of a shortcut has no name that the rule knows; its bias has
    assert got["backbone.layer1.0.downsample.1.weight"] == (1.0, 1.0)
    assert got["backbone.layer1.0.downsample.1.bias"] == (1.0, 0.0)
    # written out: everything but convolutions, the shortcuts' norm weights and gamma
    decays = ("downsample.1.weight", "token_blend.gamma")
    expected = {n for n, p in module.named_parameters() if p.ndim == 1 and not n.endswith(decays)}
    assert plain == expected


def test_the_names_of_a_resnet50():
    """Counts by hand: 53 norms of which 4 are shortcuts', one bias in the decoder, one token."""
    with torch.device("meta"):
        backbone = create_model("resnet50", num_classes=0)
    plain = undecayed(pretraining(backbone), OFFICIAL_CNN)
    assert len(plain) == 2 * 53 - 4 + 1 + 1
    assert len([n for n in plain if "downsample" in n]) == 4


def test_gamma_is_slow_in_its_own_table():
    module = pretraining(resnet())
    got, other = scales(module, OFFICIAL_CNN_GAMMA), scales(module, OFFICIAL_CNN)
    assert got["token_blend.gamma"] == (0.1, 0.0)
    differ = {name for name in got if got[name] != other[name]}
    assert differ == {"token_blend.gamma"}


def test_convnext_with_the_official_side_effects():
    module = pretraining(create_model("test_convnext", num_classes=0))
    got = scales(module, OFFICIAL_CNN_GAMMA)
    assert got["backbone.stages.0.blocks.0.gamma"] == (1.0, 0.0)  # layer scale
    assert got["token_blend.gamma"] == (0.1, 0.0)
    for norm in ("stem.1", "stages.1.downsample.0", "stages.2.blocks.0.norm", "head.norm"):
        assert got[f"backbone.{norm}.weight"] == (1.0, 1.0)  # no "bn" or "ln" in the name
        assert got[f"backbone.{norm}.bias"] == (1.0, 0.0)


def test_scales_of_moganet_do_not_decay():
    options = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)}
    module = pretraining(create_model("moganet_small", num_classes=0, **options))
    got, other = scales(module, OFFICIAL_MOGANET), scales(module, OFFICIAL_CNN_GAMMA)
    differ = {name for name in got if got[name] != other[name]}
    # Per stage of one block: two layer scales, and the sigma of each half.
    assert len(differ) == 4 * 4
    assert all("scale" in name and got[name] == (1.0, 0.0) for name in differ)


def test_vit():
    """What does not decay is what timm does not decay: 1-D parameters, positions, class token."""
    model = vit(init_values=1e-5)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    timms = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert undecayed(model, OFFICIAL_VIT) == timms
    got = scales(pretraining(model), OFFICIAL_VIT)
    assert got["token_blend.token"] == got["token_blend.gamma"] == (1.0, 0.0)
    assert got["backbone.blocks.0.ls1.gamma"] == (1.0, 0.0)
    assert {lr for lr, _ in got.values()} == {1.0}


def test_side_effects_on_vits():
    beit = Beit(
        img_size=32, embed_dim=8, depth=1, num_heads=2, num_classes=0, use_rel_pos_bias=True
    )
    got = explain_groups(beit, OFFICIAL_VIT)
    (table,) = (row for row in got if row.name.endswith("relative_position_bias_table"))
    assert table.weight_decay_scale == 0
    assert table.rules == ("bias",)
    assert scales(vit(reg_tokens=2), OFFICIAL_VIT)["reg_token"] == (1.0, 1.0)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_model_has_the_names_of_the_tables(name):
    size = {"img_size": 64} if "vit" in name else {}
    model = MaskedImageModel(create_model(name, num_classes=0, **size), BlockMask(64, 32, 0.5))
    table = OFFICIAL_VIT if "vit" in name else OFFICIAL_CNN
    (token,) = (row for row in explain_groups(model, table) if "token_blend" in row.name)
    assert token.name == "token_blend.token"
    assert token.rules == (r"token_blend\.token",)


def test_groups_are_what_the_rows_say():
    module = pretraining(resnet())
    groups = parameter_groups(module, 1.2e-3, 0.05, OFFICIAL_CNN)
    assert {g["name"]: (g["lr"], g["lr_scale"], g["weight_decay"]) for g in groups} == {
        "lr x1, decay x1": (1.2e-3, 1.0, 0.05),
        "lr x1, decay x0": (1.2e-3, 1.0, 0.0),
        "lr x0.1, decay x0": (pytest.approx(1.2e-4), 0.1, 0.0),
    }
    names = {id(p): n for n, p in module.named_parameters()}
    rows = scales(module, OFFICIAL_CNN)
    seen = []
    for group in groups:
        for parameter in group["params"]:
            seen.append(names[id(parameter)])
            assert rows[seen[-1]] == (group["lr_scale"], group["weight_decay"] / 0.05)
    assert sorted(seen) == sorted(names.values())


def test_groups_in_an_optimiser_with_a_schedule():
    """The scale is the peak's, so all groups end at the same learning rate."""
    groups = parameter_groups(pretraining(resnet()), 1.2e-3, 0.05, OFFICIAL_CNN)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    # published values of the ResNet-50 schedule, as above
    for step, base, slow in ((50_000, 1.037533e-3, 1.049821e-4), (187_799, 1e-5, 1e-5)):
        for group in optimiser.param_groups:
            peak = 1.2e-3 * group["lr_scale"]
            group["lr"] = cosine_lr(step, 187_800, 6_260, peak, final=1e-5)
        got = {group["name"]: group["lr"] for group in optimiser.param_groups}
        assert got["lr x1, decay x1"] == pytest.approx(base, rel=1e-6)
        assert got["lr x0.1, decay x0"] == pytest.approx(slow, rel=1e-6)


def test_later_rules_overwrite_what_they_name():
    module = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    rules = (
        GroupRule(r"a\.", lr_scale=0.5, weight_decay_scale=0.5),
        GroupRule("bias", weight_decay_scale=0.0),
        GroupRule(r"a\.bias", lr_scale=2.0),
        GroupRule("nothing like this", lr_scale=3.0),
    )
    assert scales(module, rules) == {
        "a.weight": (0.5, 0.5),
        "a.bias": (2.0, 0.0),
        "b.weight": (1.0, 1.0),
        "b.bias": (1.0, 0.0),
    }
    rows = {row.name: row.rules for row in explain_groups(module, rules)}
    assert rows["a.bias"] == (r"a\.", "bias", r"a\.bias")
    assert rows["b.weight"] == ()


def test_bad_rules_and_rates():
    with pytest.raises(ValueError, match=r"expected a regular expression, got '\(bn'"):
        GroupRule("(bn", lr_scale=1.0)
    with pytest.raises(ValueError, match="expected a scale of at least 0 in the rule 'bn'"):
        GroupRule("bn")
    with pytest.raises(ValueError, match=r"weight_decay_scale=-1"):
        GroupRule("bn", weight_decay_scale=-1)
    with pytest.raises(ValueError, match="lr and weight decay of at least 0, got -1 and 0"):
        parameter_groups(nn.Linear(1, 1), -1, 0, ())


# --- layer decay ---


def test_published_layer_decay():
    """Depth 12 and 0.65: 0.65^13 = 0.0037 in front, 0.65 for the last block, 1 behind."""
    model = vit(depth=12, class_token=False, global_pool="avg")
    got = {n: lr for n, (lr, _) in scales(model, layer_decay_rules(12, 0.65)).items()}
    assert got["patch_embed.proj.weight"] == pytest.approx(0.0037, abs=5e-5)
    assert got["pos_embed"] == got["patch_embed.proj.bias"] == 0.65**13
    assert got["blocks.0.attn.qkv.weight"] == 0.65**12
    assert got["blocks.1.attn.qkv.weight"] == 0.65**11  # not block 10 or 11
    assert got["blocks.11.mlp.fc2.bias"] == 0.65
    assert got["fc_norm.weight"] == got["head.weight"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
        {"global_pool": "avg", "pre_norm": True},
        {"global_pool": "token"},
    ],
)
def test_layer_decay_is_timms(options):
    """timm's groups are the closed form too, but for a norm that stands before pooling."""
    model = vit(**options)
    names = {id(p): n for n, p in model.named_parameters()}
    expected = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.65)
        for p in group["params"]
    }
    got = {n: lr for n, (lr, _) in scales(model, layer_decay_rules(6, 0.65)).items()}
    for name in ("norm.weight", "norm.bias"):
        if name in expected:
            assert expected.pop(name) == pytest.approx(0.65)  # timm's
            assert got.pop(name) == 1  # the official code's
    assert got == pytest.approx(expected)


def test_layer_decay_behind_a_table():
    """The table's weight decay stays; blocks of a decoder are not the backbone's."""
    model = nn.ModuleDict({"backbone": vit(), "decoder": nn.ModuleDict({"blocks": vit().blocks})})
    got = scales(model, (*OFFICIAL_VIT, *layer_decay_rules(6, 0.65)))
    assert got["backbone.blocks.5.norm1.weight"] == (0.65, 0.0)
    assert got["backbone.blocks.5.mlp.fc1.weight"] == (0.65, 1.0)
    assert got["backbone.cls_token"] == (0.65**7, 0.0)
    assert got["decoder.blocks.5.mlp.fc1.weight"] == (1.0, 1.0)


@pytest.mark.parametrize(("depth", "decay"), [(0, 0.65), (12, 0.0), (12, 1.1)])
def test_bad_layer_decay(depth, decay):
    with pytest.raises(ValueError, match="at least 1 block and a layer decay in"):
        layer_decay_rules(depth, decay)


def test_one_kernel_for_all_parameters_but_for_float16():
    assert fused_on("cuda", "bfloat16")
    assert fused_on("cpu", "float32")
    assert fused_on("cuda", "float16") is fused_on("mps", "float32") is None


def test_one_kernel_does_the_same_steps():
    moved = []
    for fused in (None, fused_on("cpu", "float32")):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))
        optimiser = adamw(network, 1e-2, 0.1, fused)
        assert optimiser.defaults["fused"] is fused
        for _ in range(5):
            network(torch.randn(4, 5)).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
        moved.append(list(network.parameters()))
    torch.testing.assert_close(*moved)
