"""What all probes share: their results, repeats, held-out images, normalising.

Shapes: I training and J test images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from a2mim.data.sampler import keyed_generator
from a2mim.probes.features import Features
from interactions import stats

Normalise = Literal["standardise", "l2", "none"]
Device = torch.device | str
EPS = 1e-6  # MAE's
BLOCK = 1 << 24  # numbers of a temporary table: 128 MB in float64


def readable(count: int, left_out: Sequence[int]) -> NDArray[np.int64]:
    """Numbers of the test images that were judged: those left out could not be read."""
    return np.delete(np.arange(count + len(left_out)), left_out)


@dataclass(frozen=True)
class ProbeResult:
    """A probe's answer for every test image, and how it came about.

    Attributes:
        predictions_J: int64 class indices.
        labels_J: int64, the right ones.
        chosen: the hyper-parameter that was used: weight decay of L-BFGS, learning rate of SGD;
            None for k-NN.
        grid: every hyper-parameter that was tried, with its accuracy on the held-out part; NaN
            where it diverged. Empty if there was no choice.
        settings: features, normalising and all the rest that decided the number, in JSON.
    """

    predictions_J: Tensor
    labels_J: Tensor
    chosen: float | None
    grid: tuple[tuple[float, float], ...]
    settings: Mapping[str, Any]

    @property
    def correct_J(self) -> Tensor:
        """Whether the prediction is right, bool."""
        return self.predictions_J == self.labels_J

    @property
    def accuracy(self) -> float:
        """Share of test images that are right."""
        return float(self.correct_J.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over test images (Wilson)."""
        found = stats.share(self.correct_J.cpu().numpy())
        return found.low, found.high


def check_normalise(normalise: str) -> None:
    """Refuse an unknown way to normalise.

    Raises:
        ValueError: if it is none of ``"standardise"``, ``"l2"``, ``"none"``.
    """
    if normalise not in ("standardise", "l2", "none"):
        raise ValueError(f"expected 'standardise', 'l2' or 'none', got {normalise!r}")


@dataclass(frozen=True)
class Repeated:
    """The same probe with several seeds.

    Attributes:
        seeds: which.
        results: one per seed.
    """

    seeds: tuple[int, ...]
    results: tuple[ProbeResult, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """One per seed."""
        return tuple(result.accuracy for result in self.results)

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds."""
        return float(np.mean(self.accuracies))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % t interval of the mean over seeds, for these test images.

        It says how much a probe's own chance matters; how much that of the test images does, say
        the intervals of the results. NaN if all accuracies are the same.
        """
        found = stats.mean(self.accuracies, low=0, high=1)
        return found.low, found.high


def repeat(probe: Callable[[int], ProbeResult], seeds: Sequence[int]) -> Repeated:
    """Run a probe with several seeds.

    Args:
        probe: seed -> result, such as ``lambda seed: linear_probe(train, test, seed=seed)``.
        seeds: at least 2, all different.

    Raises:
        ValueError: for other seeds.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected at least 2 different seeds, got {tuple(seeds)}")
    return Repeated(tuple(seeds), tuple(probe(seed) for seed in seeds))


def held_out_split(labels_I: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images to fit and of those held out, drawn class by class.

    Of n images of a class round(share n) are held out, and at most n - 1.

    Args:
        labels_I: int64 classes.
        share: in (0, 1).
        seed: names the draw.

    Returns:
        Two sorted int64 tensors, on the device of the labels.

    Raises:
        ValueError: if nothing would be held out.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share in (0, 1) to hold out, got {share}")
    labels = labels_I.cpu()
    order = torch.randperm(len(labels), generator=keyed_generator(seed, "held-out"))
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order in each
    counts_K = labels.bincount()
    sorted_labels = labels[order]
    place_I = torch.arange(len(labels)) - (counts_K.cumsum(0) - counts_K)[sorted_labels]
    held_K = (counts_K * share).round().long().minimum(counts_K - 1)
    held_I = place_I < held_K[sorted_labels]
    if not held_I.any():
        raise ValueError(
            f"expected classes of more images than {int(counts_K.max())} to hold out a share of "
            f"{share}; give a single hyper-parameter, for which nothing is held out"
        )
    fit, held = (order[rows].sort().values.to(labels_I.device) for rows in (~held_I, held_I))
    return fit, held


def labels_and_classes(train: Features, test: Features) -> tuple[Tensor, Tensor, int]:
    """Both labels and the number of classes, of features that can be compared."""
    labels_I, labels_J = train.labels_I, test.labels_I
    if labels_I is None or labels_J is None:
        raise ValueError(
            "expected features with labels, got some without; add them by dataclasses.replace"
        )
    if not len(labels_I) or not len(labels_J):
        raise ValueError(f"expected images, got {len(labels_I)} and {len(labels_J)}")
    for key in ("model", "weights", "readout", "precision"):
        here, there = train.setting.get(key), test.setting.get(key)
        if here != there:
            raise ValueError(
                f"expected the same {key} for training and test features, got {here} and {there}"
            )
    widths = train.features_ID.shape[1], test.features_ID.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"expected the same number of features, got {widths[0]} and {widths[1]}")
    classes = int(labels_I.max()) + 1
    if int(labels_J.max()) >= classes:
        raise ValueError(
            f"expected test classes among the {classes} of training, got {int(labels_J.max())}"
        )
    return labels_I, labels_J, classes


def features_settings(train: Features, test: Features | None = None) -> dict[str, Any]:
    """What features were made with, and of which images."""
    settings = {key: value for key, value in train.setting.items() if key != "images"}
    images = {"train": train.setting.get("images")}
    if test is not None:
        images["test"] = test.setting.get("images")
    return {"features": settings, "images": images}


def choice_settings(held_out: float, seed: int, choices: int) -> dict[str, Any]:
    """How a hyper-parameter was chosen; nothing was held out where there was no choice."""
    return {"held_out": held_out if choices > 1 else None, "seed": seed}


def normaliser(
    features_ID: Tensor, normalise: Normalise, dtype: torch.dtype = torch.float64
) -> Callable[[Tensor], Tensor]:
    """A function for training and test features alike; statistics are those of the given ones."""
    mean_D, scale_D = mean_and_scale(features_ID)

    def prepare(features_ID: Tensor) -> Tensor:
        prepared = features_ID.new_empty(features_ID.shape, dtype=dtype)
        for source, target in zip(in_parts(features_ID), in_parts(prepared), strict=True):
            part = source.double()
            if normalise == "standardise":
                part = (part - mean_D) * scale_D
            elif normalise == "l2":
                part = functional.normalize(part, dim=1)
            target.copy_(part)
        return prepared

    return prepare


def mean_and_scale(features_ID: Tensor) -> tuple[Tensor, Tensor]:
    """Means and 1 / sqrt(var + 1e-6) of the features, float64 ``(D,)`` each."""
    mean_D = features_ID.mean(0, dtype=torch.float64)
    squares = [((part.double() - mean_D) ** 2).sum(0) for part in in_parts(features_ID)]
    return mean_D, (torch.stack(squares).sum(0) / len(features_ID) + EPS).rsqrt()


def in_parts(table: Tensor, width: int | None = None) -> Iterator[Tensor]:
    """Rows of a table, so many at once that temporary tables of this width stay small."""
    return iter(table.split(max(1, BLOCK // (width or table.shape[1]))))
