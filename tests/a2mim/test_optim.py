import pytest
import torch
from timm import create_model

from a2mim.optim import adamw, cosine_lr


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
        (187_800, 1e-5),
    ],
)
def test_published_schedule_of_resnet50(step, expected):
    """300 epochs of 626 steps, 10 of them warm-up: values of the official configuration."""
    got = cosine_lr(step, steps=187_800, warmup=6_260, peak=1.2e-3, final=1e-5)
    assert got == pytest.approx(expected, rel=1e-6)


def test_without_warmup_it_starts_at_the_peak():
    assert cosine_lr(0, steps=10, warmup=0, peak=0.1) == pytest.approx(0.1)
    assert cosine_lr(5, steps=10, warmup=0, peak=0.1) == pytest.approx(0.05)


def test_warmup_must_end():
    with pytest.raises(ValueError, match="less warm-up than the 10 steps, got 10"):
        cosine_lr(0, steps=10, warmup=10, peak=0.1)


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
