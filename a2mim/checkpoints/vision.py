"""Networks of torchvision by name, with the weights of a file: ``torchvision:NAME=FILE``.

Nothing is downloaded. How a network sees its images is what torchvision says of the weights whose
file has this name; of other files what all of its weights for this network agree on, and of the
rest what it says of the oldest ones, as an assumption.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any

from torch import nn

from a2mim.checkpoints.files import Variant, one_line, read_state
from a2mim.messages import UsageError, did_you_mean

TORCHVISION = "torchvision:"
"""What the names of these networks begin with."""


def names() -> list[str]:
    """The classifiers of torchvision, quantised ones left out."""
    from torchvision import models

    return list(models.list_models(module=models))


def make(network: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A network of torchvision with random weights, in the form that custom.py asks for.

    Args:
        network: ``torchvision:NAME``.
        options: what it is made with, such as ``num_classes``.

    Raises:
        UsageError: if there is no such network, or it cannot be made with these options.
    """
    from torchvision import models

    name = _known(network)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Inception's, on how its weights are drawn
            model = models.get_model(name, weights=None, **(options or {}))
    except Exception as error:  # networks refuse options by whatever fails first
        raise UsageError(f"cannot make {network}: {one_line(error)}; see the options") from error
    model.num_classes = len(model.get_submodule(classifier_of(model)).weight)
    model.reset_classifier = MethodType(_reset_classifier, model)  # bound, so that copies have own
    return model


def classifier_of(model: nn.Module) -> str:
    """The name of the last linear layer, or of the last convolution where there is none."""
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    # Inception and GoogLeNet have others beside the stem, which see images in training alone.
    own = [name for name in linear if not name.lower().startswith("aux")]
    convolutions = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]
    return (own or convolutions)[-1]


def look(network: str, file: str | Path | None) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """How a network sees its images, by the name of the file of its weights.

    Args:
        network: ``torchvision:NAME``.
        file: of the weights; None for random ones, about which nothing is to be known.

    Returns:
        A ``pretrained_cfg`` of timm's kind; which of its entries are known; and the name of
        torchvision's weights that it is of.
    """
    from torchvision import models

    all_weights = list(models.get_model_weights(_known(network)))
    looks = [_look(weights) for weights in all_weights]
    here = Path(file or all_weights[0].url).name
    for weights, found in zip(all_weights, looks, strict=True):
        if Path(weights.url).name == here:
            return found, tuple(found), str(weights)
    agreed = [key for key in looks[0] if all(one[key] == looks[0][key] for one in looks)]
    return looks[0], tuple(agreed), str(all_weights[0])


def classes_in(file: str | Path, classifier: str, ema: Variant) -> int | None:
    """How many classes a file has, by the weights of its classifier; None if it has none.

    Raises:
        WeightsError: if the file cannot be read.
    """
    if not Path(file).is_file():
        return None
    state = read_state(Path(file), ema).tensors
    found = [
        len(value) for name, value in state.items() if f".{name}".endswith(f".{classifier}.weight")
    ]
    return found[0] if len(found) == 1 else None


def _known(network: str) -> str:
    name = network.removeprefix(TORCHVISION)
    if name not in names():
        raise UsageError(
            f"expected the name of a classifier of torchvision, got {network!r}"
            f"{did_you_mean(name, names(), most=3)}"
        )
    return name


def _look(weights: Any) -> dict[str, Any]:
    view = weights.transforms()
    crop, resized = view.crop_size[0], view.resize_size[0]
    return {
        "input_size": (3, crop, crop),
        "mean": tuple(view.mean),
        "std": tuple(view.std),
        "crop_pct": crop / resized,
        "interpolation": view.interpolation.value,
    }


def _reset_classifier(self: Any, classes: int = 0) -> None:
    """As timm's, for 0 classes: outputs are then the features that the classifier was handed."""
    if classes:
        raise ValueError(f"expected 0 classes, got {classes}: make the network with num_classes")
    name = classifier_of(self)
    parent, _, own = name.rpartition(".")
    if isinstance(self.get_submodule(name), nn.Conv2d):  # SqueezeNet pools what it has classified
        self.classifier = nn.AdaptiveAvgPool2d(1)
    else:
        setattr(self.get_submodule(parent), own, nn.Identity())
    self.num_classes = 0
