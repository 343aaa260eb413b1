"""``a2mim interactions``: from models and images to a table and a figure with intervals."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pandas as pd

import interactions as ix
from experiments.configs.interactions import ENCODER_REWARDS, InteractionsConfig
from experiments.figures import interaction_overlay, save
from experiments.measuring import Measured, Share, forwards_of, grid_of, measure, usable
from experiments.records import tidy_records
from experiments.results import per_image_rows, strength_rows, write_table
from experiments.runs import (
    UsageError,
    commit,
    counted,
    finish_run,
    keep_memory,
    open_run,
    pick_device,
    process_rank,
)
from experiments.sources import Source, folder_images, named_images, set_name, some
from experiments.weights import Subject, check_different, subject_of, write_reports
from interactions.forwards import check_precision
from interactions.protocols import protocol

PILOTS = ((6, 3), (4, 2), (2, 2))
"""Images and pairs of the pilot, which takes half of the budget at most."""

LEAST_BUDGET = 2 * 4 * 4 * (11 * 8 + 2)
"""Forwards for the smallest pilot of the published orders and eight contexts, twice."""


def interaction_curves(config: InteractionsConfig) -> None:
    """Measure, write rows and figure, and print the table.

    Under ``torchrun`` the images are shared between the processes; the first one finishes.

    Raises:
        UsageError: if models, images or settings cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    rank, world = process_rank()
    config = replace(config, device=pick_device(config.device))
    if config.device == "cpu":
        keep_memory()
    design = _design(config)
    dataset, sources = set_name(config.images, config.data), _sources(config)
    subjects = _subjects(config)
    if rank == 0:
        for subject in subjects:
            print(subject.report)
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in ("out", "images", "data", "resume")
    }
    settings |= {
        "dataset": dataset,
        "models": [f"{subject.name} {subject.weights}" for subject in subjects],
        "sha256": [subject.report.sha256 for subject in subjects],
    }
    everything = settings | {"files": [source.name for source in sources]}
    work = open_run(config.out, everything, resume=config.resume or rank > 0)
    share = Share(work / "records", rank, world)
    if config.budget:
        design, sources = _planned(config, design, sources, subjects, share)
    else:
        _announce(config, design, len(sources), rank)
    measured = [measure(subject, config, design, sources, share) for subject in subjects]
    if rank != 0:
        (work / f"done-{rank}").touch()  # this process reads no record any more
        return
    rows = _rows(config, design, dataset, measured)
    write_table(rows, work / "rows.csv")
    write_reports([subject.report for subject in subjects], work / "weights.json")
    save({"interaction_curves": partial(interaction_overlay, rows)}, work)
    for other in range(1, world):
        while not (work / f"done-{other}").exists():
            time.sleep(0.1)
        (work / f"done-{other}").unlink()
    finish_run(work, config.out, settings, time.perf_counter() - start)
    tidy_records(config.out / "records", share.used)
    _report(config, measured)


def _planned(
    config: InteractionsConfig,
    design: ix.Design,
    sources: Sequence[Source],
    subjects: Sequence[Subject],
    share: Share,
) -> tuple[ix.Design, list[Source]]:
    """The most precise design within the budget, from a pilot that is part of it."""
    pairs, contexts = design.pairs, design.contexts
    assert isinstance(pairs, ix.NeighbourPairs)
    assert isinstance(contexts, ix.Windows)
    for images, count in PILOTS:
        few = some(sources, images, config.seed)
        pilot_design = replace(design, pairs=replace(pairs, count=count))
        needed = len(few) * forwards_of(pilot_design)
        if config.budget >= 2 * needed:
            break
    else:
        raise UsageError(
            f"expected --budget of at least {2 * needed} forwards, of which a pilot takes half, "
            f"got {config.budget}"
        )
    pilots = [
        measure(subject, config, pilot_design, few, share, ", pilot").records
        for subject in subjects
    ]
    spent = max(sum(record.forwards for record in records) for records in pilots)
    R = config.replicates
    chosen = usable(
        lambda: ix.plan(
            pilots[0],
            budget=config.budget - spent,
            others=pilots[1:],
            replicates=(R, 2 * R, 4 * R),
            max_pairs=len(pairs.candidates()),
            max_images=len(sources),
        )
    )
    design = replace(
        design,
        pairs=replace(pairs, count=chosen.pairs),
        contexts=replace(contexts, replicates=chosen.replicates),
    )
    _announce(config, design, chosen.images, share.rank)
    if share.rank == 0:
        print(f"expected standard error of J: at most {chosen.se_O.max():.2g} at every order")
    share.used.clear()
    return design, some(sources, chosen.images, config.seed)


def _announce(config: InteractionsConfig, design: ix.Design, images: int, rank: int) -> None:
    """What will be done, before it is done."""
    if rank:
        return
    n = grid_of(config).n
    orders = ix.orders_of(design.ratios, n)
    pairs, contexts = len(design.pairs.draw(n, design.seed, "0")), design.contexts.count(n, 1)
    print(
        f"plan: {images} images x {pairs} pairs x {contexts} contexts x {len(orders)} orders, "
        f"at most {counted(images * forwards_of(design))} forwards for each network"
        + (f", more where the bias is above {config.bias_tol:g}" if config.bias_tol else "")
    )


def _rows(
    config: InteractionsConfig, design: ix.Design, dataset: str, measured: list[Measured]
) -> pd.DataFrame:
    """Strengths, rho and noise floor of every network, as rows of the results table."""
    setting = _setting(config, design)
    tables = []
    for one in measured:
        common = {
            "run": "interactions",
            "model": one.subject.name,
            "weights": one.subject.weights,
            "dataset": dataset,
            "seed": design.seed,
            "commit": commit(),
        }
        probed = [one.records[0].image]
        tables += [
            strength_rows(one.records, setting, **common),
            per_image_rows(
                np.array([[one.floor]]),
                probed,
                at=[0.0],
                samples=1,
                measure="noise_floor",
                setting=setting,
                **common,
            ),
        ]
    return pd.concat(tables, ignore_index=True)


def _report(config: InteractionsConfig, measured: list[Measured]) -> None:
    """The tables, in words and numbers, on the screen."""
    strengths = [ix.strength(one.records) for one in measured]
    for one, strength in zip(measured, strengths, strict=True):
        forwards = sum(record.forwards for record in one.records)
        print(
            f"\n{one.subject.name} ({one.subject.weights}): {len(one.records)} images, "
            f"{counted(forwards)} forwards"
        )
        print(f"numerical noise floor of one difference: {one.floor:.1e}")
        print(strength.to_frame().to_string(index=False, float_format="%.3f"))
        print(strength.bands().to_string(index=False, float_format="%.3f"))
        diagnosed = not one.records[0].replicates(0).shape[1] % 4  # so the diagnostic splits them
        if diagnosed and not config.protocol and (orders := ix.biased_orders(one.records)):
            what = "contexts are at their maximum" if config.bias_tol else "try --bias-tol 0.02"
            print(f"J may be biased by more than 2 % at m = {', '.join(map(str, orders))}: {what}")
    for one, strength in zip(measured[1:], strengths[1:], strict=True):
        first = measured[0].subject
        if strength.images == strengths[0].images:
            print(
                f"\n{one.subject.name} ({one.subject.weights}) minus {first.name} "
                f"({first.weights}), paired:"
            )
            print(strength.compare_bands(strengths[0]).to_string(index=False, float_format="%.3f"))
    print(f"\nfigure: {config.out / 'interaction_curves.png'}")


def _design(config: InteractionsConfig) -> ix.Design:
    usable(partial(check_precision, config.precision))
    if config.bias_tol < 0:
        raise UsageError(f"expected --bias-tol of at least 0, got {config.bias_tol}")
    if config.batch_size < 0:
        raise UsageError(f"expected --batch-size of at least 0, got {config.batch_size}")
    if config.bias_tol and (config.protocol or config.replicates % 4):
        raise UsageError(
            "expected --replicates in multiples of 4 and no --protocol with --bias-tol, "
            f"got {config.replicates} and {config.protocol or 'none'}"
        )
    if config.budget and (config.protocol or config.bias_tol):
        raise UsageError("expected --budget without --protocol and --bias-tol, which cost more")
    if config.bias_tol and config.reward == "features":
        raise UsageError("expected a reward of numbers with --bias-tol, got features")
    if config.game == "token_drop" and (config.reward in ENCODER_REWARDS or config.fill != "zero"):
        raise UsageError(
            "expected --game token_drop with a reward of the classifier and without --fill: what "
            "is dropped is not filled"
        )
    if config.protocol:
        return protocol(config.protocol)

    def build() -> ix.Design:
        grid = ix.PatchGrid(config.grid, config.grid)
        pairs = ix.NeighbourPairs(grid, config.radius, config.pairs)
        design = ix.Design(
            pairs, ix.Windows(config.replicates, config.windows), config.orders, config.seed
        )
        # Drawn once here, so that impossible settings fail before any model is loaded.
        pairs.draw(grid.n, design.seed, "")
        ix.orders_of(design.ratios, grid.n)
        return design

    if config.replicates % 2:
        raise UsageError(f"expected an even number of --replicates, got {config.replicates}")
    return usable(build)


def _setting(config: InteractionsConfig, design: ix.Design) -> str:
    side = grid_of(config).rows
    game = "token_drop" if config.game == "token_drop" else f"fill fill={config.fill}"
    label = "none" if config.reward in ENCODER_REWARDS else config.label
    start = (
        f"grid={side}x{side} reward={config.reward} label={label} game={game} "
        f"precision={config.precision}"
    )
    if config.protocol:
        return f"{start} protocol={config.protocol}"
    assert isinstance(design.pairs, ix.NeighbourPairs)
    assert isinstance(design.contexts, ix.Windows)
    return (
        f"{start} pairs={design.pairs.count} radius={config.radius} "
        f"contexts={design.contexts.replicates}x{design.contexts.windows} "
        f"bias_tol={config.bias_tol:g}"
    )


def _sources(config: InteractionsConfig) -> list[Source]:
    """The images of the run."""
    if config.count < 2:
        raise UsageError(f"expected --count of at least 2 images, got {config.count}")
    if config.label not in ("prediction", "truth") and not config.label.isdecimal():
        raise UsageError(
            f"expected --label prediction, truth or a class index, got {config.label!r}"
        )
    if (config.images is None) == (not config.data):
        raise UsageError("expected either --images DIR or --data NAME")
    if config.images is None:
        return named_images(config.data, config.count, config.seed)
    truth = config.label == "truth"
    return folder_images(config.images, config.count, config.seed, truth=truth)


def _subjects(config: InteractionsConfig) -> list[Subject]:
    if not config.models:
        raise UsageError("expected at least one network, got none; a2mim models says what is one")
    headless = config.reward in ENCODER_REWARDS
    subjects = [
        subject_of(name, config.weights, config.device, headless=headless) for name in config.models
    ]
    check_different([subject.report for subject in subjects])
    return subjects


if __name__ == "__main__":  # torchrun --nproc-per-node N -m experiments.interaction_curves ...
    from experiments.cli import main

    main(["interactions", *sys.argv[1:]])
