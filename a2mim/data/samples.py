"""Training images by index: ``load(index, epoch)`` is one image, ready for the network.

Every draw has its own generator, seeded by a hash of (seed, epoch, index). So an image does not
depend on the worker that loads it, on the images before it, or on whether the run was resumed.

An image that cannot be read is replaced by another one, chosen by the same key; it is counted and
its name is logged once. Too many of them end the run with a ``DataError`` that names some.

Shapes: I images, C channels, H x W pixels.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from a2mim.data.arrays import ImageSet, drawn
from a2mim.data.augment import Augment, CropAndFlip, channels_of
from a2mim.data.contents import file_hashes, file_sizes, hash_files, hash_of
from a2mim.data.folders import DataError, image_names, read_crop, read_pixels, to_rgb
from a2mim.data.limits import TOLERANCE, Tolerance
from a2mim.data.sampler import BatchedSamples, Samples, keyed_generator, keyed_seed
from a2mim.messages import in_a_line

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

SHOWN = 64  # images of a published set whose pixels tell it from another
SUBSTITUTES = 20  # images tried in place of one; all unreadable means that the storage is gone


class Damage:
    """Which images were read and which could not be, in memory that worker processes share.

    Two bytes per image, and a mark is never taken back: two workers cannot disturb one another,
    and an image counts once however often it is met. What is pickled by hand is a copy; what a
    ``DataLoader`` sends to its workers, forked or spawned, stays shared.

    Attributes:
        together: whether several processes train together. Then none of them ends at the limit by
            itself, which would leave the others waiting: all :meth:`check` it at one time.
    """

    together = False

    def __init__(self, count: int, tolerance: Tolerance) -> None:
        self._read_I = torch.zeros(count, dtype=torch.uint8).share_memory_()
        self._bad_I = torch.zeros(count, dtype=torch.uint8).share_memory_()
        self._tolerance = tolerance

    def good(self, index: int) -> None:
        """This image was read."""
        self._read_I[index] = 1

    def bad(self, index: int, name_of: Callable[[int], str], error: DataError) -> None:
        """This image could not be read.

        Raises:
            DataError: if it is one too many.
        """
        if self._bad_I[index]:
            return
        self._bad_I[index] = 1
        found = self.indices()
        logger.warning("cannot be read (%d so far): %s: %s", len(found), name_of(index), error)
        if not self.together:
            names = ", ".join(name_of(k) for k in found[:5])
            named = f": {names}{', ...' if len(found) > 5 else ''}"
            self.check(named, f". The last: {error}")

    def check(self, named: str = ", which warnings name", last: str = "") -> None:
        """See whether there are too many.

        Args:
            named: which they are, for the message.
            last: what was wrong with the last one, for the message.

        Raises:
            DataError: if there are.
        """
        count, read = self.count(), int((self._read_I | self._bad_I).sum())
        allowed = self._tolerance.allowed(read)
        if count > allowed:
            raise DataError(
                f"expected at most {allowed} unreadable images among {read}, got {count}{named}; "
                f"{self._tolerance.advice()}{last}"
            )

    def indices(self) -> list[int]:
        """The images that could not be read, so far."""
        return self._bad_I.nonzero()[:, 0].tolist()

    def count(self) -> int:
        """How many could not be read, so far."""
        return int(self._bad_I.sum())

    def marks(self) -> Tensor:
        """What is known, uint8 ``(2, I)``: that of several processes is the maximum of theirs."""
        return torch.stack([self._read_I, self._bad_I])

    def learn(self, marks_2I: Tensor) -> None:
        """Know what others know, by their :meth:`marks`."""
        for own_I, others_I in zip((self._read_I, self._bad_I), marks_2I, strict=True):
            own_I[others_I > 0] = 1


def read_or_replace(
    read: Callable[[int], Tensor],
    name_of: Callable[[int], str],
    damage: Damage,
    count: int,
    key: tuple[int, int, int],
) -> Tensor:
    """The image of (seed, epoch, index), or if it cannot be read, another one chosen by this key.

    Args:
        read: an index -> the image; raises ``DataError`` if it is unreadable.
        name_of: an index -> the image's name.
        damage: where unreadable images are counted.
        count: how many images there are.
        key: seed, epoch, index.

    Raises:
        DataError: if too many are unreadable, or all that were tried.
        IndexError: if there is no such image.
    """
    seed, epoch, index = key
    if not 0 <= index < count:
        raise IndexError(f"expected an image index below {count}, got {index}")
    chosen = index
    for attempt in range(SUBSTITUTES + 1):
        try:
            image_CHW = read(chosen)
        except DataError as error:
            damage.bad(chosen, name_of, error)
            last = error
        else:
            damage.good(chosen)
            return image_CHW
        # Known damage is tried again: the choice depends on the key, not on what was met before.
        chosen = keyed_seed("substitute", seed, epoch, index, attempt) % count
    raise DataError(
        f"expected an image in place of {name_of(index)}, {SUBSTITUTES} others could not be read "
        f"either; see whether the storage is still there. The last: {last}"
    ) from last


def decode(data: bytes, name: str, channels: int = 3) -> Tensor:
    """An image ``(C, H, W)`` from a file's bytes; see :func:`a2mim.data.folders.read_pixels`.

    Returns:
        uint8 for C of 1 or 3, float32 for others.

    Raises:
        DataError: if it cannot be read.
    """
    return as_tensor(read_pixels(data, channels, name))


def to_augment(
    data: bytes, name: str, augment: Augment, generator: torch.Generator
) -> Callable[[], Tensor]:
    """Read an image from a file's bytes; called, the result is what ``augment`` makes of it.

    Of a crop no more is read than its part of the image.

    Raises:
        DataError: if it cannot be read.
    """
    channels = channels_of(augment)
    if not isinstance(augment, CropAndFlip) or channels not in (1, 3):
        return partial(augment, decode(data, name, channels), generator)
    part, flip = augment.drawn(generator)
    if channels == 1:
        crop_CHW = as_tensor(read_pixels(data, channels, name, part))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bytes cannot be written; nobody does
            crop_CHW = torch.from_numpy(read_crop(data, part, name)).permute(2, 0, 1)
    return partial(augment.finished, crop_CHW, flip)


def as_tensor(pixels: Image | Tensor) -> Tensor:
    """A picture as uint8 ``(C, H, W)``; a tensor as it is."""
    if isinstance(pixels, Tensor):
        return pixels
    levels = torch.from_numpy(np.array(pixels))
    return levels[None] if levels.ndim == 2 else levels.permute(2, 0, 1)


def with_channels(image_CHW: Tensor, channels: int, name: str) -> Tensor:
    """An image in memory for a network of so many channels: colours become grey, grey colours.

    Raises:
        DataError: for other channels.
    """
    if len(image_CHW) == channels:
        return image_CHW
    if {len(image_CHW), channels} != {1, 3}:
        raise DataError(f"expected {channels} channels, got {len(image_CHW)} in {name}")
    if channels == 3:
        return image_CHW.expand(3, -1, -1)
    from PIL import Image

    return as_tensor(Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).convert("L"))


class ArraySamples:
    """Images in memory: digits, CIFAR-10, or any ``ImageSet``.

    Args:
        images: the set.
        augment: from uint8 pixels to the network's input.
        seed: names the draws.
    """

    def __init__(self, images: ImageSet, augment: Augment, seed: int) -> None:
        self.names: Sequence[str] = images.names
        self.labels_I = images.labels_I
        self._pixels_ICHW = images.pixels_ICHW
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        return len(self._pixels_ICHW)

    def contents(self, indices: Sequence[int] | None = None) -> str:
        """A hash of names, classes and pixels of all images, or of some."""
        chosen = range(len(self)) if indices is None else indices
        return hash_of(
            [self.names[k] for k in chosen],
            self.labels_I[list(chosen)].tolist(),
            self._pixels_ICHW[list(chosen)].numpy().tobytes(),
        )

    def pixels(self, index: int, epoch: int) -> Tensor:
        """One image as it is, uint8 ``(C, H, W)``.

        Raises:
            IndexError: if there is no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"expected an image index below {len(self)}, got {index}")
        return with_channels(
            self._pixels_ICHW[index], channels_of(self._augment), self.names[index]
        )

    def load(self, index: int, epoch: int) -> Tensor:
        """One image ``(C, H, W)``, as ``augment`` makes it.

        Raises:
            IndexError: if there is no such image.
        """
        generator = keyed_generator("augment", self._seed, epoch, index)
        return self._augment(self.pixels(index, epoch), generator)


class DatasetSamples:
    """Images of a map-style data set that is built already, such as torchvision's.

    Args:
        dataset: its items are images or tuples that begin with one: Pillow images, or uint8
            tensors ``(C, H, W)``. So it must not have a transform to floats of its own.
        augment: from uint8 pixels to the network's input.
        seed: names the draws.
        tolerance: how many unreadable images are put up with.
        labels_I: their class indices, if they are known.
    """

    def __init__(
        self,
        dataset: Any,
        augment: Augment,
        seed: int,
        tolerance: Tolerance = TOLERANCE,
        labels_I: Tensor | None = None,
    ) -> None:
        self.labels_I = labels_I
        self._dataset = dataset
        self._augment = augment
        self._seed = seed
        self.damage = Damage(len(dataset), tolerance)

    def __len__(self) -> int:
        return len(self._dataset)

    def contents(self, indices: Sequence[int] | None = None) -> str:
        """A hash of classes of all images, or of some, and of the pixels of a few of them.

        A published set is known by its name; that another one is in its place is noticed.
        """
        chosen = range(len(self)) if indices is None else indices
        labels = None if self.labels_I is None else self.labels_I[list(chosen)].tolist()
        few = [chosen[k * len(chosen) // SHOWN] for k in range(min(SHOWN, len(chosen)))]
        kind = type(self._dataset).__name__
        return hash_of(kind, list(chosen), labels, *(self._shown(index) for index in few))

    def _shown(self, index: int) -> bytes:
        try:
            return self._read(index).numpy().tobytes()
        except DataError:  # unreadable: training replaces it
            return b""

    def pixels(self, index: int, epoch: int) -> Tensor:
        """One image as it is, uint8 ``(C, H, W)``.

        Raises:
            DataError: if too many images are unreadable.
            IndexError: if there is no such image.
            ValueError: if the items are not images.
        """
        key = (self._seed, epoch, index)
        return read_or_replace(self._read, self._name, self.damage, len(self), key)

    def load(self, index: int, epoch: int) -> Tensor:
        """One image ``(C, H, W)``, as ``augment`` makes it; raises what :meth:`pixels` does."""
        generator = keyed_generator("augment", self._seed, epoch, index)
        return self._augment(self.pixels(index, epoch), generator)

    def _name(self, index: int) -> str:
        return f"image {index} of {type(self._dataset).__name__}"

    def _read(self, index: int) -> Tensor:
        from PIL import Image

        try:
            item = self._dataset[index]
        except Exception as error:  # as in decode; the limit stops what is wrong everywhere
            raise DataError(in_a_line(error)) from error
        image = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(image, Image.Image):
            image = as_tensor(to_rgb(image, self._name(index)))
        if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3:
            return with_channels(image, channels_of(self._augment), self._name(index))
        raise ValueError(
            f"expected a Pillow image or a uint8 tensor (C, H, W) from {self._name(index)}, got "
            f"{type(image).__name__}; build the data set without a transform"
        )


class SomeSamples:
    """Some of the images of others, with draws of their own place among those.

    Args:
        samples: all of them.
        indices: which; an image can be there several times.
    """

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        labels_I = getattr(samples, "labels_I", None)
        self.labels_I: Tensor | None = None if labels_I is None else labels_I[list(indices)]
        self._samples = samples
        self._indices = np.array(indices)
        if hasattr(samples, "names"):
            self.names = PackedNames(samples.names[index] for index in indices)
        if hasattr(samples, "damage"):
            self.damage = _SomeDamage(samples.damage, self._indices)
        if isinstance(samples, BatchedSamples):
            self.batch = self._batch

    def __len__(self) -> int:
        return len(self._indices)

    def contents(self, indices: Sequence[int] | None = None) -> str:
        """A hash of these images, as the others make it."""
        chosen = self._indices if indices is None else self._indices[list(indices)]
        return cast(Any, self._samples).contents(chosen.tolist())

    def load(self, index: int, epoch: int) -> Tensor:
        """One image, as the others load it."""
        if not 0 <= index < len(self):
            raise IndexError(f"expected an image index below {len(self)}, got {index}")
        return self._samples.load(int(self._indices[index]), epoch)

    def _batch(self, indices: Sequence[int], epochs: Sequence[int], device: torch.device) -> Tensor:
        """Images as the others make them, if these make batches."""
        samples = cast(BatchedSamples, self._samples)
        return samples.batch(self._indices[list(indices)].tolist(), epochs, device)


class RepeatedSamples:
    """Images of others pass after pass, cut into epochs of any length.

        image k of epoch e  =  image (e L + k) mod n of the others, as in their epoch (e L + k) // n

    for n images and epochs of L. So every pass has draws of its own, and all images come equally
    often; unless n divides L, an index is another image in another epoch. There are no labels.

    Args:
        samples: the n images.
        length: L, images per epoch.

    Raises:
        ValueError: if ``length`` is not positive.
    """

    def __init__(self, samples: Samples, length: int) -> None:
        if length < 1:
            raise ValueError(f"expected an epoch of at least 1 image, got {length}")
        self._samples = samples
        self._length = length
        if hasattr(samples, "damage"):
            self.damage: Damage | _SomeDamage = samples.damage  # by the numbers of the others
        if isinstance(samples, BatchedSamples):
            self.batch = self._batch

    def __len__(self) -> int:
        return self._length

    def contents(self) -> str:
        """A hash of the others, and of the length of an epoch."""
        return hash_of(cast(Any, self._samples).contents(), self._length)

    def load(self, index: int, epoch: int) -> Tensor:
        """One image, as the others load it."""
        if not 0 <= index < len(self):
            raise IndexError(f"expected an image index below {len(self)}, got {index}")
        own_epoch, own = divmod(epoch * self._length + index, len(self._samples))
        return self._samples.load(own, own_epoch)

    def _batch(self, indices: Sequence[int], epochs: Sequence[int], device: torch.device) -> Tensor:
        """Images as the others make them, if these make batches."""
        places_B = np.asarray(epochs) * self._length + np.asarray(indices)
        own_epochs_B, own_B = np.divmod(places_B, len(self._samples))
        samples = cast(BatchedSamples, self._samples)
        return samples.batch(own_B.tolist(), own_epochs_B.tolist(), device)


def few_images(samples: Samples, count: int, length: int, seed: int) -> RepeatedSamples:
    """A few images, again and again, for pre-training with as many steps as with all of them.

    Kong & Zhang (CVPR 2023; see ``siamese``) take 1, 10, 100 and 1000, from memory. With one seed,
    fewer images are among more. A contrastive method then takes another crop of the same image for
    a negative. In place of an unreadable image come others, as ever: from among all.

    Args:
        samples: all images.
        count: how many are chosen.
        length: images per epoch.
        seed: names the choice.

    Raises:
        ValueError: if there are not so many images, or an epoch has none.
    """
    if not 1 <= count <= len(samples):
        raise ValueError(f"expected to choose 1 to all {len(samples)} images, got {count}")
    order = torch.randperm(len(samples), generator=keyed_generator("few images", seed))
    return RepeatedSamples(SomeSamples(samples, order[:count].tolist()), length)


class _SomeDamage:
    """Which of some images could not be read."""

    def __init__(self, all_images: Damage, indices_I: NDArray[np.int64]) -> None:
        self._all = all_images
        self._indices_I = indices_I

    @property
    def together(self) -> bool:
        return self._all.together

    @together.setter
    def together(self, together: bool) -> None:
        self._all.together = together

    def indices(self) -> list[int]:
        return np.isin(self._indices_I, self._all.indices()).nonzero()[0].tolist()

    def count(self) -> int:
        return len(self.indices())

    def marks(self) -> Tensor:
        return self._all.marks()

    def learn(self, marks_2I: Tensor) -> None:
        self._all.learn(marks_2I)

    def check(self) -> None:
        self._all.check()


class PackedNames(Sequence[str]):
    """Strings in two blocks of memory.

    A million Python strings would be copied into every worker process, page by page, because
    reading one writes its reference count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._bytes = b"".join(encoded)
        self._ends_I = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends_I)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected an index below {len(self)}, got {index}")
        index %= len(self)
        start = self._ends_I[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends_I[index]])


@dataclass(frozen=True)
class ImageFiles:
    """Image files below a folder.

    Attributes:
        root: the folder.
        names: paths relative to it, with slashes, sorted.
        labels_I: int64 class indices, or None if the files are not in folders by class.
        classes: names of the classes' folders.
    """

    root: Path
    names: Sequence[str]
    labels_I: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def find_training_files(root: Path) -> ImageFiles:
    """The images of ``root/train`` if there is such a folder, else all below ``root``.

    They are found by :func:`a2mim.data.folders.image_names`. Where every image lies in a folder,
    the outermost folder is its class.

    Raises:
        DataError: if there are no images, or a folder cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of images, found none at {root}")
    return _find(root, "train/" if (root / "train").is_dir() else "", None)


def find_test_files(root: Path, classes: Sequence[str]) -> ImageFiles:
    """The images of ``root/val``, or else ``root/test``, with the numbers of the given classes.

    Args:
        root: the folder.
        classes: names of the classes of the training images.

    Raises:
        DataError: if there is neither folder, no image in it, or an image of no such class.
    """
    base = next((name for name in ("val", "test") if (root / name).is_dir()), None)
    if base is None:
        raise DataError(f"expected a folder val or test of images in {root}, found neither")
    files = _find(root, f"{base}/", tuple(classes))
    if files.labels_I is None:
        raise DataError(f"expected one folder per class in {root / base}, found images beside them")
    return files


def _find(root: Path, base: str, classes: tuple[str, ...] | None) -> ImageFiles:
    """The images below ``root/base``; their classes are the outermost folders, or those given."""
    names = [base + name for name in image_names(root / base)]
    if not names:
        raise DataError(f"expected images in {root / base}, found none")
    inside = [name[len(base) :].split("/") for name in names]
    if any(len(parts) == 1 for parts in inside):
        return ImageFiles(root, PackedNames(names))
    found = tuple(sorted({parts[0] for parts in inside}))
    if classes is None:
        classes = found
    number = {name: k for k, name in enumerate(classes)}
    unknown = [name for name in found if name not in number]
    if unknown:
        raise DataError(
            f"expected images of the classes {', '.join(classes[:3])}, ... in {root / base}, "
            f"found {unknown[0]}"
        )
    labels_I = torch.tensor([number[parts[0]] for parts in inside])
    return ImageFiles(root, PackedNames(names), labels_I, classes)


class FolderSamples:
    """Image files, read and decoded when they are asked for.

    Args:
        files: from ``find_training_files``, or paths.
        augment: from uint8 pixels to the network's input.
        seed: names the draws.
        tolerance: how many unreadable images are put up with.

    Raises:
        DataError: if there are no files.
    """

    def __init__(
        self,
        files: ImageFiles | Sequence[Path],
        augment: Augment,
        seed: int,
        tolerance: Tolerance = TOLERANCE,
    ) -> None:
        if not isinstance(files, ImageFiles):
            files = ImageFiles(Path(), PackedNames(str(file) for file in files))
        if not len(files):
            raise DataError("expected image files, got none")
        self.names = files.names
        self.labels_I = files.labels_I
        self._root = str(files.root)
        self._tolerance = tolerance
        self._augment = augment
        self._seed = seed
        self.damage = Damage(len(files), tolerance)

    def __len__(self) -> int:
        return len(self.names)

    def contents(self, indices: Sequence[int] | None = None) -> str:
        """A hash of names, classes and bytes of all files, or of some (:func:`hash_files`)."""
        chosen = range(len(self)) if indices is None else indices
        labels = None if self.labels_I is None else self.labels_I[list(chosen)].tolist()
        files = [Path(self._name(k)) for k in chosen]
        return hash_of(hash_files(files, [self.names[k] for k in chosen]), labels)

    def pixels(self, index: int, epoch: int) -> Tensor:
        """One image as it is, uint8 ``(C, H, W)``.

        Raises:
            DataError: if too many images are unreadable.
            IndexError: if there is no such image.
        """

        def read(k: int) -> Tensor:
            return decode(self._bytes(k), self._name(k), channels_of(self._augment))

        key = (self._seed, epoch, index)
        return read_or_replace(read, self._name, self.damage, len(self), key)

    def load(self, index: int, epoch: int) -> Tensor:
        """One image ``(C, H, W)``, as ``augment`` makes it; raises what :meth:`pixels` does."""
        key = (self._seed, epoch, index)

        def read(k: int) -> Tensor:
            generator = keyed_generator("augment", *key)
            return to_augment(self._bytes(k), self._name(k), self._augment, generator)()

        return read_or_replace(read, self._name, self.damage, len(self), key)

    def identities(self, indices: Sequence[int]) -> list[tuple[str, int | None, str]]:
        """Name, class and a hash of the file of some images."""
        hashes = file_hashes([Path(self._name(k)) for k in indices])
        labels = [None if self.labels_I is None else int(self.labels_I[k]) for k in indices]
        return list(zip([self.names[k] for k in indices], labels, hashes, strict=True))

    def sizes(self) -> list[int]:
        """Of the files in bytes; 0 for those that are not there."""
        return file_sizes([Path(self._name(k)) for k in range(len(self))])

    def draw(self, count: int, seed: int) -> list[int]:
        """Indices of at most ``count`` images that can be read, in order, drawn by ``seed``.

        Raises:
            DataError: if too many cannot be read.
        """
        return drawn(Path(self._root), self.names, count, seed, self._tolerance)

    def _name(self, index: int) -> str:
        return os.path.join(self._root, self.names[index])

    def _bytes(self, index: int) -> bytes:
        try:
            with open(self._name(index), "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"expected an image file, cannot read it: {error}") from error
