"""The training loop.

Shapes: B images in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from a2mim.training.optim import adamw, cosine_lr

StepLosses = Callable[[Tensor, torch.Generator], dict[str, Tensor]]
"""Indices ``(B,)`` of a batch and a generator -> losses; ``"loss"`` is minimised."""


def batch_indices(count: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices of ``steps`` batches, epoch after epoch in random order.

    The order of epoch e depends on (seed, e) only. An incomplete batch at its end is dropped.

    Raises:
        ValueError: if there are fewer images than one batch takes.
    """
    per_epoch = count // batch_size
    if per_epoch == 0:
        raise ValueError(f"expected at least {batch_size} images for a batch, got {count}")
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = torch.randperm(count, generator=_generator(seed, epoch))
        yield order[place * batch_size : (place + 1) * batch_size]


def train(
    module: nn.Module,
    step_losses: StepLosses,
    count: int,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    warmup: int,
    weight_decay: float = 0.05,
    seed: int = 0,
    on_step: Callable[[dict[str, float]], None] = lambda losses: None,
) -> list[float]:
    """Minimise a loss with AdamW and a cosine schedule.

    Args:
        module: what is trained; put in training mode here, and in eval mode at the end.
        step_losses: one forward pass over a batch.
        count: how many training images there are.
        steps: optimiser steps.
        batch_size: images per step.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        weight_decay: of AdamW.
        seed: names the order of images and what ``step_losses`` draws.
        on_step: called with the losses of every step.

    Returns:
        The loss of every step.

    Raises:
        FloatingPointError: at the first loss that is not finite.
    """
    optimiser = adamw(module, lr, weight_decay)
    history = []
    module.train()
    for step, indices_B in enumerate(batch_indices(count, batch_size, steps, seed)):
        for group in optimiser.param_groups:
            group["lr"] = cosine_lr(step, steps, warmup, lr)
        # A stream of its own per step: what is drawn does not depend on the steps before.
        losses = step_losses(indices_B, _generator(seed, -1 - step))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        scalars = {name: value.item() for name, value in losses.items() if value.ndim == 0}
        if not torch.isfinite(torch.tensor(scalars["loss"])):
            raise FloatingPointError(
                f"the loss is {scalars['loss']} at step {step}; lower the learning rate"
            )
        history.append(scalars["loss"])
        on_step(scalars)
    module.eval()
    return history


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) % 2**63)
