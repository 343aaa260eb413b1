"""The benchmark: what the toolkit costs and what its estimator saves, against a baseline each.

A row compares two ways to do the same work on the same machine within the same minutes; absolute
times belong to that machine only. Speed never gates a test.

    interactions/overhead/*   seconds on top of the bare model                        timing
    interactions/memory       MiB beyond an idle process                              memory
    interactions/forwards/*   forwards for the published error of J                   estimator
    interactions/coverage/*   share of 95 % intervals that hold the truth             estimator
    interactions/false_positives  comparisons of equals that find a difference        estimator
    interactions/wall/*       seconds for the published error of J                    estimator
    pretrain/step/*           images/s of an A2MIM step                               training
    loader/*                  images/s of our loaders                                 training
    features/overhead/*       seconds on top of the bare model                        features
    occlusion/overhead/*      seconds on top of the bare model                        features
    invariance/overhead/*     seconds on top of both bare models                      features
    occlusion/memory          MiB for four times the images                           features

With a GPU the rows are those that need it, images/s against the fastest bare loop:

    {interactions,occlusion,invariance,pretrain}/gpu/*                                gpu
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from a2mim.files import write_whole
from a2mim.messages import UsageError
from a2mim.runs.folder import commit
from experiments.bench import features as bench_features
from experiments.bench import gpu
from experiments.bench.contest import Contest, held, packs, seconds
from experiments.bench.estimator import (
    coverage,
    false_positives,
    forwards,
    real_coverage,
    real_forwards,
    wall,
)
from experiments.bench.memory import STATUS, memory
from experiments.bench.timing import CPU_MODELS, Row, overhead, short
from experiments.bench.training import PHOTOGRAPHS, STEP_MODELS, loader, photographs, step

COLUMNS = ["row", "ours", "baseline", "ratio", "target", "unit", "n", "commit"]


MINUTES = 6.0
"""What all rows of a GPU may take."""

MEMORY_USED = 0.9
"""Share of a GPU's memory for the processes of a pack."""

HIDDEN = {"occlusion": bench_features.occlusion, "invariance": bench_features.invariance_row}
"""Rows about hidden patches."""


def bench(
    out: Path, repeats: int | None = None, rows: Sequence[str] = (), minutes: float = MINUTES
) -> None:
    """Run rows, print them, and write them to ``<out>/cpu.csv`` or ``<out>/<gpu name>.csv``.

    The file is written after every row. A row that is run replaces its line; lines of rows that are
    not run stay as they are.

    Args:
        out: the folder.
        repeats: runs of each side where time or memory is measured; medians are reported. 5, and 3
            on a GPU, if left out.
        rows: beginnings of names of rows to run; all rows if empty.
        minutes: what may be spent on a GPU: rows that would take longer are left out, and named.

    Raises:
        UsageError: with less than one repeat, with a beginning that no row has, if the file is
            there and is not a table of the benchmark, and at the end if rows could not be had.
    """
    on_gpu = torch.cuda.is_available()
    repeats = (3 if on_gpu else 5) if repeats is None else repeats
    if repeats < 1:
        raise UsageError(f"expected at least 1 repeat, got {repeats}")
    if on_gpu:
        contests = gpu.contests()
        names = [row for contest in contests for row in contest.ours]
        chosen = choose(names, rows)
        room = MEMORY_USED * torch.cuda.get_device_properties(0).total_memory / 2**30
        found = in_packs([one.only(chosen) for one in contests], repeats, 60 * minutes, room)
        machine = torch.cuda.get_device_name().lower().replace(" ", "-")
    else:
        available = cpu_rows(repeats)
        chosen = choose(list(available), rows)
        found = (available[name]() for name in chosen)
        machine = "cpu"
    path = out / f"{machine}.csv"
    table, code = read(path), commit()
    out.mkdir(parents=True, exist_ok=True)
    begin = start = time.perf_counter()
    missing = []
    for row in found:
        if isinstance(row, str):
            missing.append(row)
            print(row)
            continue
        table = merged(table, row, code)
        write_whole(path, table.to_csv(index=False, float_format="%.4g"))
        print(f"{row.row}  ({time.perf_counter() - start:.0f} s)")
        for note in row.notes:
            print(f"        {note}")
        start = time.perf_counter()
    print()
    print(with_verdicts(table[table["row"].isin(chosen)]).to_string(index=False))
    print(f"\n{path}   ({time.perf_counter() - begin:.0f} s)")
    if missing:
        raise UsageError(f"rows that could not be had: {'; '.join(missing)}")


def in_packs(
    contests: Sequence[Contest], repeats: int, limit: float, gigabytes: float
) -> Iterator[Row | str]:
    """Rows of a GPU: what gets ready together, as long as there is time."""
    begin = time.monotonic()
    for pack in packs([contest for contest in contests if contest.ours], gigabytes):
        needed, spent = seconds(pack, repeats), time.monotonic() - begin
        if spent + needed > limit:
            for row in (row for contest in pack for row in contest.ours):
                yield f"{row}: left out, {spent + needed:.0f} s might be needed of {limit:.0f}"
            continue
        yield from held(pack, repeats)


def with_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """With whether targets are met: rates have a lower bound, all else an upper one."""
    rates = table["unit"].str.startswith("images/s") | table["row"].str.contains("/coverage/")
    met = (table["ratio"] >= table["target"]).where(rates, table["ratio"] <= table["target"])
    return table.assign(met=met.map({True: "yes", False: "NO"}))


def cpu_rows(repeats: int) -> dict[str, Callable[[], Row]]:
    """Rows by name, in the order in which they are run on a machine without a GPU."""
    rows: dict[str, Callable[[], Row]] = {}
    for model in CPU_MODELS:
        row = f"interactions/overhead/{short(model)}"
        rows[row] = partial(overhead, row, model, repeats)
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
    for name in STEP_MODELS:
        row = f"pretrain/step/{name}"
        rows[row] = partial(step, row, name, repeats)
    for kind in ("folder", "tar"):
        row = f"loader/{kind}"
        rows[row] = partial(loader, row, kind, repeats)
    for size in PHOTOGRAPHS:
        row = f"loader/photographs/{size[0]}x{size[1]}"
        rows[row] = partial(photographs, row, size, repeats)
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
