"""From public weights to a timm model: strict, with a report of every key.

    file --layouts--> tensors by timm names --shapes--> architecture --> model, report, data config

Every tensor of the file is loaded, dropped for a stated reason, or an error; so is every tensor of
the model: nothing stays random. A file without a classifier gives a model without one. What shapes
cannot tell (attention heads, normalisation, padding) comes from the layout, from the caller, or is
an error that names the choices.

Position embeddings and tables of relative positions are resampled only where another image size is
asked for, as timm resamples them when it loads its own weights.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed, to_2tuple
from torch import Tensor, nn

from a2mim.checkpoints.architectures import channels_of, classes_of, infer, structure, untold
from a2mim.checkpoints.files import (
    AVERAGES,
    WRAPPERS,
    StateFile,
    Variant,
    WeightsError,
    contents_hash,
    first_names,
    one_line,
    read_state,
    weights_hash,
)
from a2mim.checkpoints.folders import LOCAL, SUFFIXES, beside, weights_in
from a2mim.checkpoints.renaming import AVERAGED_BESIDE, OTHER_SET, Renamed, rename
from a2mim.data.arrays import data_config, size_of_images
from a2mim.data.sampler import keyed_generator
from a2mim.messages import did_you_mean

UNTRAINED = "untrained:"
HUB = "hf-hub:"
_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var")
LOOK = ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")
"""How a network sees its images, by timm's names."""
_TOLD = ("mean", "std", "crop_pct", "interpolation")
_HOW = {
    "mean": "--mean",
    "std": "--std",
    "crop_pct": "--crop-pct",
    "interpolation": "--interpolation",
    "pad_type": "pad_type=same",
    "bn_eps": "bn_eps=0.001",
    "set of weights": "--ema or --no-ema",
    "entry": "a file of the other entry alone",
    "class indices": "other indices in labels.csv",
}
"""Setting that may be assumed -> how it is given on the command line."""
_BACKGROUND = 1001
_TENSORFLOW = "weights from TensorFlow need pad_type same, and bn_eps 0.001"


@dataclass(frozen=True)
class Assumed:
    """A setting that decides numbers and that nothing told, and what was taken for it.

    Attributes:
        setting: what it is called, such as ``"mean"`` or ``"pad_type"``.
        value: what was taken, as text.
        why: where the value comes from, and what else it may be.
    """

    setting: str
    value: str
    why: str


def assumptions(assumed: Sequence[Assumed]) -> list[str]:
    """What was assumed and how it is given instead, a sentence for each reason."""
    reasons: dict[str, list[Assumed]] = {}
    for one in assumed:
        reasons.setdefault(one.why, []).append(one)
    sentences = []
    for why, of in reasons.items():
        values = ", ".join(f"{one.setting} {one.value}" for one in of)
        how = " ".join(_HOW[one.setting] for one in of)
        if "=" in how:
            how = f"--model-kwargs {how}"
        told = of[0].setting in _TOLD or "=" in how
        own = " for all networks, --for CKPT NAME=VALUE for one" if told else ""
        sentences.append(f"{values} ({why}); to change: {how}{own}")
    return sentences


def assumed_look(config: Mapping[str, Any], told: Iterable[str], why: str) -> tuple[Assumed, ...]:
    """The settings of a data config that nothing told.

    Args:
        config: of timm, as the network will be used.
        told: names of the settings that are known.
        why: where the others come from.
    """
    return tuple(Assumed(key, as_text(config[key]), why) for key in _TOLD if key not in set(told))


def look_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a data config, what decides how images are seen."""
    return {key: config[key] for key in LOOK if key in config}


def assumed_classes(outputs: int) -> tuple[Assumed, ...]:
    """That class indices of images are outputs, where one output may be a background class."""
    if outputs != _BACKGROUND:
        return ()
    why = "in TensorFlow output 0 is a background class, and classes are one higher"
    return (Assumed("class indices", f"as they are for {outputs} outputs", why),)


def as_text(value: object) -> str:
    """A setting as text: numbers with spaces between them."""
    if isinstance(value, tuple | list):
        return " ".join(map(as_text, value))
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class LoadReport:
    """What became of weights on their way into a timm model.

    Attributes:
        source: the name or file that was asked for.
        layout: as which kind of file it was read; ``"timm"`` for timm's own names.
        dialect: whose module names it has.
        variant: ``"plain"`` or ``"ema"``: which of two sets of weights was taken.
        architecture: timm's name.
        options: what the model is made with beyond its name.
        image_size: edge in pixels that the model is made for, or height and width if they differ;
            None for any size.
        classes: outputs of the classifier; 0 without one.
        look: how it sees its images: mean, std, input_size, crop_pct, crop_mode, interpolation.
        loaded: name in the model -> name in the file.
        dropped: name in the file -> why it is not needed.
        resampled: name in the model -> (shape in the file, shape in the model).
        sha256: content hash of the weights under timm's names
            (:func:`a2mim.checkpoints.files.weights_hash`): the same for one network in any layout.
        contents: hash of the values alone (:func:`a2mim.checkpoints.files.contents_hash`): the same
            where modules call their tensors otherwise.
        notes: what else there is to know, for people.
        assumed: settings that decide numbers and that nothing told.
        without_gradient: modules that a pre-training of ours left as they were made: attention
            pools.
        entries: what else the file holds: entry -> what it is; text of its header.
        title: what the network is to be called, if the user says so.
        apart: the end of the path of its file that tells it from others of the same name, where
            there are such.
        parameters: of the network, where that was counted.
        class_names: of the outputs, where they were given with the classifier.
        seed: of random weights; None for others.
    """

    source: str
    layout: str
    architecture: str
    dialect: str = "timm"
    variant: str = "plain"
    options: dict[str, Any] = field(default_factory=dict)
    image_size: int | tuple[int, int] | None = None
    classes: int = 0
    look: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    resampled: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    sha256: str = ""
    contents: str = ""
    notes: tuple[str, ...] = ()
    assumed: tuple[Assumed, ...] = ()
    without_gradient: tuple[str, ...] = ()
    entries: dict[str, str] = field(default_factory=dict)
    title: str = ""
    apart: str = ""
    parameters: int = 0
    class_names: tuple[str, ...] = ()
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return json.loads(json.dumps(asdict(self), default=str))

    def __str__(self) -> str:
        """A few lines for people."""
        options = ", ".join(f"{k}={v}" for k, v in self.options.items())
        reasons = Counter(self.dropped.values())
        dropped = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
        size = pixels(self.image_size) if self.image_size else "any image size"
        seen = ", ".join(f"{key} {as_text(value)}" for key, value in self.look.items())
        lines = [
            f"{self.source}: {_kind(self.layout, self.dialect)}, {self.variant} weights",
            f"  -> {self.architecture}({options}), {size}, {self.classes or 'no'} classes",
            f"  {len(self.loaded)} tensors loaded, {len(self.dropped)} dropped"
            + (f" ({dropped})" if dropped else "")
            + (f", {len(self.resampled)} resampled" if self.resampled else ""),
            *([f"  sees images: {seen}"] if seen else []),
            f"  sha256 of the weights {self.sha256}",
            *(f"  note: {note}" for note in self.notes),
            *(f"  assumed: {sentence}" for sentence in assumptions(self.assumed)),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Loaded:
    """A network ready to be measured.

    Attributes:
        model: in eval mode; its ``pretrained_cfg`` agrees with ``data_config``.
        data_config: input_size, mean, std, interpolation, crop_pct, crop_mode: the arguments of
            ``timm.data.create_transform``.
        report: what became of the weights.
    """

    model: nn.Module
    data_config: dict[str, Any]
    report: LoadReport


@dataclass(frozen=True)
class _Plan:
    """How the tensors of a file go into a timm model."""

    source: str
    file: StateFile
    renamed: Renamed
    layout: str
    variant: Variant
    architecture: str
    options: dict[str, Any]
    resample: bool
    data: dict[str, Any]
    notes: tuple[str, ...]
    assumed: tuple[Assumed, ...]
    look_told: bool = False
    own: bool = False
    idle: tuple[str, ...] = ()


def load_model(
    name: str | Path,
    *,
    architecture: str | None = None,
    options: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    ema: Variant = "plain",
    layout: str | None = None,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Loaded:
    """A timm model with public weights, and how it wants its images.

    Args:
        name: a timm name with or without a tag (with timm's weights), ``hf-hub:user/repo``,
            ``untrained:NAME`` for a random baseline, or a file; see
            :mod:`a2mim.checkpoints.layouts` for what files are recognised, and those of ``a2mim
            pretrain``. Also a folder, with or without timm's ``local-dir:``
            (:mod:`a2mim.checkpoints.folders`): a run, or one that timm has written.
        architecture: timm name, for files that do not tell it. With a tag, normalisation, crop and
            interpolation are those of the tag.
        options: arguments of the timm model; they go before what the file seems to tell.
        image_size: edge of the images in pixels, or height and width; the file's own if None.
        ema: which of two sets of weights, for files and folders that hold averaged ones beside the
            others. In
            OpenMixup's files ``"ema"`` takes those under ``ema_*``; which are the averages differs
            between its tools: evaluate both.
        layout: name of a layout, for files that are not recognised.
        data: mean, std, crop_pct or interpolation, to use instead of the weights' own.
        seed: of the weights of ``untrained:NAME``.

    Raises:
        WeightsError: one line, if there are no such weights, or they do not fit in every key.
    """
    name = str(name)
    if not _is_file(name):
        for value, called in ((architecture, "architecture"), (layout, "layout")):
            if value is not None:
                raise WeightsError(f"expected a file with {called}={value!r}, got {name!r}")
        if ema != "plain":
            raise WeightsError(f"expected a file with averaged weights for ema, got {name!r}")
        return _load_named(name, dict(options or {}), image_size, dict(data or {}), seed)
    plan = _planned(name, architecture, dict(options or {}), image_size, ema, layout)
    with torch.random.fork_rng(devices=[]):
        model = _create(plan.architecture, plan.options)
    state, report = _fit(plan, model)
    model.load_state_dict(state, strict=True)
    data = {**plan.data, **(data or {})}
    asked = image_size or (options or {}).get("img_size")
    config = _data_config(model, data, asked)
    if image_size is not None:
        _check_size(model.eval(), config["input_size"], plan.architecture)
    report = replace(report, notes=(*report.notes, *unseen(model, config["input_size"])))
    return _ready(model, config, _with_look(report, plan, config, data))


def describe(
    path: str | Path,
    *,
    architecture: str | None = None,
    options: Mapping[str, Any] | None = None,
    ema: Variant = "plain",
    layout: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> LoadReport:
    """What a file is recognised as, and what loading it would report; no model is filled.

    Args:
        path: a weights file, or a folder with one.
        architecture: as for :func:`load_model`, as the others.
        options: of the timm model.
        ema: which of two sets of weights.
        layout: name of a layout.
        data: mean, std, crop_pct or interpolation.

    Raises:
        WeightsError: as loading it would.
    """
    plan = _planned(path, architecture, dict(options or {}), None, ema, layout)
    with torch.device("meta"):
        model = _create(plan.architecture, plan.options)
    data, report = {**plan.data, **(data or {})}, _fit(plan, model)[1]
    config = _data_config(model, data, (options or {}).get("img_size"))
    return _with_look(report, plan, config, data)


def fill(
    module: nn.Module,
    path: str | Path,
    *,
    ema: Variant = "plain",
    layout: str | None = None,
) -> LoadReport:
    """Fill a module of your own, for networks that timm does not have; as strict as the rest.

    Args:
        module: names and shapes of its tensors are those of the file, prefixes of wrappers aside.
        path: a weights file, or a folder with one.
        ema: as for :func:`load_model`.
        layout: name of a layout, if the file is of one.

    Raises:
        WeightsError: as for :func:`load_model`; the module is not changed then.
    """
    source, file, of_file = _read(path, ema)
    renamed = rename(file, of_file, layout or "timm")
    plan = _Plan(
        source=source,
        file=file,
        renamed=renamed,
        layout=renamed.layout.name,
        variant=ema,
        architecture=type(module).__name__,
        options={},
        resample=False,
        data={},
        notes=("normalisation, crop and interpolation are up to the caller",),
        assumed=_assumed_set(file, renamed, of_file),
        own=True,
    )
    state, report = _fit(plan, module)
    module.load_state_dict(state, strict=True)
    return report


def _is_file(name: str) -> bool:
    if name.startswith(LOCAL):
        return True
    if name.startswith((HUB, UNTRAINED)) or timm.is_model(name):
        return False
    return Path(name).exists() or name.endswith(SUFFIXES) or "/" in name


def _load_named(
    name: str,
    options: dict[str, Any],
    image_size: int | tuple[int, int] | None,
    data: dict[str, Any],
    seed: int,
) -> Loaded:
    """A timm or hub name, with its weights or untrained."""
    untrained = name.startswith(UNTRAINED)
    known = name.removeprefix(UNTRAINED)
    if not known.startswith(HUB) and not timm.is_model(known):
        hint = did_you_mean(known, timm.list_models(), most=3)
        raise WeightsError(
            f"expected the name of a timm model, {HUB}USER/NAME, {UNTRAINED}NAME, a run folder, a "
            f"file, NETWORK=FILE, torchvision:NETWORK=FILE or CODE.py:FUNCTION=FILE, got "
            f"{name!r}{hint}"
        )
    random = sorted({"num_classes", "in_chans"} & {k for k, v in options.items() if v})
    if random and not untrained:
        raise WeightsError(
            f"expected options that leave no tensor of {name} random, got {first_names(random)}; "
            "train another classifier on its features"
        )
    if image_size is not None:
        options = {**options, "img_size": image_size}
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(keyed_generator("weights", seed).get_state())  # inside the fork only
        model = _create(known, options, pretrained=not untrained)
    state = model.state_dict()
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    tag = cfg.get("tag") or "no tag"
    notes = [f"random weights of seed {seed}" if untrained else f"timm's weights, {tag}"]
    if image_size is not None and not untrained:
        notes.append("timm resamples position tables for another image size")
    report = LoadReport(
        name,
        "untrained" if untrained else "timm",
        known,
        options=options,
        image_size=_image_size(model),
        classes=_outputs(model),
        loaded={} if untrained else {key: key for key in state},
        sha256=weights_hash(state),
        contents=contents_hash(state),
        notes=tuple(notes),
        assumed=() if untrained else assumed_classes(_outputs(model)),
        seed=seed if untrained else None,
    )
    config = _data_config(model, data, options.get("img_size"))
    if options.get("img_size"):
        _check_size(model.eval(), config["input_size"], known)
    report = replace(report, notes=(*report.notes, *unseen(model, config["input_size"])))
    return _ready(model, config, replace(report, look=look_of(config)))


def _create(name: str, options: dict[str, Any], pretrained: bool = False) -> nn.Module:
    """A timm model; ``img_size`` is left out where networks take images of any size.

    Raises:
        WeightsError: if timm cannot make it, or cannot get its weights.
    """
    try:
        try:
            return timm.create_model(name, pretrained=pretrained, **options)
        except TypeError as error:
            if "img_size" not in options or "img_size" not in str(error):
                raise
            rest = {key: value for key, value in options.items() if key != "img_size"}
            return timm.create_model(name, pretrained=pretrained, **rest)
    except Exception as error:  # timm, the hub and the network raise nearly anything
        advice = (
            f"give a file, or {UNTRAINED}{name} for random weights"
            if pretrained
            else "see the options"
        )
        raise WeightsError(f"cannot make {name} of timm: {one_line(error)}; {advice}") from error


def _check_size(model: nn.Module, size: Sequence[int], name: str) -> None:
    """One blank image of a size that was asked for: many networks are for others alone."""
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *size))
    except Exception as error:  # networks refuse sizes by whatever fails first
        why = f" ({one_line(error)})" if str(error) else ""
        raise WeightsError(
            f"expected an image size that {name} can run, got {pixels(size[1:])}{why}; leave it "
            "out for the network's own"
        ) from error


def unseen(model: nn.Module, size: Sequence[int]) -> list[str]:
    """A note on the pixels of an image that no patch covers: none where patches divide it.

    Args:
        model: a timm network.
        size: channels, height and width of its images.
    """
    embedding: Any = getattr(model, "patch_embed", None)
    proj = getattr(embedding, "proj", None)
    if not isinstance(proj, nn.Conv2d) or proj.stride != proj.kernel_size:
        return []
    padded = getattr(embedding, "dynamic_img_pad", False) or proj.padding not in ((0, 0), "valid")
    H, W = (edge % patch for edge, patch in zip(size[1:], proj.kernel_size, strict=True))
    if padded or not (H or W):
        return []
    p, q = proj.kernel_size
    return [
        f"the last {H} rows and {W} columns of pixels are seen by no patch: patches of {p} x {q} "
        f"px do not divide {pixels(size[1:])}"
    ]


def _ready(model: nn.Module, config: dict[str, Any], report: LoadReport) -> Loaded:
    """Eval mode, and a data config that timm will find on the model too."""
    holder: Any = model
    holder.pretrained_cfg = holder.default_cfg = {
        **getattr(model, "pretrained_cfg", {}),
        **config,
        "num_classes": report.classes,
    }
    return Loaded(model.eval(), config, report)


def _data_config(
    model: nn.Module, data: Mapping[str, Any], image_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """How the model wants its images: what is told goes before what timm has for it."""
    config = data_config(model)
    wrong = sorted(data.keys() - config.keys())
    if wrong:
        raise WeightsError(f"expected data of {', '.join(config)}, got {first_names(wrong)}")
    config |= {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    asked = image_size or size_of_images(model)
    if asked is not None:
        size = to_2tuple(asked)
        if len(size) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in size):
            raise WeightsError(f"expected an image size of one or two whole numbers, got {asked!r}")
        config["input_size"] = (config["input_size"][0], *size)
    channels = config["input_size"][0]
    if not len(config["mean"]) == len(config["std"]) == channels:
        raise WeightsError(
            f"expected mean and std of {channels} numbers for images of {channels} channels, got "
            f"{len(config['mean'])} and {len(config['std'])}; give --mean and --std"
        )
    return config


def _read(name: str | Path, ema: Variant) -> tuple[str, StateFile, Variant]:
    """What a report calls the source, its tensors, and which of two sets in the file is meant."""
    path = Path(str(name).removeprefix(LOCAL))
    if ".py:" in str(name) and not path.exists():
        raise WeightsError(
            f"expected a file or a name of timm, {name} is a network of your own; fill(module, "
            "FILE) or a2mim.checkpoints.custom.load_own reads it"
        )
    if path.is_dir() or str(name).startswith(LOCAL):
        return str(path.resolve()), read_state(weights_in(path, ema)), "plain"
    file = read_state(path, ema)
    if "a2mim" in file.metadata:
        raise WeightsError(
            f"expected weights of one network, {path} is a checkpoint with decoder and optimiser; "
            "name the folder of its run"
        )
    return str(path), file, ema


def _planned(
    path: str | Path,
    architecture: str | None,
    options: dict[str, Any],
    image_size: int | tuple[int, int] | None,
    ema: Variant,
    layout: str | None,
) -> _Plan:
    """Read a file, recognise it and say which timm model it belongs to."""
    if architecture is not None and not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), most=3)
        raise WeightsError(f"expected the name of a timm model, got {architecture!r}{hint}")
    source, file, of_file = _read(path, ema)
    renamed = rename(file, of_file, layout)
    about = beside(file.path) if architecture is None and layout is None else None
    if layout is None and renamed.tensors.keys() != file.tensors.keys():
        named, made_with = (architecture, options) if about is None else (about[0], about[1])
        if named is not None and _has_names_of(named, made_with, file):
            renamed = rename(file, of_file, "timm")
    chosen = renamed.layout
    state = {key: tensor for key, (_, tensor) in renamed.tensors.items()}
    data: dict[str, Any] = dict(chosen.data or {})
    name, where, tagged, idle = chosen.name, str(file.path), False, tuple[str, ...]()
    assumed = list(_assumed_set(file, renamed, of_file))
    if about is not None:
        architecture, told, cfg, idle, teller = about
        data = look_of(cfg)
        if teller.name != "config.json":
            name = "a2mim"
        notes = [f"as {teller.name} beside {file.path.name} says"]
    else:
        if architecture is None:
            architecture, told = infer(state, chosen, options, where)
        else:
            told = structure(architecture, state, chosen, options, where)
        notes = []
        if tagged := "." in architecture:
            data, notes = {}, [f"normalisation, crop and interpolation of {architecture}"]
        elif data:
            notes = [f"normalisation, crop and interpolation by the convention of {name}"]
        for option, value in untold(architecture, state, options).items():
            assumed.append(Assumed(option, value, _TENSORFLOW))
    classes = classes_of(architecture, state)
    if classes == 0 and renamed.note is not None:
        notes.append(renamed.note)
    channels = channels_of(architecture, state)
    if channels not in (None, 3):
        told = {"in_chans": channels, **told}
    made = {**told, **({} if classes is None else {"num_classes": classes}), **options}
    if image_size is not None:
        made["img_size"] = image_size
    return _Plan(
        source=source,
        file=file,
        renamed=renamed,
        layout=name,
        variant=ema,
        architecture=architecture,
        options=made,
        resample=image_size is not None,
        data=data,
        notes=tuple(notes),
        assumed=tuple(assumed),
        look_told=tagged,
        idle=idle,
    )


def _has_names_of(architecture: str, options: Mapping[str, Any], file: StateFile) -> bool:
    """Whether a file has the names of a network, whatever stands before those of others."""
    try:
        with torch.device("meta"):
            own = _create(architecture, {**options, "num_classes": 1}).state_dict()
    except WeightsError:
        return False
    return file.tensors.keys() <= own.keys()


def _assumed_set(file: StateFile, renamed: Renamed, ema: Variant) -> tuple[Assumed, ...]:
    """Which of several sets of weights of a file was taken, where that was not asked for."""
    assumed = []
    if any(reason.startswith(OTHER_SET) for reason in renamed.dropped.values()):
        why = "official tools disagree on which set is the average: try both"
        taken = "under their own names" if ema == "plain" else "under ema_*"
        assumed.append(Assumed("set of weights", taken, why))
    sets = [name for name, what in file.others.items() if what.startswith("dict of")]
    beside = sorted(k for k, reason in renamed.dropped.items() if reason == AVERAGED_BESIDE)
    if beside:
        why = f"the file also holds averages, such as {beside[0]}; --ema takes them"
        assumed.append(Assumed("set of weights", "not averaged", why))
    averaged = [] if set(AVERAGES) & set(file.wrapper) else [n for n in AVERAGES if n in sets]
    if averaged and ema == "plain":
        why = f"the file also holds averages, {averaged[0]}, which timm itself would take"
        assumed.append(Assumed("set of weights", "not averaged", why))
    if rest := [name for name in sets if name in WRAPPERS and name not in AVERAGES]:
        why = f"the file also holds {first_names(rest)}"
        assumed.append(Assumed("entry", ".".join(file.wrapper), why))
    return tuple(assumed)


def _with_look(
    report: LoadReport, plan: _Plan, config: Mapping[str, Any], told: Iterable[str]
) -> LoadReport:
    """The report, with how images are seen, and what is assumed of that and of their classes."""
    look: tuple[Assumed, ...] = ()
    if not plan.look_told:
        look = assumed_look(config, told, f"timm's for {plan.architecture}, the file does not tell")
    assumed = look + report.assumed + assumed_classes(report.classes)
    return replace(report, look=look_of(config), assumed=assumed)


def _fit(plan: _Plan, model: nn.Module) -> tuple[dict[str, Tensor], LoadReport]:
    """All tensors of the model, from the file, and the report.

    Raises:
        WeightsError: if a tensor is left over on either side, or of another shape.
    """
    own = model.state_dict()
    buffers = dict(model.named_buffers())
    computed = {k: v for k, v in buffers.items() if k not in own}
    state: dict[str, Tensor] = {}
    dropped, resampled = dict(plan.renamed.dropped), {}
    unknown, reshaped, not_finite = [], [], []
    resized: dict[str, Tensor] | None = None
    how = ""
    for key, (origin, tensor) in plan.renamed.tensors.items():
        if key in computed:
            if _agree(tensor, computed[key], plan.resample):
                dropped[origin] = "computed by timm from the image size"
            else:
                reshaped.append(f"{origin} (timm computes another)")
        elif key not in own:
            unknown.append(origin)
        else:
            wanted = own[key]
            if tensor.shape != wanted.shape and plan.resample:
                if resized is None:
                    resized, how = _resized(plan, model)
                if resized[key].shape == wanted.shape:
                    resampled[key] = (tuple(tensor.shape), tuple(wanted.shape))
                    tensor = resized[key]
            if tensor.shape != wanted.shape:
                shapes = f"{tuple(tensor.shape)}, not {tuple(wanted.shape)}"
                reshaped.append(f"{origin} ({shapes})")
            state[key] = tensor.to(wanted.dtype)
            limits = key in buffers and not key.endswith(_STATISTICS)  # what clamps may be infinite
            if not (~state[key].isnan() if limits else state[key].isfinite()).all():
                not_finite.append(origin)
    notes = [*plan.notes, *([how] if how and resampled else [])]
    kinds = {str(tensor.dtype) for _, tensor in plan.renamed.tensors.values()}
    if coarse := sorted(kind for kind in kinds if "float8" in kind or "float4" in kind):
        kind = coarse[0].removeprefix("torch.")
        notes.append(f"weights are {kind} in the file, and are taken without scales as they are")
    counters = [key for key in own if key.endswith(_COUNTER) and key not in state]
    if counters:
        notes.append(f"{len(counters)} counters of batch norm set to 0; they change no output")
        state |= {key: torch.zeros_like(own[key], device="cpu") for key in counters}
    missing = [key for key in own if key not in state]
    problems = [
        f"{what} {len(keys)}: {first_names(keys)}"
        for what, keys in (
            ("unknown to the model", unknown),
            ("missing in the file", missing),
            ("of another shape or value", reshaped),
            ("with NaN or infinity", not_finite),
        )
        if keys
    ]
    if problems:
        kind = _kind(plan.layout, plan.renamed.dialect)
        otherwise = "give architecture=, options= or layout= if it is something else"
        if plan.own:
            otherwise = "rename them in your module, or give the network that they are of"
        raise WeightsError(
            f"expected {plan.file.path} ({kind}) to fit {plan.architecture} in every tensor, got "
            + "; ".join([*problems, otherwise])
        )
    report = LoadReport(
        plan.source,
        plan.layout,
        plan.architecture,
        dialect=plan.renamed.dialect,
        variant=plan.variant,
        options=plan.options,
        image_size=_image_size(model),
        classes=_outputs(model),
        loaded={key: origin for key, (origin, _) in plan.renamed.tensors.items() if key in state},
        dropped=dropped,
        resampled=resampled,
        sha256=weights_hash(state),
        contents=contents_hash(state),
        notes=tuple(notes),
        assumed=plan.assumed,
        without_gradient=plan.idle,
        entries={**plan.file.others, **plan.file.metadata},
    )
    return state, report


def _agree(found: Tensor, computed: Tensor, resample: bool) -> bool:
    """Whether a saved buffer is what timm computes; on the meta device shapes have to do."""
    if found.shape != computed.shape:
        return resample
    return computed.is_meta or torch.equal(found.to(computed.dtype), computed.cpu())


def _resized(plan: _Plan, model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file for the model's image size, as timm itself loads them.

    Each family of timm has its own way. Of those without one, tables of absolute positions are
    resampled as in a ViT (CaiT, Hiera), which a note says; others stay, and shapes do not fit.
    """
    own = model.state_dict()
    found = {key: tensor for key, (_, tensor) in plan.renamed.tensors.items() if key in own}
    cfg = {
        "state_dict": dict(found),
        "num_classes": _outputs(model),
        "input_size": (_channels(model), *(size_of_images(model) or (0, 0))),
        "label_offset": 0,
    }
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's indexing, which torch remarks on
            made = timm.create_model(
                plan.architecture, pretrained=True, pretrained_cfg_overlay=cfg, **plan.options
            )
        return made.state_dict(), ""
    except Exception:  # families refuse by whatever fails first
        like = {key: _as_in_a_vit(key, tensor, own[key], model) for key, tensor in found.items()}
        return like, "positions are resampled as in a ViT: timm has no way for this network"


def _as_in_a_vit(key: str, tensor: Tensor, wanted: Tensor, model: nn.Module) -> Tensor:
    """A table of absolute positions ``(1, prefix + rows x cols, D)`` for another grid."""
    net: Any = model
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    grid = grid or getattr(net, "tokens_spatial_shape", None)
    if key != "pos_embed" or tensor.ndim != 3 or wanted.ndim != 3 or not grid:
        return tensor
    prefix = wanted.shape[1] - math.prod(grid)
    if prefix < 0 or math.isqrt(tensor.shape[1] - prefix) ** 2 != tensor.shape[1] - prefix:
        return tensor
    return resample_abs_pos_embed(tensor, new_size=list(grid), num_prefix_tokens=prefix)


def _channels(model: nn.Module) -> int:
    """Of the images."""
    size: tuple[int, ...] = data_config(model)["input_size"]
    return size[0]


def _image_size(model: nn.Module) -> int | tuple[int, int] | None:
    """Edge of the images that the model is made for, as a report has it."""
    size = size_of_images(model)
    return size[0] if size is not None and size[0] == size[1] else size


def pixels(size: int | Sequence[int]) -> str:
    """A size of images in words: ``224 px`` or ``96 x 160 px``, height first."""
    H, W = to_2tuple(size)
    return f"{H} px" if H == W else f"{H} x {W} px"


def _kind(layout: str, dialect: str) -> str:
    return layout if dialect == "timm" else f"{layout}, {dialect}"


def _outputs(model: nn.Module) -> int:
    return int(getattr(model, "num_classes", 0) or 0)
