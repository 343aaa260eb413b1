"""``a2mim reconstruct``: what masked models predict of the hidden parts of images.

The picture shows each image, what the network saw of it, its prediction, and the hidden part
completed. The table has two errors for every image (:mod:`a2mim.measure.reconstruction`).
"""

from __future__ import annotations

import time
from dataclasses import asdict

import pandas as pd

from a2mim.data.sources import images_of, set_name
from a2mim.files import write_arrays
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.networks import (
    check_different,
    identity,
    nicknames,
    recorded,
    write_reports,
)
from a2mim.measure.reconstruction import pretrained, reconstructed, said_of
from a2mim.report.figures import figures_of_pictures, save
from a2mim.runs.folder import (
    finish_run,
    nothing_left_empty,
    open_run,
    pick_device,
    safe_name,
)
from a2mim.runs.table import write_table
from a2mim.settings.reconstruct import ReconstructConfig
from a2mim.settings.weights import check_given


@nothing_left_empty()
def reconstruct(config: ReconstructConfig) -> dict[str, str]:
    """Draw what networks predict of hidden patches, and write its error image by image.

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if a checkpoint has no decoder, or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = with_all(config)
    check_given(config)
    sources = images_of(config.images, config.data, config.count, config.seed)
    device = pick_device(config.device, float64=False)
    left_out = LeftOut(config.checkpoints, config.weights)
    networks = left_out.each(lambda name: pretrained(name, config))
    reports = [network.report for network in networks]
    check_different(reports)
    settings = asdict(config)
    for key in ("device", "out", "resume", "images", "data"):
        settings.pop(key)
    settings["dataset"] = set_name(config.images, config.data)
    settings["weights"] = recorded(config.weights)
    names = nicknames(reports)
    settings["checkpoints"] = [
        f"{name} {report.sha256}" for name, report in zip(names, reports, strict=True)
    ]
    pairs = zip(left_out.rest(), reports, strict=True)
    everything = settings | {
        "run": "reconstruct",
        "images": [source.identity() for source in sources],
        "checkpoints": [identity(name, report) for name, report in pairs],
        **left_out.decides(),
    }
    run = open_run(config.out, "reconstruct", names, everything, resume=config.resume)
    if run.finished:
        return left_out_of(run.out)
    work, out = run.work, run.out
    tables = []
    for number, (name, network) in enumerate(zip(names, networks, strict=True)):
        stacks, table = reconstructed(network, sources, config, device)
        tables.append(table.assign(dataset=settings["dataset"]))
        file = f"reconstructions-{len(networks) - number}-{safe_name(name)}.npz"
        write_arrays(work / file, stacks)
        print(f"{name}: {said_of(table)}")
    write_table(pd.concat(tables, ignore_index=True), work / "rows.csv")
    write_reports(reports, work / "weights.json")
    save(figures_of_pictures(work), work)
    left_out.keep(work)
    if left_out.reasons:
        settings["doubts"] = left_out.sentences()
    finish_run(run, settings, time.perf_counter() - start)
    print(f"\npicture: {out / 'reconstructions.png'}   table: {out / 'rows.csv'}")
    return left_out.named()
