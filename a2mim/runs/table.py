"""The results table: one row, one measurement on one image (or set) at one setting, raw.

Figures, reports and notebooks are made from such tables and from nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from a2mim.files import write_whole
from a2mim.processes import is_first, wait
from a2mim.runs.checks import check_rows, check_side_by_side
from interactions.orders.estimator import Interactions
from interactions.orders.strength import Strength, strength

COLUMNS = (
    "run",
    "measure",
    "model",
    "weights",
    "dataset",
    "image",
    "setting",
    "at",
    "value",
    "samples",
    "seed",
    "commit",
)

ENERGY = "interaction_energy"
"""Mean over pairs of I^2 of an image, without bias; its root over images is the strength."""

PUBLISHED, LOWER = "interaction_strength_plug_in", "interaction_strength_cross_sign"
"""The published mean of |I|, which is too large, and what is too small."""

RHO, RHO_BOUND = "interaction_rho", "interaction_rho_at_least"
"""Noise of contexts over RMS strength, and its lower bound where noise hides the interactions."""

TEXT = ("run", "measure", "model", "weights", "dataset", "image", "setting", "commit")
"""Columns of words."""


def write_table(rows: pd.DataFrame, path: Path) -> None:
    """Write rows as CSV, whole or not at all.

    Raises:
        ValueError: if the columns are not those of the results table.
        InvariantError: if a row cannot be right (:mod:`a2mim.runs.checks`).
    """
    if tuple(rows.columns) != COLUMNS:
        raise ValueError(f"expected the columns {COLUMNS}, got {tuple(rows.columns)}")
    check_rows(rows)
    write_whole(path, rows.to_csv(index=False, float_format="%.8g", lineterminator="\n"))


def write_summary(summary: pd.DataFrame, columns: Mapping[str, str], folder: Path) -> None:
    """Write ``summary.csv`` and its legend ``summary_columns.csv``, each whole or not at all.

    Args:
        summary: what a run has found, its numbers side by side.
        columns: its columns, and what they mean.
        folder: of the run.
    """
    text = summary[list(columns)].to_csv(index=False, float_format="%.8g", lineterminator="\n")
    legend = pd.DataFrame({"column": list(columns), "meaning": list(columns.values())})
    write_whole(folder / "summary.csv", text)
    write_whole(folder / "summary_columns.csv", legend.to_csv(index=False, lineterminator="\n"))


def read_table(path: Path) -> pd.DataFrame:
    """Read a results table.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a results table.
    """
    # Weights may be called 100, and an image NA: words are kept as they are.
    rows = pd.read_csv(
        path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values={"value": [""]}
    )
    if tuple(rows.columns) != COLUMNS:
        raise ValueError(f"expected a results table in {path}, got the columns {list(rows)}")
    return rows


def joined(parts: Sequence[Path], make: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts of a run, in their order; a part that is there is not made again.

    A part is written last: where it is, nothing of it is missing. Several processes make it
    together, and the first one writes it.

    Args:
        parts: a table for each.
        make: from the number of a part to its rows.
    """
    for number, part in enumerate(parts):
        if not part.exists():
            part.parent.mkdir(exist_ok=True)
            rows = make(number)
            if is_first():
                write_table(rows, part)
            wait()
    return pd.concat([read_table(part) for part in parts], ignore_index=True)


def per_image_rows(
    values: np.ndarray,
    images: Iterable[str],
    at: Iterable[float],
    samples: int | Iterable[int],
    **constant: object,
) -> pd.DataFrame:
    """Rows from an array ``(images, at)``.

    Args:
        values: the measurements.
        images: names of the rows of ``values``.
        at: settings of the columns of ``values``.
        samples: how many samples are behind a measurement, for all or for each of ``at``.
        constant: the other columns.
    """
    images, at = list(images), list(at)
    samples = [samples] * len(at) if isinstance(samples, int) else list(samples)
    rows = pd.DataFrame(
        {
            "image": np.repeat(np.array(images, dtype=object), len(at)),
            "at": np.tile(np.array(at, dtype=float), len(images)),
            "value": np.asarray(values, dtype=float).ravel(),
            "samples": np.tile(samples, len(images)),
            **constant,
        }
    )
    return rows[list(COLUMNS)]


def strength_rows(
    records: Sequence[Interactions], setting: str, *, floor: float = 0.0, **constant: Any
) -> pd.DataFrame:
    """Rows of measured interactions: energies, the published strength with its bracket, and rho.

    Args:
        records: one per image, all of one design.
        setting: what decides the numbers; with ``grid=RxC``.
        floor: numerical noise of one difference; see :func:`interactions.orders.strength.strength`.
        constant: the other columns.
    """
    first = records[0]
    orders = range(len(first.orders_O))
    samples = [
        # one context exists at the two ends
        len(first.pairs_P2)
        * (
            1
            if first.orders_O[o] in (0, first.n - 2)
            else first.replicates(o).shape[1] * first.per_replicate
        )
        for o in orders
    ]
    found, published = strength(records, floor=floor), strength(records, "plug_in")
    assert published.bracket_2IO is not None
    small_IO, large_IO = published.bracket_2IO
    images, bound_O = found.images, found.rho_is_bound_O
    every_O = np.full(len(bound_O), True)
    together = [f"all {len(images)}"]
    tables = [
        (found.per_image_IO, images, every_O, ENERGY),
        (large_IO, images, every_O, PUBLISHED),
        (small_IO, images, every_O, LOWER),
        (found.rho_O[None], together, ~bound_O, RHO),
        (found.rho_O[None], together, bound_O, RHO_BOUND),
    ]
    return pd.concat(
        [
            per_image_rows(
                values[:, which_O],
                names,
                found.ratios_O[which_O],
                samples=np.array(samples)[which_O].tolist(),
                measure=measure,
                setting=setting,
                **constant,
            )
            for values, names, which_O, measure in tables
            if which_O.any()
        ],
        ignore_index=True,
    )


def side_by_side(rows: pd.DataFrame, keys: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """A wide table: one row for each of the keys, in the order of the rows.

    Without ``unstack`` or ``pivot``, whose orders differ between versions of pandas.

    Args:
        rows: with the keys, ``number`` (a name) and ``value``.
        keys: columns that tell the rows of the wide table apart.
        numbers: its other columns; NaN where there is no such row.

    Raises:
        InvariantError: if two rows are of one place, or of a number that is not among the columns.
    """
    keys, numbers = list(keys), list(numbers)
    cells: dict[tuple, dict[str, float]] = {}
    columns = [rows[name].tolist() for name in (*keys, "number", "value")]
    for *key, number, value in zip(*columns, strict=True):
        cells.setdefault(tuple(key), {})[number] = value
    wide = pd.DataFrame(
        {
            **{
                k: pd.Series([p[i] for p in cells], dtype=rows[k].dtype) for i, k in enumerate(keys)
            },
            **{
                number: np.array([cell.get(number, np.nan) for cell in cells.values()], dtype=float)
                for number in numbers
            },
        }
    )
    check_side_by_side(wide, rows, keys, numbers)
    return wide


def strength_from(rows: pd.DataFrame, estimator: Literal["rms", "plug_in"] = "rms") -> Strength:
    """The strengths of one network from its rows of interactions.

    ``at`` holds m/(n-2); the setting tells the grid.

    Args:
        rows: of one network.
        estimator: ``"rms"``, or ``"plug_in"`` for the published strength with its bracket.
    """
    strengths = rows[rows["measure"] == (ENERGY if estimator == "rms" else PUBLISHED)]
    table = _pivot(strengths)
    bracket_2IO = None
    if estimator == "plug_in":
        small = _pivot(rows[rows["measure"] == LOWER]).loc[table.index]
        bracket_2IO = np.stack([small.to_numpy(), table.to_numpy()])
    rho = rows[rows["measure"].isin([RHO, RHO_BOUND])].sort_values("at")
    found = re.search(r"grid=(\d+)x(\d+)", strengths["setting"].iloc[0])
    if not found:
        raise ValueError("expected grid=RxC in the setting of interaction rows")
    n = int(found[1]) * int(found[2])
    return Strength(
        images=tuple(table.index),
        n=n,
        orders_O=np.rint(table.columns.to_numpy(dtype=float) * (n - 2)).astype(np.int64),
        per_image_IO=table.to_numpy(),
        rho_O=rho["value"].to_numpy(),
        rho_is_bound_O=(rho["measure"] == RHO_BOUND).to_numpy(),
        estimator=estimator,
        bracket_2IO=bracket_2IO,
    )


def _pivot(rows: pd.DataFrame) -> pd.DataFrame:
    table = rows.pivot(index="image", columns="at", values="value")
    if table.isna().to_numpy().any():
        raise ValueError("expected a value for every image at every setting")
    return table
