"""From what is named on the command line to networks, and ``a2mim models``: what can be named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
from timm.data import create_transform
from torch import Tensor, nn

from a2mim.checkpoints.custom import (
    IN_MEMORY,
    MARK,
    build,
    code_hash,
    load_kept,
    load_own,
    split_own,
    untrained_twin,
)
from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.folders import LOCAL
from a2mim.checkpoints.layouts import DIALECTS, LAYOUTS, PLAIN
from a2mim.checkpoints.load import HUB, UNTRAINED, Loaded, LoadReport, describe, load_model
from a2mim.checkpoints.vision import TORCHVISION
from a2mim.checkpoints.zero_shot import BY_OPEN_CLIP, with_texts
from a2mim.data.augment import PilTransform
from a2mim.data.sources import Source, as_seen
from a2mim.files import write_whole
from a2mim.measure.fitting import Sight, sight_of
from a2mim.messages import UsageError
from a2mim.runs.folder import is_run
from a2mim.settings.weights import (
    ModelsConfig,
    WeightsConfig,
    check_checkpoints,
    model_options,
    size_of,
    weights_of,
)
from interactions.networks.inference import check_eval

GENERIC = (
    *("backbone", "best", "checkpoint", "last", "model", "model-ema", "model_best"),
    *("pytorch_model", "weights"),
)
"""What files of weights are called whatever is in them."""


KEPT = 500_000_000
"""Parameters of networks that are kept in memory until they are measured, at most: 2 GB."""


@dataclass(frozen=True)
class Subject:
    """One network under measurement.

    Attributes:
        name: of the timm model.
        weights: what its weights are called.
        model: in eval mode.
        transform: from a picture to what the model wants to see.
        report: what became of the weights.
        colours: mean and standard deviation of its normalisation.
        untrained: makes the same network with fresh weights of a seed, and without a classifier.
    """

    name: str
    weights: str
    model: nn.Module
    transform: Callable[[object], Tensor]
    report: LoadReport
    colours: tuple[Sequence[float], Sequence[float]]
    untrained: Callable[[int], nn.Module]

    def see(self, source: Source) -> Tensor:
        """An image as the network wants it, ``(C, H, W)``.

        Raises:
            DataError: if it cannot be read.
        """
        return self.see_all([source])[0]

    def see_all(self, sources: Sequence[Source]) -> Tensor:
        """Images as the network wants them, ``(B, C, H, W)``; see :meth:`see`."""
        view = PilTransform(self.transform, self.report.look["input_size"][0])
        return as_seen(sources, view)


def load(name: str, config: WeightsConfig) -> Loaded:
    """The network of a name, a file, a run folder, or ``ARCHITECTURE=FILE``, strictly loaded.

    Raises:
        UsageError: if there are no such weights, or they do not fit in every tensor.
    """
    config, title = weights_of(name, config)
    loaded = _load(name, config)
    try:
        check_eval(loaded.model)
    except ValueError as error:  # an eval of its own, or a part without one
        raise UsageError(f"{name}: {error}") from error
    if config.texts:
        file = Path(parts_of(name)[1])
        try:
            loaded = with_texts(loaded, config.texts, file if file.is_file() else None)
        except WeightsError as error:
            raise UsageError(str(error)) from error
    count = sum(parameter.numel() for parameter in loaded.model.parameters())
    apart = dict(config.apart).get(name, "")
    title = title or loaded.report.title
    report = replace(loaded.report, title=title, apart=apart, parameters=count)
    return replace(loaded, report=report)


def _load(name: str, config: WeightsConfig) -> Loaded:
    architecture, where = parts_of(name)
    for key, value in (("mean", config.mean), ("std", config.std)):
        if not all(map(math.isfinite, value)) or (key == "std" and min(value, default=1) <= 0):
            raise UsageError(f"expected --{key} of finite numbers (above 0 for std), got {value}")
    wanted = look_given(config)
    if name.startswith(IN_MEMORY):
        return load_kept(name, image_size=size_of(config), data=wanted)
    network = _own(architecture, where)
    try:
        if network is not None:
            if config.model_kwargs and not network.startswith(TORCHVISION):
                raise UsageError(f"expected no --model-kwargs for {network}, which takes nothing")
            return load_own(
                network,
                None if architecture is None else where,
                image_size=size_of(config),
                data=wanted,
                ema=config.ema,
                layout=config.layout or None,
                options=model_options(config.model_kwargs),
            )
        return load_model(
            where,
            architecture=architecture,
            options=model_options(config.model_kwargs),
            image_size=size_of(config),
            ema="ema" if config.ema else "plain",
            layout=config.layout or None,
            data=wanted,
        )
    except WeightsError as error:
        raise UsageError(_for_the_command_line(error)) from error


class Networks:
    """Networks by name, each loaded once: to look at, to try and to measure.

    Of more than :data:`KEPT` parameters in all, the rest is loaded anew for each of these.

    Args:
        config: how weights become a network.
    """

    def __init__(self, config: WeightsConfig) -> None:
        self._config = config
        self._kept: dict[str, Loaded] = {}

    def __call__(self, name: str) -> Loaded:
        """A network that is not changed.

        Raises:
            UsageError: as :func:`load`.
        """
        if name not in self._kept:
            loaded = load(name, self._config)
            if loaded.report.parameters + self._parameters() > KEPT:
                return loaded
            self._kept[name] = loaded
        return self._kept[name]

    def take(self, name: str) -> Loaded:
        """A network that is not asked for again.

        Raises:
            UsageError: as :func:`load`.
        """
        kept = self._kept.pop(name, None)
        return load(name, self._config) if kept is None else kept

    def sights(self, names: Sequence[str]) -> list[Sight]:
        """How networks see images.

        Raises:
            UsageError: as :func:`load`.
        """
        sights = []
        for name in names:
            loaded = self(name)
            size = loaded.data_config["input_size"]
            sights.append(sight_of(name, loaded.model, size, loaded.report.classes))
        return sights

    def _parameters(self) -> int:
        return sum(loaded.report.parameters for loaded in self._kept.values())


def look_given(config: WeightsConfig) -> dict[str, Any]:
    """How images are prepared, as far as that is a setting."""
    keys = ("mean", "std", "crop_pct", "interpolation")
    return {key: value for key in keys if (value := getattr(config, key))}


def subject_of(
    name: str,
    config: WeightsConfig,
    device: str,
    *,
    headless: bool | None = False,
    loaded: Loaded | None = None,
) -> Subject:
    """A network to measure on images.

    Args:
        name: as for :func:`load`.
        config: how weights become a network.
        device: where it goes.
        headless: take the classifier off, if there is one: the network gives features. None: leave
            the network as it is, with or without one.
        loaded: the network, if it is loaded.

    Raises:
        UsageError: as :func:`load`, or if there is no classifier and one is wanted.
    """
    loaded = loaded or load(name, config)
    model = loaded.model
    if headless:
        model = without_classifier(model)
    elif headless is False and not loaded.report.classes:
        raise UsageError(
            f"expected weights with a classifier for {loaded.report.architecture}, got none; "
            "without one, measure features with --reward projection"
        )
    return Subject(
        loaded.report.architecture,
        called(loaded.report),
        model.to(device),
        create_transform(**loaded.data_config),
        loaded.report,
        (loaded.data_config["mean"], loaded.data_config["std"]),
        partial(_untrained, name, loaded.report),
    )


def called(report: LoadReport) -> str:
    """What weights are called in tables: as said, or their run, file, timm's tag, hub name.

    A file that is called as every training calls it (``backbone.safetensors``) is called with its
    folder.
    """
    if report.title or report.apart:
        return report.title or report.apart
    if report.layout == "untrained":
        return f"untrained, seed {report.seed}"
    if report.source.startswith(HUB):
        return report.source.removeprefix(HUB)
    if report.layout == "timm" and timm.is_model(report.source):
        return report.source.partition(".")[2] or "timm default"
    file = Path(report.source)
    return name_of(file) + ("-ema" if file.is_dir() and report.variant == "ema" else "")


def name_of(path: Path) -> str:
    """What weights are called: by their file, and its folder if need be, or as their run."""
    if path.is_dir():
        return _of_folder(path)
    if path.name.partition(".")[0] in GENERIC:
        return f"{path.resolve().parent.name}/{path.name}"
    return path.name


def short(report: LoadReport) -> str:
    """What weights are called where space is short: the file without its ending, or its folder."""
    if report.title:
        return report.title
    if report.layout == "untrained":
        return f"untrained {report.architecture}"
    name = Path(called(report))
    if Path(report.source).is_dir():
        return str(name)
    if report.apart:
        return str(name.with_suffix(""))
    generic = name.name.partition(".")[0] in GENERIC and len(name.parts) > 1
    return name.parent.name if generic else name.stem


def identity(name: str, report: LoadReport) -> tuple[object, ...]:
    """What decides the numbers of a network: its name, weights, options, look and own code."""
    options = str(report.options)
    return (
        report.architecture,
        called(report),
        report.sha256,
        options,
        report.look,
        own_code(name),
    )


def nicknames(reports: Sequence[LoadReport]) -> list[str]:
    """What networks are called in names of folders: by their files, or by timm's names."""
    return [
        short(report) if Path(report.source).exists() else report.architecture for report in reports
    ]


def _of_folder(folder: Path) -> str:
    """The name of a run; of a folder in a run, with the way there."""
    folder = folder.resolve()
    run = next((run for run in (folder, *folder.parents) if is_run(run)), folder)
    inside = [part for part in folder.relative_to(run).parts if part not in ("timm", "exports")]
    return "/".join((run.name, *inside))


def check_different(reports: Sequence[LoadReport]) -> None:
    """Whether tables can tell networks apart.

    Raises:
        UsageError: if two have one name.
    """
    names = [(report.title or report.architecture, called(report)) for report in reports]
    if len(set(names)) != len(names):
        twice = " ".join(next(name for name in names if names.count(name) > 1))
        raise UsageError(
            f"expected every network once, got {twice} twice; give another, or copy or rename the "
            "file if its weights are others"
        )


def write_reports(reports: Sequence[LoadReport], path: Path) -> None:
    """What became of the weights of every network, to be kept with what was measured."""
    write_whole(path, json.dumps([kept(report) for report in reports], indent=2) + "\n")


def recorded(config: WeightsConfig) -> dict[str, Any]:
    """The settings of weights as runs record them, without paths of this machine."""
    settings = asdict(config)
    del settings["apart"]
    settings["texts"] = _texts(settings["texts"])
    of_each = [
        (without_path(name), *(_word_without_path(word) for word in words))
        for name, *words in settings.pop("per_network")
    ]
    return settings | ({"per_network": of_each} if of_each else {})


def _word_without_path(word: str) -> str:
    return f"texts={_texts(word[6:])}" if word.startswith("texts=") else word


def _texts(where: str) -> str:
    """Where texts are from, without folders."""
    parts = where.split(":") if where.startswith(BY_OPEN_CLIP) else ["", "", "", where]
    return ":".join([*filter(None, parts[:3]), *(Path(part).name for part in parts[3:])])


def kept(report: LoadReport) -> dict[str, Any]:
    """A report as JSON takes it, without paths of this machine: its source is a name."""
    return {**report.to_dict(), "source": without_path(report.source)}


def without_path(name: str) -> str:
    """The source of a report without the folders of its file."""
    if HUB in name:
        return name
    if Path(name).is_dir() and not timm.is_model(name):
        return _of_folder(Path(name))
    prefix = UNTRAINED if name.startswith(UNTRAINED) else ""
    return prefix + Path(name.removeprefix(prefix)).name


def own_code(name: str) -> str:
    """SHA-256 of the code of a network of one's own; empty for others."""
    network = _own(*parts_of(name))
    return "" if network is None else code_hash(network)


def models(config: ModelsConfig) -> None:
    """Print what files are recognised as, the timm names of ``--find``, or what can be named.

    Raises:
        UsageError: if one of them is not recognised, after the others were printed; or for
            ``--for`` of another one.
    """
    if config.checkpoints:
        check_checkpoints(config.checkpoints, config.weights)
    unknown = []
    for name in config.checkpoints:
        try:
            print(recognised(name, config.weights))
        except UsageError as error:
            unknown.append(str(error))
    if config.find:
        found = timm.list_pretrained(f"*{config.find}*")
        if not found:
            raise UsageError(f"expected a part of a timm name for --find, none has {config.find!r}")
        print("\n".join(found))
    if not config.checkpoints and not config.find:
        print(overview())
    if unknown:
        raise UsageError(*unknown)


def _untrained(name: str, report: LoadReport, seed: int) -> nn.Module:
    """The same architecture, made with the same options, with fresh weights."""
    if name.startswith(IN_MEMORY):
        return without_classifier(untrained_twin(name, seed))
    network = _own(*parts_of(name))
    if network is not None:
        return without_classifier(build(network, seed, report.options))
    fresh = load_model(
        f"{UNTRAINED}{report.architecture}",
        options=report.options,
        data={key: report.look[key] for key in ("mean", "std")},
        seed=seed,
    )
    return without_classifier(fresh.model)


def without_classifier(model: Any) -> nn.Module:
    """Without its classifier, if it can be taken off."""
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(0)
    return model


def recognised(name: str, config: WeightsConfig) -> LoadReport:
    """The report of a file, without filling a network; of a name, by loading it.

    Raises:
        UsageError: as :func:`load`.
    """
    config, _ = weights_of(name, config)
    architecture, where = parts_of(name)
    if not Path(where).is_file() or _own(architecture, where):
        return load(name, config).report
    try:
        return describe(
            where,
            architecture=architecture,
            options=model_options(config.model_kwargs),
            ema="ema" if config.ema else "plain",
            layout=config.layout or None,
            data=look_given(config),
        )
    except WeightsError as error:
        raise UsageError(_for_the_command_line(error)) from error


def overview() -> str:
    """What can stand where a checkpoint is asked for."""
    return "\n".join(
        [
            "A checkpoint is one of:",
            "  NAME            a timm network with timm's weights, such as resnet50.a1_in1k",
            "                  (a2mim models --find mae lists names)",
            f"  {HUB}USER/X   a timm network on the Hugging Face hub",
            f"  {UNTRAINED}NAME  a timm network with random weights, as a baseline",
            "  FILE            safetensors or PyTorch weights, recognised by their keys;",
            "                  a2mim models FILE says as what",
            "  FOLDER          a run of a2mim pretrain or a2mim probe --method finetune, an export",
            f"                  of a pre-training, or a folder for timm ({LOCAL}FOLDER);",
            "                  another folder, or a pattern ('runs/*/*.pth'): all files in it",
            "  NAME=FILE       the same, where the file does not tell its network",
            "  torchvision:NAME=FILE   weights for a network of torchvision, such as",
            "                  torchvision:resnet18=resnet18-f37072fd.pth; nothing is downloaded",
            "  CODE.py:FUNCTION=FILE   weights for the module that a function of yours returns",
            f"Layouts of files: {', '.join(layout.name for layout in LAYOUTS)}.",
            f"Module names of: {', '.join(dialect.name for dialect in (PLAIN, *DIALECTS))}.",
        ]
    )


def parts_of(name: str) -> tuple[str | None, str]:
    """Architecture and place of ``ARCHITECTURE=FILE``, or None and the whole name."""
    if name.startswith(LOCAL):
        return None, name
    own = split_own(name)
    if own is not None:
        return (None, name) if own[1] is None else (own[0], own[1])
    architecture, equals, file = name.partition("=")
    if equals and not Path(name).exists():
        return architecture, file
    return None, name


def _own(architecture: str | None, where: str) -> str | None:
    """The ``FILE.py:FUNCTION`` or ``torchvision:NAME`` of a name that has one."""
    network = where.removeprefix(UNTRAINED) if architecture is None else architecture
    if MARK not in network and not network.startswith(TORCHVISION):
        return None
    if architecture is None and not where.startswith(UNTRAINED):
        raise UsageError(
            f"expected {network}=WEIGHTS, or {UNTRAINED}{network} for random weights, got {where}"
        )
    return network


def _for_the_command_line(error: WeightsError) -> str:
    """The library's message, and how its arguments are given here."""
    own = "by CODE.py:FUNCTION=FILE"
    if "(torchvision)" in str(error):
        own = f"by torchvision:NETWORK=FILE, or {own}"
    said = str(error).replace("by a2mim.checkpoints.load.fill", own)
    if said.startswith("expected the name of a timm model, got"):
        said += " (others are torchvision:NETWORK=FILE and CODE.py:FUNCTION=FILE)"
    if any(argument in said for argument in ("architecture=", "options=", "layout=")):
        said += (
            " (here: NETWORK=FILE, torchvision:NETWORK=FILE, --model-kwargs NAME=VALUE, "
            "--layout NAME)"
        )
    return said
