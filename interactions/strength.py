"""Interaction strength over orders, without the bias of the published estimator and with errors.

    S^(m)(x) = E over pairs |I^(m)(i, j | x)|
    J^(m)    = E_x S^(m)(x) / mean over the measured orders of E_x S^(m)(x)

The published plug-in mean of |mean over K contexts| is too large wherever contexts vary, by about
g(0) sigma^2 / K for a density g of I at 0: exactly in the middle orders and not at the two ends.
The split jackknife removes that term,

    g = 2 f - h,    f: plug-in on all R replicates,  h: mean plug-in on halves of the replicates,

(Quenouille 1956). Intervals treat images as the units that were sampled.

Shapes: I images, P pairs, R replicates, O orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from interactions.estimator import Interactions

if TYPE_CHECKING:
    import pandas as pd

Estimator = Literal["jackknife", "plug_in"]


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


@dataclass(frozen=True)
class Strength:
    """Interaction strengths of a set of images at a list of orders.

    Attributes:
        images: names of the images.
        n: number of players.
        orders_O: the orders m.
        per_image_IO: S^(m)(x) of every image.
        rho_O: how noisy contexts are: sd of Delta v over contexts / RMS of I^(m) over pairs. The
            plug-in needs about 8 rho^2 contexts for a bias below 5 %, the jackknife 2 rho^2. NaN
            with a single replicate, or where noise hides every interaction.
    """

    images: tuple[str, ...]
    n: int
    orders_O: NDArray[np.int64]
    per_image_IO: NDArray[np.float64]
    rho_O: NDArray[np.float64]

    @property
    def ratios_O(self) -> NDArray[np.float64]:
        """Orders as fractions m / (n-2)."""
        return self.orders_O / (self.n - 2)

    @property
    def S(self) -> NDArray[np.float64]:
        """S^(m), mean over images."""
        return self.per_image_IO.mean(axis=0)

    @property
    def J(self) -> NDArray[np.float64]:
        """J^(m): S^(m) divided by its mean over the measured orders; the mean of J is 1."""
        return self.S / self.S.mean()

    @property
    def influence_IO(self) -> NDArray[np.float64]:
        """Each image's contribution to J, by the delta method for a ratio of means; sums to 0."""
        g, J = self.per_image_IO, self.J
        return (g - J * g.mean(axis=1, keepdims=True)) / self.S.mean()

    @property
    def J_se(self) -> NDArray[np.float64]:
        """Standard error of J^(m) over images."""
        return self.influence_IO.std(axis=0, ddof=1) / np.sqrt(len(self.images))

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """The interval of J^(m) for each order."""
        influence_IO = self.influence_IO
        return [
            t_interval(J, influence_I, level)
            for J, influence_I in zip(self.J, influence_IO.T, strict=True)
        ]

    def mean_J(self, low: float, high: float, level: float = 0.95) -> Interval:
        """Mean of J over the orders with low <= m/(n-2) <= high.

        Raises:
            ValueError: if no measured order lies there.
        """
        inside_O = self._inside(low, high)
        return t_interval(
            self.J[inside_O].mean(), self.influence_IO[:, inside_O].mean(axis=1), level
        )

    def minus(self, other: Strength, low: float, high: float, level: float = 0.95) -> Interval:
        """Difference of :meth:`mean_J` to another model, paired over common images.

        Raises:
            ValueError: if the two were not measured on the same images and orders.
        """
        if self.images != other.images or not np.array_equal(self.orders_O, other.orders_O):
            raise ValueError("expected two strengths of the same images and orders")
        inside_O = self._inside(low, high)
        difference_IO = self.influence_IO - other.influence_IO
        return t_interval(
            (self.J - other.J)[inside_O].mean(), difference_IO[:, inside_O].mean(axis=1), level
        )

    def _inside(self, low: float, high: float) -> NDArray[np.bool_]:
        inside_O = (low <= self.ratios_O) & (self.ratios_O <= high)
        if not inside_O.any():
            raise ValueError(f"no measured order between {low} n and {high} n")
        return inside_O

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per order: order, ratio, S, J, J_se, J_low, J_high, rho."""
        import pandas as pd

        intervals = self.intervals(level)
        return pd.DataFrame(
            {
                "order": self.orders_O,
                "ratio": self.ratios_O,
                "S": self.S,
                "J": self.J,
                "J_se": [interval.se for interval in intervals],
                "J_low": [interval.low for interval in intervals],
                "J_high": [interval.high for interval in intervals],
                "rho": self.rho_O,
            }
        )


def strength(records: Sequence[Interactions], estimator: Estimator = "jackknife") -> Strength:
    """Strengths of measured images.

    Args:
        records: one per image, all of one design.
        estimator: ``"jackknife"`` (default) or the published ``"plug_in"``.

    Raises:
        ValueError: without records, with records of different designs, or if the jackknife gets
            an odd number of replicates.
    """
    if not records:
        raise ValueError("expected at least one measured image, got none")
    first = records[0]
    for record in records:
        if record.n != first.n or not np.array_equal(record.orders_O, first.orders_O):
            raise ValueError(
                f"expected images measured with one design: {record.image} has other orders "
                f"than {first.image}"
            )
    per_image = plug_in if estimator == "plug_in" else jackknife
    return Strength(
        images=tuple(record.image for record in records),
        n=first.n,
        orders_O=first.orders_O,
        per_image_IO=np.stack([per_image(record.replicates_PRO) for record in records]),
        rho_O=_rho(records),
    )


def plug_in(replicates_PRO: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over pairs of |mean over replicates|, per order: the published, biased estimate."""
    return np.abs(replicates_PRO.mean(axis=1)).mean(axis=0)


def jackknife(replicates_PRO: NDArray[np.float64]) -> NDArray[np.float64]:
    """Split jackknife 2 f - h of one image, per order; may be negative for a single image.

    Raises:
        ValueError: with an odd number of replicates.
    """
    R = replicates_PRO.shape[1]
    if R % 2:
        raise ValueError(
            f"expected an even number of replicates for the jackknife, got {R}; "
            "use the plug-in for contexts without replicates"
        )
    halves = [plug_in(replicates_PRO[:, list(half)]) for half in _halves(R)]
    return 2 * plug_in(replicates_PRO) - np.mean(halves, axis=0)


def _halves(R: int) -> list[tuple[int, ...]]:
    """Halves of R replicates: all of them up to R = 8, then R cyclic windows."""
    if R <= 8:
        return list(combinations(range(R), R // 2))
    return [tuple((start + k) % R for k in range(R // 2)) for start in range(R)]


def _rho(records: Sequence[Interactions]) -> NDArray[np.float64]:
    """Context noise over signal per order, each unbiased before the root is taken."""
    R, O = records[0].replicates_PRO.shape[1:]
    if R < 2:
        return np.full(O, np.nan)
    # The variance of a replicate of W contexts, times W: that of one context if W were independent.
    noise_O = np.mean(
        [r.per_replicate * r.replicates_PRO.var(axis=1, ddof=1).mean(axis=0) for r in records],
        axis=0,
    )
    square_O = np.mean([(r.mean_PO**2).mean(axis=0) for r in records], axis=0)
    signal_O = square_O - noise_O / (R * records[0].per_replicate)
    return np.sqrt(noise_O / np.where(signal_O > 0, signal_O, np.nan))
