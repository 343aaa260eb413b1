"""Image sets by name: torchvision's, downloaded if they are not there, and scikit-learn's digits.

One row of :data:`TORCHVISION` is one set: its class, and the options that choose its two splits.
Sets that need an account or have no published split are not here; build them and give them to
``DatasetSamples``.

Shapes: I images.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from a2mim.data.arrays import digits
from a2mim.data.augment import Augment
from a2mim.data.folders import DataError
from a2mim.data.limits import TOLERANCE, Tolerance
from a2mim.data.samples import ArraySamples, DatasetSamples
from a2mim.messages import did_you_mean

Split = Literal["train", "test"]


@dataclass(frozen=True)
class NamedSet:
    """Where one set comes from.

    Attributes:
        kind: class in ``torchvision.datasets``.
        train: its options for the images to train on.
        test: its options for the images to test on.
        unlabelled: its options for the images to pre-train on, if these are others.
    """

    kind: str
    train: Mapping[str, object] = field(default_factory=lambda: {"split": "train"})
    test: Mapping[str, object] = field(default_factory=lambda: {"split": "test"})
    unlabelled: Mapping[str, object] | None = None


_FLAG: dict[str, Mapping[str, object]] = {"train": {"train": True}, "test": {"train": False}}

TORCHVISION = {
    "cifar10": NamedSet("CIFAR10", **_FLAG),
    "cifar100": NamedSet("CIFAR100", **_FLAG),
    "country211": NamedSet("Country211"),
    "dtd": NamedSet("DTD"),
    "fashion-mnist": NamedSet("FashionMNIST", **_FLAG),
    "fgvc-aircraft": NamedSet("FGVCAircraft", train={"split": "trainval"}),
    "flowers102": NamedSet("Flowers102"),
    "food101": NamedSet("Food101"),
    "gtsrb": NamedSet("GTSRB"),
    "imagenette": NamedSet("Imagenette", test={"split": "val"}),
    "mnist": NamedSet("MNIST", **_FLAG),
    "pets": NamedSet("OxfordIIITPet", train={"split": "trainval"}),
    "stl10": NamedSet("STL10", unlabelled={"split": "train+unlabeled"}),
    "svhn": NamedSet("SVHN"),
}

NAMES = ("digits", *TORCHVISION)


def named_samples(
    name: str,
    split: Split,
    augment: Augment,
    seed: int,
    *,
    root: Path = Path("data"),
    size: int = 32,
    unlabelled: bool = False,
    tolerance: Tolerance = TOLERANCE,
) -> ArraySamples | DatasetSamples:
    """The images of a set, for training or testing.

    Args:
        name: of :data:`NAMES`.
        split: which part of the set.
        augment: from uint8 pixels to the network's input.
        seed: names the draws.
        root: folder of the set; downloaded if it is not there. The digits need none.
        size: edge of the digits in pixels.
        unlabelled: whether images without a class belong to the training images, where there are.
        tolerance: how many unreadable images are put up with.

    Raises:
        DataError: if there is no set of that name, or it cannot be had.
    """
    if name == "digits":
        return ArraySamples(digits(size)[split == "test"], augment, seed)
    dataset = torchvision_set(name, split, root, unlabelled=unlabelled)
    return DatasetSamples(dataset, augment, seed, tolerance, labels_of(dataset))


def torchvision_set(
    name: str, split: Split, root: Path = Path("data"), *, unlabelled: bool = False
) -> Any:
    """A set of torchvision, without transforms; the arguments are those of :func:`named_samples`.

    Raises:
        DataError: if there is no set of that name, or it cannot be had.
    """
    from torchvision import datasets

    if name not in TORCHVISION:
        hint = did_you_mean(name, NAMES)
        raise DataError(f"expected a set of {', '.join(NAMES)}, got {name!r}{hint}")
    row = TORCHVISION[name]
    options = row.test if split == "test" else row.train
    if split == "train" and unlabelled and row.unlabelled is not None:
        options = row.unlabelled
    existed = root.exists()
    try:
        return getattr(datasets, row.kind)(str(root), download=True, **options)
    except (OSError, RuntimeError) as error:
        if not existed:  # torchvision makes the folder before it downloads
            shutil.rmtree(root, ignore_errors=True)
        raise DataError(
            f"expected {name} in {root} or a network to download it, got: {error}"
        ) from error


def labels_of(dataset: Any) -> Tensor | None:
    """Class indices of a torchvision set, int64 ``(I,)``, without reading its images.

    None if it does not say them, or not all of its images have a class.
    """
    for attribute in ("targets", "labels", "_labels", "_samples", "samples"):
        found: Any = getattr(dataset, attribute, None)
        if found is not None:
            labels = [row[1] for row in found] if "samples" in attribute else found
            labels_I = torch.as_tensor(labels).to(torch.int64)
            return labels_I if bool((labels_I >= 0).all()) else None
    return None
