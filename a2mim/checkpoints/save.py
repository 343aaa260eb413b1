"""Weights on disk: safetensors, written whole or not at all, loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from a2mim.files import write_whole


def save_backbone(backbone: nn.Module, path: Path) -> None:
    """Write all parameters and buffers; an existing file is replaced only by a complete one."""
    save_weights(backbone.state_dict(), path)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name; an existing file is replaced only by a complete one."""
    state = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_whole(path, save(state))


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
