"""The networks of a measurement: timm models, with their own weights or those of a file."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.runs import UsageError


@dataclass(frozen=True)
class Subject:
    """One network under measurement.

    Attributes:
        name: of the timm model.
        weights: what its weights are called.
        model: in eval mode.
        transform: from a picture to what the model wants to see.
    """

    name: str
    weights: str
    model: nn.Module
    transform: Callable[[object], Tensor]


def load_subject(
    name: str,
    weights: Path | None,
    device: str,
    *,
    headless: bool = False,
    options: Mapping[str, object] | None = None,
    normalisation: Mapping[str, tuple[float, ...]] | None = None,
) -> Subject:
    """A timm model with its own weights or those of a file, and its own preprocessing.

    Args:
        name: of the timm model.
        weights: a file with exactly the keys of the model; its classifier tells the number of
            classes. None for timm's own weights.
        device: where the model goes.
        headless: take the classifier off: the model gives features. A file may have one or not.
        options: what the model is made with, beyond its name.
        normalisation: ``mean`` and ``std`` to use instead of the model's own.

    Raises:
        UsageError: if there is no such model, or its weights cannot be loaded.
    """
    import timm
    from timm.data import create_transform, resolve_model_data_config

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:3]
        raise UsageError(
            f"expected the name of a timm model, got {name!r}"
            + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    model: Any
    made_with: dict[str, Any] = dict(options or {})
    try:
        if weights is None:
            model = timm.create_model(name, pretrained=True, **made_with)
            called = name.partition(".")[2] or "timm default"
        else:
            state = _state(weights)
            classes = _classes(name, state)
            model = timm.create_model(name, num_classes=classes, **made_with)
            model.load_state_dict(state)
            called = weights.name
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"cannot load weights for {name}: {reason}") from error
    if headless:
        model.reset_classifier(0)
    elif not getattr(model, "num_classes", 0):
        raise UsageError(
            f"expected weights with a classifier for {name}, got none; without one, measure "
            "features with --reward projection"
        )
    wanted = {key: value for key, value in (normalisation or {}).items() if value}
    channels = getattr(model, "in_chans", None) or 3
    for key, value in wanted.items():
        if len(value) != channels or (key == "std" and not all(v > 0 for v in value)):
            raise UsageError(
                f"expected --{key} of {channels} numbers (above 0 for std), got {value}"
            )
    data = resolve_model_data_config(model) | wanted
    transform = create_transform(**data, is_training=False)
    return Subject(name, called, model.to(device).eval(), transform)


def model_options(pairs: Sequence[str]) -> dict[str, object]:
    """Options as NAME=VALUE, with values as Python writes them, or words.

    Raises:
        UsageError: for anything else.
    """
    options: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name.isidentifier()):
            raise UsageError(f"expected --model-kwargs as NAME=VALUE, got {pair!r}")
        try:
            options[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            options[name] = value
    return options


def _classes(name: str, state: dict[str, Tensor]) -> int:
    """How many classes the weights are for; 0 if they have no classifier."""
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(name)
    found = cfg.classifier if cfg else None
    classifier = found[0] if isinstance(found, tuple | list) else found
    if classifier is None:
        return 1000
    for key in (f"{classifier}.bias", f"{classifier}.weight"):
        if key in state:
            return len(state[key])
    return 0


def _state(path: Path) -> dict[str, Tensor]:
    """Weights of a file, never unpickled beyond tensors."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than weights and is not opened") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__} and not weights by name")
    state = state.get("state_dict", state)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds other things than weights by name")
    return state
