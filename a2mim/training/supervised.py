"""Fine-tuning: all weights of a pretrained network, with a new linear classifier, on labels.

    cross_entropy   L = mean over images of  - sum_k y~_k log softmax(z)_k
    binary          L = mean over images and classes of
                        - y~_k log sigmoid(z_k) - (1 - y~_k) log(1 - sigmoid(z_k))

z are the logits of the mixed image, y~ its smoothed and mixed classes (``mixing``). The binary loss
is that of "ResNet strikes back" (Wightman et al. 2021, arXiv:2110.00476), without a threshold.

:class:`FineTuning` is a method of the engine. What surrounds it, in the order of use:

    new_classifier(model, classes, generator, "mean")       in place
    set_drop_path(model, 0.1)                               in place
    rules = (*OFFICIAL_VIT, *decay_rules(model, 0.65))
    groups = parameter_groups(model, lr, weight_decay, rules)
    pretrain(FineTuning(model, Mixing()), samples, AdamW(groups), lr, labels_I=labels_I, ...)

Shapes: B images of C channels and H x W pixels, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from a2mim.training.mixing import Mixing, soft_targets
from a2mim.training.optim import GroupRule, layer_decay_rules

Loss = Literal["cross_entropy", "binary"]
Pooling = Literal["own", "mean", "token"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "binary": F.binary_cross_entropy_with_logits,
}
"""Logits and classes, float32 ``(B, K)`` both -> a mean."""

DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")  # what the blocks of all families call them
HEAD_STD = 0.02


class FineTuning(nn.Module):
    """A classifier in training, as the engine wants it.

    Args:
        model: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        mixing: what images are mixed by; None: by nothing.
        smoothing: of the classes, before they are mixed.
        loss: a key of :data:`LOSSES`.

    Raises:
        ValueError: for an unknown loss or a smoothing outside [0, 1).
    """

    def __init__(
        self,
        model: nn.Module,
        mixing: Mixing | None = None,
        smoothing: float = 0.0,
        loss: Loss = "cross_entropy",
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"expected a loss of {', '.join(LOSSES)}, got {loss!r}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"expected a label smoothing in [0, 1), got {smoothing}")
        self.model = model
        self.mixing = mixing
        self.smoothing = smoothing
        self.loss = loss

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """What mixing needs: ``Mixing.draw``, or rows with nothing in them."""
        return self.mixing.draw(count, generator) if self.mixing else torch.empty(count, 0)

    def forward(self, images_BCHW: Tensor, rows_BN: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        """Loss and logits of a micro-batch.

        Args:
            images_BCHW: normalised images.
            rows_BN: their rows of :meth:`draw`.
            labels_B: int64, their classes.

        Returns:
            ``loss``, a scalar, and ``output``, the logits ``(B, K)`` of the mixed images.
        """
        if self.mixing is None:
            logits_BK = self.model(images_BCHW)
            targets_BK = soft_targets(labels_B, logits_BK.shape[1], self.smoothing)
        else:
            mixed_BCHW, share_B = self.mixing.images(images_BCHW, rows_BN)
            logits_BK = self.model(mixed_BCHW)
            targets_BK = soft_targets(labels_B, logits_BK.shape[1], self.smoothing)
            targets_BK = self.mixing.targets(targets_BK, share_B)
        loss = LOSSES[self.loss](logits_BK.float(), targets_BK)
        return {"loss": loss, "output": logits_BK}


def new_classifier(
    model: nn.Module, classes: int, generator: torch.Generator, pooling: Pooling = "own"
) -> None:
    """Give a timm model a new linear classifier, and a ViT the pooling it is fine-tuned with.

    Weights are normal with a standard deviation of 0.02, cut off at +-2; biases are 0. A ViT has
    its last norm either before pooling (``norm``) or after it (``fc_norm``): where the pooling asks
    for the other place, the norm there starts anew, as in the published runs (SimMIM, BEiT, MAE),
    and the one that was pretrained is dropped.

    Args:
        model: changed in place.
        classes: K.
        generator: on the CPU.
        pooling: ``"mean"``: mean of the patch tokens, then norm; ``"token"``: norm, then the class
            token; ``"own"``: as the model has it.

    Raises:
        ValueError: for a pooling that the model cannot have, or a classifier that is not linear.
    """
    timm_model: Any = model
    # What timm draws for its classifier is overwritten below.
    with torch.random.fork_rng(devices=[]):
        if pooling == "own":
            timm_model.reset_classifier(classes)
        else:
            _check_pooling(model, pooling)
            timm_model.reset_classifier(classes, "avg" if pooling == "mean" else "token")
            here, there = ("fc_norm", "norm") if pooling == "mean" else ("norm", "fc_norm")
            if isinstance(getattr(model, here), nn.Identity):
                norm = getattr(model, there)
                if not isinstance(norm, nn.Identity):
                    norm.reset_parameters()
                setattr(model, here, norm)
                setattr(model, there, nn.Identity())
    head = timm_model.get_classifier()
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"expected a model with one linear classifier, {type(model).__name__} has a "
            f"{type(head).__name__}"
        )
    drawn = torch.empty(head.weight.shape)
    nn.init.trunc_normal_(drawn, std=HEAD_STD, generator=generator)
    with torch.no_grad():
        head.weight.copy_(drawn)
        if head.bias is not None:
            head.bias.zero_()


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Let a timm model leave out branches in training: block i of n with probability rate i/(n-1).

    Stochastic depth by the law of timm's ``drop_path_rate``, for a model that is there already.

    Args:
        model: changed in place.
        rate: probability in the last block; 0 leaves out none.

    Raises:
        ValueError: for a rate outside [0, 1), or a model without such blocks.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"expected a drop-path rate in [0, 1), got {rate}")
    blocks = [block for block in model.modules() if any(hasattr(block, k) for k in DROP_PATHS)]
    if not blocks and rate:
        raise ValueError(
            f"expected a model whose blocks can be left out, got {type(model).__name__}; "
            "use a drop-path rate of 0"
        )
    for i, block in enumerate(blocks):
        probability = rate * i / max(len(blocks) - 1, 1)
        for key in DROP_PATHS:
            if hasattr(block, key):
                setattr(block, key, DropPath(probability).train(block.training))


def decay_rules(model: nn.Module, decay: float) -> tuple[GroupRule, ...]:
    """Layer-wise learning rates of a timm model, to be put behind a table of rules.

    ViTs take ``optim.layer_decay_rules``; other families timm's own layers, from its stem (0) to
    its classifier (n): decay^(n - layer).

    Args:
        model: with its classifier.
        decay: below 1 slows early layers; 1 makes no rules.

    Raises:
        ValueError: for a decay outside (0, 1], or a model whose layers timm does not know.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"expected a layer decay in (0, 1], got {decay}")
    if decay == 1:
        return ()
    blocks = getattr(model, "blocks", None)
    if hasattr(model, "patch_embed") and isinstance(blocks, nn.Sequential | nn.ModuleList):
        return layer_decay_rules(len(blocks), decay)
    if not hasattr(model, "group_matcher"):
        raise ValueError(
            f"expected a model of timm for a layer decay, got {type(model).__name__}; "
            "use a layer decay of 1"
        )
    matcher = model.group_matcher(coarse=False)  # type: ignore[operator]
    names_of: dict[int, list[str]] = group_parameters(model, matcher)
    last = max(names_of)
    return tuple(
        GroupRule(f"^({'|'.join(map(re.escape, names))})$", lr_scale=decay ** (last - layer))
        for layer, names in names_of.items()
    )


def final_norm(model: nn.Module) -> Literal["before", "after", "none"]:
    """Where the last norm of a timm model stands: before pooling, after it, or nowhere."""
    head = getattr(model, "head", None)
    after = (getattr(model, "fc_norm", None), getattr(head, "norm", None))
    if any(_is_norm(norm) for norm in after):
        return "after"
    return "before" if _is_norm(getattr(model, "norm", None)) else "none"


def _is_norm(module: object) -> bool:
    return isinstance(module, nn.Module) and not isinstance(module, nn.Identity)


def _check_pooling(model: nn.Module, pooling: str) -> None:
    if pooling not in ("mean", "token"):
        raise ValueError(f"expected pooling 'own', 'mean' or 'token', got {pooling!r}")
    if not (hasattr(model, "fc_norm") and hasattr(model, "norm")):
        raise ValueError(
            f"expected a ViT for pooling {pooling!r}, got {type(model).__name__}; use 'own'"
        )
    if pooling == "token" and not getattr(model, "num_prefix_tokens", 1):
        raise ValueError("expected a ViT with a class token for pooling 'token'; use 'mean'")
