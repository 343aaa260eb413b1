"""``summary.csv`` of ``a2mim interactions``: everything that is printed, as one table.

One row per order, band and paired difference of every network; :data:`COLUMNS` says what the
columns are, and is written beside it as ``summary_columns.csv``. Columns that a row has no number
for are empty. All of it can be computed from ``rows.csv`` and the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import interactions as ix
from a2mim.measure.runner import Measured
from a2mim.report.figures import of
from a2mim.runs.checks import check_mean_of_J
from a2mim.runs.table import strength_from
from a2mim.runs.table import write_summary as write_columns
from interactions.orders.estimator import is_exact

COLUMNS = {
    "kind": "order, band (of orders), difference (of a band, paired over images) or "
    "order_difference",
    "model": "network",
    "weights": "its weights",
    "minus_model": "network that is subtracted, in a difference",
    "minus_weights": "its weights",
    "band": "low, middle or high orders",
    "order": "m: how many other patches are visible",
    "ratio": "m / (n - 2) for n patches",
    "first": "first order of a band",
    "last": "last order of a band",
    "S": "RMS strength: root of the unbiased mean over images and pairs of I^2, in units of the "
    "reward",
    "J": "S divided by its mean over orders; the mean of that over a band; or a difference",
    "se": "standard error over images",
    "low": "lower end of the 95 % interval over images, of this row alone",
    "high": "upper end",
    "p": "of a difference of 0; p < 0.05 where the interval is off 0",
    "p_holm": "corrected for all orders, or all bands, of a pair of networks (Holm)",
    "rho": "sd of a difference over contexts / RMS interaction",
    "rho_is_bound": "whether rho is at least that: noise hides the interactions",
    "J_published": "J of the published estimate, the mean of |mean over contexts|, which is too "
    "large where contexts vary",
    "J_published_low": "lower end of its 95 % interval, which includes its bracket",
    "J_published_high": "upper end",
    "J_bracket_low": "lowest J of mean |I| between the lower and the upper estimate of every order",
    "J_bracket_high": "highest",
    "unresolved": "whether that bracket is wider than a tenth of J_published",
    "contexts": "contexts of a pair at this order",
    "forwards": "images through the network for this order, repeats not counted out",
    "error": "estimated relative error of J",
    "from_images": "share of its square that more images would lower",
    "from_pairs": "share that more images or pairs would lower",
    "from_contexts": "share that more contexts would lower",
    "state": "reached (the wanted error), or what the largest share asks for: more images, pairs "
    "or contexts",
}
"""Columns of ``summary.csv`` and what they mean."""


def summarised(rows: pd.DataFrame, measured: Sequence[Measured], target: float) -> pd.DataFrame:
    """The summary of a run.

    Args:
        rows: its results table.
        measured: its networks.
        target: wanted relative error of J; 0 for the default.
    """
    tables = []
    names = [(one.subject.name, one.subject.weights) for one in measured]
    strengths = []
    for one, (model, weights) in zip(measured, names, strict=True):
        mine = of(rows, model, weights)
        found, published = strength_from(mine), strength_from(mine, "plug_in")
        strengths.append(found)
        own = {"model": model, "weights": weights}
        orders = found.to_frame().rename(columns={"J_se": "se", "J_low": "low", "J_high": "high"})
        there = published.to_frame().rename(
            columns={
                "J": "J_published",
                "J_low": "J_published_low",
                "J_high": "J_published_high",
            }
        )
        columns = [name for name in there if name in COLUMNS and name not in orders]
        orders = orders.join(there[columns])
        orders = orders.join(spending_of(one.records, target).drop(columns=["order", "ratio"]))
        tables.append(orders.assign(kind="order", **own))
        tables.append(found.bands().assign(kind="band", **own))
    for (model, weights), found in zip(names[1:], strengths[1:], strict=True):
        if found.images != strengths[0].images or len(found.images) < 2:
            continue
        own = {
            "model": model,
            "weights": weights,
            "minus_model": names[0][0],
            "minus_weights": names[0][1],
        }
        for kind, table in (
            ("difference", found.compare_bands(strengths[0])),
            ("order_difference", found.compare(strengths[0])),
        ):
            tables.append(table.rename(columns={"difference": "J"}).assign(kind=kind, **own))
    whole = pd.concat([table.astype(object) for table in tables], ignore_index=True)
    return whole.reindex(columns=list(COLUMNS))


def write_summary(summary: pd.DataFrame, folder: Path) -> None:
    """Write ``summary.csv`` and its legend, each whole or not at all.

    Raises:
        InvariantError: if J of a network does not have the mean 1 over its orders.
    """
    orders = summary[summary["kind"] == "order"]
    for (model, weights), mine in orders.groupby(["model", "weights"], sort=False):
        J_O = mine["J"].to_numpy(dtype=float)
        if pd.notna(J_O).all():  # no pair interacts: there is no J
            check_mean_of_J(J_O, f"{model} {weights}")
    write_columns(summary, COLUMNS, folder)


def spending_of(records: Sequence[ix.Interactions], target: float) -> pd.DataFrame:
    """:func:`interactions.spending`; without errors where there is too little to tell them."""
    try:
        return ix.spending(records, **({"target": target} if target else {}))
    except ValueError:
        first = records[0]
        contexts_O = np.array(contexts_of(first))
        forwards = 4 * sum(len(record.pairs_P2) for record in records)
        return pd.DataFrame(
            {
                "order": first.orders_O,
                "ratio": first.orders_O / (first.n - 2),
                "contexts": contexts_O,
                "forwards": forwards * contexts_O,
            }
        )


def contexts_of(record: ix.Interactions) -> list[int]:
    """Contexts of a pair at each order."""
    return [
        1 if is_exact(record, o) else record.replicates(o).shape[1] * record.per_replicate
        for o in range(len(record.orders_O))
    ]
