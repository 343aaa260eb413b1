"""Tables, figures and the write-up of a results folder, from its raw rows.

Command: ``python -m experiments.cifar10.report FOLDER``, or ``make figures``
"""

from __future__ import annotations

import json
from pathlib import Path

import tyro

from a2mim.files import write_whole
from experiments.cifar10 import figures, tables, writeup
from experiments.cifar10.claims import judged
from experiments.cifar10.plan import Plan
from experiments.cifar10.release import release
from experiments.cifar10.stages import stages_of


def report(plan: Plan, out: Path, folder: Path) -> None:
    """Tables, figures, networks and the write-up of what is done so far."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = tables.collected(plan, out)
    if rows.empty:
        return
    tables.write_rows(rows, folder / "rows.csv.gz")
    release(rows, out, folder / "networks")
    plan.write(folder / "plan.json")
    stages = stages_of(plan.size)
    done = sum((out / f"done/{stage.name}.json").exists() for stage in stages)
    counts = {"done": done, "stages": len(stages)}
    write_whole(folder / "progress.json", json.dumps(counts) + "\n")
    redrawn(folder)
    print(f"write-up: {folder / 'README.md'}", flush=True)


def redrawn(folder: Path) -> list[str]:
    """Summaries, figures and the write-up of a results folder, from its raw rows."""
    plan = Plan.read(folder / "plan.json")
    counts = json.loads((folder / "progress.json").read_text())
    rows = tables.read_rows(folder / "rows.csv.gz")
    found = tables.quantities(rows)
    made = {
        "means": tables.means(found),
        "differences": tables.differences(found),
        "effective": tables.effective(rows),
        "claims": judged(found, plan.size.pretrain_epochs),
        "ablations": tables.ablations(found),
    }
    for name, table in made.items():
        if table.empty:
            (folder / f"{name}.csv").unlink(missing_ok=True)
            continue
        text = table.to_csv(None, index=False, float_format="%.6g", lineterminator="\n")
        write_whole(folder / f"{name}.csv", text)
    progress = f"{counts['done']} of {counts['stages']} stages"
    page = writeup.page(made, plan, progress)
    write_whole(folder / "README.md", page)
    return figures.draw(folder, plan)


def main(folder: tyro.conf.Positional[Path] = Path("results/cifar10")) -> None:
    """Draw and write a results folder again, if there is one."""
    if not (folder / "rows.csv.gz").exists():
        print(f"no study in {folder}; python -m experiments.cifar10 makes one")
        return
    print(f"{folder}: {', '.join(redrawn(folder))}")


if __name__ == "__main__":
    tyro.cli(main)
