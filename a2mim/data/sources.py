"""Where images come from: a data set by name, a folder, tar shards.

``--data NAME``, ``folder:PATH``, ``tar:PATTERN`` (local shards, in any order) or
``stream:PATTERN`` (shards from their beginning to their end, also from the web, an object store
such as ``s3://``, or a pipe; see ``a2mim.data.addresses.expand_shards``).
Photographs to measure are read when they are needed and not kept. In every folder images are those
of ``a2mim.data.folders.image_names``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from a2mim.data.arrays import ImageSet, at_least_two, digits, drawn, find_images, subset
from a2mim.data.augment import Augment, PilTransform
from a2mim.data.contents import hash_of
from a2mim.data.folders import DataError, image_names, read_pixels, to_rgb
from a2mim.data.labels import Classes, classes_of_images, has_classes
from a2mim.data.limits import BUFFER
from a2mim.data.named import NAMES, labels_of, named_samples, torchvision_set
from a2mim.data.samples import (
    TOLERANCE,
    ArraySamples,
    DatasetSamples,
    FolderSamples,
    ImageFiles,
    PackedNames,
    Tolerance,
    find_test_files,
    find_training_files,
)
from a2mim.data.stream import ShardStream, StreamSettings
from a2mim.data.tar import TarSamples
from a2mim.messages import UsageError

T = TypeVar("T")
Labelled = ArraySamples | DatasetSamples | FolderSamples
Training = Labelled | TarSamples | ShardStream

NO_TRUTH = ", or give --label prediction, which needs no classes"
"""What else can be done where there are no classes, by commands that have ``--label``."""


@dataclass(frozen=True)
class Source:
    """One image of a run.

    Attributes:
        name: names its random draws.
        read: opens it, for a network of so many channels (3 if not given); see
            :func:`~a2mim.data.folders.read_pixels`.
        truth: its class, if it is known.
        file: where it is, if it is a file.
    """

    name: str
    read: Callable[..., Any]
    truth: int | None
    file: Path | None = None

    def identity(self) -> tuple[str, int | None, str]:
        """Name, class, and a hash of the file or, if it is none, of the pixels.

        Raises:
            DataError: if the file cannot be read.
        """
        if self.file is None:
            image = self.read()
            return self.name, self.truth, hash_of(image.size, image.tobytes())
        try:
            return self.name, self.truth, hash_of(self.file.read_bytes())
        except OSError as error:
            raise DataError(f"cannot read {self.file}: {error.strerror}") from error


def folder_images(
    folder: Path, count: int, seed: int, *, truth: bool, outputs: int | None = None
) -> list[Source]:
    """At most ``count`` images of a folder, searched in depth, drawn by ``seed``; or one file.

    Args:
        folder: the folder, or a picture, whose class is looked for in the folder of it.
        count: how many.
        seed: which, if there are more.
        truth: whether their classes are read (:mod:`a2mim.data.labels`).
        outputs: of the networks that are judged by them.

    Raises:
        DataError: if there are fewer than 2 images, or too many cannot be read.
        UsageError: if classes are wanted and not there.
    """
    if folder.is_file():
        folder, files = folder.parent, [folder]
    else:
        files = find_images(folder, count, seed)
    index = _classes(folder, outputs, NO_TRUTH).index if truth else {}
    sources = []
    for file in files:
        name = file.relative_to(folder).as_posix()
        sources.append(Source(name, partial(read_pixels, file), index.get(name), file))
    return sources


def images_of(
    images: Path | None,
    data: str,
    count: int,
    seed: int,
    *,
    truth: bool = False,
    outputs: int | None = None,
) -> list[Source]:
    """At most ``count`` images of ``--images`` or, without it, of ``--data``, drawn by ``seed``.

    See :func:`folder_images` and :func:`named_images`, whose images have their classes anyway.
    """
    if images is None:
        return named_images(data, count, seed)
    return folder_images(images, count, seed, truth=truth, outputs=outputs)


def as_seen(sources: Sequence[Source], view: PilTransform) -> Tensor:
    """Images as a network sees them, float32 ``(B, C, H, W)``.

    Args:
        sources: the images.
        view: how it wants them.

    Raises:
        DataError: if one cannot be read.
    """
    return torch.stack([view.transform(source.read(view.channels)) for source in sources])


def folder_has_classes(folder: Path) -> bool:
    """Whether something tells classes of its images, be it right or wrong.

    Raises:
        DataError: if there is no such folder.
    """
    return has_classes(folder, image_names(folder))


def known_classes(images: Path | None, data: str, outputs: int | None = None) -> int | None:
    """How many classes ``--images`` or ``--data`` have; None if only numbers of them are known.

    Args:
        images: the folder, or a picture in it, if it is one.
        data: the name of the data set, if it is one.
        outputs: of the networks that are judged by them.

    Raises:
        DataError: if there are no images.
        UsageError: if images have no classes.
    """
    if images is None:
        return classes_of(data)
    return _classes(images.parent if images.is_file() else images, outputs, NO_TRUTH).count


def class_names(
    images: Path | None, data: str, outputs: int | None = None
) -> tuple[str, ...] | None:
    """What the classes of ``--images`` or ``--data`` are called; None if only numbers are known.

    The arguments are those of :func:`known_classes`, and the errors.
    """
    if images is not None:
        folder = images.parent if images.is_file() else images
        return _classes(folder, outputs, NO_TRUTH).names
    if (root := _root(data)) is not None:
        return find_training_files(root).classes
    return None if data == "digits" else getattr(torchvision_set(data, "test"), "classes", None)


def only_number(outputs: Sequence[int]) -> int | None:
    """The number of outputs of all classifiers; None if they differ, or there is none."""
    numbers = {number for number in outputs if number}
    return numbers.pop() if len(numbers) == 1 else None


def named_images(data: str, count: int, seed: int) -> list[Source]:
    """At most ``count`` test images of a data set or of ``folder:PATH``, with their classes.

    Raises:
        DataError: if there is no data set of that name, or it cannot be had.
    """
    if (root := _root(data)) is not None:
        files = find_test_files(root, find_training_files(root).classes)
        assert files.labels_I is not None
        return [
            Source(
                files.names[k],
                partial(read_pixels, root / files.names[k]),
                int(files.labels_I[k]),
                root / files.names[k],
            )
            for k in drawn(root, files.names, count, seed)
        ]
    if data == "digits":
        images = digits(32)[1]
        images = images.take(images.draw(count, seed))
        return [
            Source(name, partial(_picture, images, k), int(images.labels_I[k]))
            for k, name in enumerate(images.names)
        ]
    dataset = torchvision_set(data, "test")
    labels_I = labels_of(dataset)
    return [
        Source(
            f"test/{k:05d}",
            partial(_item, dataset, k, f"image {k} of {data}"),
            None if labels_I is None else int(labels_I[k]),
        )
        for k in subset(len(dataset), count, seed)
    ]


def classes_of(data: str) -> int | None:
    """The number of classes of a data set by name; None if its images have none.

    Raises:
        DataError: if there is no data set of that name, or it cannot be had.
    """
    if (root := _root(data)) is not None:
        return len(find_training_files(root).classes)
    labels_I = (
        digits(32)[1].labels_I if data == "digits" else labels_of(torchvision_set(data, "test"))
    )
    return None if labels_I is None else int(labels_I.max()) + 1


def training_samples(
    data: str,
    augment: Augment,
    seed: int,
    *,
    images: int | None = None,
    buffer: int = BUFFER,
    tolerance: Tolerance = TOLERANCE,
) -> Training:
    """The images to pre-train on that ``--data`` names.

    Args:
        data: as above.
        augment: from uint8 pixels to the network's input.
        seed: names the draws.
        images: in all shards of a stream.
        buffer: images in the shuffle buffer of every worker of a stream.
        tolerance: how many unreadable images are put up with.

    Raises:
        UsageError: if it names none.
        DataError: if they cannot be had.
        ValueError: if a stream has less than one image, or a buffer for less than one.
    """
    kind, _, where = data.partition(":")
    if data and not where:
        return named_samples(data, "train", augment, seed, unlabelled=True, tolerance=tolerance)
    if kind == "folder":
        return FolderSamples(find_training_files(Path(where)), augment, seed, tolerance)
    if kind == "tar":
        return TarSamples(where, augment, seed, tolerance)
    if kind == "stream":
        if images is None:
            raise UsageError(
                f"expected the number of images in {data}, got none; give --stream-images NUMBER"
            )
        # Who types a pipe here could as well type it into the shell.
        settings = StreamSettings(images, buffer)
        return ShardStream(where, augment, seed, settings, allow_pipe=True, tolerance=tolerance)
    raise UsageError(
        f"expected --data NAME ({', '.join(NAMES[:3])}, ...), folder:PATH, tar:PATTERN or "
        f"stream:PATTERN, got {data!r}"
    )


def labelled_samples(
    data: str,
    augment: Augment,
    seed: int = 0,
    *,
    test_augment: Augment | None = None,
    tolerance: Tolerance = TOLERANCE,
) -> tuple[Labelled, Labelled]:
    """Training and test images of a data set by name, or of ``folder:PATH``, with their classes.

    Args:
        data: a name, or a folder with ``train/<class>/`` and ``val/<class>/`` (or ``test``).
        augment: from uint8 pixels to the network's input.
        seed: names the draws.
        test_augment: for the test images, if it is another.
        tolerance: how many unreadable training images are put up with.

    Raises:
        UsageError: if ``data`` is neither.
        DataError: if they cannot be had, or have no classes.
    """
    kind, _, where = data.partition(":")
    test_augment = test_augment or augment
    train: Labelled
    test: Labelled
    if data and not where:
        train = named_samples(data, "train", augment, seed, tolerance=tolerance)
        test = named_samples(data, "test", test_augment, seed)
    elif kind == "folder" and where:
        files = find_training_files(Path(where))
        train = FolderSamples(files, augment, seed, tolerance)
        test = FolderSamples(find_test_files(Path(where), files.classes), test_augment, seed)
    else:
        raise UsageError(f"expected --data NAME or folder:PATH, with classes, got {data!r}")
    if train.labels_I is None or test.labels_I is None:
        raise DataError(f"expected images in folders by class, or a set with classes, in {data}")
    return train, test


def photographs_with_classes(
    folder: Path, augment: Augment, *, outputs: int | None = None, instead: str = ""
) -> FolderSamples:
    """The images of a folder, searched in depth, with their classes (:mod:`a2mim.data.labels`).

    Args:
        folder: the folder.
        augment: from uint8 pixels to the network's input.
        outputs: of the network that is judged by them.
        instead: what else can be done where there are no classes, for the message.

    Raises:
        DataError: if there are fewer than 2 images.
        UsageError: if an image has no class.
    """
    index = _classes(folder, outputs, instead).index
    files = ImageFiles(folder, PackedNames(index), torch.tensor(list(index.values())))
    return FolderSamples(files, augment, seed=0)


def photographs_without_classes(folder: Path, augment: Augment) -> FolderSamples:
    """The images of a folder, searched in depth; classes that it may tell are not read.

    Args:
        folder: the folder.
        augment: from uint8 pixels to the network's input.

    Raises:
        DataError: if there are fewer than 2 images.
    """
    return FolderSamples(ImageFiles(folder, PackedNames(at_least_two(folder))), augment, seed=0)


def without_folders(data: str) -> str:
    """``--data`` without the path of this machine."""
    kind, colon, where = data.partition(":")
    return f"{kind}:{Path(where).resolve().name}" if colon else data


def set_name(images: Path | None, data: str) -> str:
    """What tables call the images of ``--images`` or ``--data``."""
    if images is not None and images.is_file():
        return f"image:{images.name}"
    return without_folders(data if images is None else f"folder:{images}")


def some(sources: Sequence[T], count: int, seed: int) -> list[T]:
    """At most ``count`` of the images, in their order, drawn by ``seed``."""
    return [sources[k] for k in subset(len(sources), count, seed)]


def _root(data: str) -> Path | None:
    """The folder of ``folder:PATH``; None for another source."""
    kind, _, where = data.partition(":")
    return Path(where) if kind == "folder" and where else None


def _picture(images: ImageSet, k: int, channels: int = 3) -> Image.Image:
    image = Image.fromarray(images.pixels_ICHW[k].permute(1, 2, 0).numpy())
    return _in_channels(image, channels, images.names[k])


def _item(dataset: Any, k: int, name: str, channels: int = 3) -> Image.Image:
    return _in_channels(to_rgb(dataset[k][0], name), channels, name)


def _in_channels(image: Image.Image, channels: int, name: str) -> Image.Image:
    if channels not in (1, 3):
        raise DataError(f"expected {channels} channels, got 3 in {name}")
    return image if channels == 3 else image.convert("L")


def _classes(folder: Path, outputs: int | None, instead: str) -> Classes:
    return classes_of_images(folder, at_least_two(folder), outputs=outputs, instead=instead)
