"""The images of a measurement: a folder of photographs, or a data set by name.

Images are read when they are needed and not kept: a run over a thousand photographs takes the
memory of one.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from PIL import Image

from a2mim.data import ImageSet, cifar10, digits, find_images, read_image, subset
from experiments.runs import UsageError

T = TypeVar("T")
DATA_SETS = ("digits", "cifar10")


@dataclass(frozen=True)
class Source:
    """One image of a run.

    Attributes:
        name: names its random draws.
        read: opens it, in RGB.
        truth: its class, if it is known.
    """

    name: str
    read: Callable[[], Image.Image]
    truth: int | None


def folder_images(folder: Path, count: int, seed: int, *, truth: bool) -> list[Source]:
    """At most ``count`` images of a folder, searched in depth, drawn by ``seed``.

    Args:
        folder: the folder.
        count: how many.
        seed: which, if there are more.
        truth: whether classes are read from ``labels.csv`` in the folder (file,class_index).

    Raises:
        DataError: if there are fewer than 2 images.
        UsageError: if classes are wanted and not there.
    """
    files = find_images(folder, count, seed)
    names = [file.relative_to(folder).as_posix() for file in files]
    classes = _classes(folder / "labels.csv", names) if truth else dict.fromkeys(names)
    return [
        Source(name, partial(read_image, file), classes[name])
        for name, file in zip(names, files, strict=True)
    ]


def named_images(data: str, count: int, seed: int) -> list[Source]:
    """At most ``count`` test images of a data set, with their classes.

    Raises:
        UsageError: if there is no data set of that name.
        DataError: if it cannot be downloaded.
    """
    if data == "digits":
        images = digits(32)[1]
        images = images.take(images.draw(count, seed))
    elif data == "cifar10":
        images = cifar10(Path("data"), 32, (1, count), seed)[1]
    else:
        raise UsageError(f"expected --data {' or '.join(DATA_SETS)}, got {data!r}")
    return [
        Source(name, partial(_picture, images, k), int(images.labels_I[k]))
        for k, name in enumerate(images.names)
    ]


def some(sources: Sequence[T], count: int, seed: int) -> list[T]:
    """At most ``count`` of the images, in their order, drawn by ``seed``."""
    return [sources[k] for k in subset(len(sources), count, seed)]


def _picture(images: ImageSet, k: int) -> Image.Image:
    return Image.fromarray(images.pixels_ICHW[k].permute(1, 2, 0).numpy())


def _classes(table: Path, names: list[str]) -> dict[str, int]:
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            classes = {row["file"]: int(row["class_index"]) for row in csv.DictReader(lines)}
        return {name: classes[name] for name in names}
    except OSError as error:
        raise UsageError(f"expected classes in {table} for --label truth: {error}") from error
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"expected the columns file,class_index and a row for every image in {table}, "
            f"missing or wrong: {error}"
        ) from error
