"""Networks that timm does not have: a function in a Python file, and a file of weights for it.

``FILE.py:FUNCTION=WEIGHTS`` stands where a checkpoint is asked for, ``untrained:FILE.py:FUNCTION``
for random weights. The function takes nothing and returns a module:

    forward            images (B, C, H, W) -> outputs (B, classes)
    pretrained_cfg     how it wants its images, as in timm: input_size (C, H, W), mean, std,
                       crop_pct and interpolation; the last two are assumed where it does not tell
    num_classes        0 for an encoder; if left out, the width of its outputs
    reset_classifier   takes 0 and leaves an encoder, as in timm; without it the outputs stand for
                       features where a network is measured without its classifier

``torchvision:NAME`` in the place of ``FILE.py:FUNCTION`` is a network of torchvision
(:mod:`a2mim.checkpoints.vision`). A module that is there already, as in a notebook, is one too:
:func:`kept_in_memory` gives it a name in this process.

The file is run, as any Python that is imported, and may import what lies beside it; the weights are
read strictly and never unpickled.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timm.data import resolve_data_config
from timm.layers import to_2tuple
from torch import nn

from a2mim.checkpoints.files import Variant, contents_hash, one_line, weights_hash
from a2mim.checkpoints.load import Loaded, LoadReport, assumed_classes, assumed_look, fill, look_of
from a2mim.checkpoints.vision import TORCHVISION, classes_in, classifier_of, look, make
from a2mim.data.arrays import size_of_images
from a2mim.messages import UsageError
from interactions.keys import torch_seeded

Checkpoint = str | Path | nn.Module

MARK = ".py:"
"""What tells such a network from timm's names."""

IN_MEMORY = "memory:"
"""What the names of modules of this process begin with."""

_modules: dict[str, nn.Module] = {}

AS_IT_IS = "no reset_classifier: outputs are taken where features are wanted"
"""The note of a report on a network whose classifier cannot be taken off."""


def kept_in_memory(module: nn.Module, title: str) -> str:
    """A name under which commands in this process find a module.

    They measure copies, so it is neither moved nor changed.

    Args:
        module: in eval mode or not; what it says of its images is on top of this file.
        title: what it is called; another module of this title takes its place.
    """
    name = f"{IN_MEMORY}{title}"
    _modules[name] = module
    return name


def names_of(
    checkpoints: Checkpoint | Sequence[Checkpoint] | Mapping[str, nn.Module],
) -> tuple[str, ...]:
    """Names of checkpoints, as commands take them.

    Args:
        checkpoints: one, or several; modules by what they are to be called, or in a list: then each
            is called by its class, with a number if several are of one.
    """
    if isinstance(checkpoints, str | Path | nn.Module):
        checkpoints = [checkpoints]
    if isinstance(checkpoints, Mapping):
        return tuple(kept_in_memory(module, title) for title, module in checkpoints.items())
    classes = Counter(type(one).__name__ for one in checkpoints)
    seen: Counter[str] = Counter()
    names = []
    for one in checkpoints:
        if not isinstance(one, nn.Module):
            names.append(str(one))
            continue
        title = type(one).__name__
        seen[title] += 1
        names.append(kept_in_memory(one, f"{title}-{seen[title]}" if classes[title] > 1 else title))
    return tuple(names)


def load_kept(
    name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Loaded:
    """A copy of a module of :func:`kept_in_memory`, and how it wants its images.

    Args:
        name: as that function gave it.
        image_size: as for :func:`load_own`.
        data: as for :func:`load_own`.

    Raises:
        UsageError: if there is none, or what it says of its images cannot be used.
    """
    module = _copied(name)
    state = module.state_dict()
    report = LoadReport(
        name,
        "memory",
        type(module).__name__,
        dialect="its own",
        sha256=weights_hash(state),
        contents=contents_hash(state),
        notes=("a module of this process",),
        title=name.removeprefix(IN_MEMORY),
    )
    return _described(name, module, report, image_size, data)


def untrained_twin(name: str, seed: int) -> nn.Module:
    """A copy of a module of :func:`kept_in_memory` with fresh weights.

    They are drawn by the ``reset_parameters`` of its layers, and by its own ``init_weights``, if it
    has one.

    Raises:
        UsageError: if a parameter is drawn by none of them.
    """
    module = _copied(name)
    with torch_seeded(seed), torch.no_grad():
        for value in module.parameters():
            value.fill_(torch.nan)
        for part in module.modules():
            for function in ("reset_parameters", "init_weights"):
                if callable(make := getattr(part, function, None)):
                    make()
    left = [key for key, value in module.named_parameters() if not value.isfinite().all()]
    if left:
        raise UsageError(
            f"expected layers that draw their own weights (reset_parameters, init_weights) for an "
            f"untrained {name}, got none for {len(left)} of its parameters, such as "
            f"{left[0]}; leave similarity out, or give CODE.py:FUNCTION=FILE"
        )
    return module


def _copied(name: str) -> nn.Module:
    if name not in _modules:
        raise UsageError(f"expected a module of this process, got {name!r}; give the module again")
    return copy.deepcopy(_modules[name]).cpu().eval()


def split_own(name: str) -> tuple[str, str | None] | None:
    """``FILE.py:FUNCTION`` and weights of a name, None without such a function.

    There may be an equals sign in the path of the code as well as in that of the weights.
    """
    found = re.fullmatch(r"(.*?\.py:\w+)(?:=(.*))?", name)
    return None if found is None else (found[1], found[2])


def code_hash(network: str) -> str:
    """SHA-256 of the code of ``FILE.py:FUNCTION``: its file, and what that imports beside it.

    Empty for a network of torchvision, whose version is recorded with every run.

    Raises:
        UsageError: as for :func:`build`.
    """
    if network.startswith(TORCHVISION):
        return ""
    _, files = _built(network, 0)
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def build(network: str, seed: int = 0, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The module of ``FILE.py:FUNCTION``, or of torchvision, in eval mode.

    Args:
        network: the file, and a function in it that takes nothing; or ``torchvision:NAME``.
        seed: of its weights, which neither depend on nor change the global random state of torch.
        options: what a network of torchvision is made with.

    Raises:
        UsageError: if there is no such function, or it does not return a module.
    """
    if network.startswith(TORCHVISION):
        with torch_seeded(seed):
            return make(network, options).eval()
    return _built(network, seed)[0]


def _built(network: str, seed: int) -> tuple[nn.Module, list[Path]]:
    """The module, and the files of its code."""
    file, function = _code(network), network.rpartition(":")[2]
    with torch_seeded(seed), _neighbours(file.resolve().parent) as beside:
        make = getattr(_imported(file), function, None)
        if not callable(make):
            raise UsageError(f"expected a function {function} in {file}, found none")
        try:
            module = make()
        except Exception as error:  # whatever somebody else's code raises
            raise UsageError(f"{network} failed: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"expected a torch module from {network}, got {type(module).__name__}")
    try:
        return module.eval(), [file, *beside]
    except Exception as error:  # of an eval of its own
        raise UsageError(
            f"expected a module from {network} that can be put in eval mode: {one_line(error)}"
        ) from error


def load_own(
    network: str,
    weights: str | None,
    *,
    image_size: int | tuple[int, int] | None = None,
    data: Mapping[str, Any] | None = None,
    ema: bool = False,
    layout: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """A network of one's own with its weights, and how it wants its images.

    Args:
        network: ``FILE.py:FUNCTION`` or ``torchvision:NAME``.
        weights: a file with the names and shapes of the module's tensors; None leaves the random
            weights of seed 0.
        image_size: edge of the images in pixels, or height and width, if not the module's own.
        data: mean, std, crop_pct or interpolation, if not the module's own.
        ema: of two sets of weights, take the averaged ones.
        layout: of the file, if it is not recognised.
        options: what a network of torchvision is made with; it has as many classes as the file,
            if they do not say otherwise.

    Raises:
        UsageError: if the module or what it says of its images cannot be used.
        WeightsError: if the weights do not fit in every tensor.
    """
    variant: Variant = "ema" if ema else "plain"
    theirs = network.startswith(TORCHVISION)
    made = dict(options or {})
    module: Any = build(network, 0, made)
    if theirs and weights is not None and "num_classes" not in made:
        classes = classes_in(weights, classifier_of(module), variant)
        if classes not in (None, module.num_classes):
            made["num_classes"] = classes
            module = build(network, 0, made)
    name = network if theirs else network.rpartition(":")[2]
    if weights is None:
        state = module.state_dict()
        report = LoadReport(
            f"untrained:{network}",
            "untrained",
            name,
            dialect="its own",
            sha256=weights_hash(state),
            contents=contents_hash(state),
            notes=("random weights of seed 0",),
            seed=0,
        )
    else:
        report = fill(module, weights, ema=variant, layout=layout)
        if layout is None:  # whatever the names of its tensors look like
            report = replace(report, layout="own module", dialect="timm")
    report = replace(report, architecture=name, options=made)
    if not theirs:
        return _described(network, module, report, image_size, data)
    module.pretrained_cfg, known, whose = look(network, weights)
    note = f"images as torchvision prepares them for {whose}"
    report = replace(report, notes=(*report.notes, note))
    why = f"torchvision's for {whose}, the name of the file does not tell"
    return _described(network, module, report, image_size, data, known, why)


def _described(
    network: str,
    module: nn.Module,
    report: LoadReport,
    image_size: int | tuple[int, int] | None,
    data: Mapping[str, Any] | None,
    known: Collection[str] | None = None,
    why: str = "",
) -> Loaded:
    """A module with its weights, what it says of its images, and the report on both.

    Args:
        network: its name.
        module: with its weights.
        report: on them.
        image_size: as for :func:`load_own`.
        data: as for :func:`load_own`.
        known: of what the module says, what is no assumption: all of it if left out.
        why: where assumptions come from.
    """
    said = getattr(module, "pretrained_cfg", {})
    told = {**said, **(data or {})}
    config = _data_config(network, module, told, image_size)
    outputs = _outputs(network, module, config["input_size"])
    classes = int(getattr(module, "num_classes", outputs))
    notes = [note for note in report.notes if "up to the caller" not in note]
    if not hasattr(module, "reset_classifier"):
        notes.append(AS_IT_IS)
    H, W = config["input_size"][1:]
    certain = {key for key in (said if known is None else known) if told.get(key)} | set(data or {})
    why = why or f"timm's default, the pretrained_cfg of {report.architecture} does not tell"
    about = replace(
        report,
        image_size=H if H == W else (H, W),
        classes=classes,
        look=look_of(config),
        notes=tuple(notes),
        assumed=assumed_look(config, certain, why) + report.assumed + assumed_classes(classes),
    )
    return Loaded(module, config, about)


def _code(network: str) -> Path:
    """The file of ``FILE.py:FUNCTION``."""
    file = Path(network.rpartition(":")[0])
    if not file.is_file():
        raise UsageError(f"expected a Python file at {file}, found none")
    return file


def _imported(file: Path) -> ModuleType:
    """The file as a module of its own name, run anew."""
    where = hashlib.blake2b(str(file.resolve()).encode(), digest_size=4).hexdigest()
    name = f"own_{file.stem}_{where}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, among others, look for it there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody else's code raises
        raise UsageError(f"{file} failed: {one_line(error)}") from error
    return module


@contextmanager
def _neighbours(folder: Path) -> Iterator[list[Path]]:
    """Let a file import what lies beside it, as it can where it is run itself.

    What it has imported is forgotten again: another folder may have other files of these names.
    Their paths are in the list that is given, by name of the module, once this has ended.
    """
    files: list[Path] = []
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield files
    finally:
        sys.path.remove(str(folder))
        for name in sorted(sys.modules.keys() - before):
            top = name.partition(".")[0]
            beside = (folder / f"{top}.py").is_file() or (folder / top).is_dir()
            if top not in before and beside:
                origin = getattr(sys.modules.pop(name), "__file__", None)
                files += [Path(origin)] if origin else []  # a folder without __init__.py has none


def _data_config(
    network: str,
    module: nn.Module,
    told: dict[str, Any],
    image_size: int | tuple[int, int] | None,
) -> dict[str, Any]:
    made_for = size_of_images(module)
    channels = getattr(module, "in_chans", (told.get("input_size") or (3,))[0])
    if image_size:
        told = {**told, "input_size": (channels, *to_2tuple(image_size))}
    elif made_for is not None:  # a ViT of timm's, whose pretrained_cfg may be of another size
        told = {**told, "input_size": (channels, *made_for)}
    missing = [key for key in ("input_size", "mean", "std") if not told.get(key)]
    if missing:
        where, options = f"what {network} returns", "--image-size, --mean and --std"
        if network.startswith(IN_MEMORY):
            where = f"the module {network.removeprefix(IN_MEMORY)}"
            options = "image_size, mean and std"
        raise UsageError(
            f"expected a pretrained_cfg with input_size, mean and std on {where}, "
            f"got none of {', '.join(missing)}; or give {options}"
        )
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=told)
    return config


def _outputs(network: str, module: nn.Module, size: tuple[int, ...]) -> int:
    """The width of the outputs, once an image of zeros has gone through."""
    try:
        with torch.inference_mode():
            outputs = module(torch.zeros(1, *size))
    except Exception as error:  # whatever somebody else's code raises
        raise UsageError(f"{network} failed on one image {size}: {one_line(error)}") from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        what = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise UsageError(f"expected outputs (B, classes) from {network}, got {what}")
    return int(outputs.shape[1])
