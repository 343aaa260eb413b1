"""``a2mim occlusion``: what networks still say of images whose parts are hidden.

The run folder holds the results table, the same numbers side by side (``summary.csv``, whose
columns ``summary_columns.csv`` explains), a figure, how each network came about
(``occlusion.json``) and under ``images`` one row per masked image, a compressed CSV for each
network and occluder, of which everything else is computed (:mod:`a2mim.measure.occlusion_tables`).

Outputs are compared with classes, or with ``--label prediction`` only with those of the same
network for the whole image: what hiding changes, of pictures that nobody has sorted.

Images are read, masked and measured in chunks of fixed size, whatever the batch size; a chunk that
is done is a file, read back by this run as by one that goes on. Superpixels are cut out of each
image once, for all networks, before its pixels are normalised.

Shapes: I images, B images of a chunk, C channels, H x W pixels, N players, D features.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from a2mim.checkpoints.load import Loaded, LoadReport
from a2mim.data.arrays import subset
from a2mim.data.augment import PilTransform
from a2mim.data.contents import hash_of
from a2mim.data.folders import DataError
from a2mim.data.samples import FolderSamples, SomeSamples
from a2mim.data.sources import (
    NO_TRUTH,
    Labelled,
    folder_has_classes,
    known_classes,
    labelled_samples,
    only_number,
    photographs_with_classes,
    photographs_without_classes,
    set_name,
    without_folders,
)
from a2mim.files import remove_made, write_arrays, write_whole
from a2mim.measure import doubts as doubtful
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.fills import FILLS, AnyFill, Colours
from a2mim.measure.fitting import as_setting, fitting_grid, parsed_grid, unlike
from a2mim.measure.networks import (
    Networks,
    called,
    check_different,
    identity,
    kept,
    load,
    nicknames,
    recorded,
    without_path,
)
from a2mim.measure.occlusion_tables import (
    SUMMARY,
    Measured,
    read_images_table,
    result_rows,
    summarised,
    summary,
    without_truth,
)
from a2mim.measure.precision import PROBED, ends, floor_of_effects, on_device, ran_in, settled
from a2mim.measure.runner import usable
from a2mim.messages import UsageError, did_you_mean
from a2mim.probes.features import CACHED, extract
from a2mim.probes.linear import fit_linear
from a2mim.processes import first, is_first, shared, together, wait
from a2mim.report.figures import captioned, save
from a2mim.report.figures_features import occlusion_measures
from a2mim.runs.folder import (
    commit,
    counted,
    finish_run,
    keep_memory,
    nothing_left_empty,
    open_run,
    pick_device,
    safe_name,
)
from a2mim.runs.progress import forwards, progress, worked_with
from a2mim.runs.table import write_summary, write_table
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.weights import WeightsConfig, check_given
from interactions.networks.inference import Fitting, Precision
from interactions.networks.masking import token_grid, with_modules
from interactions.networks.rounding import fitting
from interactions.occlusion.masks import (
    OCCLUDERS,
    Occluder,
    Ordered,
    SaliencyMass,
    ShiftedGrid,
    check_fractions,
)
from interactions.occlusion.predictions import WithProbe, occlude
from interactions.occlusion.presets import PRESETS
from interactions.occlusion.saliency import (
    METHODS,
    captum_attribution,
    class_attention,
    from_attribution,
)
from interactions.patches import PatchGrid
from interactions.segments import PlayerMap, superpixels

PARTS = (
    r"\d{3}-\w+-\d{5}\.csv\.gz|(superpixels|saliency)-\d{5}\.npz|probe-\d{3}\.json|fit-\d{3}\.npz|"
    + CACHED
)
"""What lies in the folder of parts: its files, by their names."""

CHUNK = 64
"""Images of a chunk, but for masks that more images share."""

SALIENT = ("salient", "non_salient", "salient_mass", "non_salient_mass")
"""Occluders that ask for saliency."""

ATTENTION = "attention"
"""The ``--saliency-method`` that is not captum's."""

_FITTED = ("weight_KD", "bias_K", "mean_D", "std_D")
"""What a linear probe is made of."""

GRIDLESS = ("random", "complement", "mae")
"""Occluders that need neither a grid nor the saliency of one: those for superpixels."""

IPVIT_GRIDS = ((4, 4), (4, 8), (7, 7), (8, 8), (14, 14), (16, 16))
"""Rows and columns that IPViT publishes curves for; the first of its presets has any of them."""

PIXELS = ("input_size", "crop_pct", "crop_mode", "interpolation")
"""What decides, of a network's data config, which pixels of an image it sees."""


@dataclass(frozen=True)
class Plan:
    """What is done to every image.

    Attributes:
        occluders: by the names that they have in the table.
        players: the patches; None where superpixels are hidden.
        superpixels: how many of each image; 0 where patches are hidden.
        fractions: hidden fractions.
        fill: from mean and deviation of a normalisation to what hidden pixels become, or to None
            for tokens that are left out.
        fill_name: what it is called in the table.
        salient: whether saliency is needed.
        chunk: images of a chunk.
    """

    occluders: dict[str, Occluder]
    players: PatchGrid | ShiftedGrid | None
    superpixels: int
    fractions: tuple[float, ...]
    fill: Callable[[Colours, Colours], AnyFill | None]
    fill_name: str
    salient: bool
    chunk: int

    @property
    def grid(self) -> PatchGrid:
        """The patches where they are not shifted."""
        assert self.players is not None
        return self.players.grid if isinstance(self.players, ShiftedGrid) else self.players

    @property
    def n(self) -> int:
        """The number of regions of an image."""
        return self.superpixels if self.players is None else self.players.n

    @property
    def regions(self) -> str:
        """What they are called in the table."""
        if self.players is None:
            return f"superpixels={self.superpixels}"
        return f"grid={self.grid.rows}x{self.grid.cols}"


@dataclass(frozen=True)
class Images:
    """The images of a run, as one network sees them.

    Attributes:
        samples: all images of their source.
        indices: those of the run among them.
        names: of the images of the run, the keys of their masks.
        labels_I: their classes; 0, of which nothing is made, where they do not count.
    """

    samples: Labelled
    indices: list[int]
    names: list[str]
    labels_I: Tensor

    def contents(self) -> str:
        """A hash of what is in the images, and of their classes."""
        return hash_of(self.samples.contents(self.indices), self.labels_I.tolist())

    def read(self, chunk: slice) -> Tensor:
        """Images ``(B, C, H, W)``, ready for the network.

        Raises:
            DataError: if one cannot be read.
        """
        images = [self.samples.load(index, 0) for index in self.indices[chunk]]
        damage = getattr(self.samples, "damage", None)
        if damage is not None and (unreadable := damage.indices()):
            names = ", ".join(_name(self.samples, k) for k in unreadable[:5])
            raise DataError(
                f"expected images that can be read, {len(unreadable)} cannot: {names}; repair them "
                "or leave them out"
            )
        return torch.stack(images)


@together()
@nothing_left_empty()
def occlusion(config: OcclusionConfig) -> dict[str, str]:
    """Measure, write table and figure, and print a summary; an interrupted run goes on.

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = with_all(config)
    _check(config)
    device = pick_device(config.device)
    config = replace(config, device=device, precision=on_device(config.precision, device))
    if config.device == "cpu":
        keep_memory()
    networks, doubts = Networks(config.weights), list[str]()
    left_out = LeftOut(config.checkpoints, config.weights)
    config, plan, tried = first(partial(_all_tried, config, networks, left_out, doubts))
    reports = [report for report, _ in tried]
    for report in reports:
        print(report)
    if config.preset.startswith("ipvit") and (note := _otherwise(tried)):
        print(note)
    regions = None
    if plan.superpixels:
        regions = _Regions.of(config, plan, [data for _, data in tried])
    saliency = None
    if plan.salient:
        saliency = usable(partial(_Saliency.of, config, plan, [data for _, data in tried]))
    images = _images(config, tried[0][1], tried[0][0].classes)
    if isinstance(images.samples, FolderSamples):
        doubts += doubtful.of_images(images.samples.identities(images.indices))
    if doubts:
        print("\n".join(doubts))
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in ("device", "out", "resume", "grid") and not key.startswith("saliency")
    }
    settings |= {
        "checkpoints": [f"{called(report)} {report.sha256}" for report in reports],
        "weights": recorded(config.weights),
        "images": config.images and config.images.resolve().name,
        "data": without_folders(config.data),
        "probe_data": without_folders(config.probe_data),
    }
    if not plan.superpixels:
        settings["grid"] = as_setting(plan.grid)
    if saliency:
        own = config.saliency_method == ATTENTION
        how = f"head {config.saliency_head}" if own else config.saliency_method
        settings["saliency"] = f"{without_path(saliency.loaded.report.source)} {how}"
        settings["saliency_sha256"] = saliency.loaded.report.sha256
    pairs = zip(config.checkpoints, reports, strict=True)
    everything = settings | {
        "checkpoints": [identity(name, report) for name, report in pairs],
        "images": images.contents(),
        "saliency": saliency and identity(config.saliency, saliency.loaded.report),
        "probe_data": [
            _probe_samples(config, report.source, look).contents()
            for report, look in tried
            if not report.classes
        ],
        **left_out.decides(),
    }
    run = open_run(config.out, "occlusion", nicknames(reports), everything, resume=config.resume)
    if run.finished:
        return left_out_of(run.out)
    work, out = run.work, run.out
    left_out.go_on(work)
    occluders = "occluder" if len(plan.occluders) == 1 else "occluders"
    each = f"{len(plan.occluders)} {occluders} x {_variants(config, plan)} forwards"
    total = len(images.names) * len(plan.occluders) * _variants(config, plan)
    print(
        f"plan: {len(images.names)} images x {each}: {counted(total)} for each checkpoint, "
        + worked_with(config.device, config.precision, [one.parameters for one in reports])
    )
    (work / "parts").mkdir(exist_ok=True)
    chunks = [slice(k, k + plan.chunk) for k in range(0, len(images.names), plan.chunk)]

    def measured(name: str) -> int:
        number = config.checkpoints.index(name)
        usable(partial(_measure, config, plan, number, chunks, work, networks, saliency, regions))
        return number

    numbers = left_out.each(measured)
    wait()
    if not is_first():
        return {}
    reports = [reports[number] for number in numbers]
    files = _joined(plan, reports, numbers, len(chunks), work)
    probes = [_probe(work, number) for number in numbers]
    about = [
        {
            "weights": kept(report),
            "probe": json.loads(probe.read_text()) if probe.exists() else None,
        }
        for report, probe in zip(reports, probes, strict=True)
    ]
    precisions = [ran_in(config.precision, _arithmetic(work, number)) for number in numbers]
    rows = usable(partial(_rows, config, plan, reports, files, precisions))
    said = [] if config.label != "truth" else _of_labels(reports, files)
    if said:
        print("\n".join(said))
    doubts += said
    write_table(rows, work / "rows.csv")
    write_summary(summarised(rows), SUMMARY, work)
    write_whole(work / "occlusion.json", json.dumps(about, indent=2) + "\n")
    save(figures(rows), work)
    left_out.keep(work)
    doubts += left_out.sentences()
    settings |= {"doubts": doubts, "ran": {"precision": precisions}}
    finish_run(run, settings, time.perf_counter() - start)
    remove_made(out / "parts", PARTS)
    print(summary(rows))
    print(f"\ntable: {out / 'summary.csv'}\nfigure: {out / 'occlusion.png'}")
    return left_out.named()


def _all_tried(
    config: OcclusionConfig, networks: Networks, left_out: LeftOut, doubts: list[str]
) -> tuple[OcclusionConfig, Plan, list[tuple[LoadReport, dict[str, Any]]]]:
    """What fits networks and images, and each network tried before the first is measured.

    What is wrong is not found out after hours; what looks wrong joins the doubts.
    """
    left_out.each(networks)
    config = _fitted(replace(config, checkpoints=left_out.rest()), networks)
    plan = _plan(config)
    tried = left_out.each(
        lambda name: usable(partial(_tried, config, plan, networks, name, doubts))
    )
    check_different([report for report, _ in tried])
    return replace(config, checkpoints=left_out.rest()), plan, tried


def figures(rows: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    """How each figure of a results table is drawn."""
    return captioned({"occlusion": partial(occlusion_measures, rows)}, rows)


# --------------------------------------------------------------------------------------------------
# what is done


def _check(config: OcclusionConfig) -> None:
    """What no checkpoint is needed to check."""
    check_given(config)
    methods = (ATTENTION, *METHODS)
    if config.saliency_method not in methods:
        raise UsageError(
            f"expected --saliency-method of {', '.join(methods)}, got "
            f"{config.saliency_method!r}{did_you_mean(config.saliency_method, methods)}"
        )
    if config.preset:
        plan = _published(config)
        _check_attribution(config, plan.occluders, plan.salient)
        return
    unknown = [name for name in config.occluder if name not in OCCLUDERS]
    if unknown or not config.occluder or len(set(config.occluder)) < len(config.occluder):
        raise UsageError(
            f"expected --occluder of {', '.join(OCCLUDERS)}, each once, got "
            f"{' '.join(config.occluder) or 'none'}"
        )
    usable(lambda: check_fractions(config.fractions))
    if len(config.fractions) < 2 or list(config.fractions) != sorted(set(config.fractions)):
        raise UsageError(
            f"expected at least 2 distinct ascending --fractions, got {config.fractions}"
        )
    if config.grid is not None:
        parsed_grid(config.grid)
    if config.superpixels:
        _check_superpixels(config)
    occluders = {name: OCCLUDERS[name] for name in config.occluder}
    _check_attribution(config, occluders, any(name in SALIENT for name in occluders))


def _check_attribution(
    config: OcclusionConfig, occluders: Mapping[str, Occluder], salient: bool
) -> None:
    """Whether everything else goes together with an attribution of captum's."""
    method = config.saliency_method
    if method == ATTENTION:
        return
    if not salient:
        raise UsageError(
            f"expected --occluder of {', '.join(SALIENT)} for --saliency-method {method}, got "
            f"{' '.join(occluders)}"
        )
    mass = [n for n, occluder in occluders.items() if isinstance(occluder, SaliencyMass)]
    if mass and method != "Saliency":
        raise UsageError(
            f"expected --saliency-method {ATTENTION} or Saliency for {mass[0]}, got {method}, "
            "which may be below 0; choose --occluder salient or non_salient"
        )
    if config.saliency_head != OcclusionConfig.saliency_head:
        raise UsageError(
            f"expected --saliency-head or --saliency-method {method}, got both; heads are those "
            "of attention"
        )


def _fitted(config: OcclusionConfig, networks: Networks) -> OcclusionConfig:
    """With a grid and a label that fit networks and images, where they were left open."""
    open_grid = config.grid is None and not (config.preset or config.superpixels)
    if not open_grid and config.label != "auto":
        return config
    sights = networks.sights(config.checkpoints)
    if open_grid:
        config = replace(config, grid=as_setting(fitting_grid(None, sights)))
    if config.label == "auto":
        label, why = _label(config, [sight.classes for sight in sights if sight.classes])
        print(f"label: {label} ({why})")
        config = replace(config, label=label)
    return config


def _label(
    config: OcclusionConfig, classifiers: Sequence[int]
) -> tuple[Literal["truth", "prediction"], str]:
    """The true classes as labels where they can be, else predictions; and why."""
    if config.images is not None:
        if not folder_has_classes(config.images):
            return "prediction", "there is no labels.csv, and no folders by class"
        outputs = only_number(classifiers)
        samples = photographs_with_classes(config.images, _nothing, outputs=outputs)
        labels_I = samples.labels_I
        of_data = known_classes(config.images, "", outputs)
    else:
        labels_I = labelled_samples(config.data, _nothing)[1].labels_I
        of_data = None if labels_I is None else int(labels_I.max()) + 1
    if labels_I is None:
        return "prediction", f"{config.data} has no classes"
    data = set_name(config.images, config.data)
    why = unlike(classifiers, of_data, int(labels_I.max()), data)
    return ("prediction", why) if why else ("truth", f"the classes of {data}")


def _nothing(image: Any, generator: Any) -> Any:
    """A transform of images that are not looked at."""
    return image


def _plan(config: OcclusionConfig) -> Plan:
    """What is done to every image, on the grid of the configuration."""
    if config.preset:
        return _published(config)
    grid = None if config.superpixels else parsed_grid(config.grid or "")

    def fill(mean_C: Colours, std_C: Colours) -> AnyFill | None:
        if config.fill == "token_drop":
            return None
        return FILLS[config.fill](mean_C, std_C, config.seed)

    return Plan(
        {name: OCCLUDERS[name] for name in config.occluder},
        grid,
        config.superpixels,
        config.fractions,
        fill,
        config.fill,
        any(name in SALIENT for name in config.occluder),
        CHUNK,
    )


def _check_superpixels(config: OcclusionConfig) -> None:
    """Whether everything else goes together with superpixels."""
    if config.superpixels < 3:
        raise UsageError(
            f"expected --superpixels of at least 3, or 0 for patches, got {config.superpixels}"
        )
    if config.grid is not None:
        raise UsageError(
            "expected --grid or --superpixels, got both; the one is instead of the other"
        )
    bound = [name for name in config.occluder if name not in GRIDLESS]
    if bound:
        raise UsageError(
            f"expected --occluder of {', '.join(GRIDLESS)} for --superpixels, got "
            f"{' '.join(bound)}, which needs a grid"
        )
    if config.fill == "token_drop":
        raise UsageError(
            "expected a --fill of pixels for --superpixels, got token_drop; tokens are patches"
        )


def _published(config: OcclusionConfig) -> Plan:
    """The plan of a preset; one of them leaves the grid open, which is 14 x 14 unless given."""
    if config.preset not in PRESETS:
        raise UsageError(f"expected --preset {', '.join(PRESETS)}, got {config.preset!r}")
    default = OcclusionConfig(())
    given = {
        name: getattr(config, name) != getattr(default, name)
        for name in ("occluder", "fill", "superpixels", "fractions")
    }
    given["grid"] = config.preset != "ipvit" and config.grid is not None
    both = [name for name, differs in given.items() if differs]
    if both:
        raise UsageError(f"expected --preset or --{both[0]}, got both; the preset decides about it")
    preset = PRESETS[config.preset]
    players = preset.players
    assert isinstance(players, PatchGrid | ShiftedGrid)
    if config.preset == "ipvit":
        grid = parsed_grid(14 if config.grid is None else config.grid)
        if (grid.rows, grid.cols) not in IPVIT_GRIDS:
            raise UsageError(
                f"expected --grid of {', '.join(f'{r}x{c}' for r, c in IPVIT_GRIDS)} for --preset "
                f"ipvit, as published, got {grid.rows}x{grid.cols}"
            )
        players = grid
    share = preset.occluder.share if isinstance(preset.occluder, Ordered) else 1
    return Plan(
        {config.preset: preset.occluder},
        players,
        0,
        preset.fractions,
        preset.fill,
        "black" if preset.raw else "zero",
        isinstance(preset.occluder, SaliencyMass),
        max(CHUNK, share),  # images that share masks lie in one chunk
    )


def _tried(
    config: OcclusionConfig, plan: Plan, networks: Networks, name: str, doubts: list[str]
) -> tuple[LoadReport, dict[str, Any]]:
    """A network's report and data config, once a masked image of zeros has gone through it.

    What looks wrong about it joins the doubts.
    """
    loaded = networks(name)
    outputs = loaded.report.classes
    if config.label == "truth" and config.images is not None and outputs:
        count = known_classes(config.images, "", outputs)
        if why := unlike([outputs], count, None, config.images.name):
            raise UsageError(f"expected classes of the networks for --label truth, but {why}")
    if config.label == "truth":
        doubts += doubtful.of_texts(called(loaded.report), loaded.report, config)
    images = _images(config, loaded.data_config, outputs)
    k = int(images.labels_I.argmax())  # a class that the network does not know is noticed here
    label = images.labels_I[[k]]
    if not loaded.report.classes:
        known = _probe_samples(config, loaded.report.source, loaded.data_config).labels_I
        if known is None or int(label) > int(known.max()):
            raise UsageError(
                f"expected --probe-data with all classes of the images, up to {int(label)}, got "
                f"{0 if known is None else int(known.max()) + 1} classes"
            )
        label = torch.zeros_like(label)  # for now, features serve as logits
    players = plan.players
    maps = {}
    if players is None:
        maps = _Regions.of(config, plan, [loaded.data_config])(slice(k, k + 1))
    for occluder_name, occluder in plan.occluders.items():
        rows = occlude(
            loaded.model,
            torch.zeros(1, *loaded.data_config["input_size"]),
            label,
            players or maps,
            occluder,
            fractions=plan.fractions,
            fill=_fill(plan, loaded),
            names=[images.names[k]],
            saliency_IN=torch.ones(1, plan.n),
        )
        if isinstance(occluder, Ordered) and rows["hidden"].duplicated().any():
            what = "superpixels" if plan.superpixels else "patches"
            raise UsageError(
                f"expected --fractions that {occluder_name} tells apart on {plan.n} {what}, "
                f"got {plan.fractions}, which hide {[round(h, 4) for h in rows['hidden']]}"
            )
    few_BCHW = images.read(slice(0, doubtful.LOOKED_AT))
    title = f"{loaded.report.architecture} ({called(loaded.report)})"
    doubts += doubtful.of_network(title, loaded.model, few_BCHW)
    return loaded.report, loaded.data_config


def _otherwise(tried: Sequence[tuple[LoadReport, dict[str, Any]]]) -> str:
    """A note on networks that see images otherwise than IPViT's did; empty if there are none."""
    notes = []
    for report, data in tried:
        size, crop, how = data["input_size"][1:], data["crop_pct"], data["interpolation"]
        other = {
            f"{size[0]}x{size[1]} pixels (--image-size 224)": tuple(size) != (224, 224),
            f"crop_pct {crop:g} (--crop-pct 0.875)": crop != 0.875,
            f"{how} (--interpolation bilinear)": how != "bilinear",
            f"crop_mode {data['crop_mode']}": data["crop_mode"] != "center",
        }
        if any(other.values()):
            told = ", ".join(what for what, differs in other.items() if differs)
            notes.append(f"{report.architecture} ({called(report)}) has {told}")
    if not notes:
        return ""
    return (
        "note: IPViT resized images to 256 pixels, bilinearly, and cut out the central 224; "
        f"{'; '.join(notes)}; what is in brackets would set it"
    )


def _fill(plan: Plan, loaded: Loaded) -> AnyFill | None:
    return plan.fill(loaded.data_config["mean"], loaded.data_config["std"])


def _images(config: OcclusionConfig, data: dict[str, Any], outputs: int | None = None) -> Images:
    """The images of the run, as a network with this data config, and these outputs, sees them."""
    transform = PilTransform.of(data)
    samples: Labelled
    truth = config.label == "truth"
    if config.images is None:
        samples = labelled_samples(config.data, transform)[1]
    elif truth:
        samples = photographs_with_classes(
            config.images, transform, outputs=outputs, instead=NO_TRUTH
        )
    else:
        samples = photographs_without_classes(config.images, transform)
    if isinstance(samples, FolderSamples):
        indices = samples.draw(config.count, config.seed)
    else:
        indices = subset(len(samples), config.count, config.seed)
    if len(indices) < 2:
        raise DataError(f"expected at least 2 images, got {len(indices)}")
    names = [_name(samples, k) for k in indices]
    labels_I = torch.zeros(len(indices), dtype=torch.int64)
    if truth:
        assert samples.labels_I is not None
        labels_I = samples.labels_I[indices]
    return Images(samples, indices, names, labels_I)


def _name(samples: Labelled, k: int) -> str:
    names = getattr(samples, "names", None)
    return f"test/{k:05d}" if names is None else names[k]


# --------------------------------------------------------------------------------------------------
# measuring


def _measure(
    config: OcclusionConfig,
    plan: Plan,
    number: int,
    chunks: Sequence[slice],
    work: Path,
    networks: Networks,
    saliency: _Saliency | None,
    regions: _Regions | None,
) -> None:
    """Write the parts of one network that are not there, or this process's share of them."""
    missing = {
        c: [name for name in plan.occluders if not _part(work, number, name, c).exists()]
        for c in range(len(chunks))
    }
    unmade = [c for c, names in missing.items() if names]
    if not unmade:
        return
    mine = [(c, chunks[c], name) for c in shared(unmade) for name in missing[c]]
    ready = networks.take(config.checkpoints[number])
    images = _images(config, ready.data_config, ready.report.classes)
    model = _classifier(config, ready, number, work)
    each = _variants(config, plan)
    total = left = sum(each * len(images.names[chunk]) for _, chunk, _ in mine)
    title = f"{ready.report.architecture} ({called(ready.report)})"
    precision = settled(
        config.precision,
        _arithmetic(work, number),
        title,
        partial(_fitting, config, plan, ready, model, images, chunks[0], work, regions),
    )
    with forwards(title, total, [model]) as bar:
        at = -1
        for c, chunk, name in mine:
            if c != at:
                at, images_BCHW = c, images.read(chunk)
                saliency_BN = None
                if saliency is not None:
                    saliency_BN = saliency.kept(config, chunk, plan.grid, _salience(work, c))
                maps = {} if regions is None else regions.kept(chunk, _cut(work, c))
            rows = occlude(
                model,
                images_BCHW,
                images.labels_I[chunk],
                plan.players or maps,
                plan.occluders[name],
                fractions=plan.fractions,
                repeats=config.repeats,
                fill=_fill(plan, ready),
                names=images.names[chunk],
                saliency_IN=saliency_BN,
                seed=config.seed,
                batch_size=config.batch_size or None,
                precision=precision,
            )
            if config.label == "prediction":
                rows = without_truth(rows)
            text = rows.to_csv(index=False, header=c == 0, float_format="%.8g", lineterminator="\n")
            # Members of one file: a gzip file may be several ones, joined.
            packed = gzip.compress(text.encode(), mtime=0)
            write_whole(_part(work, number, name, c), packed)
            left -= each * len(images.names[chunk])
            bar.n = total - left  # masks that hide nothing are not run
            bar.refresh()


def _fitting(
    config: OcclusionConfig,
    plan: Plan,
    ready: Loaded,
    model: nn.Module,
    images: Images,
    chunk: slice,
    work: Path,
    regions: _Regions | None,
) -> Fitting:
    """The fastest arithmetic for a network, by the first images; random parts of them are hidden.

    The chunk is the first one, whose superpixels are kept.
    """
    some = slice(0, PROBED)
    images_BCHW, names = images.read(some), images.names[some]
    maps = {} if regions is None else regions.kept(chunk, _cut(work, 0))

    def measure(networks: Sequence[nn.Module], precision: Precision) -> pd.DataFrame:
        return occlude(
            networks[0],
            images_BCHW,
            images.labels_I[some],
            plan.players or maps,
            OCCLUDERS["random"],
            fractions=ends(plan.fractions),
            fill=_fill(plan, ready),
            names=names,
            seed=config.seed,
            batch_size=config.batch_size or None,
            precision=precision,
        )

    return fitting(measure, [model], floor_of_effects)


def _variants(config: OcclusionConfig, plan: Plan) -> int:
    """Forwards of an image and occluder: itself, and itself masked."""
    return 1 + config.repeats * sum(fraction > 0 for fraction in plan.fractions)


def _part(work: Path, number: int, occluder: str, chunk: int) -> Path:
    return work / "parts" / f"{number:03d}-{occluder}-{chunk:05d}.csv.gz"


def _cut(work: Path, chunk: int) -> Path:
    """The superpixels of a chunk, which are the same for all networks."""
    return work / "parts" / f"superpixels-{chunk:05d}.npz"


def _salience(work: Path, chunk: int) -> Path:
    """The saliency of a chunk, which is the same for all networks."""
    return work / "parts" / f"saliency-{chunk:05d}.npz"


def _arithmetic(work: Path, number: int) -> Path:
    """The arithmetic of a network, where it was chosen."""
    return work / f"precision-{number:03d}.json"


def _probe(work: Path, number: int) -> Path:
    """What there is to say of the probe of a network."""
    return work / "parts" / f"probe-{number:03d}.json"


def _joined(
    plan: Plan, reports: Sequence[LoadReport], numbers: Sequence[int], chunks: int, work: Path
) -> list[dict[str, Path]]:
    """Join the parts: one file for each network and occluder."""
    (work / "images").mkdir(exist_ok=True)
    files: list[dict[str, Path]] = []
    for number, (part, report) in enumerate(zip(numbers, reports, strict=True)):
        files.append({})
        for occluder in plan.occluders:
            name = safe_name(f"{number:02d}-{report.architecture}-{called(report)}-{occluder}")
            path = work / "images" / f"{name}.csv.gz"
            with path.open("wb") as whole:
                for c in range(chunks):
                    whole.write(_part(work, part, occluder, c).read_bytes())
            files[-1][occluder] = path
    return files


def _classifier(config: OcclusionConfig, loaded: Loaded, number: int, work: Path) -> nn.Module:
    """The network, with a linear probe of clean images where it has no classifier of its own."""
    model: nn.Module = loaded.model.to(config.device)
    if loaded.report.classes:
        return model
    samples = _probe_samples(config, loaded.report.source, loaded.data_config)
    with progress("training features", len(samples), "images", delay=1) as bar:
        try:
            features = extract(
                nn.Sequential(model),  # features are what the module gives, as below
                samples,
                batch_size=config.batch_size or 256,
                device=config.device,
                cache=work / "parts" / f"features-{number:03d}",
                on_batch=lambda done, total: bar.update(done - bar.n) and None,
            )
        except FloatingPointError as error:
            raise UsageError(str(error)) from error
    fitted, about = work / "parts" / f"fit-{number:03d}.npz", _probe(work, number)

    def fit() -> list[Tensor]:
        if not (fitted.exists() and about.exists()):
            found = fit_linear(features, device=config.device)
            settings = {**found.settings, "grid": found.grid}
            write_whole(about, json.dumps(settings, indent=2) + "\n")
            tensors = {key: getattr(found, key).float().cpu().numpy() for key in _FITTED}
            write_arrays(fitted, tensors)
        with np.load(fitted, allow_pickle=False) as arrays:
            return [torch.from_numpy(arrays[key]) for key in _FITTED]

    tensors = first(fit)

    def probed(encoder: nn.Module) -> nn.Module:
        return WithProbe(encoder, *tensors).to(config.device).eval()

    if "patch_drop" in model._modules:
        # Still a vision transformer, whose tokens can be left out.
        return with_modules(model, head=probed(nn.Identity()))
    return probed(model)


def _probe_samples(
    config: OcclusionConfig, source: str, look: dict[str, Any]
) -> Labelled | SomeSamples:
    """The training images of a probe, as a network from there sees them."""
    data = config.probe_data or config.data
    if not data:
        raise UsageError(
            f"expected --probe-data for {source}, which has no classifier: clean "
            "images with classes, for --label truth those of --images, to train a linear probe on"
        )
    samples = labelled_samples(data, PilTransform.of(look))[0]
    limit = config.probe_max_train
    if limit is None or limit >= len(samples):
        return samples
    return SomeSamples(samples, subset(len(samples), limit, 0))


@dataclass(frozen=True)
class _Saliency:
    """The class attention of a vision transformer, or an attribution, on the images of the run.

    Attributes:
        loaded: the network.
        images: as it sees them, cut out as for the first network that is measured.
    """

    loaded: Loaded
    images: Images

    @classmethod
    def of(
        cls, config: OcclusionConfig, plan: Plan, data_configs: Sequence[dict[str, Any]]
    ) -> _Saliency:
        """Load it, and see whether it can be had for these networks' images."""
        cuts = {(data["crop_pct"], data["crop_mode"]) for data in data_configs}
        if len(cuts) > 1:
            raise UsageError(
                "expected networks that see the same cut of an image, so that the same parts of it "
                f"are salient, got {sorted(cuts)}; give --crop-pct"
            )
        for data in data_configs:
            H, W = data["input_size"][1:]
            if H != W:
                raise UsageError(
                    f"expected networks of square images for --saliency, got one of {H} x {W} px; "
                    "give --image-size, or occluders that need no saliency"
                )
        first = data_configs[0]
        loaded = load(config.saliency, WeightsConfig(image_size=first["input_size"][1]))
        if config.saliency_method != ATTENTION and not loaded.report.classes:
            raise UsageError(
                f"expected --saliency with a classifier for {config.saliency_method}, got "
                f"{config.saliency} without; name another network, such as {config.checkpoints[0]}"
            )
        data = first | {key: loaded.data_config[key] for key in ("mean", "std")}
        loaded.model.to(config.device)
        made = cls(loaded, _images(config, data))
        made(config, slice(0, 1), plan.grid)
        return made

    def __call__(self, config: OcclusionConfig, chunk: slice, grid: PatchGrid) -> Tensor:
        """Saliency ``(B, N)`` of a chunk; batches are the same whatever ``--batch-size`` says."""
        images_BCHW = self.images.read(chunk)
        model = self.loaded.model
        if config.saliency_method != ATTENTION:
            names = self.images.names[chunk]
            return captum_attribution(
                model, images_BCHW, grid, config.saliency_method, seed=config.seed, names=names
            )
        head = None if config.saliency_head < 0 else config.saliency_head
        attention_BL = class_attention(model, images_BCHW, head, batch_size=16)
        tokens = token_grid(model, *images_BCHW.shape[2:])
        if tokens is None:
            raise UsageError(f"expected a plain ViT for --saliency, got {config.saliency}")
        return from_attribution(attention_BL.reshape(-1, tokens.rows, tokens.cols), grid)

    def kept(self, config: OcclusionConfig, chunk: slice, grid: PatchGrid, path: Path) -> Tensor:
        """The same, read from a file if it is there and left there if not."""
        if not path.exists():
            write_arrays(path, {"saliency_BN": self(config, chunk, grid).numpy()})
        with np.load(path, allow_pickle=False) as stored:
            return torch.from_numpy(stored["saliency_BN"])


@dataclass(frozen=True)
class _Regions:
    """The superpixels of the images of the run: the same for all networks.

    Attributes:
        images: as the networks see them but for normalisation, which would change colours and with
            them the cut.
        count: superpixels of an image.
    """

    images: Images
    count: int

    @classmethod
    def of(
        cls, config: OcclusionConfig, plan: Plan, data_configs: Sequence[dict[str, Any]]
    ) -> _Regions:
        """See whether these networks see the same pixels."""
        first = data_configs[0]
        for key in PIXELS:
            seen = [str(data[key]).strip("[()]") for data in data_configs]  # sizes may be lists
            if len(set(seen)) > 1:
                raise UsageError(
                    "expected networks that see the same pixels of an image, so that its "
                    f"superpixels are the same, got {key} {' and '.join(dict.fromkeys(seen))}; "
                    "give --image-size, --crop-pct and --interpolation, or measure them one by one"
                )
        channels = first["input_size"][0]
        data = first | {"mean": (0.0,) * channels, "std": (1.0,) * channels}
        return cls(_images(config, data), plan.superpixels)

    def __call__(self, chunk: slice) -> dict[str, PlayerMap]:
        """The maps of the images of a chunk, by their names."""
        images_BCHW = self.images.read(chunk)
        made = {}
        for name, image_CHW in zip(self.images.names[chunk], images_BCHW, strict=True):
            try:
                made[name] = superpixels(image_CHW, self.count)
            except ValueError as error:
                raise ValueError(f"image {name}: {error}") from error
        return made

    def kept(self, chunk: slice, path: Path) -> dict[str, PlayerMap]:
        """The same, read from a file if it is there and left there if not: SLIC takes a second."""
        names = self.images.names[chunk]
        if not path.exists():
            players_BHW = torch.stack([players.players_HW for players in self(chunk).values()])
            write_arrays(path, {"players_BHW": players_BHW.numpy().astype(np.int32)})
        with np.load(path, allow_pickle=False) as stored:
            maps_BHW = torch.from_numpy(stored["players_BHW"].astype(np.int64))
        return {name: PlayerMap(map_HW) for name, map_HW in zip(names, maps_BHW, strict=True)}


# --------------------------------------------------------------------------------------------------
# results


def _rows(
    config: OcclusionConfig,
    plan: Plan,
    reports: Sequence[LoadReport],
    files: Sequence[dict[str, Path]],
    precisions: Sequence[Precision],
) -> pd.DataFrame:
    """The results table of every network and occluder."""
    constant: dict[str, str | int] = {
        "run": "occlusion",
        "dataset": set_name(config.images, config.data),
        "image": "all",
        "seed": config.seed,
        "commit": commit(),
    }
    made = []
    for occluder in plan.occluders:
        networks = [
            Measured(
                report.architecture,
                called(report),
                _setting(config, plan, occluder, report, precision),
                read_images_table(file[occluder]),
            )
            for report, file, precision in zip(reports, files, precisions, strict=True)
        ]
        made.append(result_rows(networks, **constant))
    return pd.concat(made, ignore_index=True)


def _of_labels(reports: Sequence[LoadReport], files: Sequence[dict[str, Path]]) -> list[str]:
    """Whether labels look wrong, from what networks say of whole images."""
    doubts = []
    for report, file in zip(reports, files, strict=True):
        whole = read_images_table(next(iter(file.values()))).groupby("image").first()
        title = f"{report.architecture} ({called(report)})"
        predicted_I, labels_I = (whole[key].to_numpy() for key in ("clean_predicted", "label"))
        doubts += doubtful.of_labels(title, predicted_I, labels_I)
    return doubts


def _setting(
    config: OcclusionConfig, plan: Plan, occluder: str, report: LoadReport, precision: Precision
) -> str:
    classifier = "own"
    if not report.classes:
        classifier = f"probe:{without_folders(config.probe_data or config.data)}"
    label = "" if config.label == "truth" else f" label={config.label}"
    saliency = ""
    if plan.salient:
        own = config.saliency_method == ATTENTION
        how = config.saliency_head if own else config.saliency_method
        saliency = f" saliency={without_path(config.saliency)}:{how}"
    return (
        f"occluder={occluder} {plan.regions} fill={plan.fill_name} "
        f"repeats={config.repeats} precision={precision} classifier={classifier}"
        f"{label}{saliency}"
    )
