"""``a2mim demo``: what masked pre-training changes in a ViT and a ResNet, on digits, in minutes.

For each training seed it does what these commands do, and compares over seeds and images:

    a2mim pretrain digits-demo-vit          A2MIM, without labels
    a2mim probe --method finetune --recipe digits-demo-vit
                                            with all labels, and with few of each class; from
                                            scratch, and from what was pre-trained
    a2mim interactions, a2mim occlusion     of those with all labels

Their run folders are in ``RUN/runs``, and go on where they were interrupted. Several processes work
side by side, each on one network and seed; what they say is in ``RUN/logs``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from a2mim.commands import pretrain
from a2mim.measure.demo import MAX_PAIRS, measure, rows_of
from a2mim.messages import UsageError
from a2mim.processes import side_by_side
from a2mim.recipes.demo import ALL, DATA, FEW, NETWORKS, recipes, train, write_digits
from a2mim.report.demo import conclude
from a2mim.report.figures import none_saved
from a2mim.runs.folder import finish_run, nothing_left_empty, open_run, pick_device
from a2mim.runs.table import write_table
from a2mim.settings.demo import DemoConfig
from a2mim.settings.numbers import check_numbers


@nothing_left_empty()
def demo(config: DemoConfig) -> None:
    """Run the demo, or go on with an interrupted one.

    Raises:
        UsageError: if a setting or the output folder cannot be used.
    """
    _check(config)
    start = time.perf_counter()
    config = replace(config, device=pick_device(config.device))
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "resume", "workers")}
    how = {name: [asdict(one) for one in recipes(name, 0, config)] for name in NETWORKS}
    opened = open_run(config.out, "demo", [DATA], settings | {"recipes": how}, resume=config.resume)
    if opened.finished:
        return
    work, out = opened.work, opened.out
    (work / "logs").mkdir(exist_ok=True)
    write_digits(work / "data")
    jobs = [(name, seed) for name in NETWORKS for seed in range(config.seeds)]
    workers = min(config.workers or torch.get_num_threads(), len(jobs))
    print(f"{DATA}: {len(jobs)} trainings, {workers} at a time on {config.device}")
    begun = time.perf_counter()
    do = partial(train_and_measure, config=config, work=work)
    for done, _ in enumerate(side_by_side(do, jobs, workers), start=1):
        left = (time.perf_counter() - begun) / done * (len(jobs) - done)
        print(f"{done} of {len(jobs)} trainings, about {left / 60:.0f} min left", flush=True)
    rows = pd.concat([rows_of(*job, work / "runs") for job in jobs], ignore_index=True)
    write_table(rows, work / "rows.csv")
    for name in NETWORKS:
        (pictures,) = (work / f"runs/pretrain-{name}-0").glob("reconstructions-*.npz")
        shutil.copyfile(pictures, work / f"reconstructions-{name}.npz")
    said = conclude(work, settings)
    finish_run(opened, settings, time.perf_counter() - start)
    print(f"\n{said}\n\npage: {out / 'report.html'}   ({time.perf_counter() - start:.0f} s)")


def train_and_measure(name: str, seed: int, config: DemoConfig, work: Path) -> None:
    """All of one network and training seed; what is there is not done again."""
    runs, data = work / "runs", f"folder:{work / 'data'}"

    def pre_train() -> None:
        recipe, _ = recipes(name, seed, config, data)
        out = runs / f"pretrain-{name}-{seed}"
        pretrain.run(f"digits-demo-{name}", recipe, out, device=config.device)
        (out / "checkpoint.safetensors").unlink(missing_ok=True)  # thrice the size of the network

    train_one = partial(train, name, seed, config=config, runs=runs, data=data)
    stages: dict[str, list[Callable[[], None]]] = {
        "A2MIM pre-training": [pre_train],
        "training with all labels": [partial(train_one, arm) for arm in ALL],
        f"training with {config.labels} labels a class": [partial(train_one, arm) for arm in FEW],
        "interactions and occlusion": [partial(measure, name, seed, config, runs, data)],
    }
    with (work / "logs" / f"{name}-{seed}.txt").open("a") as log:
        for what, calls in stages.items():
            begun = time.perf_counter()
            with redirect_stdout(log), redirect_stderr(log), none_saved():
                for call in calls:
                    call()
            seconds = time.perf_counter() - begun
            print(f"{name}, seed {seed}: {what} ({seconds:.0f} s)", flush=True)


def _check(config: DemoConfig) -> None:
    """Refuse settings that cannot run, before anything is read or written."""
    check_numbers(config)
    if config.pairs > MAX_PAIRS:
        raise UsageError(
            f"expected --pairs of at most {MAX_PAIRS}, the neighbours on the grid, "
            f"got {config.pairs}"
        )
    if config.replicates % 2:
        raise UsageError(f"expected an even number of --replicates, got {config.replicates}")
