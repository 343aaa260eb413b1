"""Optimisers, learning-rate schedules, and which parameter gets which share of them.

Schedules, closed forms of the published runs. Step i of T (for runs that accumulate gradients, i
counts the partial batches), W steps of warm-up, peak and final learning rate:

    cosine_lr        [final + (peak - final) (1 + cos(pi (i - W) / (T - W))) / 2] min(i / W, 1)
    plain_cosine_lr  [final + (peak - final) (1 + cos(pi i / T)) / 2] w(i)
    step_lr          peak 0.1^[i >= drop] w(i)

    with w(i) = 1 - (1 - i / W) (1 - rho) for i < W, else 1          (starts at rho, not at 0)

Groups: a rule names parameters by a regular expression and scales their learning rate and weight
decay; tables of rules run from first to last, and later matches overwrite. The scale belongs to
the *peak*, so that all groups end at the same final learning rate:

    groups = parameter_groups(model, lr, weight_decay, OFFICIAL_CNN)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    for group in optimiser.param_groups:
        group["lr"] = cosine_lr(step, steps, warmup, peak=lr * group["lr_scale"], final=final)

Source: code and configurations of A2MIM (Westlake-AI/openmixup).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class GroupRule:
    """Scales for the parameters whose name matches.

    Attributes:
        pattern: regular expression, found anywhere in the name.
        lr_scale: what the peak learning rate is multiplied by; None leaves it to earlier rules.
        weight_decay_scale: likewise for the weight decay.
    """

    pattern: str
    lr_scale: float | None = None
    weight_decay_scale: float | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"expected a regular expression, got {self.pattern!r}: {error}"
            ) from error
        scales = [s for s in (self.lr_scale, self.weight_decay_scale) if s is not None]
        if not scales or min(scales) < 0:
            raise ValueError(
                f"expected a scale of at least 0 in the rule {self.pattern!r}, got "
                f"lr_scale={self.lr_scale}, weight_decay_scale={self.weight_decay_scale}"
            )


OFFICIAL_CNN = (
    GroupRule(r"(bn|ln|gn)\d*\.(weight|bias)", weight_decay_scale=0.0),
    GroupRule(r"bias", weight_decay_scale=0.0),
    GroupRule(r"token_blend\.token", lr_scale=0.1, weight_decay_scale=0.0),
)
"""ResNet-50 to -200, 300 epochs. Official name of our ``token_blend.token``: ``mask_token``.

Taken literally, and so with the official side effects: the norm of a ResNet's shortcut
(``downsample.1.weight``) and the norms of ConvNeXt (``norm.weight``) decay, and so does
``token_blend.gamma`` (official ``mask_gamma``), at the full learning rate.
"""

OFFICIAL_CNN_GAMMA = (
    *OFFICIAL_CNN[:2],
    GroupRule(r"gamma", weight_decay_scale=0.0),
    OFFICIAL_CNN[2],
    GroupRule(r"token_blend\.gamma", lr_scale=0.1, weight_decay_scale=0.0),
)
"""ConvNeXt, ResNet-50 with 100 epochs, IN-100: ``token_blend.gamma`` is slow and does not decay.

The rule for any ``gamma`` (layer scale) stands in the ConvNeXt configurations only; a ResNet has no
such parameter.
"""

OFFICIAL_MOGANET = (*OFFICIAL_CNN_GAMMA, GroupRule(r"scale", weight_decay_scale=0.0))
"""MogaNet: as ConvNeXt, and its layer scales (``layer_scale_1``, ``sigma.scale``) do not decay.

Seen in one stored version of the official configuration.
"""

OFFICIAL_VIT = (
    *OFFICIAL_CNN[:1],
    GroupRule(r"norm", weight_decay_scale=0.0),
    GroupRule(r"bias", weight_decay_scale=0.0),
    GroupRule(r"token_blend\.token", weight_decay_scale=0.0),
    GroupRule(r"pos_embed", weight_decay_scale=0.0),
    GroupRule(r"cls_token", weight_decay_scale=0.0),
    GroupRule(r"gamma", weight_decay_scale=0.0),
)
"""ViT: the mask token learns at full speed.

Side effects: BEiT's ``relative_position_bias_table`` contains "bias" and does not decay; registers
(``reg_token``), which the official models do not have, match nothing and do.
"""


RULES = {
    "vit": OFFICIAL_VIT,
    "cnn": OFFICIAL_CNN,
    "cnn-gamma": OFFICIAL_CNN_GAMMA,
    "moganet": OFFICIAL_MOGANET,
}
"""The tables by the names that recipes have for them."""


def layer_decay_rules(depth: int, decay: float) -> tuple[GroupRule, ...]:
    """Layer-wise learning rates of a timm ViT, to be put behind a table.

        patch embedding, positions, prefix tokens    decay^(depth + 1)
        block i (from 0)                             decay^(depth - i)
        everything after the blocks                  1

    timm's ``param_groups_layer_decay`` scales the same way, except that it takes a last norm that
    stands before pooling (``norm``; ``fc_norm`` stands behind it) for a part of the last block.
    It multiplies the value of the schedule instead of its peak.

    Args:
        depth: number of blocks.
        decay: below 1 slows early layers (0.65 in the published runs).

    Raises:
        ValueError: if the decay is not in (0, 1] or there is no block.
    """
    if depth < 1 or not 0 < decay <= 1:
        raise ValueError(
            f"expected at least 1 block and a layer decay in (0, 1], got {depth} and {decay}"
        )
    stem = r"^(backbone\.)?(patch_embed|pos_embed|cls_token|reg_token|dist_token|norm_pre)\b"
    blocks = (
        GroupRule(rf"^(backbone\.)?blocks\.{i}\.", lr_scale=decay ** (depth - i))
        for i in range(depth)
    )
    return (GroupRule(stem, lr_scale=decay ** (depth + 1)), *blocks)


@dataclass(frozen=True)
class ScaledParameter:
    """What a table does to one parameter.

    Attributes:
        name: the parameter's name in its module.
        lr_scale: multiplies the peak learning rate.
        weight_decay_scale: multiplies the weight decay.
        rules: patterns that matched, in the order of the table; none leaves both scales at 1.
    """

    name: str
    lr_scale: float
    weight_decay_scale: float
    rules: tuple[str, ...]


def explain_groups(module: nn.Module, rules: Sequence[GroupRule]) -> list[ScaledParameter]:
    """Which rules took which parameter, for all trainable parameters in the module's order.

    A rule that takes none is no error, because families share tables.
    """
    rows = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        lr_scale = weight_decay_scale = 1.0
        taken = [rule for rule in rules if re.search(rule.pattern, name)]
        for rule in taken:
            lr_scale = lr_scale if rule.lr_scale is None else rule.lr_scale
            if rule.weight_decay_scale is not None:
                weight_decay_scale = rule.weight_decay_scale
        patterns = tuple(rule.pattern for rule in taken)
        rows.append(ScaledParameter(name, lr_scale, weight_decay_scale, patterns))
    return rows


def parameter_groups(
    module: nn.Module, lr: float, weight_decay: float, rules: Sequence[GroupRule]
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, one for each pair of scales that occurs.

    Args:
        module: its trainable parameters are grouped; frozen ones are left out.
        lr: base learning rate.
        weight_decay: base weight decay.
        rules: a table such as :data:`OFFICIAL_CNN`.

    Returns:
        Dicts with ``name`` ("lr x0.1, decay x0"), ``params``, ``lr`` (scaled), ``lr_scale`` and
        ``weight_decay`` (scaled). Do not combine them with timm's schedulers, which multiply by
        ``lr_scale`` once more.

    Raises:
        ValueError: if the learning rate or the weight decay is negative.
    """
    if lr < 0 or weight_decay < 0:
        raise ValueError(f"expected lr and weight decay of at least 0, got {lr} and {weight_decay}")
    parameters = dict(module.named_parameters())
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for row in explain_groups(module, rules):
        scales = (row.lr_scale, row.weight_decay_scale)
        group = groups.setdefault(
            scales,
            {
                "name": "lr x{:g}, decay x{:g}".format(*scales),
                "params": [],
                "lr": lr * row.lr_scale,
                "lr_scale": row.lr_scale,
                "weight_decay": weight_decay * row.weight_decay_scale,
            },
        )
        group["params"].append(parameters[row.name])
    return list(groups.values())


def fused_on(device: str, precision: str) -> bool | None:
    """What AdamW's option ``fused`` should be: whether one kernel updates many parameters.

    Not with float16: a fused optimiser skips a step by itself, and the engine cannot tell methods
    with an ``after_step`` that it did.

    Args:
        device: cpu, cuda or mps.
        precision: of the training.
    """
    return True if device in ("cpu", "cuda") and precision != "float16" else None


def adamw(
    module: nn.Module, lr: float, weight_decay: float, fused: bool | None = None
) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.999); biases, norms, tokens and position embeddings do not decay."""
    undecayed: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and not name.endswith(("pos_embed", "_token"))
            (decayed if plain else undecayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=fused)


def cosine_lr(step: int, steps: int, warmup: int, peak: float, final: float = 0.0) -> float:
    """Learning rate of a step: linear warm-up times a cosine that starts where warm-up ends.

        lr(i) = [final + (peak - final) (1 + cos(pi (i - W) / (T - W))) / 2]  *  min(i / W, 1)

    The published schedule of A2MIM on CNNs ("StepFix"); it starts at exactly 0.

    Args:
        step: i, from 0.
        steps: T, all steps.
        warmup: W, steps of warm-up.
        peak: the base learning rate.
        final: the learning rate at step T.

    Raises:
        ValueError: if warm-up does not end before training does.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"expected less warm-up than the {steps} steps, got {warmup}")
    cosine = final + 0.5 * (peak - final) * (1 + cos(pi * (step - warmup) / (steps - warmup)))
    return cosine * min(step / warmup, 1.0) if warmup else cosine


def plain_cosine_lr(
    step: int,
    steps: int,
    warmup: int,
    peak: float,
    final: float = 0.0,
    warmup_ratio: float = 0.0,
) -> float:
    """Learning rate of a step: linear warm-up times a cosine over all steps.

        lr(i) = [final + (peak - final) (1 + cos(pi i / T)) / 2]  *  w(i)

    Unlike in :func:`cosine_lr`, the cosine falls during warm-up already, so that the peak is not
    quite reached. The published schedule of fine-tuning ResNets (RSB: warm-up ratio 1e-5).

    Args:
        step: i, from 0.
        steps: T, all steps.
        warmup: W, steps of warm-up.
        peak: the base learning rate.
        final: the learning rate at step T.
        warmup_ratio: rho, the share of the learning rate at step 0.

    Raises:
        ValueError: if warm-up does not end before training does.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"expected less warm-up than the {steps} steps, got {warmup}")
    cosine = final + 0.5 * (peak - final) * (1 + cos(pi * step / steps))
    return cosine * _ramp(step, warmup, warmup_ratio)


def step_lr(step: int, drop: int, warmup: int, peak: float, warmup_ratio: float = 0.0) -> float:
    """Learning rate of a step: linear warm-up, then the peak, then a tenth of it.

        lr(i) = peak 0.1^[i >= drop]  *  w(i)

    The published schedule of ViTs: 800 epochs, the drop at epoch 700, warm-up ratio 2e-6.

    Args:
        step: i, from 0.
        drop: first step at a tenth of the learning rate.
        warmup: W, steps of warm-up.
        peak: the base learning rate.
        warmup_ratio: rho, the share of the learning rate at step 0.

    Raises:
        ValueError: if warm-up does not end before the drop.
    """
    if not 0 <= warmup < drop:
        raise ValueError(f"expected less warm-up than the {drop} steps to the drop, got {warmup}")
    return peak * (0.1 if step >= drop else 1.0) * _ramp(step, warmup, warmup_ratio)


def _ramp(step: int, steps: int, start: float) -> float:
    """w(i): from ``start`` at step 0 linearly to 1 at ``steps``."""
    return 1 - (1 - step / steps) * (1 - start) if step < steps else 1.0
