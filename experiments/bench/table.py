"""The benchmark: what the toolkit costs and what its estimator saves, against a baseline each.

A row compares two ways to do the same work on the same machine within the same minutes; absolute
times belong to that machine only. Speed never gates a test.

    interactions/overhead/*   seconds on top of the bare model, on a GPU the fastest  bench_timing
    interactions/memory       MiB beyond an idle process                    bench_memory
    interactions/forwards/*   forwards for the published error of J         bench_estimator
    interactions/coverage/*   share of 95 % intervals that hold the truth   bench_estimator
    interactions/false_positives  comparisons of equals that find a difference  bench_estimator
    interactions/wall/*       seconds for the published error of J          bench_estimator
    pretrain/step/*           images/s of an A2MIM step                     bench_training
    loader/*                  images/s of our loaders                       bench_training
    features/overhead/*       seconds on top of the bare model              bench_features
    occlusion/overhead/*      seconds on top of the bare model              bench_features
    invariance/overhead/*     seconds on top of both bare models            bench_features
    occlusion/memory          MiB for four times the images                 bench_features
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from a2mim.files import write_whole
from a2mim.messages import UsageError
from a2mim.runs.folder import commit
from experiments.bench import features as bench_features
from experiments.bench.estimator import (
    coverage,
    false_positives,
    forwards,
    real_coverage,
    real_forwards,
    wall,
)
from experiments.bench.memory import STATUS, memory
from experiments.bench.timing import GPU_MODELS, SHORT, Row, overhead, overhead_names
from experiments.bench.training import CPU_STEPS, GPU_STEPS, STEP_MODELS, loader, step

COLUMNS = ["row", "ours", "baseline", "ratio", "target", "unit", "n", "commit"]


HIDDEN = {"occlusion": bench_features.occlusion, "invariance": bench_features.invariance_row}
"""Rows about hidden patches."""


def bench(out: Path, repeats: int, rows: Sequence[str] = ()) -> None:
    """Run rows, print them, and write them to ``<out>/cpu.csv`` or ``<out>/<gpu name>.csv``.

    The file is written after every row. A row that is run replaces its line; lines of rows that are
    not run stay as they are.

    Args:
        out: the folder.
        repeats: runs of each side where time or memory is measured; medians are reported.
        rows: beginnings of names of rows to run; all rows if empty.

    Raises:
        UsageError: with less than one repeat, with a beginning that no row has, or if the file is
            there and is not a table of the benchmark.
    """
    if repeats < 1:
        raise UsageError(f"expected at least 1 repeat, got {repeats}")
    on_gpu = torch.cuda.is_available()
    available = available_rows(repeats, on_gpu)
    chosen = choose(list(available), rows)
    machine = torch.cuda.get_device_name().lower().replace(" ", "-") if on_gpu else "cpu"
    path = out / f"{machine}.csv"
    table, code = read(path), commit()
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    for k, name in enumerate(chosen, start=1):
        start = time.perf_counter()
        row = available[name]()
        table = merged(table, row, code)
        write_whole(path, table.to_csv(index=False, float_format="%.4g"))
        print(f"[{k:2d}/{len(chosen)}] {name}  ({time.perf_counter() - start:.0f} s)")
        for note in row.notes:
            print(f"        {note}")
    print()
    print(table[table["row"].isin(chosen)].to_string(index=False))
    print(f"\n{path}   ({time.perf_counter() - begin:.0f} s)")


def available_rows(repeats: int, on_gpu: bool) -> dict[str, Callable[[], Row]]:
    """Rows by name, in the order in which they are run.

    On a machine with a GPU there are only the rows that need it: the others are about the estimator
    or the CPU.
    """
    rows: dict[str, Callable[[], Row]] = {
        row: partial(overhead, row, model, repeats, on_gpu)
        for row, model in overhead_names(on_gpu).items()
    }
    device = torch.device("cuda" if on_gpu else "cpu")
    if on_gpu:
        for name, steps in GPU_STEPS.items():
            row = f"pretrain/step/gpu/{name}"
            rows[row] = partial(step, row, steps, repeats, device)
        for name in ("vit_small", "resnet50"):
            model = next(model for model in GPU_MODELS if SHORT[model] == name)
            for what, hidden in HIDDEN.items():
                row = f"{what}/overhead/gpu/{name}"
                rows[row] = partial(hidden, row, model, repeats, device)
        return rows
    if STATUS.exists():  # Linux
        rows["interactions/memory"] = partial(memory, "interactions/memory", repeats)
    for name in ("cnn16", "vit16"):
        for what, run in (("forwards", forwards), ("coverage", coverage)):
            row = f"interactions/{what}/{name}"
            rows[row] = partial(run, row, name)
    rows["interactions/forwards/real"] = partial(real_forwards, "interactions/forwards/real")
    rows["interactions/coverage/real"] = partial(real_coverage, "interactions/coverage/real")
    rows["interactions/false_positives"] = partial(false_positives, "interactions/false_positives")
    for name in ("cnn16", "vit_tiny"):
        row = f"interactions/wall/{name}"
        rows[row] = partial(wall, row, name, repeats)
    for name, steps in CPU_STEPS.items():
        row = f"pretrain/step/{name}"
        rows[row] = partial(step, row, steps, repeats, device)
    for kind in ("folder", "tar"):
        row = f"loader/{kind}"
        rows[row] = partial(loader, row, kind, repeats)
    for name in STEP_MODELS:
        for what in bench_features.WHATS:
            row = f"features/overhead/{what}/{name}"
            rows[row] = partial(bench_features.features, row, what, name, repeats)
        for what, hidden in HIDDEN.items():
            row = f"{what}/overhead/{name}"
            rows[row] = partial(hidden, row, name, repeats)
    if STATUS.exists():
        rows["occlusion/memory"] = partial(bench_features.memory, "occlusion/memory", repeats)
    return rows


def choose(names: Sequence[str], beginnings: Sequence[str]) -> list[str]:
    """Names that begin with one of the beginnings, all names if there are none.

    Raises:
        UsageError: if no name begins so.
    """
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            raise UsageError(
                f"expected the beginning of a row's name for --rows, got {beginning!r}; "
                f"there are: {', '.join(names)}"
            )
    return [name for name in names if not beginnings or name.startswith(tuple(beginnings))]


def read(path: Path) -> pd.DataFrame:
    """The table that is there, or an empty one.

    Raises:
        UsageError: if it has other columns.
    """
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    # Some commits look like numbers.
    table = pd.read_csv(path, dtype={"row": str, "unit": str, "commit": str})
    if list(table) != COLUMNS:
        raise UsageError(f"expected a table of the benchmark in {path}, got columns {list(table)}")
    return table


def merged(table: pd.DataFrame, row: Row, code: str) -> pd.DataFrame:
    """The table with this row in the place of an earlier one of its name, ordered by name."""
    line = [row.row, row.ours, row.baseline, row.ratio, row.target, row.unit, row.n, code]
    kept = table[table["row"] != row.row]
    lines = [*kept.itertuples(index=False), line]
    return pd.DataFrame(lines, columns=COLUMNS).sort_values("row", ignore_index=True)
