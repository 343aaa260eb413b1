"""Tables of ``a2mim probe``: a number, its interval and how it came about; and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import Tensor

from a2mim.probes.results import readable
from interactions.stats import Interval


@dataclass(frozen=True)
class Number:
    """One number of one checkpoint, and all that explains it.

    Attributes:
        measure: its name.
        value: share of test images that are right.
        interval: 95 %, over test images.
        setting: what decides it, in one line.
        at: training images behind it.
        seed: of its draws.
        predictions_J: int64, the class that was predicted for every test image.
        labels_J: int64, the right ones.
        details: everything else, in JSON.
        left_out: numbers of the test images that could not be read.
    """

    measure: str
    value: float
    interval: tuple[float, float]
    setting: str
    at: int
    seed: int
    predictions_J: Tensor
    labels_J: Tensor
    details: dict[str, Any] = field(default_factory=dict)
    left_out: Sequence[int] = ()


def rows_of(number: Number) -> pd.DataFrame:
    """A number and the two ends of its interval, rows of the results table."""
    ends = (number.value, *number.interval)
    samples = len(number.labels_J)
    return _rows(number.measure, ends, number.setting, number.at, samples, number.seed)


def mean_rows(measure: str, mean: Interval, seeds: int, at: int, setting: str) -> pd.DataFrame:
    """The mean over seeds with its t interval; ``samples`` is the number of seeds."""
    ends = (mean.estimate, mean.low, mean.high)
    return _rows(f"{measure}_mean", ends, setting, at, seeds, -1)


def _rows(
    measure: str, ends: Sequence[float], setting: str, at: int, samples: int, seed: int
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "measure": [f"{measure}{end}" for end in ("", "_low", "_high")],
            "value": ends,
            "setting": setting,
            "at": at,
            "samples": samples,
            "seed": seed,
        }
    )


def predictions_of(number: Number) -> pd.DataFrame:
    """What was predicted of every test image that could be read, by its number."""
    return pd.DataFrame(
        {
            "measure": number.measure,
            "seed": number.seed,
            "image": readable(len(number.labels_J), number.left_out),
            "label": number.labels_J.numpy(),
            "predicted": number.predictions_J.numpy(),
        }
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of a results table in per cent, a line each, with their intervals."""
    key = ["model", "weights", "setting", "at", "seed"]
    value = rows["measure"].str.endswith(("_top1", "_top5", "_mean"))
    table = rows[value]
    for end in ("low", "high"):
        bound = rows[rows["measure"].str.endswith(f"_{end}")]
        bound = bound.assign(measure=bound["measure"].str.removesuffix(f"_{end}"))
        table = table.merge(
            bound[[*key, "measure", "value"]].rename(columns={"value": end}), on=[*key, "measure"]
        )
    per_cent = table[["value", "low", "high"]].mul(100).round(2)
    return table.assign(**per_cent)[
        ["model", "weights", "measure", "seed", "value", "low", "high", "samples", "setting"]
    ]
