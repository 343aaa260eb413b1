"""Every interval and every test: one function for each kind of quantity.

    mean         one value per image: t interval and t test
    several      tests adjusted for testing all of them (Holm 1979)

Shapes: I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """An estimate with its standard error and confidence interval.

    Attributes:
        estimate: the value.
        se: standard error over images.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    estimate: float
    se: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def t_interval(estimate: float, influence_I: NDArray[np.float64], level: float = 0.95) -> Interval:
    """A t interval from one influence value per image (the image's own contribution).

    Args:
        estimate: the value that the interval is for.
        influence_I: contributions of the images; their standard deviation / sqrt(I) is the error.
        level: coverage.

    Raises:
        ValueError: with fewer than 2 images.
    """
    from scipy.stats import t

    count = len(influence_I)
    if count < 2:
        raise ValueError(f"expected at least 2 images for an interval, got {count}")
    se = float(influence_I.std(ddof=1) / np.sqrt(count))
    half = float(t.ppf(0.5 + level / 2, count - 1)) * se
    return Interval(float(estimate), se, float(estimate) - half, float(estimate) + half)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """P-values adjusted for testing all of them (Holm 1979): step-down, valid under dependence."""
    p = np.asarray(p_values, dtype=float)
    order = p.argsort()
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
