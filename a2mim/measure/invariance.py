"""``a2mim invariance``: what is left of features when patches are hidden, beside its baselines.

The results table has a row for every number: ``invariance_<measure>`` at a hidden ratio, with
``_low``, ``_high`` (an interval over batches for CKA, over images for others), ``_mask_sd`` (over
repeats), and its baselines ``_untrained``, ``_pixels`` and ``_permuted``. The setting tells layer,
readout and hiding: filled pixels and dropped tokens are different experiments. It says
``against=complement`` where occluded images are compared with their complements, not whole images.

``summary.csv`` has the same numbers side by side; ``summary_columns.csv`` explains its columns.

All of it is computed from raw rows. Under ``batches`` in the run folder lie those of each network
and batch, of all layers, masks and pairings, with the terms of CKA (:func:`read_batch`). A batch
that is there is not measured again. Under ``images`` lies a compressed CSV for each network, of its
last layer image by image: what paired comparisons of networks are made of
(:func:`read_images_table`).

What is here for ``a2mim spectrum`` too: checkpoints that are tried before the first is measured,
images that are read while they are needed, and a file of rows for each checkpoint and batch.
"""

from __future__ import annotations

import gzip
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from a2mim.checkpoints.load import LoadReport
from a2mim.data.sampler import keyed_generator
from a2mim.data.sources import Source, images_of, set_name
from a2mim.files import write_whole
from a2mim.measure import doubts as doubtful
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.fills import plain_fill
from a2mim.measure.fitting import as_setting, fitting_grid, parsed_grid
from a2mim.measure.networks import (
    Networks,
    Subject,
    called,
    check_different,
    identity,
    nicknames,
    recorded,
    subject_of,
    write_reports,
)
from a2mim.measure.precision import PROBED, ends, floor_of_features, on_device, ran_in, settled
from a2mim.messages import UsageError
from a2mim.processes import first, is_first, shared, together, wait
from a2mim.report.figures import captioned, save
from a2mim.report.figures_features import (
    BASELINES,
    ENDS,
    SHOWN,
    hidden,
    invariance_over_layers,
    invariance_over_ratios,
    invariance_table,
    last_layer,
)
from a2mim.runs.folder import (
    Run,
    commit,
    counted,
    finish_run,
    keep_memory,
    nothing_left_empty,
    open_run,
    pick_device,
    safe_name,
)
from a2mim.runs.progress import forwards, worked_with
from a2mim.runs.table import COLUMNS, write_summary, write_table
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import check_given
from interactions.features.cka import FEWEST
from interactions.features.invariance import (
    MEASURES,
    BatchRows,
    batch_sizes,
    default_fractions,
    similarity_rows,
    summarised,
)
from interactions.networks.inference import Fitting, Precision
from interactions.networks.layers import layer_features
from interactions.networks.rounding import fitting
from interactions.occlusion.patch_drop import random_drop
from interactions.patches import PatchGrid

FRESH = 1
"""Seed of the untrained network beside another: not that of ``untrained:`` checkpoints."""

READ_AT_ONCE = 32
"""Images that are read at once."""

BESIDE = ("cosine", "centred_cosine", "recall@1")
"""Measures that the file of images has of the untrained network too."""

_NAMES = tuple(measure.replace(" ", "_") for measure in MEASURES)

SUMMARY = {
    "model": "network",
    "weights": "its weights",
    "hiding": "what hidden patches become; token_drop leaves their tokens out",
    "against": "what occluded images are compared with: whole ones, or their complements",
    "layer": "where features are read",
    "readout": "how a layer becomes one vector",
    "metric": "what is compared: cka, cosine, centred_cosine, pearson, relative_l2, recall@1, "
    "recall@5; _median and _p05 are quantiles over images",
    "ratio": "hidden share of the patches",
    "value": "the mean over images and masks; CKA and quantiles: of batches",
    "low": "lower end of its 95 % interval, over batches for cka and over images for other means",
    "high": "upper end",
    "mask_sd": "standard deviation of the value over masks",
    "untrained": "the same of the network with fresh weights",
    "pixels": "the same of raw pixels",
    "permuted": "the same of images paired with those of others",
}
"""Columns of ``summary.csv`` and what they mean."""


@dataclass(frozen=True)
class Prepared:
    """Checkpoints and images that can be measured.

    Attributes:
        dataset: what the images are called.
        sources: the images.
        reports: what became of the weights of each checkpoint.
        device: where networks go.
        networks: by the names of checkpoints.
        left_out: checkpoints that cannot be measured.
        doubts: what looks wrong about the networks, in sentences.
    """

    dataset: str
    sources: Sequence[Source]
    reports: Sequence[LoadReport]
    device: str
    networks: Networks
    left_out: LeftOut
    doubts: tuple[str, ...] = ()

    def worked_with(self, precision: str) -> str:
        """The end of the line before the start."""
        return worked_with(self.device, precision, [one.parameters for one in self.reports])


@together()
@nothing_left_empty()
def invariance(config: InvarianceConfig) -> dict[str, str]:
    """Measure checkpoints, write rows and figures, print a table; an interrupted run goes on.

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = with_all(config)
    left_out = LeftOut(config.checkpoints, config.weights)
    config, prepared = first(partial(_prepared, config, left_out))
    images = len(prepared.sources)
    if images < FEWEST:
        raise UsageError(f"expected at least {FEWEST} images, found {images}")
    print(_plan(config, prepared))
    sizes = batch_sizes(images, config.cka_batch)
    done = measure_all(
        *("invariance", config, prepared),
        [f"{k:05d}.npz" for k in range(len(sizes))],
        partial(_measure, config, prepared, sizes),
        partial(_fitting, config, prepared),
    )
    if isinstance(done, dict):
        return done
    run, settings, files = done
    rows = pd.concat([_rows(config, prepared, *one) for one in files], ignore_index=True)
    for number, (report, paths, _) in enumerate(files):
        write_images(run.work, number, report, of_images(paths))
    write_table(rows, run.work / "rows.csv")
    write_summary(invariance_table(rows), SUMMARY, run.work)
    drawn = figures(rows)
    save(drawn, run.work)
    finish_run(run, settings, time.perf_counter() - start)
    print(summary(rows))
    print(
        f"\ntable: {run.out / 'summary.csv'}   figures: {', '.join(drawn)} beside it   "
        f"image by image: {run.out / 'images'}, {run.out / 'batches'}"
    )
    return left_out.named()


def _prepared(config: InvarianceConfig, left_out: LeftOut) -> tuple[InvarianceConfig, Prepared]:
    """With a grid that fits the networks, and all that is measured, in the order of the batches."""
    config = replace(config, fractions=_fractions(config))
    check_given(config)
    networks = Networks(config.weights)
    if config.grid is None:
        left_out.each(networks)
        grid = fitting_grid(None, networks.sights(left_out.rest()))
        config = replace(config, grid=as_setting(grid))
    _check(config)
    prepared = prepare(config, networks, left_out, partial(_try, config))
    return config, _shuffled(prepared, config.seed)


def figures(rows: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    """How each figure of a results table is drawn."""
    table = invariance_table(rows)
    draw: dict[str, Callable[[], Figure]] = {"invariance": partial(invariance_over_ratios, table)}
    for (model, weights), of in table.groupby(["model", "weights"], sort=False):
        draw[f"layers-{safe_name(f'{model} {weights}')}"] = partial(invariance_over_layers, of)
    return captioned(draw, rows)


def read_images_table(path: Path) -> pd.DataFrame:
    """The last layer of one network, image by image.

    Args:
        path: a file under ``images`` of a run folder.

    Returns:
        One row per image, ratio and readout: ``image``, ``layer``, ``readout``, ``ratio`` (hidden
        share, as realised), the :data:`~interactions.features.invariance.MEASURES` with ``_`` for a
        space (means over repeats), and :data:`BESIDE` of the untrained network,
        ``untrained_<measure>``.
    """
    names = dict.fromkeys(("image", "layer", "readout"), str)
    # An image may be called NA.
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])


def summary(rows: pd.DataFrame) -> str:
    """The last layer of every network, a line per ratio, beside the baselines; and the controls."""
    lines = []
    for (model, weights), table in invariance_table(rows).groupby(["model", "weights"], sort=False):
        last = last_layer(table)
        layer, readout = last.iloc[0][["layer", "readout"]]
        where = f"layer {layer}, readout {readout}, patches {hidden(table)}"
        lines.append(f"\n{model} ({weights}), {where}:")
        shown = pd.concat([last[last["metric"] == metric] for metric in SHOWN])
        columns = ["metric", "ratio", "value", "low", "high", *BASELINES]
        lines.append(shown[columns].to_string(index=False, float_format="%.3f", na_rep="-"))
        cka = table[table["metric"] == "cka"]
        whole = cka.loc[cka["ratio"] == 0, "value"]
        controls = [f"permuted CKA in all layers {_range(cka['permuted'])} (expected: about 0)"]
        if len(whole):
            controls.insert(0, f"CKA with nothing hidden {_range(whole)} (expected: 1)")
        lines.append("controls: " + "; ".join(controls))
    return "\n".join(lines)


def prepare(
    config: InvarianceConfig | SpectrumConfig,
    networks: Networks,
    left_out: LeftOut,
    attempt: Callable[[nn.Module, Tensor], object],
) -> Prepared:
    """Find the images, and try every checkpoint before the first is measured.

    Args:
        config: of the command.
        networks: by the names of checkpoints.
        left_out: gets those that cannot be measured.
        attempt: takes a network and one image ``(1, C, H, W)``, and raises a ValueError if it
            cannot be measured as it should.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if there are no images, or the first cannot be read.
    """
    device = pick_device(config.device)
    if device == "cpu":
        keep_memory()
    sources = images_of(config.images, config.data, config.count, config.seed)
    doubts = list[str]()

    def tried(name: str) -> LoadReport:
        subject = subject_of(name, config.weights, device, headless=True, loaded=networks(name))
        with _of(name):
            attempt(subject.model, subject.see_all(sources[:1]).to(device))
        doubts.extend(doubtful.of_subject(subject, sources))
        return subject.report

    reports = left_out.each(tried)
    check_different(reports)
    for report in reports:
        print(report)
    dataset = set_name(config.images, config.data)
    return Prepared(dataset, sources, reports, device, networks, left_out, tuple(doubts))


def measure_all(
    command: str,
    config: InvarianceConfig | SpectrumConfig,
    prepared: Prepared,
    parts: Sequence[str],
    measure: Callable[[Subject, Mapping[int, Path], Precision], None],
    choose: Callable[[Subject], Fitting],
) -> tuple[Run, dict[str, Any], list[tuple[LoadReport, list[Path], Precision]]] | dict[str, str]:
    """Measure all checkpoints; what an interrupted run has measured is not measured again.

    Args:
        command: its name.
        config: its settings.
        prepared: checkpoints and images.
        parts: names of the files of rows of each checkpoint.
        measure: writes those of a network that are not there, or this process's share of them, by
            their numbers, in an arithmetic.
        choose: that of a network, where it is "auto".

    Returns:
        The run, with ``weights.json``, ``images`` and ``batches`` in its work folder, its settings
        with the precision of each checkpoint under ``ran``, and of each that could be measured the
        report, the files of rows and the precision; if it finished before, who was left out then,
        and nothing where another process goes on.

    Raises:
        UsageError: if a checkpoint cannot be measured.
        DataError: if an image cannot be read.
    """
    asked = on_device(config.precision, prepared.device)
    settings = asdict(config) | {"precision": asked}
    for key in ("device", "out", "resume", "batch_size", "images", "data"):
        settings.pop(key)
    settings["weights"] = recorded(config.weights)
    settings["dataset"] = prepared.dataset
    settings["checkpoints"] = [
        f"{report.architecture} {called(report)} {report.sha256}" for report in prepared.reports
    ]
    left_out = prepared.left_out
    reports = dict(zip(left_out.rest(), prepared.reports, strict=True))
    everything = settings | {
        "run": command,
        "images": (identities := [source.identity() for source in prepared.sources]),
        "checkpoints": [identity(name, report) for name, report in reports.items()],
        **left_out.decides(),
    }
    doubts = [*doubtful.of_images(identities), *prepared.doubts]
    for doubt in doubts:
        print(doubt)
    names = nicknames(prepared.reports)
    run = open_run(config.out, command, names, everything, resume=config.resume)
    if run.finished:
        return left_out_of(run.out)
    (run.work / "images").mkdir(exist_ok=True)
    left_out.go_on(run.work)
    numbers = {name: number for number, name in enumerate(reports)}

    def measured(name: str) -> tuple[LoadReport, list[Path], Path]:
        report = reports[name]
        file = _file_of(numbers[name], report)
        arithmetic = run.work / f"precision-{file}.json"
        folder = run.work / "batches" / file
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / part for part in parts]
        if mine := shared([k for k, path in enumerate(paths) if not path.exists()]):
            with _of(name):
                loaded = prepared.networks.take(name)
                subject = subject_of(
                    name, config.weights, prepared.device, headless=True, loaded=loaded
                )
                title = f"{subject.name} ({subject.weights})"
                chosen = settled(asked, arithmetic, title, partial(choose, subject))
                measure(subject, {k: paths[k] for k in mine}, chosen)
        return report, paths, arithmetic

    made = left_out.each(measured)
    wait()
    if not is_first():
        return {}
    files = [(report, paths, ran_in(asked, arithmetic)) for report, paths, arithmetic in made]
    write_reports([report for report, *_ in files], run.work / "weights.json")
    left_out.keep(run.work)
    ran = {"precision": [precision for *_, precision in files]}
    return run, settings | {"doubts": doubts + left_out.sentences(), "ran": ran}, files


def write_images(work: Path, number: int, report: LoadReport, table: pd.DataFrame) -> None:
    """Write the table of single images of a checkpoint."""
    write_whole(work / "images" / f"{_file_of(number, report)}.csv.gz", packed(table))


def packed(table: pd.DataFrame) -> bytes:
    """A compressed CSV: the same rows are the same bytes."""
    text = table.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    return gzip.compress(text.encode(), mtime=0)


def _file_of(number: int, report: LoadReport) -> str:
    return safe_name(f"{number:02d}-{report.architecture}-{called(report)}")


def batches(subject: Subject, sources: Sequence[Source], size: int) -> Iterator[Tensor]:
    """Images as the network wants them, ``(B, C, H, W)``, read when they are asked for.

    Raises:
        DataError: if an image cannot be read.
    """
    for start in range(0, len(sources), size):
        yield subject.see_all(sources[start : start + size])


def tidy(measured: pd.DataFrame, **constant: Any) -> pd.DataFrame:
    """Rows of the results table from the wide table of one network.

    Args:
        measured: with ``name``, ``setting``, ``at``, ``images`` and the numbers; a number called
            ``value`` is a row ``name``, others are rows ``name_<number>``, none where NaN if they
            tell of its spread.
        constant: the other columns.
    """
    numbers = [end.removeprefix("_") or "value" for end in ENDS]
    tables = []
    for number in numbers:
        if number not in measured:
            continue
        table = measured[["setting", "at"]].assign(
            measure=measured["name"] + ("" if number == "value" else f"_{number}"),
            value=measured[number],
            samples=measured["images"],
            **constant,
        )
        spread = number in ("low", "high", "mask_sd")
        tables.append(table.dropna(subset="value") if spread else table)
    rows = pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)
    return rows[list(COLUMNS)]


def constants(run: str, report: LoadReport, prepared: Prepared, seed: int) -> dict[str, Any]:
    """Columns of the results table that are the same for all numbers of a network."""
    return {
        "run": run,
        "model": report.architecture,
        "weights": called(report),
        "dataset": prepared.dataset,
        "image": "all",
        "seed": seed,
        "commit": commit(),
    }


def read_batch(path: Path) -> BatchRows:
    """The raw rows of one network and batch: a file under ``batches`` of a run folder."""
    with np.load(path, allow_pickle=False) as arrays:
        places = zip(
            *(arrays[name].tolist() for name in ("pairing", "layer", "readout", "ratio")),
            strict=True,
        )
        return BatchRows(
            tuple(arrays["images"].tolist()),
            tuple(places),
            arrays["values_PRNM"],
            arrays["terms_PR3"],
        )


def _write_batch(rows: BatchRows, path: Path) -> None:
    """Write raw rows; measures of single images in float32, 1e-7 of their size apart."""
    pairings, layers, readouts, ratios = zip(*rows.places, strict=True)
    buffer = io.BytesIO()
    # Not compressed: their last digits are random.
    np.savez(
        buffer,
        images=np.array(rows.images),
        pairing=np.array(pairings),
        layer=np.array(layers),
        readout=np.array(readouts),
        ratio=np.array(ratios),
        values_PRNM=rows.values_PRNM.astype(np.float32),
        terms_PR3=rows.terms_PR3,
    )
    write_whole(path, buffer.getvalue())


def _shuffled(prepared: Prepared, seed: int) -> Prepared:
    """In an order drawn by the seed: in that of a folder by class, a batch could be one class."""
    order = torch.randperm(len(prepared.sources), generator=keyed_generator("batches", seed))
    return replace(prepared, sources=[prepared.sources[k] for k in order.tolist()])


def _measure(
    config: InvarianceConfig,
    prepared: Prepared,
    sizes: Sequence[int],
    subject: Subject,
    paths: Mapping[int, Path],
    precision: Precision,
) -> None:
    """Write the rows of some batches of one network, by their numbers."""
    fresh = subject.untrained(FRESH).to(prepared.device)
    title = f"{subject.name} ({subject.weights})"
    stops = list(accumulate(sizes))
    left = [source for k in paths for source in prepared.sources[stops[k] - sizes[k] : stops[k]]]
    parts, done = [_first(subject.model), _first(fresh)], 0
    with forwards(title, _forwards(config, len(left)), parts) as bar:
        measured = similarity_rows(
            subject.model,
            batches(subject, left, config.batch_size or READ_AT_ONCE),
            _grid(config),
            untrained=fresh,
            **_options(config, subject),
            fractions=config.fractions,
            repeats=config.repeats,
            names=[source.name for source in left],
            count=len(prepared.sources),
            cka_batch=config.cka_batch,
            precision=precision,
            only=list(paths),
        )
        for rows, path in zip(measured, paths.values(), strict=True):
            _write_batch(rows, path)
            done += len(rows.images)
            bar.n = _forwards(config, done)  # what chose the batch size does not count
            bar.refresh()


def _options(config: InvarianceConfig, subject: Subject) -> dict[str, Any]:
    """What is measured of any images, in any arithmetic."""
    return {
        "fill": None if config.fill == "token_drop" else plain_fill(config.fill, *subject.colours),
        "against": config.against,
        "layers": config.layers or None,
        "readouts": config.readouts or None,
        "seed": config.seed,
        "batch_size": config.batch_size or None,
    }


def _fitting(config: InvarianceConfig, prepared: Prepared, subject: Subject) -> Fitting:
    """The fastest arithmetic for a network and its untrained twin, by the first images."""
    some = prepared.sources[:PROBED]
    images_NCHW = subject.see_all(some)

    def measure(networks: Sequence[nn.Module], precision: Precision) -> BatchRows:
        rows = similarity_rows(
            networks[0],
            [images_NCHW],
            _grid(config),
            untrained=networks[1],
            **_options(config, subject),
            fractions=ends(_fractions(config)),
            repeats=1,
            names=[source.name for source in some],
            precision=precision,
        )
        return next(rows)

    fresh = subject.untrained(FRESH).to(prepared.device)
    return fitting(measure, [subject.model, fresh], floor_of_features)


def _rows(
    config: InvarianceConfig,
    prepared: Prepared,
    report: LoadReport,
    paths: Sequence[Path],
    precision: Precision,
) -> pd.DataFrame:
    """The rows of the results table of one network."""
    measured = summarised(map(read_batch, paths))
    named = measured["metric"].str.replace(" ", "_")
    is_mean = measured["statistic"] == "mean"
    grid = _grid(config)
    setting = (
        f"hiding={config.fill} grid={grid.rows}x{grid.cols} repeats={config.repeats} "
        f"precision={precision}"
    )
    if config.against == "complement":
        setting += " against=complement"
    return tidy(
        measured.assign(
            name="invariance_" + named.where(is_mean, named + "_" + measured["statistic"]),
            at=measured["ratio"],
            setting=(
                "layer="
                + measured["layer"]
                + " readout="
                + measured["readout"]
                + f" {setting} batch="
                + measured["batch"].astype(str)
                + " batches="
                + measured["batches"].astype(str)
            ),
        ),
        **constants("invariance", report, prepared, config.seed),
    )


def of_images(paths: Sequence[Path]) -> pd.DataFrame:
    """The table of :func:`read_images_table`, from raw rows, by names of images."""
    tables = []
    for path in paths:
        rows = read_batch(path)
        values = dict(zip(rows.places, rows.values_PRNM.astype(float).mean(axis=1), strict=True))
        last = [place[1] for place in values if place[0] == "value"][-1]
        for (pairing, layer, readout, ratio), of_NM in values.items():
            if pairing != "value" or layer != last:
                continue
            beside_NM = values["untrained", layer, readout, ratio]
            table: Mapping[str, object] = {
                "image": rows.images,
                "layer": layer,
                "readout": readout,
                "ratio": ratio,
                **dict(zip(_NAMES, of_NM.T, strict=True)),
                **{f"untrained_{name}": beside_NM[:, _NAMES.index(name)] for name in BESIDE},
            }
            tables.append(pd.DataFrame(table))
    whole = pd.concat(tables, ignore_index=True)
    return whole.sort_values("image", kind="stable", ignore_index=True)


def _try(config: InvarianceConfig, model: nn.Module, image_1CHW: Tensor) -> None:
    """Read out one image as the run will where it sees the least."""
    grid = _grid(config)
    grid.check_image(*image_1CHW.shape[2:])
    ends = [min(_fractions(config)), max(_fractions(config))]
    low_1P, high_1P = random_drop(grid.n, ends, ["0"], config.seed, 0).unbind(dim=1)
    for visible_1P in (high_1P, ~low_1P) if config.against == "complement" else (high_1P,):
        layer_features(
            model,
            image_1CHW,
            layers=config.layers or None,
            readouts=config.readouts or None,
            players=grid,
            visible_BN=visible_1P.to(image_1CHW.device),
            token_drop=config.fill == "token_drop",
        )


def _check(config: InvarianceConfig) -> None:
    """What needs neither images nor networks."""
    n, fractions = _grid(config).n, _fractions(config)
    counts = [round(n * fraction) for fraction in fractions]
    if not counts or min(fractions) < 0 or max(counts) >= n or len(set(counts)) < len(counts):
        raise UsageError(
            f"expected --fractions from 0 to below 1 that hide different numbers of the {n} "
            f"patches and leave one, got {fractions}"
        )
    if config.against == "complement" and not min(counts):
        raise UsageError(
            f"expected --fractions that hide one of the {n} patches, because the complement shows "
            f"what is hidden, got {fractions}; leave {min(fractions):g} out"
        )


def _plan(config: InvarianceConfig, prepared: Prepared) -> str:
    """What will be done, before it is done."""
    images = len(prepared.sources)
    masks = f"{len(_fractions(config))} fractions x {config.repeats} masks"
    masks = f"{masks} x 2 complements" if config.against == "complement" else f"(1 + {masks})"
    sizes = batch_sizes(images, config.cka_batch)
    plan = (
        f"plan: {images} images x {masks}, for the network and for an untrained one: "
        f"{counted(_forwards(config, images))} forwards for each checkpoint, "
        + prepared.worked_with(on_device(config.precision, prepared.device))
    )
    if len(sizes) > 1:
        between = "" if sizes[0] == sizes[-1] else f"{sizes[-1]} to "
        plan += f"; {len(sizes)} batches of {between}{sizes[0]} images"
    else:
        plan += (
            "\nCKA will have no interval, because its interval is one over batches and there is "
            f"one; give more images, or a smaller --cka-batch (now {config.cka_batch})"
        )
    return plan


def _fractions(config: InvarianceConfig) -> tuple[float, ...]:
    return default_fractions(config.against) if config.fractions is None else config.fractions


def _forwards(config: InvarianceConfig, images: int) -> int:
    """Images through the network and the untrained one."""
    masks = len(_fractions(config)) * config.repeats
    return 2 * images * (2 * masks if config.against == "complement" else 1 + masks)


def _grid(config: InvarianceConfig) -> PatchGrid:
    assert config.grid is not None, "a grid that fits the networks"
    return parsed_grid(config.grid)


def _range(values: pd.Series) -> str:
    """The smallest and the largest of some numbers."""
    low, high = np.nanmin(values), np.nanmax(values)
    return f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"


@contextmanager
def _of(name: str) -> Iterator[None]:
    """What the library refuses with a reason is the user's input: says of which checkpoint."""
    try:
        yield
    except (FloatingPointError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error


def _first(model: nn.Module) -> nn.Module:
    """A module that every forward goes through once; the network itself is run part by part."""
    return next(module for module in model.modules() if not list(module.children()))
