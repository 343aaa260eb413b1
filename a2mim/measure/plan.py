"""What ``a2mim compare`` will do, decided before it starts: images, panels, forwards, time.

Networks are tried one by one and none is kept. What was left open is decided so that all of them
are measured alike, or noted where they are not; notes are sentences of the page.

A run is named by a hash of everything that decides its numbers: settings, weights, how each network
wants its images, the code of networks of one's own, and every image file with its class.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import nn

from a2mim.checkpoints.custom import AS_IT_IS
from a2mim.checkpoints.load import LoadReport, assumptions
from a2mim.data.arrays import subset
from a2mim.data.augment import PilTransform
from a2mim.data.sources import (
    Source,
    as_seen,
    folder_has_classes,
    images_of,
    known_classes,
    labelled_samples,
    only_number,
    set_name,
    without_folders,
)
from a2mim.measure import doubts as doubtful
from a2mim.measure.checkpoints import LeftOut
from a2mim.measure.comparison_pictures import SHARE, Pictured, pictured
from a2mim.measure.fitting import FEWEST as FEWEST_PATCHES
from a2mim.measure.fitting import Sight, as_setting, fitting_grid, parsed_grid, sight_of, unlike
from a2mim.measure.interactions import LEAST_BUDGET
from a2mim.measure.networks import (
    called,
    check_different,
    load,
    look_given,
    own_code,
    recorded,
    without_classifier,
)
from a2mim.measure.precision import on_device
from a2mim.measure.scores import Network, named_networks, same_weights
from a2mim.messages import UsageError
from a2mim.runs.folder import counted, keep_memory, pick_device, run_key
from a2mim.settings.compare import CompareConfig, Panel
from a2mim.settings.shared import AnyPrecision
from a2mim.settings.weights import WeightsConfig, check_given
from interactions.features.cka import FEWEST
from interactions.features.invariance import batch_sizes
from interactions.features.spectrum import spectrum as maps_of
from interactions.features.spectrum import too_small
from interactions.networks.inference import Precision, arithmetic
from interactions.networks.layers import stream_names

PANELS: tuple[Panel, ...] = get_args(Panel)

HIDDEN = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Hidden shares of the panel of predictions."""

SIMILAR_AT = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Hidden shares of the panel of similarity, which also runs an untrained network."""

COST = {"predictions": len(HIDDEN), "similarity": 2 * (1 + len(SIMILAR_AT)), "spectrum": 1}
"""Forwards for each image."""

BATCH = 24
"""Images that CKA and retrieval see together at the least."""

TIMED_IMAGES, TIMED_SECONDS = 16, 1.0

FEATURES = (
    "interactions are about features of all networks (their projection on those of the whole image)"
)


@dataclass(frozen=True)
class Probe:
    """The linear probe of networks without a classifier.

    Attributes:
        data: where it is trained, without folders of this machine.
        images: its training images.
        classes: theirs.
        contents: a hash of what is in them.
    """

    data: str
    images: int
    classes: int
    contents: str


@dataclass(frozen=True)
class Plan:
    """What will be done, once networks and images are known.

    Attributes:
        config: with grid, label, device, number of images and the common crop filled in.
        networks: what is compared.
        forwards: of each panel, for each network.
        pictured: the images that are explained, and their forwards.
        left_out: checkpoints that cannot be measured.
        apart: why a network is not in a panel: panel -> title -> reason.
        projection: whether interactions are about features instead of a class.
        probe: of networks without a classifier, if predictions of them are wanted.
        speeds: forwards a second of each network.
        notes: what was decided for the user, in sentences.
        decides: what decides the numbers and is not in the settings.
    """

    config: CompareConfig
    networks: list[Network]
    left_out: LeftOut
    forwards: dict[Panel, int]
    pictured: Pictured
    apart: dict[Panel, dict[str, str]]
    projection: bool
    probe: Probe | None
    speeds: list[float]
    notes: list[str]
    decides: Mapping[str, object]

    def checkpoints(self, panel: Panel) -> tuple[str, ...]:
        """Those that a panel measures."""
        apart = self.apart.get(panel, {})
        pairs = zip(self.config.checkpoints, self.networks, strict=True)
        return tuple(name for name, network in pairs if network.title not in apart)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, without what decides no number and without paths of this machine."""
        settings = asdict(self.config)
        for key in ("device", "out", "resume"):
            settings.pop(key)
        settings["images"] = self.config.images and self.config.images.resolve().name
        settings["weights"] = recorded(self.config.weights)
        settings["probe_data"] = without_folders(self.config.probe_data)
        settings["checkpoints"] = [f"{n.model} {n.weights} {n.sha256}" for n in self.networks]
        return settings

    @cached_property
    def key(self) -> str:
        """Names the run: another one has other numbers."""
        return run_key({**self.settings, **self.decides})

    @property
    def spent(self) -> dict[str, int]:
        """Forwards for each network, of panels and of pictures."""
        spent: dict[str, int] = {panel: n for panel, n in self.forwards.items()}
        return spent | ({"pictures": self.pictured.forwards} if self.pictured.forwards else {})

    @property
    def seconds(self) -> float:
        """Estimated time, in all, but for the fit of a probe."""
        seconds = 0.0
        for name, network, speed in zip(
            self.config.checkpoints, self.networks, self.speeds, strict=True
        ):
            images = sum(n for panel, n in self.forwards.items() if name in self.checkpoints(panel))
            images += self.pictured.forwards
            if self.probe is not None and not network.classes:
                images += self.probe.images
            seconds += images / speed
        return seconds

    def to_dict(self) -> dict[str, Any]:
        """What the page has to know, as JSON takes it; nothing that another run would not have."""
        return {
            "networks": [network.to_dict() for network in self.networks],
            "same_weights": same_weights(self.networks),
            "images": self.config.count,
            "label": self.config.label,
            "grid": self.config.grid,
            "fill": self.config.fill,
            "similarity_batch": batch_of(self.config.count),
            "forwards": self.spent,
            "pictured": [source.name for source in self.pictured.sources],
            "apart": self.apart,
            "notes": self.notes,
            "key": self.key,
        }

    def __str__(self) -> str:
        """The plan, for people."""
        lines = [f"plan: {self.config.count} images; forwards for each network"]
        for part, n in self.spent.items():
            of = f" for {len(self.pictured.sources)} images" if part == "pictures" else ""
            lines.append(f"  {part:<13}{counted(n):>9}{of}")
        lines.append(f"  {'in all':<13}{counted(sum(self.spent.values())):>9}")
        if self.probe is not None:
            titles = ", ".join(network.title for network in self.networks if not network.classes)
            lines.append(
                f"  {'and':<13}{counted(self.probe.images):>9} training images of "
                f"{self.probe.data} for a linear probe on {titles}"
            )
        for network, speed in zip(self.networks, self.speeds, strict=True):
            size = f"{network.report.parameters / 1e6:.3g} M parameters"
            lines.append(f"{network.title}: {size}, {speed:.3g} forwards a second")
        lines += [
            f"{network.title}: assumed {sentence}."
            for network in self.networks
            for sentence in assumptions(network.report.assumed)
        ]
        lines += [pair["sentence"] for pair in same_weights(self.networks)]
        lines += self.notes
        precision = timed_in(self.config.precision)
        lines.append(
            f"about {duration(self.seconds)} on {self.config.device} in {precision}, "
            "if nothing else runs there; --budget changes it"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Tried:
    """What a network told when it was tried.

    Attributes:
        report: what became of its weights.
        look: how it wants its images: a data config of timm.
        sight: their size, and its patches.
        speed: forwards a second.
        no_maps: why its maps cannot be had; empty if they can.
        doubts: what looks wrong about it, in sentences.
    """

    report: LoadReport
    look: dict[str, Any]
    sight: Sight
    speed: float
    no_maps: str
    doubts: tuple[str, ...] = ()


def planned(config: CompareConfig) -> Plan:
    """Try every network and the images, and decide what was left open.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if there are no images, or one cannot be read.
    """
    _check(config)
    device = pick_device(config.device)
    config = replace(config, device=device, precision=on_device(config.precision, device))
    if config.device == "cpu":
        keep_memory()
    left_out = LeftOut(config.checkpoints, config.weights)
    tried = left_out.each(lambda name: _try(name, config))
    if len(tried) < 2:
        raise UsageError(
            f"expected two or more checkpoints that can be measured, got {len(tried)}; "
            + " ".join(left_out.sentences())
        )
    config = replace(config, checkpoints=left_out.rest())
    reports = [one.report for one in tried]
    check_different(reports)
    notes: list[str] = []
    config = replace(config, weights=_one_view(config, [one.look for one in tried], notes))
    given = look_given(config.weights)
    reports = [_as_given(report, given) for report in reports]
    networks = named_networks(reports)
    grid = fitting_grid(config.grid, [one.sight for one in tried])
    if grid.rows < FEWEST_PATCHES or grid.rows != grid.cols:
        raise UsageError(
            f"expected --grid N of at least {FEWEST_PATCHES}, on which {len(HIDDEN)} hidden shares "
            f"differ, got {as_setting(grid)}"
        )
    config = replace(config, grid=as_setting(grid))
    panels, apart = _panels(config, networks, tried, notes)
    outputs = only_number([network.classes for network in networks])
    wanted = config.count
    sources = _sources(config, _affordable(config, panels), outputs)
    config = replace(config, count=len(sources))
    headless = [network.title for network in networks if not network.classes]
    probed = headless and "predictions" in panels and "predictions" not in apart
    probe = _probe(config) if probed else None
    networks = [_with_classifier(network, probe) for network in networks]
    if probe and len(headless) < len(networks):
        notes.append(
            f"{', '.join(headless)}: no classifier, so predictions are those of a linear probe "
            f"trained on {counted(probe.images)} images of {probe.data}. Other networks have their "
            "own classifier: a difference in accuracy or agreement is also one of classifiers."
        )
    config, projection = _judged(config, panels, networks, probe, sources, notes)
    notes += [
        f"{network.title}: {AS_IT_IS}." for network in networks if AS_IT_IS in network.report.notes
    ]
    identities = [source.identity() for source in sources]
    notes += doubtful.of_images(identities)
    for network in networks:
        if config.label == "truth":
            notes += doubtful.of_texts(network.title, network.report, config)
    notes += [doubt for one in tried for doubt in one.doubts]
    notes += left_out.sentences()
    decides = {
        "files": identities,
        "looks": [one.look for one in tried],
        "options": [str(report.options) for report in reports],
        "code": [own_code(name) for name in config.checkpoints],
        "probe": probe and probe.contents,
        **left_out.decides(),
    }
    forwards = _forwards(config, panels)
    few = _pictured(config, sources, forwards, wanted, notes)
    return Plan(
        *(config, networks, left_out, forwards, few, apart, projection, probe),
        *([one.speed for one in tried], notes, decides),
    )


def _check(config: CompareConfig) -> None:
    """What needs neither networks nor images."""
    if len(config.checkpoints) < 2:
        raise UsageError(
            f"expected two or more checkpoints, got {len(config.checkpoints)}; a2mim models says "
            "what is one"
        )
    check_given(config)
    if isinstance(config.skip, str):  # a word alone is no list of them
        raise UsageError(f"expected --skip of {', '.join(PANELS)}, got {config.skip!r}")
    if set(config.skip) == set(PANELS):
        raise UsageError("expected a panel that is not skipped, got all in --skip")


# --------------------------------------------------------------------------------------------------
# networks


def _try(name: str, config: CompareConfig) -> _Tried:
    """Load a network, time it, and see whether its maps can be had."""
    loaded = load(name, config.weights)
    H, W = loaded.data_config["input_size"][1:]
    if H != W:
        raise UsageError(
            f"expected networks of square images, got {H} x {W} px for {name}; give --image-size"
        )
    model = loaded.model.to(config.device)
    images_BCHW = torch.zeros(TIMED_IMAGES, *loaded.data_config["input_size"], device=config.device)
    sight = sight_of(name, model, loaded.data_config["input_size"])
    speed = _speed(model, images_BCHW, config.precision)
    title = f"{loaded.report.architecture} ({called(loaded.report)})"
    few = images_of(config.images, config.data, doubtful.LOOKED_AT, config.seed)
    images_BCHW = as_seen(few, PilTransform.of(loaded.data_config))
    doubts = doubtful.of_network(title, model, images_BCHW)
    no_maps = ""
    if "spectrum" not in config.skip:
        try:
            model = without_classifier(model)
            small = too_small(model, images_BCHW[:1])
            layers = [name for name in stream_names(model) if name not in small]
            maps_of(model, [images_BCHW[:1]], layers=layers)
        except ValueError as error:
            no_maps = str(error)
    return _Tried(loaded.report, loaded.data_config, sight, speed, no_maps, tuple(doubts))


def _as_given(report: LoadReport, given: Mapping[str, Any]) -> LoadReport:
    """The report, once all networks are given some settings, which are not assumed any more."""
    assumed = tuple(one for one in report.assumed if one.setting not in given)
    return replace(report, look={**report.look, **given}, assumed=assumed)


def timed_in(precision: AnyPrecision) -> Precision:
    """The arithmetic that networks are timed in: float32 where each will have its own."""
    return "float32" if precision == "auto" else precision


def _speed(model: nn.Module, images_BCHW: torch.Tensor, precision: AnyPrecision) -> float:
    """Forwards a second, from a short run."""

    def once() -> float:
        begin = time.perf_counter()
        model(images_BCHW).sum().item()  # waits for the device
        return time.perf_counter() - begin

    with torch.inference_mode(), arithmetic(timed_in(precision), images_BCHW.device):
        once()
        times = [once()]
        while sum(times) < TIMED_SECONDS:
            times.append(once())
    return len(images_BCHW) / min(times)


def _one_view(
    config: CompareConfig, looks: Sequence[dict[str, Any]], notes: list[str]
) -> WeightsConfig:
    """One crop and one way of resizing for all, where they want different ones; notes of the rest.

    timm resizes the short side to floor(size / crop_pct) pixels before it cuts: with one crop_pct
    below 1 that is a slightly different region for each size.
    """
    weights = config.weights
    sizes = sorted({int(look["input_size"][1]) for look in looks})
    crops = sorted({float(look["crop_pct"]) for look in looks})
    modes = sorted({str(look["crop_mode"]) for look in looks})
    ways = {look["interpolation"] for look in looks}
    colours = {(tuple(look["mean"]), tuple(look["std"])) for look in looks}
    told = ", ".join(f"{crop:g}" for crop in crops)
    if len(sizes) > 1:
        if weights.crop_pct is None:
            weights = replace(weights, crop_pct=1.0)
            seen = "the whole short side"
            if crops != [1.0]:
                seen += f", where they want {told} of it"
        else:
            seen = f"{weights.crop_pct:g} of the short side, up to a pixel"
        notes.append(
            f"Networks take images of {', '.join(map(str, sizes))} px: each sees the same region "
            f"at its own size ({seen}), and the same regions are hidden."
        )
    elif len(crops) > 1:
        weights = replace(weights, crop_pct=crops[-1])
        notes.append(
            f"Networks want different crops ({told} of the short side): all see the same "
            f"{crops[-1]:g} of every image."
        )
    if len(modes) > 1:
        notes.append(
            f"Networks want different ways of cropping ({', '.join(modes)}): they do not see the "
            "same pixels, unless images are square."
        )
    if len(ways) > 1:
        weights = replace(weights, interpolation="bicubic")
        notes.append("Networks want different ways of resizing: all images are resized bicubic.")
    if config.fill == "zero" and len(colours) > 1:
        notes.append(
            "Networks have different normalisations, so with --fill zero hidden patches have "
            "another colour for each."
        )
    if config.fill == "blur" and len(sizes) > 1:
        notes.append(
            "Networks take images of different sizes, and --fill blur is as wide in pixels for "
            "each: a larger image keeps more detail where it is hidden."
        )
    return weights


def _with_classifier(network: Network, probe: Probe | None) -> Network:
    """The network, and which classifier its predictions are of."""
    if network.classes:
        return network
    if probe is None:
        return replace(network, classifier="none")
    images = f"{counted(probe.images)} images of {probe.data}"
    return replace(network, classifier=f"linear probe: {images}")


def _probe(config: CompareConfig) -> Probe:
    """What a probe will be trained on."""
    data = config.probe_data or config.data
    train, _ = labelled_samples(data, lambda image, generator: image)
    assert train.labels_I is not None
    limit = config.probe_max_train
    indices = subset(len(train), len(train) if limit is None else limit, 0)
    classes = int(train.labels_I.max()) + 1
    return Probe(without_folders(data), len(indices), classes, train.contents(indices))


# --------------------------------------------------------------------------------------------------
# images, panels, and what they are about


def _panels(
    config: CompareConfig, networks: Sequence[Network], tried: Sequence[_Tried], notes: list[str]
) -> tuple[list[Panel], dict[Panel, dict[str, str]]]:
    """Which panels there will be, and which networks cannot be in them."""
    panels = [panel for panel in PANELS if panel not in config.skip]
    no_probe = "it has no classifier, and without --probe-data none can be trained"
    reasons: dict[Panel, dict[str, str]] = {"predictions": {}, "spectrum": {}}
    for network, one in zip(networks, tried, strict=True):
        if not (network.classes or config.probe_data or config.data):
            reasons["predictions"][network.title] = no_probe
        if one.no_maps:
            reasons["spectrum"][network.title] = one.no_maps
    apart: dict[Panel, dict[str, str]] = {}
    out: list[str] = []
    for panel, of in reasons.items():
        if panel in panels and len(of) == len(networks):
            panels.remove(panel)
            out.append(f"{panel} ({'; '.join(dict.fromkeys(of.values()))})")
        elif panel in panels and of:
            apart[panel] = of
    if not panels:
        raise UsageError(f"nothing is left to measure: {', '.join(out)}")
    notes += [f"Left out: {panel}." for panel in out]
    return panels, apart


def _affordable(config: CompareConfig, panels: Sequence[Panel]) -> int:
    """How many images the budget pays for; half of it is for interactions, where they are in."""
    each = sum(COST[panel] for panel in panels if panel in COST)
    parts = 2 if "interactions" in panels else 1
    count = min(config.count, config.budget // parts // each) if each else config.count
    if count < FEWEST:
        raise UsageError(
            f"expected --budget of at least {parts * each * FEWEST} forwards for {FEWEST} images, "
            f"got {config.budget}"
        )
    return count


def _forwards(config: CompareConfig, panels: Sequence[Panel]) -> dict[Panel, int]:
    """Forwards of each panel, in order; what is left of the budget goes into interactions."""
    forwards = {panel: COST.get(panel, 0) * config.count for panel in panels}
    if "interactions" in panels:
        spent = sum(forwards.values())
        if config.budget - spent < LEAST_BUDGET:
            raise UsageError(
                f"expected --budget of at least {spent + LEAST_BUDGET} forwards, of which "
                f"interactions need {LEAST_BUDGET}, got {config.budget}; or give --skip "
                "interactions"
            )
        forwards["interactions"] = config.budget - spent
    return forwards


def _pictured(
    config: CompareConfig,
    sources: Sequence[Source],
    forwards: dict[Panel, int],
    wanted: int,
    notes: list[str],
) -> Pictured:
    """The images that are explained; their forwards are taken from those of interactions.

    Args:
        config: with its grid.
        sources: all images.
        forwards: of each panel; those of interactions become fewer.
        wanted: images that were asked for.
        notes: what cannot be afforded is added.
    """
    if not config.pictures or "interactions" not in forwards:
        return Pictured()
    left, grid = forwards["interactions"], parsed_grid(config.grid or "")
    few = pictured(sources, config.pictures, grid, config.seed, left, LEAST_BUDGET)
    forwards["interactions"] -= few.forwards
    asked = min(config.pictures, len(sources))
    if len(few.sources) < asked:
        needed = max(math.ceil(few.asked / SHARE) + 1, few.asked + LEAST_BUDGET)
        # A larger budget may also mean more images, on which other panels spend at most half of it.
        others = wanted * sum(COST[panel] for panel in forwards if panel in COST)
        enough = needed + min(needed, others)
        found = "no image is" if not few.sources else f"{len(few.sources)} of {asked} images are"
        notes.append(
            f"With this budget {found} explained by pairs and patches; --budget {enough} is enough "
            f"for {asked}, and --pictures 0 asks for none."
        )
    return few


def _sources(config: CompareConfig, count: int, outputs: int | None) -> list[Source]:
    """The images, with their classes where they are known and count."""
    images = config.images
    truth = config.label != "prediction" and images is not None and folder_has_classes(images)
    sources = images_of(images, config.data, count, config.seed, truth=truth, outputs=outputs)
    if len(sources) < FEWEST:
        raise UsageError(f"expected at least {FEWEST} images, found {len(sources)}")
    return sources


def _judged(
    config: CompareConfig,
    panels: Sequence[Panel],
    networks: Sequence[Network],
    probe: Probe | None,
    sources: Sequence[Source],
    notes: list[str],
) -> tuple[CompareConfig, bool]:
    """The label of predictions and interactions, and whether the latter are about features."""
    truth = all(source.truth is not None for source in sources)
    if config.label == "truth" and not truth:
        where = config.images or config.data
        raise UsageError(f"expected classes in {where} for --label truth, found none")
    classifiers = [network.classes for network in networks if network.classes]
    headless = len(classifiers) < len(networks)
    if probe is not None:
        classifiers.append(probe.classes)
    asked = "predictions" in panels or "interactions" in panels
    unlike = _unlike(config, classifiers, sources) if asked else ""
    if config.label == "truth" and unlike:
        raise UsageError(
            f"expected classifiers of the images' classes for --label truth, but {unlike}; give "
            "--label prediction"
        )
    label: Literal["truth", "prediction"] = "prediction"
    if config.label == "truth" or (config.label == "auto" and truth and not unlike):
        label = "truth"
    differ = len(set(classifiers)) > 1
    projection = headless or differ or bool(config.label == "auto" and unlike)
    follows = []
    if unlike and "predictions" in panels and (differ or config.label == "auto"):
        follows.append(
            "predictions are compared with those of the same network for the whole image"
            + (", which is easier with fewer classes" if differ else "")
        )
    if projection and "interactions" in panels:
        if headless:
            notes.append(f"A network has no classifier, so {FEATURES}.")
        else:
            follows.append(FEATURES)
    if follows:
        notes.append(f"{unlike[0].upper()}{unlike[1:]}, so {', and '.join(follows)}.")
    return replace(config, label=label), projection


def _unlike(config: CompareConfig, classifiers: Sequence[int], sources: Sequence[Source]) -> str:
    """Why classes cannot judge these classifiers, in plain words; empty if they can."""
    truths = [source.truth for source in sources if source.truth is not None]
    of_data = None
    if truths or config.data:
        of_data = known_classes(config.images, config.data, only_number(classifiers))
    name = set_name(config.images, config.data)
    return unlike(classifiers, of_data, max(truths, default=None), name)


def batch_of(count: int) -> int:
    """The most images that CKA and retrieval see together; at least 24, if there are as many."""
    batches = max(count // BATCH, 1)
    return batch_sizes(count, math.ceil(count / batches))[0]


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
