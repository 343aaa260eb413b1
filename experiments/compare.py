"""``a2mim compare``: every measure of several checkpoints, one table and one page.

Each panel is a run of its own command (``a2mim occlusion``, ``interactions``, ``invariance``,
``spectrum``) on the same images, kept whole under ``panels``. From their tables come the scores,
one number with an interval for each network, and their paired differences
(:mod:`experiments.comparison`); from these the figures and the page
(:mod:`experiments.comparison_page`).

All networks look at the same pixels: where they want different crops or resizing, all get one; what
is hidden becomes the mean colour of the image, which no normalisation changes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import nn

from a2mim.convert import Loaded
from experiments.comparison import (
    Comparison,
    Network,
    named_networks,
    scores_and_differences,
)
from experiments.configs.compare import CompareConfig, Panel
from experiments.configs.interactions import InteractionsConfig
from experiments.configs.invariance import InvarianceConfig
from experiments.configs.occlusion import OcclusionConfig
from experiments.configs.spectrum import SpectrumConfig
from experiments.configs.weights import WeightsConfig
from experiments.interaction_curves import LEAST_BUDGET, interaction_curves
from experiments.invariance import invariance
from experiments.occlusion import occlusion
from experiments.results import COLUMNS, read_table, write_atomic, write_table
from experiments.runs import (
    UsageError,
    commit,
    is_run,
    keep_memory,
    label_run,
    open_run,
    pick_device,
    place_run,
)
from experiments.sources import folder_images, named_images
from experiments.spectrum import spectrum
from experiments.weights import check_different, load, write_reports
from interactions.similarity import FEWEST
from interactions.spectrum import spectrum as maps_of

PANELS: tuple[Panel, ...] = get_args(Panel)

HIDDEN = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Hidden shares of the panel of predictions."""

SIMILAR_AT = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Hidden shares of the panel of similarity, which also runs an untrained network."""

COST = {"predictions": len(HIDDEN), "similarity": 2 * (1 + len(SIMILAR_AT)), "spectrum": 1}
"""Forwards for each image."""

GRIDS = range(4, 15)
"""Patches per side that are chosen from; ten hidden shares need 4."""

BATCHES = range(24, 64)
"""Images that CKA and retrieval see together: the first that divides the images, or about 32."""

TIMED_IMAGES, TIMED_SECONDS = 16, 1.0


@dataclass(frozen=True)
class Plan:
    """What will be done, once networks and images are known.

    Attributes:
        config: with grid, label, device and the common crop filled in.
        networks: what is compared.
        files: names of the images.
        forwards: of each panel, for each network.
        apart: why a network is not in a panel: panel -> checkpoint -> reason.
        speeds: forwards a second of each network.
        notes: what was decided for the user, in sentences.
    """

    config: CompareConfig
    networks: list[Network]
    files: list[str]
    forwards: dict[Panel, int]
    apart: dict[Panel, dict[str, str]]
    speeds: list[float]
    notes: list[str]

    def checkpoints(self, panel: Panel) -> tuple[str, ...]:
        """Those that a panel measures."""
        apart = self.apart.get(panel, {})
        return tuple(name for name in self.config.checkpoints if name not in apart)

    @property
    def seconds(self) -> float:
        """Estimated time, in all."""
        return sum(
            forwards / speed
            for panel, forwards in self.forwards.items()
            for name, speed in zip(self.config.checkpoints, self.speeds, strict=True)
            if name in self.checkpoints(panel)
        )

    def to_dict(self) -> dict[str, Any]:
        """What the page has to know, as JSON takes it; nothing that another run would not have."""
        return {
            "networks": [network.to_dict() for network in self.networks],
            "images": len(self.files),
            "label": self.config.label,
            "grid": self.config.grid,
            "fill": self.config.fill,
            "forwards": self.forwards,
            "apart": self.apart,
            "notes": self.notes,
        }

    def __str__(self) -> str:
        """The plan, for people."""
        lines = [f"plan: {len(self.files)} images; forwards for each network"]
        lines += [f"  {panel:<13}{_counted(n):>9}" for panel, n in self.forwards.items()]
        lines.append(f"  {'in all':<13}{_counted(sum(self.forwards.values())):>9}")
        for network, speed in zip(self.networks, self.speeds, strict=True):
            lines.append(f"{network.title}: {speed:.3g} forwards a second")
        lines += self.notes
        lines.append(
            f"about {_duration(self.seconds)} on {self.config.device}, if nothing else runs there; "
            "--budget changes it"
        )
        return "\n".join(lines)


def compare(
    checkpoints: Sequence[str | Path],
    *,
    images: str | Path | None = None,
    data: str = "",
    out: str | Path = "results/compare",
    **settings: Any,
) -> Comparison:
    """Measure checkpoints on the same images, pairs, contexts and masks; ``a2mim compare``.

    An interrupted comparison goes on when it is called again.

    Args:
        checkpoints: two or more files, timm names and so on, as on the command line.
        images: a folder of images.
        data: a data set by name instead.
        out: where the results go.
        settings: any other of :class:`~experiments.configs.compare.CompareConfig`, and of
            :class:`~experiments.configs.weights.WeightsConfig`.

    Returns:
        The finished comparison: ``.to_frame()``, ``.scores()``, ``.differences()``,
        ``.plot(panel)``, ``.to_html(path)``.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    of_weights = {field.name for field in fields(WeightsConfig)}
    weights = WeightsConfig(**{k: v for k, v in settings.items() if k in of_weights})
    rest = {k: v for k, v in settings.items() if k not in of_weights}
    unknown = rest.keys() - {field.name for field in fields(CompareConfig)}
    if unknown:
        raise UsageError(f"expected settings of a2mim compare, got {', '.join(sorted(unknown))}")
    config = CompareConfig(
        tuple(str(name) for name in checkpoints),
        images=None if images is None else Path(images),
        data=data,
        out=Path(out),
        weights=weights,
        **rest,
    )
    return run(config)


def run(config: CompareConfig) -> Comparison:
    """Plan, say so, measure every panel, and write table, figures and page.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    _check(config)
    device = pick_device(config.device)
    if device == "cpu":
        keep_memory()
    plan = _planned(replace(config, device=device))
    print(plan)
    config = plan.config
    settings = asdict(config)
    for key in ("device", "out", "resume"):
        settings.pop(key)
    settings["images"] = config.images and config.images.resolve().name
    settings["checkpoints"] = [f"{n.model} {n.weights} {n.sha256}" for n in plan.networks]
    work = open_run(config.out, settings | {"files": plan.files}, resume=config.resume)
    done = []
    for k, panel in enumerate(plan.forwards):
        print(f"[{k + 1}/{len(plan.forwards)}] {panel}")
        _run_panel(panel, plan, work)
        done.append(read_table(work / "panels" / panel / "rows.csv"))
    measured = pd.concat(done, ignore_index=True)
    own = scores_and_differences(measured, work / "panels", plan.networks)
    own = own.assign(dataset=_dataset(config), seed=config.seed, commit=commit())
    write_table(pd.concat([measured, own[list(COLUMNS)]], ignore_index=True), work / "rows.csv")
    write_reports([network.report for network in plan.networks], work / "weights.json")
    write_atomic(work / "compare.json", json.dumps(plan.to_dict(), indent=2) + "\n")
    label_run(work, settings, time.perf_counter() - start)
    comparison = Comparison(work)
    comparison.save_figures()
    comparison.to_html(work / "compare.html")
    place_run(work, config.out)
    comparison = Comparison(config.out)
    print(comparison)
    print(f"\npage: {config.out / 'compare.html'}   table: {config.out / 'rows.csv'}")
    return comparison


# --------------------------------------------------------------------------------------------------
# what will be done


def _check(config: CompareConfig) -> None:
    """What needs neither networks nor images."""
    if len(config.checkpoints) < 2:
        raise UsageError(
            f"expected two or more checkpoints, got {len(config.checkpoints)}; a2mim models says "
            "what is one"
        )
    if (config.images is None) == (not config.data):
        raise UsageError("expected either --images DIR or --data NAME")
    if set(config.skip) >= set(PANELS):
        raise UsageError("expected a panel that is not skipped, got all in --skip")
    for key, least in (("count", FEWEST), ("grid", 0), ("budget", 1)):
        if getattr(config, key) < least:
            raise UsageError(f"expected --{key} of at least {least}, got {getattr(config, key)}")


def _planned(config: CompareConfig) -> Plan:
    """Try every network and the images, and decide what was left open."""
    notes: list[str] = []
    loaded = [load(name, config.weights) for name in config.checkpoints]
    check_different([one.report for one in loaded])
    networks = named_networks([one.report for one in loaded])
    config = replace(config, weights=_one_view(config, [one.data_config for one in loaded], notes))
    sizes = [int(one.data_config["input_size"][1]) for one in loaded]
    config = replace(config, grid=config.grid or _largest_grid(sizes))
    means = {(tuple(one.data_config["mean"]), tuple(one.data_config["std"])) for one in loaded}
    if config.fill == "zero" and len(means) > 1:
        notes.append(
            "Networks have different normalisations, so with --fill zero hidden patches have "
            "another colour for each."
        )
    panels = [panel for panel in PANELS if panel not in config.skip]
    each = sum(COST[panel] for panel in panels if panel in COST)
    count = min(config.count, config.budget // 2 // each) if each else config.count
    if count < FEWEST:
        raise UsageError(
            f"expected --budget of at least {2 * each * FEWEST} forwards for {FEWEST} images, "
            f"got {config.budget}"
        )
    sources, truth = _sources(config, count)
    headless = [
        name for name, one in zip(config.checkpoints, loaded, strict=True) if not one.report.classes
    ]
    config = replace(config, count=len(sources), label=_label(config, truth))
    apart: dict[Panel, dict[str, str]] = {}
    if headless and "predictions" in panels and not (config.probe_data or config.data):
        why = "it has no classifier, and without --probe-data none can be trained"
        apart["predictions"] = dict.fromkeys(headless, why)
    streams = {
        name: why
        for name, one in zip(config.checkpoints, loaded, strict=True)
        if (why := _no_stream(one))
    }
    if streams:
        apart["spectrum"] = streams
    for panel in ("predictions", "spectrum"):
        if panel in panels and len(apart.get(panel, {})) == len(loaded):
            panels.remove(panel)
            reasons = "; ".join(dict.fromkeys(apart[panel].values()))
            notes.append(f"Left out: {panel} ({reasons}).")
    if headless and "interactions" in panels:
        notes.append(
            "A network has no classifier, so interactions are about features of all networks "
            "(their projection on those of the whole image)."
        )
    forwards: dict[Panel, int] = {p: COST[p] * len(sources) for p in panels if p in COST}
    if "interactions" in panels:
        rest = config.budget - sum(forwards.values())
        if rest < LEAST_BUDGET:
            raise UsageError(
                f"expected --budget of at least {config.budget - rest + LEAST_BUDGET} forwards, "
                f"of which interactions need {LEAST_BUDGET}, got {config.budget}; or give --skip "
                "interactions"
            )
        forwards["interactions"] = rest
    forwards = {panel: forwards[panel] for panel in panels}
    speeds = [_speed(one.model, one.data_config["input_size"], config.device) for one in loaded]
    files = [source.name for source in sources]
    return Plan(config, networks, files, forwards, apart, speeds, notes)


def _one_view(
    config: CompareConfig, data: Sequence[dict[str, Any]], notes: list[str]
) -> WeightsConfig:
    """One crop and one way of resizing for all, where they want different ones."""
    weights = config.weights
    crops = sorted({float(one["crop_pct"]) for one in data})
    if len(crops) > 1:
        weights = replace(weights, crop_pct=crops[-1])
        notes.append(
            f"Networks want different crops ({', '.join(f'{c:g}' for c in crops)} of the short "
            f"side): all see the same {crops[-1]:g} of every image."
        )
    if len({one["interpolation"] for one in data}) > 1:
        weights = replace(weights, interpolation="bicubic")
        notes.append("Networks want different ways of resizing: all images are resized bicubic.")
    sizes = sorted({int(one["input_size"][1]) for one in data})
    if len(sizes) > 1:
        notes.append(
            f"Networks take images of {', '.join(map(str, sizes))} px: each sees the same region "
            "at its own size, and the same regions are hidden."
        )
    return weights


def _largest_grid(sizes: Sequence[int]) -> int:
    """The most patches per side, up to 14, that divide images of all sizes."""
    common = math.gcd(*sizes)
    grids = [side for side in GRIDS if common % side == 0]
    if not grids:
        raise UsageError(
            f"expected images that {GRIDS[0]} x {GRIDS[0]} to {GRIDS[-1]} x {GRIDS[-1]} patches "
            f"divide, got {', '.join(map(str, sorted(set(sizes))))}; give --image-size or --grid"
        )
    return grids[-1]


def _sources(config: CompareConfig, count: int) -> tuple[list[Any], bool]:
    """The images, and whether their classes are known."""
    if config.images is None:
        sources = named_images(config.data, count, config.seed)
        return sources, all(source.truth is not None for source in sources)
    truth = (config.images / "labels.csv").is_file()
    return folder_images(config.images, count, config.seed, truth=truth), truth


def _label(config: CompareConfig, truth: bool) -> Literal["truth", "prediction"]:
    if config.label == "truth" and not truth:
        where = config.images / "labels.csv" if config.images else config.data
        raise UsageError(f"expected classes in {where} for --label truth, found none")
    if config.label == "auto":
        return "truth" if truth else "prediction"
    return config.label


def _no_stream(loaded: Loaded) -> str:
    """Why the maps of a network cannot be had; empty if they can."""
    try:
        maps_of(loaded.model, [torch.zeros(1, *loaded.data_config["input_size"])])
    except ValueError as error:
        return str(error)
    return ""


def _speed(model: nn.Module, size: Sequence[int], device: str) -> float:
    """Forwards a second, from a short run."""
    model = model.to(device)
    images_BCHW = torch.zeros(TIMED_IMAGES, *size, device=device)

    def once() -> float:
        begin = time.perf_counter()
        model(images_BCHW).sum().item()  # waits for the device
        return time.perf_counter() - begin

    with torch.inference_mode():
        once()
        times = [once()]
        while sum(times) < TIMED_SECONDS:
            times.append(once())
    return TIMED_IMAGES / min(times)


def _dataset(config: CompareConfig) -> str:
    return config.data if config.images is None else config.images.resolve().name


# --------------------------------------------------------------------------------------------------
# measuring


def _run_panel(panel: Panel, plan: Plan, work: Path) -> None:
    """Run a panel, unless an interrupted comparison has; what it prints is kept beside it."""
    out = work / "panels" / panel
    if is_run(out):
        return
    (work / "panels").mkdir(exist_ok=True)
    log = work / "panels" / f"{panel}.txt"
    with log.open("w") as text, redirect_stdout(text):
        _COMMANDS[panel](plan, plan.config, out)


def _predictions(plan: Plan, config: CompareConfig, out: Path) -> None:
    occlusion(
        OcclusionConfig(
            plan.checkpoints("predictions"),
            **_shared(config, out),
            label="truth" if config.label == "truth" else "prediction",
            fill=config.fill,
            fractions=HIDDEN,
            probe_data=config.probe_data,
            probe_max_train=config.probe_max_train,
            precision=config.precision,
            grid=config.grid,
        )
    )


def _interactions(plan: Plan, config: CompareConfig, out: Path) -> None:
    headless = any(not network.classes for network in plan.networks)
    interaction_curves(
        InteractionsConfig(
            plan.checkpoints("interactions"),
            **_shared(config, out),
            label="prediction" if headless else config.label,
            reward="projection" if headless else "log_odds",
            fill=config.fill,
            budget=plan.forwards["interactions"],
            precision=config.precision,
            grid=config.grid,
        )
    )


def _similarity(plan: Plan, config: CompareConfig, out: Path) -> None:
    invariance(
        InvarianceConfig(
            plan.checkpoints("similarity"),
            **_shared(config, out),
            hiding=config.fill,
            ratios=SIMILAR_AT,
            repeats=1,
            layers=("output",),
            batch=_batch(config.count),
            precision=config.precision,
            grid=config.grid,
        )
    )


def _spectrum(plan: Plan, config: CompareConfig, out: Path) -> None:
    spectrum(SpectrumConfig(plan.checkpoints("spectrum"), **_shared(config, out)))


_COMMANDS: dict[Panel, Callable[[Plan, CompareConfig, Path], None]] = {
    "predictions": _predictions,
    "interactions": _interactions,
    "similarity": _similarity,
    "spectrum": _spectrum,
}


def _shared(config: CompareConfig, out: Path) -> dict[str, Any]:
    """Settings that all panels have."""
    return {
        "images": config.images,
        "data": config.data,
        "count": config.count,
        "seed": config.seed,
        "weights": config.weights,
        "device": config.device,
        "out": out,
    }


def _batch(count: int) -> int:
    """Images that CKA and retrieval see together: equal batches if that can be."""
    if count < 2 * min(BATCHES):
        return count
    equal = [size for size in BATCHES if count % size == 0]
    return equal[0] if equal else math.ceil(count / (count // BATCHES[8]))


def _counted(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
