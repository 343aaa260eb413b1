"""Measurements at the noise of real networks, many times over, without a forward.

What an interval, a test or a plan is worth shows when a measurement is repeated while the truth is
known. Two things are drawn from:

    Population    stored replicates of a trained network: images are drawn with replacement, pairs
                  of an image without, and contexts from its stored replicates with replacement, so
                  that the mean over the stored ones is the exact interaction
    Simulation    Laplace interactions, images of different scale, and contexts of a given rho

Shapes: I images, P pairs, R replicates, O orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

import interactions as ix
from interactions.orders.estimator import orders_of

Array = NDArray[np.float64]

N = 64
"""Players of both: 8 x 8 patches."""

WINDOWS = 2
"""Contexts W in a replicate of both."""

ORDERS_O = np.array(orders_of(ix.PUBLISHED_RATIOS, N))

RESNET20 = Path(__file__).parents[2] / "tests/interactions/data/resnet20_replicates.npz"
"""53 images of CIFAR-10 x 12 pairs x 18 replicates x 13 orders around the interactions of all 200;
made by the script beside it."""

RESNET20_J = np.array(
    [2.64, 1.18, 0.84, 0.65, 0.59, 0.58, 0.57, 0.59, 0.61, 0.69, 0.90, 1.16, 2.00]
)
"""J of RMS strength of that network, over all 200 replicates that were measured."""

RESNET20_RHO = np.array([0, 1.7, 2.4, 3.1, 3.3, 3.4, 3.5, 3.2, 2.9, 2.4, 1.7, 1.3, 0])
"""Its rho, likewise."""


class Source(Protocol):
    """What measurements are drawn from."""

    @property
    def J_O(self) -> Array:
        """The true J of RMS strength."""
        ...

    def draw(self, rng: np.random.Generator, images: int, pairs: int, replicates: int) -> Array:
        """Replicates of new images, ``(I, P, R, O)``."""
        ...


@dataclass(frozen=True)
class Population:
    """Stored replicates as if they were all contexts there are.

    Attributes:
        replicates_IPRO: means of Delta v over :data:`WINDOWS` contexts.
    """

    replicates_IPRO: Array

    @property
    def exact_IPO(self) -> Array:
        """The interactions: means over all replicates."""
        return self.replicates_IPRO.mean(axis=2)

    @property
    def J_O(self) -> Array:
        """The true J of RMS strength."""
        return shares((self.exact_IPO**2).mean(axis=(0, 1)))

    @property
    def absolute_J_O(self) -> Array:
        """The true J of the published strength, the mean of |I|."""
        S_O = np.abs(self.exact_IPO).mean(axis=(0, 1))
        return S_O / S_O.mean()

    def draw(self, rng: np.random.Generator, images: int, pairs: int, replicates: int) -> Array:
        """Replicates of images, of distinct pairs of each, in contexts drawn with replacement."""
        I, P, R, _ = self.replicates_IPRO.shape
        image_I11 = rng.integers(I, size=(images, 1, 1))
        pair_IP1 = rng.random((images, P)).argsort(axis=1)[:, :pairs, None]
        context_IPR = rng.integers(R, size=(images, pairs, replicates))
        return self.replicates_IPRO[image_I11, pair_IP1, context_IPR]


@dataclass(frozen=True)
class Simulation:
    """Laplace interactions seen through context noise.

    Attributes:
        J_O: the true J; its mean is 1.
        rho_O: sd of Delta v over contexts / RMS of the interactions.
        spread: sd of the logarithm of an image's scale.
        heavy: context noise is t-distributed with 4 degrees of freedom instead of normal.
    """

    J_O: Array
    rho_O: Array
    spread: float = 0.5
    heavy: bool = False

    def draw(self, rng: np.random.Generator, images: int, pairs: int, replicates: int) -> Array:
        """Replicates of new images and pairs."""
        shape = (images, pairs, replicates, len(self.J_O))
        # a lognormal scale whose square has mean 1
        scale_I111 = np.exp(self.spread * rng.normal(size=(images, 1, 1, 1)) - self.spread**2)
        true_IP1O = rng.laplace(size=(images, pairs, 1, len(self.J_O))) / np.sqrt(2)
        noise = rng.standard_t(4, size=shape) / np.sqrt(2) if self.heavy else rng.normal(size=shape)
        noise *= self.rho_O / np.sqrt(WINDOWS)
        return (true_IP1O + noise) * (self.J_O * scale_I111)


def shares(energy_O: Array) -> Array:
    """J of energies."""
    S_O = np.sqrt(np.maximum(energy_O, 0))
    return S_O / S_O.mean()


def energies(replicates_IPRO: Array, replicates_O: ArrayLike | None = None) -> Array:
    """Unbiased energy of every image, ``(I, O)``, from all replicates or so many of each order."""
    if replicates_O is not None:
        return np.stack(
            [
                energies(replicates_IPRO[:, :, : max(int(R), 2), o : o + 1])[:, 0]
                for o, R in enumerate(np.asarray(replicates_O))
            ],
            axis=1,
        )
    R = replicates_IPRO.shape[2]
    sum_IPO = replicates_IPRO.sum(axis=2)
    square_IPO = np.einsum("ipro,ipro->ipo", replicates_IPRO, replicates_IPRO)
    return ((sum_IPO**2 - square_IPO) / (R * (R - 1))).mean(axis=1)


def strength_of(replicates_IPRO: Array) -> ix.Strength:
    """RMS strength of drawn replicates; rho is left out."""
    energy_IO = energies(replicates_IPRO)
    unknown_O = np.full(energy_IO.shape[1], np.nan)
    names = tuple(map(str, range(len(energy_IO))))
    return ix.Strength(names, N, ORDERS_O, energy_IO, unknown_O, unknown_O > 0)


def records_of(replicates_IPRO: Array) -> list[ix.Interactions]:
    """Drawn replicates as measured images."""
    pairs_P2 = np.zeros((replicates_IPRO.shape[1], 2), dtype=np.int64)
    return [
        ix.Interactions(str(k), N, pairs_P2, ORDERS_O, replicates_PRO, WINDOWS, forwards=0)
        for k, replicates_PRO in enumerate(replicates_IPRO)
    ]


@cache
def resnet20() -> Population:
    """The stored replicates of a ResNet-20."""
    return Population(np.load(RESNET20)["replicates"].astype(float))


def simulated(noise: float = 1.0, heavy: bool = False) -> Simulation:
    """A network like that one, with so many times its rho."""
    return Simulation(RESNET20_J / RESNET20_J.mean(), noise * RESNET20_RHO, heavy=heavy)


@dataclass(frozen=True)
class Holds:
    """How often inference was right over repeated measurements.

    Attributes:
        J_RO: estimates.
        J: share of 95 % intervals of J that hold the truth, per order.
        bands: likewise for the mean J of low, middle and high orders.
        differences: likewise for paired differences to another network, per order.
        band_differences: likewise per band.
        found: share of repeats that find a difference at some order (Holm, 5 %).
        found_in_bands: share that find one in some band.
    """

    J_RO: Array
    J: Array
    bands: Array
    differences: Array
    band_differences: Array
    found: float
    found_in_bands: float


def repeated(
    source: Source,
    other: Source,
    images: int,
    pairs: int,
    replicates: int,
    repeats: int,
    seed: int = 0,
) -> Holds:
    """Measure two networks again and again and compare what is said of them with the truth."""
    rng = np.random.default_rng(seed)
    J_O, other_O = source.J_O, other.J_O
    J, inside, in_bands, differ, differ_bands, found, found_bands = ([] for _ in range(7))
    for _ in range(repeats):
        one, two = (
            strength_of(network.draw(rng, images, pairs, replicates)) for network in (source, other)
        )
        J.append(one.J)
        inside.append(
            [i.low <= true <= i.high for i, true in zip(one.intervals(), J_O, strict=True)]
        )
        bands = one.bands()
        true = [_band(J_O, band) for band in bands[["first", "last"]].to_numpy()]
        in_bands.append((bands["low"] <= true) & (true <= bands["high"]))
        table = one.compare(two)
        differ.append((table["low"] <= J_O - other_O) & (J_O - other_O <= table["high"]))
        found.append((table["p_holm"] < 0.05).any())
        table = one.compare_bands(two)
        true = [_band(J_O - other_O, band) for band in bands[["first", "last"]].to_numpy()]
        differ_bands.append((table["low"] <= true) & (true <= table["high"]))
        found_bands.append((table["p_holm"] < 0.05).any())
    return Holds(
        J_RO=np.stack(J),
        J=np.mean(inside, axis=0),
        bands=np.mean(in_bands, axis=0),
        differences=np.mean(differ, axis=0),
        band_differences=np.mean(differ_bands, axis=0),
        found=float(np.mean(found)),
        found_in_bands=float(np.mean(found_bands)),
    )


def _band(J_O: Array, ends: Array) -> float:
    first, last = ends
    return float(J_O[(first <= ORDERS_O) & (last >= ORDERS_O)].mean())


def error_of(
    source: Source,
    images: int,
    pairs: int,
    replicates_O: ArrayLike,
    repeats: int,
    seed: int = 0,
) -> Array:
    """Root mean squared error of J per order of a design, over repeated measurements."""
    rng = np.random.default_rng(seed)
    most = int(np.max(replicates_O))
    squares = [
        (
            shares(energies(source.draw(rng, images, pairs, most), replicates_O).mean(axis=0))
            - source.J_O
        )
        ** 2
        for _ in range(repeats)
    ]
    return np.sqrt(np.mean(squares, axis=0))
