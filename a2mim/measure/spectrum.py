"""``a2mim spectrum``: which frequencies the maps of a network hold, and how much they vary.

The results table has ``spectrum_delta_log_amplitude`` at a frequency (in units of pi per cell of
the map: 2 k / H) and ``spectrum_variance`` at a depth (index of the map / last index), each with
``_low`` and ``_high``, an interval over images. The setting tells the map: its name, its index
among all maps of the residual stream, and its cells per side.

Under ``images`` in the run folder lies a compressed CSV for each network, of all maps image by
image: what paired comparisons of networks are made of (:func:`read_images_table`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from a2mim.measure import invariance
from a2mim.measure.invariance import (
    Prepared,
    at_once,
    batches,
    constants,
    finish,
    measure_all,
    prepare,
    tidy,
)
from a2mim.measure.networks import Subject
from a2mim.report.figures import save
from a2mim.report.figures_features import ends_of_stream, spectra, spectrum_table, stream_over_depth
from a2mim.runs.folder import counted, nothing_left_empty
from a2mim.runs.journal import Journal
from a2mim.runs.progress import progress
from a2mim.settings.spectrum import SpectrumConfig
from interactions.features import spectrum as library
from interactions.features.invariance import State
from interactions.features.spectrum import SpectrumOfImages
from interactions.networks.layers import stream_names


@nothing_left_empty()
def spectrum(config: SpectrumConfig) -> None:
    """Measure checkpoints, write rows and figures, print a table; an interrupted run goes on.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    prepared = prepare(config, partial(_try, config))
    forwards = counted(len(prepared.sources))
    print(f"plan: {forwards} forwards for each checkpoint, {prepared.worked_with('float32')}")
    out, work, settings, rows = measure_all(
        "spectrum", config, prepared, partial(_measure, config, prepared)
    )
    save(figures(rows), work)
    finish(out, work, settings, time.perf_counter() - start)
    print(summary(rows))
    print(
        f"\ntable: {out / 'rows.csv'}   figures: spectra, depth beside it   "
        f"image by image: {out / 'images'}"
    )


def figures(rows: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    """How each figure of a results table is drawn."""
    table = spectrum_table(rows)
    return {"spectra": partial(spectra, table), "depth": partial(stream_over_depth, table)}


def read_images_table(path: Path) -> pd.DataFrame:
    """All maps of one network, image by image.

    Args:
        path: a file under ``images`` of a run folder.

    Returns:
        One row per image and map: ``image``, ``layer``, ``index`` and ``cells`` as in the setting
        of the results table, ``variance``, and ``highest``: Delta log amplitude at the highest
        frequency.
    """
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
    config: SpectrumConfig, prepared: Prepared, subject: Subject, journal: Journal
) -> pd.DataFrame:
    """The rows of one network; it goes on behind the last batch in the journal."""
    start, names = journal.state, [source.name for source in prepared.sources]
    done = 0 if start is None else int(start["images"])
    stream = stream_names(subject.model)
    blank = torch.zeros(1, *subject.report.look["input_size"])
    layers, small = _layers(config, subject.model, blank)
    if small:
        print(f"{subject.name} ({subject.weights}): no spectra of {small}, fewer than 3 x 3 cells")
    seen: list[pd.DataFrame] = []

    def observe(of: SpectrumOfImages) -> None:
        columns = {
            "image": names[done : done + len(of.variances_B)],
            "layer": of.layer,
            "index": stream.index(of.layer),
            "cells": of.cells,
            "variance": of.variances_B,
            "highest": of.deltas_BK[:, -1],
        }
        seen.append(pd.DataFrame(columns))

    def after_batch(state: State) -> None:
        nonlocal done
        journal.add(state, pd.concat(seen, ignore_index=True))
        seen.clear()
        bar.update(int(state["images"]) - done)
        done = int(state["images"])

    title = f"{subject.name} ({subject.weights})"
    with progress(title, len(names), "images", initial=done) as bar:
        measured = library.spectrum(
            subject.model,
            batches(subject, prepared.sources[done:], at_once(config)),
            layers=layers,
            observe=observe,
            after_batch=after_batch,
            start=start,
        )
    maps = len(stream)
    numbers = measured[["index", "cells"]].astype(str)
    rows = tidy(
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
            ),
        ),
        **constants("spectrum", subject, prepared, config.seed),
    )
    return rows


def _try(config: SpectrumConfig, model: nn.Module, image_1CHW: Tensor) -> None:
    library.spectrum(model, [image_1CHW], layers=_layers(config, model, image_1CHW)[0])


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
