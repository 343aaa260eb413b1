"""``a2mim probe``: what networks know about classes, judged the same way for all of them.

The run folder holds the results table (a number, its ``_low`` and ``_high`` are rows of their own),
what was predicted for every image, and for every number how it came about: the report of the
weights, the features, the hyper-parameters that were tried.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from a2mim.checkpoints.load import LoadReport
from a2mim.data.sources import without_folders
from a2mim.files import remove_made, write_whole
from a2mim.measure import doubts
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.networks import (
    Networks,
    called,
    check_different,
    identity,
    kept,
    nicknames,
    recorded,
)
from a2mim.measure.probe_tables import summary
from a2mim.measure.probing import PARTS, check, judge, readout_of, samples_of
from a2mim.messages import UsageError
from a2mim.processes import first, is_first, together
from a2mim.runs.folder import finish_run, keep_memory, nothing_left_empty, open_run, pick_device
from a2mim.runs.progress import worked_with
from a2mim.runs.table import joined, write_table
from a2mim.settings.probe import ProbeConfig


@together()
@nothing_left_empty()
def probe(config: ProbeConfig) -> dict[str, str]:
    """Judge checkpoints, print a table and write the run folder; an interrupted run goes on.

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if a checkpoint, the data or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = with_all(config)
    check(config)
    device = pick_device(config.device, float64=False)
    if device == "cpu":
        keep_memory()
    # All are loaded before the first is judged: a wrong one is not found out after hours.
    networks = Networks(config.weights)
    left_out = LeftOut(config.checkpoints, config.weights)
    reports = first(lambda: left_out.each(lambda name: networks(name).report))
    config = replace(config, checkpoints=left_out.rest())
    check_different(reports)
    for report in reports:
        print(report)
    settings = asdict(config)
    for key in ("device", "out", "resume", "batch_size", "workers"):
        settings.pop(key)
    settings["checkpoints"] = [f"{called(report)} {report.sha256}" for report in reports]
    settings["weights"] = recorded(config.weights)
    settings["data"] = without_folders(config.data)
    settings["images"] = config.images and config.images.resolve().name
    pairs = zip(config.checkpoints, reports, strict=True)
    everything = settings | {
        "checkpoints": [identity(name, report) for name, report in pairs],
        "images": first(lambda: [samples.contents() for samples in samples_of(config)]),
        **left_out.decides(),
    }
    run = open_run(config.out, "probe", nicknames(reports), everything, resume=config.resume)
    if run.finished:
        return left_out_of(run.out)
    work, out = run.work, run.out
    left_out.go_on(work)
    sizes = [report.parameters for report in reports]
    print(f"plan: {config.method}, {worked_with(device, config.precision, sizes)}")
    parts = [work / f"part-{number:03d}" for number in range(len(reports))]

    def one(name: str) -> tuple[pd.DataFrame, LoadReport, Path]:
        number = config.checkpoints.index(name)
        part = parts[number]
        try:
            rows = joined(
                [part / "rows.csv"],
                lambda _: judge(config, name, networks.take(name), part, device),
            )
        except (FloatingPointError, ValueError) as error:
            raise UsageError(str(error)) from error
        return rows, reports[number], part

    said = []
    if config.method != "clean" and is_first():
        said = doubts.of_training(*samples_of(config))
        for doubt in said:
            print(doubt)
    judged = left_out.each(one)
    if not is_first():
        return {}
    parts = [part for *_, part in judged]
    rows = pd.concat([rows for rows, *_ in judged], ignore_index=True)
    write_table(rows, work / "rows.csv")
    about = [
        {"weights": kept(report), "numbers": json.loads((part / "details.json").read_text())}
        for _, report, part in judged
    ]
    write_whole(work / "probe.json", json.dumps(about, indent=2) + "\n")
    if config.method != "finetune":
        # As they were written: weights may be called 100, or NA.
        predictions = [
            pd.read_csv(part / "predictions.csv", dtype=str, keep_default_na=False)
            for part in parts
        ]
        write_whole(work / "predictions.csv", pd.concat(predictions).to_csv(index=False))
        for part in parts:
            remove_made(part, PARTS)
    left_out.keep(work)
    readout = readout_of(config)
    said += [
        doubts.of_pool(called(report), idle)
        for _, report, _ in judged
        if config.method in ("linear", "sgd", "knn")
        and (idle := readout.idle(report.without_gradient))
    ]
    said += left_out.sentences()
    finish_run(run, settings | {"doubts": said}, time.perf_counter() - start)
    print(summary(rows).to_string(index=False))
    print(f"table: {out / 'rows.csv'}   how each number came about: probe.json beside it")
    return left_out.named()
