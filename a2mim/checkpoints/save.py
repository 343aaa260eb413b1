"""Weights on disk: safetensors, written whole or not at all, loaded strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from a2mim.files import write_whole

_POOLS = re.compile(r"^(Rot)?AttentionPool|ClassAttn|ClassAttention|^ClassBlock")
"""Classes of timm that pool by attention, or hold the attention of a class token alone."""


def save_backbone(backbone: nn.Module, path: Path) -> None:
    """Write all parameters and buffers; an existing file is replaced only by a complete one."""
    save_weights(backbone.state_dict(), path)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name; an existing file is replaced only by a complete one."""
    state = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_whole(path, save(state))


def pools_without_gradient(method: Any, images_BCHW: Tensor) -> list[str]:
    """Attention that only a classifier reads through, and that pre-training leaves as it was made.

    Found by one step of a copy on the CPU, where a backbone has such attention; elsewhere at once.

    Args:
        method: of pre-training, with a ``backbone``.
        images_BCHW: a few images of the size that it is made for.

    Returns:
        Names of modules of the backbone; those inside others are not named again.
    """
    found = [
        name for name, module in method.backbone.named_modules() if _POOLS.search(_kind(module))
    ]
    pools = [name for name in found if not any(name.startswith(f"{one}.") for one in found)]
    if not pools:
        return []
    with torch.random.fork_rng(devices=[]):
        copied = deepcopy(method).cpu().float().train()
        visible = copied.draw(torch.arange(len(images_BCHW)), 0)
        copied(images_BCHW.cpu().float(), visible)["loss"].backward()

    def moved(name: str) -> bool:
        gradients = [p.grad for p in copied.backbone.get_submodule(name).parameters()]
        return any(grad is not None and bool(grad.any()) for grad in gradients)

    return [name for name in pools if not moved(name)]


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load weights into a timm model; only its classifier may be absent from the file.

    Args:
        backbone: a timm model.
        path: a file of :func:`save_backbone`.

    Raises:
        ValueError: if the file is not safetensors, or if any key is missing, left over or of
            another shape. Nothing is loaded in that case.
    """
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected safetensors weights, cannot read {path}: {error}") from error
    own = backbone.state_dict()
    classifier = _classifier(backbone)
    missing = sorted(k for k in own.keys() - state.keys() if not k.startswith(classifier))
    unexpected = sorted(state.keys() - own.keys())
    reshaped = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    for what, keys in (("lacks", missing), ("has unknown", unexpected), ("reshapes", reshaped)):
        if keys:
            raise ValueError(
                f"expected the weights of this {type(backbone).__name__}, but {path} {what} "
                f"{keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
            )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def _classifier(backbone: nn.Module) -> tuple[str, ...]:
    """Prefixes of the classifier's keys, as timm names them."""
    names = getattr(backbone, "default_cfg", {}).get("classifier", ())
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
