"""``a2mim spectrum``: which frequencies the maps of a network hold, and how much they vary.

The results table has ``spectrum_delta_log_amplitude`` at a frequency (in units of pi per cell of
the map: 2 k / H) and ``spectrum_variance`` at a depth (index of the map / last index), each with
``_low`` and ``_high``, an interval over images. The setting tells the map: its name, its index
among all maps of the residual stream, and its cells per side.

``summary.csv`` has the same numbers side by side; ``summary_columns.csv`` explains its columns.

All of it is computed from raw rows: under ``images`` in the run folder lies a compressed CSV for
each network, of all maps and frequencies image by image (:func:`read_images_table`). While a run
works, each chunk of images that is done is a file, and is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from a2mim.checkpoints.load import LoadReport
from a2mim.files import remove_made, write_whole
from a2mim.measure import invariance
from a2mim.measure.checkpoints import LeftOut, with_all
from a2mim.measure.invariance import (
    Prepared,
    batches,
    constants,
    measure_all,
    packed,
    prepare,
    tidy,
    write_images,
)
from a2mim.measure.networks import Networks, Subject
from a2mim.measure.precision import PROBED, floor_of_spectra, on_device
from a2mim.processes import first, together
from a2mim.report.figures import captioned, save
from a2mim.report.figures_features import ends_of_stream, spectra, spectrum_table, stream_over_depth
from a2mim.runs.folder import counted, finish_run, nothing_left_empty
from a2mim.runs.progress import progress
from a2mim.runs.table import write_summary, write_table
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import check_given
from interactions.features import spectrum as library
from interactions.networks.inference import Fitting, Precision
from interactions.networks.layers import stream_names
from interactions.networks.rounding import fitting

CHUNK = 64
"""Images of a chunk, whatever the batch size."""

BATCHES = r"\d{5}\.csv\.gz"
"""Names of the files of rows of chunks."""

SUMMARY = {
    "model": "network",
    "weights": "its weights",
    "layer": "name of the map",
    "index": "of the map in the residual stream",
    "maps": "of the whole stream",
    "cells": "of the map, along one side",
    "depth": "index / last index",
    "measure": "delta_log_amplitude, or variance over the cells",
    "at": "frequency in units of pi per cell; of the variance: depth",
    "value": "mean over images",
    "low": "lower end of its 95 % interval over images",
    "high": "upper end",
}
"""Columns of ``summary.csv`` and what they mean."""


@together()
@nothing_left_empty()
def spectrum(config: SpectrumConfig) -> dict[str, str]:
    """Measure checkpoints, write rows and figures, print a table; an interrupted run goes on.

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = with_all(config)
    check_given(config)
    left_out = LeftOut(config.checkpoints, config.weights)
    networks = Networks(config.weights)
    prepared = first(partial(prepare, config, networks, left_out, partial(_try, config)))
    forwards = counted(len(prepared.sources))
    tools = prepared.worked_with(on_device(config.precision, prepared.device))
    print(f"plan: {forwards} forwards for each checkpoint, {tools}")
    chunks = range(0, len(prepared.sources), CHUNK)
    done = measure_all(
        *("spectrum", config, prepared),
        [f"{k:05d}.csv.gz" for k, _ in enumerate(chunks)],
        partial(_measure, config, prepared),
        partial(_fitting, config, prepared),
    )
    if isinstance(done, dict):
        return done
    run, settings, files = done
    made = []
    for number, (report, paths, precision) in enumerate(files):
        images = pd.concat([_read_rows(path) for path in paths], ignore_index=True)
        write_images(run.work, number, report, images)
        made.append(_rows(config, prepared, report, images, precision))
    rows = pd.concat(made, ignore_index=True)
    write_table(rows, run.work / "rows.csv")
    write_summary(spectrum_table(rows), SUMMARY, run.work)
    save(figures(rows), run.work)
    finish_run(run, settings, time.perf_counter() - start)
    remove_made(run.out / "batches", BATCHES)
    print(summary(rows))
    print(
        f"\ntable: {run.out / 'summary.csv'}   figures: spectra, depth beside it   "
        f"image by image: {run.out / 'images'}"
    )
    return left_out.named()


def figures(rows: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    """How each figure of a results table is drawn."""
    table = spectrum_table(rows)
    over_depth = captioned({"depth": partial(stream_over_depth, table)}, rows)
    return captioned({"spectra": partial(spectra, table)}, rows, band="") | over_depth


def read_images_table(path: Path) -> pd.DataFrame:
    """All maps of one network, image by image.

    Args:
        path: a file under ``images`` of a run folder.

    Returns:
        One row per image and map: ``image``, ``layer``, ``index``, ``maps`` and ``cells`` as in the
        setting of the results table, ``variance``, Delta log amplitude ``k1``, ``k2``, ... as far
        as the map has frequencies 2 k / cells, and ``highest``: that at the highest one.
    """
    rows = _read_rows(path)
    return rows.assign(highest=rows.filter(regex=r"^k\d+$").ffill(axis=1).iloc[:, -1])


def _read_rows(path: Path) -> pd.DataFrame:
    """Rows as they were measured."""
    return invariance.read_images_table(path)


def summary(rows: pd.DataFrame) -> str:
    """For every map the amplitude at its highest frequency, and its variance, with intervals."""
    lines = []
    ends = ends_of_stream(spectrum_table(rows))
    for (model, weights), of in ends.groupby(["model", "weights"], sort=False):
        columns = [c for c in of if c not in ("model", "weights", "index")]
        lines += [
            f"\n{model} ({weights}), Δ log amplitude at the highest frequency (π per cell), "
            "and variance:",
            of[columns].to_string(index=False, float_format="%.4g", na_rep="-"),
        ]
    return "\n".join(lines)


def _measure(
    config: SpectrumConfig,
    prepared: Prepared,
    subject: Subject,
    paths: Mapping[int, Path],
    precision: Precision,
) -> None:
    """Write the rows of some chunks of one network, by their numbers."""
    blank = torch.zeros(1, *subject.report.look["input_size"])
    layers, small = _layers(config, subject.model, blank)
    if small:
        print(f"{subject.name} ({subject.weights}): no spectra of {small}, fewer than 3 x 3 cells")
    chunks = [prepared.sources[k * CHUNK : (k + 1) * CHUNK] for k in paths]
    left = [source for chunk in chunks for source in chunk]
    title = f"{subject.name} ({subject.weights})"
    with progress(title, len(left), "images") as bar:
        measured = library.spectrum_rows(
            subject.model,
            (torch.cat(list(batches(subject, chunk, CHUNK))) for chunk in chunks),
            layers=layers,
            names=[source.name for source in left],
            batch_size=config.batch_size or None,
            precision=precision,
        )
        for rows, path, chunk in zip(measured, paths.values(), chunks, strict=True):
            write_whole(path, packed(rows))
            bar.update(len(chunk))


def _fitting(config: SpectrumConfig, prepared: Prepared, subject: Subject) -> Fitting:
    """The fastest arithmetic for a network, by the first images."""
    (images_BCHW,) = batches(subject, prepared.sources[:PROBED], PROBED)
    layers, _ = _layers(config, subject.model, images_BCHW[:1])

    def measure(networks: Sequence[nn.Module], precision: Precision) -> pd.DataFrame:
        size = config.batch_size or None
        rows = library.spectrum_rows(
            networks[0], [images_BCHW], layers=layers, batch_size=size, precision=precision
        )
        return next(rows)

    return fitting(measure, [subject.model], floor_of_spectra)


def _rows(
    config: SpectrumConfig,
    prepared: Prepared,
    report: LoadReport,
    images: pd.DataFrame,
    precision: Precision,
) -> pd.DataFrame:
    """The rows of the results table of one network."""
    measured = library.summarised([images])
    maps = int(images["maps"].iloc[0])
    numbers = measured[["index", "cells"]].astype(str)
    return tidy(
        measured.assign(
            name="spectrum_" + measured["measure"].str.replace(" ", "_"),
            at=measured["frequency"].fillna(measured["depth"]),
            setting=(
                "layer="
                + measured["layer"]
                + " index="
                + numbers["index"]
                + f" maps={maps} cells="
                + numbers["cells"]
                + f" precision={precision}"
            ),
        ),
        **constants("spectrum", report, prepared, config.seed),
    )


def _try(config: SpectrumConfig, model: nn.Module, image_1CHW: Tensor) -> None:
    layers = _layers(config, model, image_1CHW)[0]
    next(library.spectrum_rows(model, [image_1CHW], layers=layers, batch_size=1))


def _layers(
    config: SpectrumConfig, model: nn.Module, image_1CHW: Tensor
) -> tuple[Sequence[str], str]:
    """The maps to measure: those asked for, or all that are large enough; and the others, told."""
    if config.layers:
        return config.layers, ""
    small = library.too_small(model, image_1CHW)
    large = [name for name in stream_names(model) if name not in small]
    told = ", ".join(f"{name} ({side} x {side})" for name, side in small.items())
    if not large:
        raise ValueError(
            f"expected maps of at least 3 x 3 cells, got {told}; use larger images (--image-size)"
        )
    return large, told
