"""Means and variances of what comes batch by batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interactions.stats import Interval, mean_of, share_of


class Moments:
    """Means of numbers per image, streamed in float64, with their intervals."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: NDArray[np.float64] | float = 0.0
        self._squares: NDArray[np.float64] | float = 0.0

    def update(self, values: ArrayLike) -> None:
        """Add values ``(N, ...)``, one row per image."""
        rows = np.asarray(values, dtype=np.float64)
        total = self.count + len(rows)
        mean = rows.mean(axis=0)
        off = mean - self._mean
        # Deviations from a running mean, because sums of squares would cancel (Chan et al. 1983).
        self._squares = (
            self._squares
            + np.square(rows - mean).sum(axis=0)
            + off**2 * self.count * len(rows) / total
        )
        self._mean = self._mean + off * len(rows) / total
        self.count = total

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over images, ``(...)``."""
        if not self.count:
            raise ValueError("expected at least one image, got none")
        return np.asarray(self._mean)

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """Means with their t intervals over images, flattened; ends are NaN for a single image."""
        if self.count < 2:
            return [Interval(float(m), np.nan, np.nan, np.nan) for m in self.mean.ravel()]
        spread = np.sqrt(np.ravel(self._squares) / (self.count - 1))
        return [
            mean_of(float(m), float(s), self.count, level, scale=abs(float(m)))
            for m, s in zip(self.mean.ravel(), spread, strict=True)
        ]

    def shares(self, level: float = 0.95) -> list[Interval]:
        """Means of flags, or of means of flags, with their intervals as shares, flattened."""
        variance = np.ravel(self._squares) / self.count
        return [
            share_of(float(m), float(v), self.count, level)
            for m, v in zip(self.mean.ravel(), variance, strict=True)
        ]
