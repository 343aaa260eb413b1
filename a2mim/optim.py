"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from math import cos, pi

import torch
from torch import nn


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
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
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)


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
