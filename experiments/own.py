"""Networks that timm does not have: a function in a Python file, and a file of weights for it.

``FILE.py:FUNCTION=WEIGHTS`` stands where a checkpoint is asked for, ``untrained:FILE.py:FUNCTION``
for random weights. The function takes nothing and returns a module:

    forward            images (B, C, H, W) -> outputs (B, classes)
    pretrained_cfg     how it wants its images, as in timm: input_size (C, H, W), mean, std, and if
                       they matter crop_pct and interpolation
    num_classes        0 for an encoder; if left out, the width of its outputs
    reset_classifier   takes 0 and leaves an encoder, as in timm; without it the outputs stand for
                       features where a network is measured without its classifier

The file is run, as any Python that is imported; the weights are read strictly and never unpickled.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timm.data import resolve_data_config
from torch import nn

from a2mim.convert import Loaded, LoadReport, fill
from a2mim.weight_files import weights_hash
from experiments.runs import UsageError

MARK = ".py:"
"""What tells such a network from timm's names."""


def build(network: str, seed: int = 0) -> nn.Module:
    """The module of ``FILE.py:FUNCTION``, in eval mode.

    Args:
        network: the file, and a function in it that takes nothing.
        seed: of its weights, which neither depend on nor change the global random state of torch.

    Raises:
        UsageError: if there is no such function, or it does not return a module.
    """
    file, _, function = network.rpartition(":")
    make = getattr(_imported(Path(file)), function, None)
    if not callable(make):
        raise UsageError(f"expected a function {function} in {file}, found none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = make()
        except Exception as error:  # whatever somebody else's code raises
            raise UsageError(f"{network} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"expected a torch module from {network}, got {type(module).__name__}")
    return module.eval()


def load_own(
    network: str,
    weights: str | None,
    *,
    image_size: int | None = None,
    data: Mapping[str, Any] | None = None,
    ema: bool = False,
    layout: str | None = None,
) -> Loaded:
    """A network of one's own with its weights, and how it wants its images.

    Args:
        network: ``FILE.py:FUNCTION``.
        weights: a file with the names and shapes of the module's tensors; None leaves the random
            weights of seed 0.
        image_size: edge of the images in pixels, if not the module's own.
        data: mean, std, crop_pct or interpolation, if not the module's own.
        ema: of two sets of weights, take the averaged ones.
        layout: of the file, if it is not recognised.

    Raises:
        UsageError: if the module or what it says of its images cannot be used.
        WeightsError: if the weights do not fit in every tensor.
    """
    module = build(network)
    name = network.rpartition(":")[2]
    if weights is None:
        state = module.state_dict()
        report = LoadReport(
            f"untrained:{network}",
            "untrained",
            name,
            dialect="its own",
            sha256=weights_hash(state),
            notes=("random weights of seed 0",),
        )
    else:
        report = fill(module, weights, ema="ema" if ema else "plain", layout=layout)
    config = _data_config(network, module, image_size, dict(data or {}))
    outputs = _outputs(network, module, config["input_size"])
    classes = int(getattr(module, "num_classes", outputs))
    notes = [note for note in report.notes if "up to the caller" not in note]
    if not hasattr(module, "reset_classifier"):
        notes.append("no reset_classifier: outputs are taken where features are wanted")
    about = {
        **vars(report),
        "architecture": name,
        "image_size": config["input_size"][1],
        "classes": classes,
        "notes": tuple(notes),
    }
    return Loaded(module, config, LoadReport(**about))


def _imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"own_{file.stem}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UsageError(f"expected a Python file at {file}, found none")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody else's code raises
        raise UsageError(f"{file} failed: {type(error).__name__}: {error}") from error
    return module


def _data_config(
    network: str, module: nn.Module, image_size: int | None, data: dict[str, Any]
) -> dict[str, Any]:
    told = {**getattr(module, "pretrained_cfg", {}), **data}
    if image_size:
        told["input_size"] = (3, image_size, image_size)
    missing = [key for key in ("input_size", "mean", "std") if not told.get(key)]
    if missing:
        raise UsageError(
            f"expected a pretrained_cfg with input_size, mean and std on what {network} returns, "
            f"got none of {', '.join(missing)}; or give --image-size, --mean and --std"
        )
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=told)
    return config


def _outputs(network: str, module: nn.Module, size: tuple[int, ...]) -> int:
    """The width of the outputs, once an image of zeros has gone through."""
    try:
        with torch.inference_mode():
            outputs = module(torch.zeros(1, *size))
    except Exception as error:  # whatever somebody else's code raises
        raise UsageError(f"{network} failed on one image {size}: {error}") from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        what = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise UsageError(f"expected outputs (B, classes) from {network}, got {what}")
    return int(outputs.shape[1])
