"""``a2mim compare``: every measure of several checkpoints, one table and one page.

Each panel is a run of its own command (``a2mim occlusion``, ``interactions``, ``invariance``,
``spectrum``) on the same images, kept whole under ``panels``. From their tables come the scores,
one number with an interval for each network, and their paired differences
(:mod:`a2mim.measure.comparison`); from these the figures and the page
(:mod:`a2mim.report.comparison_page`).

All networks look at the same pixels: where they want different crops or resizing, all get one; what
is hidden becomes the mean colour of the image, which no normalisation changes. What is decided
before the first forward is in :mod:`a2mim.measure.plan`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from a2mim.checkpoints.custom import Checkpoint, names_of
from a2mim.data.sources import set_name
from a2mim.files import write_whole
from a2mim.measure.checkpoints import with_all
from a2mim.measure.comparison import Comparison
from a2mim.measure.networks import nicknames, write_reports
from a2mim.measure.panels import gathered, measure_panels, without_failed
from a2mim.measure.plan import planned
from a2mim.measure.scores import scores_and_differences
from a2mim.messages import UsageError
from a2mim.processes import first, is_first, together, wait
from a2mim.runs.folder import commit, label_run, nothing_left_empty, open_run, place_run
from a2mim.runs.table import COLUMNS, write_table
from a2mim.settings.compare import CompareConfig
from a2mim.settings.weights import WeightsConfig


def compare(
    checkpoints: Checkpoint | Sequence[Checkpoint] | Mapping[str, nn.Module],
    *,
    images: str | Path | None = None,
    data: str = "",
    out: str | Path | None = None,
    **settings: Any,
) -> Comparison:
    """Measure checkpoints on the same images, pairs, contexts and masks; ``a2mim compare``.

    An interrupted comparison goes on when it is called again; a finished one is read.

    Args:
        checkpoints: two or more files, timm names and so on, as on the command line; also modules,
            which say in ``pretrained_cfg`` how they want their images (those of timm do), in a list
            or by what they are to be called.
        images: a folder of images.
        data: a data set by name instead.
        out: output folder; ``results/compare/<names>-<key>`` if left out.
        settings: any other of :class:`~a2mim.settings.compare.CompareConfig`, and of
            :class:`~a2mim.settings.weights.WeightsConfig`.

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
    known = {field.name for field in fields(CompareConfig)} - {"weights"}  # given one by one
    if unknown := rest.keys() - known:
        raise UsageError(f"expected settings of a2mim compare, got {', '.join(sorted(unknown))}")
    config = CompareConfig(
        names_of(checkpoints),
        images=None if images is None else Path(images),
        data=data,
        out=None if out is None else Path(out),
        weights=weights,
        **rest,
    )
    return run(config)


@together()
@nothing_left_empty()
def run(config: CompareConfig) -> Comparison:
    """Plan, say so, measure every panel, and write table, figures and page.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    plan = first(lambda: planned(with_all(config)))
    print(plan)
    config = plan.config
    everything = {**plan.settings, **plan.decides}
    names = nicknames([network.report for network in plan.networks])
    opened = open_run(config.out, "compare", names, everything, resume=config.resume)
    if opened.finished:
        return Comparison(opened.out)
    work, out = opened.work, opened.out
    measure_panels(plan, work)
    if not is_first():
        wait()
        return Comparison(out)
    plan = without_failed(plan, work)
    measured, ran = gathered(plan, work)
    own = scores_and_differences(measured, work / "panels", plan.networks)
    own = own.assign(
        dataset=set_name(config.images, config.data), seed=config.seed, commit=commit()
    )
    write_table(pd.concat([measured, own[list(COLUMNS)]], ignore_index=True), work / "rows.csv")
    write_reports([network.report for network in plan.networks], work / "weights.json")
    plan.left_out.keep(work)
    write_whole(work / "compare.json", json.dumps({**plan.to_dict(), "ran": ran}, indent=2) + "\n")
    label_run(work, plan.settings | {"ran": ran}, time.perf_counter() - start)
    comparison = Comparison(work)
    comparison.save_figures()
    comparison.to_html(work / "compare.html")
    place_run(opened)
    wait()
    comparison = Comparison(out)
    print(comparison.shown())  # the plan has told the doubts
    print(f"\npage: {out / 'compare.html'}   table: {out / 'rows.csv'}")
    return comparison
