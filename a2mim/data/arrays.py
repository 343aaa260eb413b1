"""Images and labels in memory, from what is installed, from torchvision, or from folders.

Shapes: I images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from a2mim.data.folders import (
    IMAGE_SUFFIXES,
    DataError,
    check_readable,
    image_names,
    read_pixels,
    remark,
)
from a2mim.data.labels import classes_of_images
from a2mim.data.limits import TOLERANCE, Tolerance

THREADS = 8


@dataclass(frozen=True)
class ImageSet:
    """Images in memory, with their labels and names.

    Attributes:
        pixels_ICHW: uint8.
        labels_I: int64 class indices.
        names: one name per image, unique; the key of its random draws.
        classes: names of the classes.
    """

    pixels_ICHW: Tensor
    labels_I: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels_ICHW)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel over all pixels, in units of [0, 1]."""
        # From counts of the 256 levels: exact, and without a float copy of the set.
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in self.pixels_ICHW.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
            mean.append((share * levels).sum())
            std.append((share * (levels - mean[-1]) ** 2).sum().sqrt())
        return torch.stack(mean).float(), torch.stack(std).float()

    def take(self, indices: list[int]) -> ImageSet:
        """The images of these indices."""
        names = tuple(self.names[k] for k in indices)
        return ImageSet(self.pixels_ICHW[indices], self.labels_I[indices], names, self.classes)

    def draw(self, count: int, seed: int) -> list[int]:
        """Indices of at most ``count`` images, in order, drawn by ``seed``."""
        return subset(len(self), count, seed)

    def normalised(self, mean_C: Tensor, std_C: Tensor) -> Tensor:
        """float32 images with these statistics taken out."""
        images = self.pixels_ICHW.float() / 255
        return (images - mean_C[:, None, None]) / std_C[:, None, None]


def digits(size: int = 32) -> tuple[ImageSet, ImageSet]:
    """The 1,797 handwritten digits that come with scikit-learn, for training and testing.

    The first half trains and the second half tests, as in scikit-learn's own example. Each of the
    8 x 8 measured values becomes a constant square, so on an 8 x 8 grid a player is one value.

    Args:
        size: edge of the enlarged images in pixels, a multiple of 8.

    Raises:
        ValueError: if ``size`` is not a multiple of 8.
    """
    if size < 8 or size % 8:
        raise ValueError(f"expected a multiple of 8 pixels for the 8 x 8 digits, got {size}")
    data = _handwritten()
    levels = torch.from_numpy(np.round(data.images / 16 * 255).astype(np.uint8))
    scale = size // 8
    pixels = levels.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    pixels_ICHW = pixels[:, None].repeat(1, 3, 1, 1)
    labels_I = torch.from_numpy(data.target.astype(np.int64))
    names = tuple(f"digits/{k:04d}" for k in range(len(labels_I)))
    classes = tuple(str(k) for k in range(10))
    half = len(labels_I) // 2
    return (
        ImageSet(pixels_ICHW[:half], labels_I[:half], names[:half], classes),
        ImageSet(pixels_ICHW[half:], labels_I[half:], names[half:], classes),
    )


@cache
def _handwritten() -> Any:
    """scikit-learn's digits, read from its text file once."""
    from sklearn.datasets import load_digits

    return load_digits()


def find_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """At most ``count`` of :func:`a2mim.data.folders.image_names`; see :func:`drawn`.

    Raises:
        DataError: if there are fewer than 2.
    """
    found = at_least_two(folder)
    chosen = drawn(folder, found, count, seed)
    if len(chosen) < 2:
        raise DataError(
            f"expected at least 2 images in {folder} that can be read, {len(chosen)} can"
        )
    return [folder / found[k] for k in chosen]


def at_least_two(folder: Path) -> list[str]:
    """:func:`a2mim.data.folders.image_names` of a folder.

    Raises:
        DataError: if there are fewer than 2.
    """
    found = image_names(folder)
    if len(found) < 2:
        raise DataError(
            f"expected at least 2 images in {folder}, found {len(found)}; images end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def drawn(
    folder: Path,
    names: Sequence[str],
    count: int,
    seed: int,
    tolerance: Tolerance = TOLERANCE,
) -> list[int]:
    """Indices of at most ``count`` images that can be read, in order, drawn by ``seed``.

    One that cannot be read is left out and named, and the next of the draw takes its place. With
    none they are those of :func:`subset`.

    Args:
        folder: of the images.
        names: of all images.
        count: how many.
        seed: which, if there are more.
        tolerance: how many unreadable ones are put up with.

    Raises:
        DataError: if there are too many.
    """
    order = subset(len(names), count, seed)
    if len(names) > count:
        first, generator = set(order), torch.Generator().manual_seed(seed)
        rest = torch.randperm(len(names), generator=generator).tolist()
        order += [k for k in rest if k not in first]
    chosen: list[int] = []
    faults: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        while order and len(chosen) < count:
            batch, order = order[: count - len(chosen)], order[count - len(chosen) :]
            files = [folder / names[k] for k in batch]
            for k, fault in zip(batch, pool.map(fault_of, files), strict=True):
                if fault:
                    faults.append(fault)
                    remark(f"left out, cannot be read ({len(faults)} so far): {fault}")
                else:
                    chosen.append(k)
            tried = len(chosen) + len(faults)
            if len(faults) > tolerance.allowed(tried):
                raise DataError(
                    f"expected at most {tolerance.allowed(tried)} unreadable images among {tried} "
                    f"in {folder}, got {len(faults)}; repair or remove them. The first: {faults[0]}"
                )
    return sorted(chosen)


def fault_of(file: Path) -> str:
    """Why a file is no image, in a line; empty if it is one."""
    try:
        status = file.stat()
    except OSError:
        return _fault_of(file, 0, 0)
    return _fault_of(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1_000_000)
def _fault_of(file: Path, changed: int, size: int) -> str:
    # Kept, because every measure of a comparison draws the same images again.
    try:
        check_readable(file)
    except DataError as error:
        return str(error).removeprefix("expected an image, cannot read ")
    return ""


@dataclass(frozen=True)
class Photographs:
    """Images as a network wants to see them: ``images, names = photographs(...)``.

    Attributes:
        images_ICHW: float32, prepared.
        names: of the images, the keys of their random draws.
        labels_I: int64 class indices, if they were asked for.
        mean: of the normalisation, per channel; None if a transform does not tell it.
        std: of the normalisation.
    """

    images_ICHW: Tensor
    names: list[str]
    labels_I: Tensor | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Images and names."""
        return iter((self.images_ICHW, self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        """Images, or names."""
        return (self.images_ICHW, self.names)[index]

    def pictures(self) -> np.ndarray:
        """The images for the eye, without the normalisation: uint8 ``(I, H, W, C)``.

        Raises:
            ValueError: if it is not known.
        """
        if self.mean is None or self.std is None:
            raise ValueError(
                "expected a transform that tells its mean and std (torchvision's Normalize, "
                "weights.transforms()), got another"
            )
        mean_C11, std_C11 = (torch.tensor(x)[:, None, None] for x in (self.mean, self.std))
        levels = ((self.images_ICHW * std_C11 + mean_C11).clamp(0, 1) * 255).round().byte()
        return levels.permute(0, 2, 3, 1).numpy()

    def __repr__(self) -> str:
        count, C, H, W = self.images_ICHW.shape
        known = "without labels" if self.labels_I is None else "with labels"
        return f"Photographs({count} images of {C} x {H} x {W}, {known})"


def photographs(
    images: str | Path | Sequence[str | Path],
    model: nn.Module,
    count: int = 50,
    seed: int = 0,
    *,
    labels: bool = False,
    transform: Callable[[Any], Tensor] | None = None,
) -> Photographs:
    """Images of a folder or a list of files, as a network wants to see them.

    Args:
        images: a folder, searched in depth, or files.
        model: says how it sees images: a timm model, or any with a ``pretrained_cfg`` of
            input_size, mean and std. Others need a transform.
        count: at most this many images of a folder.
        seed: which images, if there are more.
        labels: also read the classes of the images of a folder, from ``labels.csv`` or folders by
            class (:mod:`a2mim.data.labels`).
        transform: prepares a PIL image instead, such as torchvision's ``weights.transforms()``.

    Returns:
        Images and names (``images, names = photographs(...)``), labels, and the pictures again.

    Raises:
        DataError: if there are fewer than 2 images, one cannot be read, or nothing says how the
            network sees them.
        UsageError: for labels that cannot be used.
    """
    channels, mean, std = 3, *_normalisation(transform)
    if transform is None:
        if not (getattr(model, "pretrained_cfg", None) or {}).get("input_size"):
            raise DataError(
                "expected a network that says how it sees images (timm, or a pretrained_cfg), got "
                f"{type(model).__name__}; give transform=, such as torchvision's "
                "weights.transforms()"
            )
        from timm.data import create_transform

        config = data_config(model)
        channels, mean, std = config["input_size"][0], config["mean"], config["std"]
        if not mean:
            raise DataError(
                "expected the model's normalisation, got none; put mean and std in its "
                "pretrained_cfg"
            )
        transform = create_transform(**config, is_training=False)
    labels_I = None
    if isinstance(images, str | Path):
        folder = Path(images)
        files = find_images(folder, count, seed)
        names = [file.relative_to(folder).as_posix() for file in files]
        if labels:
            outputs = getattr(model, "num_classes", None)
            classes = classes_of_images(folder, image_names(folder), outputs=outputs)
            labels_I = torch.tensor([classes.index[name] for name in names])
    else:
        files = [Path(file) for file in images]
        names = [file.name for file in files]
        if len(set(names)) < len(names):
            names = [file.as_posix() for file in files]
    ready = torch.stack([transform(read_pixels(file, channels)) for file in files])
    return Photographs(ready, names, labels_I, mean, std)


def _normalisation(transform: object) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Mean and deviation that a transform takes out, if it or its last part tells them."""
    parts = [transform, *getattr(transform, "transforms", ())]
    for part in reversed(parts):
        mean, std = getattr(part, "mean", None), getattr(part, "std", None)
        if isinstance(mean, Sequence | Tensor) and isinstance(std, Sequence | Tensor):
            return [float(x) for x in mean], [float(x) for x in std]
    return None, None


def data_config(model: nn.Module) -> dict[str, Any]:
    """How a timm model wants its images: the arguments of timm's ``create_transform``.

    timm's own tells size and channels of the published weights; here they are those of the model,
    which may be made for others, such as ``img_size=(96, 160)`` or ``in_chans=1``. A grey network
    gets the mean over colours of the normalisation; for other channels there is none until one is
    given, and mean and std are empty.
    """
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)
    channels = int(getattr(model, "in_chans", config["input_size"][0]))
    size = size_of_images(model) or config["input_size"][1:]
    config["input_size"] = (channels, *size)
    for key in ("mean", "std"):
        values = config[key]
        if channels == 1:
            config[key] = (sum(values) / len(values),)
        elif channels != len(values):
            config[key] = ()
    return config


def size_of_images(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a timm model is made for; None if others will do."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def subset(count: int, limit: int, seed: int) -> list[int]:
    """At most ``limit`` of ``count`` indices, in order, drawn by ``seed``."""
    if count <= limit:
        return list(range(count))
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(count, generator=generator)[:limit].tolist())
