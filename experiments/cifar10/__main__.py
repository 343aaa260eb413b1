"""``python -m experiments.cifar10``: plan, then do what is left to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from a2mim.data.folders import DataError
from a2mim.files import write_whole
from a2mim.messages import UsageError
from a2mim.runs.folder import commit
from experiments.cifar10.locks import claimed, is_claimed
from experiments.cifar10.plan import Plan, plan_for, seconds_of
from experiments.cifar10.report import report
from experiments.cifar10.stages import Stage, look_of, run, stages_of, total

HELPS = "EXPERIMENTS_CIFAR10_HELPS"
"""In the environment of processes that another one has begun, which reports for all."""


@dataclass(frozen=True)
class Study:
    """Plan a study and do what is left of it; the same command goes on where it was."""

    data: Path
    """Folder with train/<class>/ and val/<class>/ (or test/<class>/) of 32 or 64 px."""
    out: Path
    """Output folder."""
    budget: str = "3h-cpu"
    """3h-cpu (two cores), 8min-gpu (one GPU), full, or minutes of one process."""
    processes: int = 0
    """Processes on this machine, of one thread each on a CPU. 0: two for 3h-cpu, else one."""
    share: str = "1/1"
    """k/n: every n-th network from the k-th on, for machines that share no folder; bring done/ and
    runs/ together afterwards."""
    results: Path | None = None
    """Folder for tables, figures and the write-up; OUT/results if left out."""
    seeds: int | None = None
    """Training seeds of every arm, if more than the budget buys: a planned study grows by them."""
    extra_seeds: int | None = None
    """Of contrastive MAE and MAE on 10 images, likewise."""
    ablation_seeds: int | None = None
    """Of the ablations of A2MIM, likewise."""
    stages: tuple[str, ...] = ()
    """Only stages whose names contain one of these words."""
    plan: bool = False
    """Say what would be done, and do nothing."""


def main(study: Study) -> None:
    """Plan, and work."""
    plan = settled(study)
    todo = chosen(study, stages_of(plan.size))
    print(said(plan, todo, study.out), flush=True)
    if study.plan:
        return
    count = study.processes or (2 if plan.budget == "3h-cpu" else 1)
    others = [_another() for _ in range(count - 1)]
    failed = work(study, plan, todo)
    failed |= any([other.wait() != 0 for other in others])
    if HELPS not in os.environ:
        report(plan, study.out, study.results or study.out / "results")
    if failed:
        raise UsageError("some stages failed; the same command tries them again")


def settled(study: Study) -> Plan:
    """The plan of the output folder, or a new one, with the seeds that were asked for."""
    file = study.out / "plan.json"
    planned = Plan.read(file) if file.exists() else None
    if planned and planned.budget != study.budget:
        raise UsageError(f"expected --budget {planned.budget}, as planned in {file}, got another")
    plan = grown(planned or _planned(study), study)
    if plan != planned and not study.plan:
        study.out.mkdir(parents=True, exist_ok=True)
        plan.write(file)
    return plan


def _planned(study: Study) -> Plan:
    """A new plan."""
    look, available = look_of(study.data)
    return plan_for(study.budget, study.data.resolve().name, look, available, total)


def grown(plan: Plan, study: Study) -> Plan:
    """A plan with more seeds, where they were asked for.

    Raises:
        UsageError: for fewer.
    """
    asked = {name: getattr(study, name) for name in ("seeds", "extra_seeds", "ablation_seeds")}
    asked = {name: count for name, count in asked.items() if count is not None}
    for name, count in asked.items():
        if count < (least := getattr(plan.size, name)):
            option = name.replace("_", "-")
            raise UsageError(f"expected --{option} of at least {least}, as planned, got {count}")
    return replace(plan, size=replace(plan.size, **asked))


def chosen(study: Study, stages: list[Stage]) -> list[Stage]:
    """The stages that this call is about."""
    try:
        first, every = (int(word) for word in study.share.split("/"))
    except ValueError:
        first = every = 0
    if not 1 <= first <= every:
        raise UsageError(f"expected --share k/n with k up to n, got {study.share!r}")
    if every > 1:
        labels = list(dict.fromkeys(stage.arm.label for stage in stages if stage.arm))
        shared = set(labels[:1]) | set(labels[1:][first - 1 :: every])  # all need the reference
        stages = [stage for stage in stages if not stage.arm or stage.arm.label in shared]
    if study.stages:
        stages = [s for s in stages if any(word in s.name for word in study.stages)]
    return stages


def said(plan: Plan, stages: list[Stage], out: Path) -> str:
    """The plan in words."""
    size, seconds = plan.size, total(plan.size, plan.rates)
    by_kind: dict[str, float] = {}
    for stage in stages_of(size):
        spent = seconds_of(stage.kind, stage.arm, size, plan.rates)
        by_kind[stage.kind] = by_kind.get(stage.kind, 0) + spent
    left = [s for s in stages if not (out / "done" / f"{s.name}.json").exists()]
    rest = sum(seconds_of(s.kind, s.arm, size, plan.rates) for s in left)
    return "\n".join(
        [
            f"plan: {plan.data} at {size.image_size} px on {plan.device}, size {size.name}: "
            f"{size.train} training and {size.test} test images, {size.seeds} seeds, "
            f"{size.pretrain_epochs} + {size.finetune_epochs} epochs in batches of {size.batch}",
            f"interactions: {size.strength} images x {size.pairs} pairs x {size.replicates} "
            f"contexts; ablations: {size.ablation_seeds} seeds; more arms: {size.extra_seeds}",
            "images a second: " + ", ".join(f"{k} {v:g}" for k, v in plan.rates.items()),
            "minutes: " + ", ".join(f"{kind} {s / 60:.0f}" for kind, s in by_kind.items()),
            f"in all {seconds / 60:.0f} minutes of one process, budget {plan.seconds / 60:.0f}",
            f"left: {len(left)} of {len(stages)} stages, {rest / 60:.0f} minutes of one process",
        ]
    )


def work(study: Study, plan: Plan, stages: list[Stage]) -> bool:
    """Do stages until none is left that can be done; whether one failed."""
    if plan.device == "cpu":
        torch.set_num_threads(1)
    done, claims = study.out / "done", study.out / "claims"
    done.mkdir(exist_ok=True)
    failed: set[str] = set()

    def is_done(name: str) -> bool:
        return (done / f"{name}.json").exists()

    while left := [s for s in stages if not is_done(s.name) and s.name not in failed]:
        ready = [s for s in left if all(map(is_done, s.needs))]
        tried = False
        for stage in ready:
            with claimed(claims / f"{stage.name}.json") as ours:
                if not ours or is_done(stage.name):
                    continue
                tried = True
                start = time.perf_counter()
                planned = seconds_of(stage.kind, stage.arm, plan.size, plan.rates)
                print(f"== {time.strftime('%F %T')} {stage.name}: {planned:.0f} s", flush=True)
                try:
                    run(stage, plan, study.data, study.out)
                except Exception as error:  # the other stages do not depend on it
                    if not isinstance(error, UsageError | DataError):
                        traceback.print_exc()
                    print(f"== {stage.name} failed: {error}", flush=True)
                    failed.add(stage.name)
                    break
                spent = time.perf_counter() - start
                about = {"seconds": round(spent, 1), "planned": planned, "commit": commit()}
                write_whole(done / f"{stage.name}.json", json.dumps(about) + "\n")
                break
        if tried:
            continue
        if not any(is_claimed(claims / f"{s.name}.json") for s in left):
            print(f"{len(left)} stages wait for others: {left[0].name}", flush=True)
            break
        time.sleep(5)
    return bool(failed)


def _another() -> subprocess.Popen[bytes]:
    """Another process of the same command."""
    command = [sys.executable, "-m", "experiments.cifar10", *sys.argv[1:], "--processes", "1"]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1", HELPS: "1"})


if __name__ == "__main__":
    try:
        main(tyro.cli(Study))
    except (UsageError, DataError) as error:
        print(f"experiments.cifar10: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"interrupted; the same command goes on. {stop}", file=sys.stderr)
        sys.exit(130)
