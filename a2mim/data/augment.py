"""What a training image goes through: a random crop, a flip, normalising.

    crop:  area   a ~ U(scale) * H * W,   aspect r = exp(U(log ratio)),
           width  w = round(sqrt(a r)),   height h = round(sqrt(a / r)),   place uniform;
           after 10 crops that do not fit, the largest central crop that keeps the ratio's bounds

Source: Szegedy et al. 2015 (arXiv:1409.4842), in the form of torchvision's ``RandomResizedCrop``.
All that an image can need is drawn at once: one call instead of seven, a quarter of the time that
a small image takes. Images stay uint8 until they have their final size, as in Pillow.

Shapes: C channels, H x W pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from a2mim.data.folders import Part

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""uint8 image ``(C, H, W)`` (float32 for C other than 1 and 3), generator -> ``(C, size, size)``.

It is float32 and normalised, or still uint8: then the device normalises whole batches.
"""


def channels_of(augment: Augment) -> int:
    """The channels that an ``Augment`` takes: 3 if it does not say."""
    return getattr(augment, "channels", 3)


REDUCED_MARGIN = 1.25
"""A JPEG is reduced while it is decoded as long as its crop keeps so many pixels per pixel of the
result. Then results differ from those of the full decoding about as much as bilinear ones from
bicubic ones (LOG.md; tests/a2mim/data/test_augment.py); at 1 they differ by twice that."""

CROP_ATTEMPTS = 10  # torchvision's
DRAWS = 1 + 4 * CROP_ATTEMPTS  # the flip, then area, aspect, top and left of every attempt
MERSENNE_WORDS = 624  # the state of NumPy's global generator, 32 bits each


@dataclass(frozen=True)
class Normalise:
    """(x / 255 - mean) / std of uint8 images, on the device where they are.

    Of float32 images of many channels, which are no multiples of 1 / 255, (x - mean) / std.

    Attributes:
        mean: per channel, in units of [0, 1].
        std: per channel, in units of [0, 1].

    Raises:
        ValueError: for statistics that are none; when called, for images that are not uint8 or have
            another number of channels.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"expected a mean and a positive std per channel, got {self.mean} and {self.std}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """float32 images ``(C, H, W)`` or ``(B, C, H, W)`` in the same layout."""
        # A broadcast would turn one channel into three without a word.
        many = len(self.mean) not in (1, 3) and images.dtype == torch.float32
        kind = torch.float32 if many else torch.uint8
        if images.dtype != kind or images.ndim < 3 or images.shape[-3] != len(self.mean):
            raise ValueError(
                f"expected a uint8 image ({len(self.mean)}, H, W), got {images.dtype} "
                f"{tuple(images.shape)}; give a mean and std per channel, and no floats"
            )
        # Two passes over one copy, instead of torchvision's five.
        shift_C11, factor_C11 = _shift_and_factor(self.mean, self.std, images.device)
        floats = images * 255 if many else images.to(torch.float32)
        return floats.sub_(shift_C11).mul_(factor_C11)


@dataclass(frozen=True)
class CropAndFlip:
    """Random crop resized to a square, horizontal flip, normalising.

    Attributes:
        size: edge of the square in pixels.
        scale: smallest and largest share of the image's area that a crop covers.
        ratio: smallest and largest width / height of a crop.
        mean: per channel, in units of [0, 1]; None leaves images uint8, for the device to
            :class:`Normalise`.
        std: per channel, in units of [0, 1].
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased.
        exact: whether large JPEG files are decoded in full, instead of at the smallest of 1/2, 1/4
            and 1/8 of their size at which the crop still has :data:`REDUCED_MARGIN` times ``size``
            pixels.
        flip: probability of the horizontal flip.

    Raises:
        ValueError: for a value out of range; when called, for an image that is not uint8 or has
            another number of channels than ``mean``.
    """

    size: int
    scale: tuple[float, float] = (0.67, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mean: tuple[float, ...] | None = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    exact: bool = False
    flip: float = 0.5

    def __post_init__(self) -> None:
        _check(self.size, self.interpolation)
        self.normalised  # noqa: B018 - checks mean and std
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"expected 0 < smallest <= largest <= 1 for scale, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"expected 0 < smallest <= largest for ratio, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"expected flip from 0 to 1, got {self.flip}")

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return len(self.std)

    @property
    def normalised(self) -> Callable[[Tensor], Tensor]:
        """What is done to the cropped image: :class:`Normalise`, or nothing."""
        return _as_it_is if self.mean is None else Normalise(self.mean, self.std)

    def __call__(self, image_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """An image ``(C, size, size)`` from a uint8 image."""
        kind = torch.uint8 if len(image_CHW) in (1, 3) else torch.float32
        if image_CHW.dtype != kind or image_CHW.ndim != 3:
            raise ValueError(
                f"expected a uint8 image (C, H, W), got {image_CHW.dtype} {tuple(image_CHW.shape)}"
            )
        part, flip = self.drawn(generator)
        top, left, h, w = part.box(*image_CHW.shape[1:])
        return self.finished(image_CHW[:, top : top + h, left : left + w], flip)

    def drawn(self, generator: torch.Generator) -> tuple[Part, bool]:
        """Which part of an image is cropped, and whether it is flipped."""
        flip, *draws = torch.rand(DRAWS, generator=generator, dtype=torch.float64).tolist()
        box = partial(crop_box, scale=self.scale, ratio=self.ratio, draws=draws)
        least = None if self.exact else math.ceil(REDUCED_MARGIN * self.size)
        return Part(box, least), flip < self.flip

    def finished(self, crop_CHW: Tensor, flip: bool) -> Tensor:
        """An image ``(C, size, size)`` from its part, which may have a channel too many."""
        resized = functional.interpolate(
            crop_CHW[None], size=(self.size, self.size), mode=self.interpolation, antialias=True
        )[0, : self.channels]
        return self.normalised((resized.flip(-1) if flip else resized).contiguous())


@dataclass(frozen=True)
class CentreCrop:
    """The centre of the image, for evaluation: short side to ``size / share``, crop, normalising.

    Attributes:
        size: edge of the square in pixels.
        share: of the short side, that the crop covers; 0.875 is 224 of 256.
        mean: per channel, in units of [0, 1].
        std: per channel, in units of [0, 1].
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased.

    Raises:
        ValueError: as ``CropAndFlip``.
    """

    size: int
    share: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return len(self.mean)

    def __post_init__(self) -> None:
        _check(self.size, self.interpolation)
        Normalise(self.mean, self.std)
        if not 0 < self.share <= 1:
            raise ValueError(f"expected a share in (0, 1], got {self.share}")

    def __call__(self, image_CHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A float32 image ``(C, size, size)`` from a uint8 image; nothing is drawn."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        short_side = [math.floor(self.size / self.share)]
        mode = InterpolationMode(self.interpolation)
        resized = transforms.resize(image_CHW, short_side, mode, antialias=True)
        cropped = transforms.center_crop(resized, [self.size, self.size])
        return Normalise(self.mean, self.std)(cropped.contiguous())


@dataclass(frozen=True)
class PilTransform:
    """A transform of Pillow images, such as timm's ``create_transform``, as an ``Augment``.

    Such transforms draw from the global states of Python, NumPy and torch. Here these are seeded
    from the image's own generator and put back afterwards: pixels depend on nothing else.

    Attributes:
        transform: Pillow image -> float32 tensor ``(C, size, size)``. It must not keep a random
            state of its own. Other channels than 1 and 3 it gets as a float32 tensor.
        channels: of the images that it takes.

    Raises:
        ValueError: when called, for an image that is not uint8 with 1 or 3 channels or float32 with
            the others that it takes, or if the transform gives something else than a float32
            tensor.
    """

    transform: Callable[[Any], Any]
    channels: int = 3

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> PilTransform:
        """That of timm for a network that wants its images so: its ``create_transform``."""
        from timm.data import create_transform

        return cls(create_transform(**config), config["input_size"][0])

    def __call__(self, image_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """A float32 image ``(C, size, size)`` from a uint8 image."""
        from PIL import Image

        if self.channels not in (1, 3) and len(image_CHW) == self.channels:
            return self._checked(image_CHW, generator)
        if image_CHW.dtype != torch.uint8 or image_CHW.ndim != 3 or len(image_CHW) not in (1, 3):
            raise ValueError(
                f"expected a uint8 image (1, H, W) or (3, H, W), got {image_CHW.dtype} "
                f"{tuple(image_CHW.shape)}; give pixels, and no floats"
            )
        pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.permute(1, 2, 0)
        return self._checked(Image.fromarray(pixels.contiguous().numpy()), generator)

    def _checked(self, image: Any, generator: torch.Generator) -> Tensor:
        with _global_states_seeded(generator):
            result = self.transform(image)
        if not isinstance(result, Tensor) or result.dtype != torch.float32:
            raise ValueError(
                "expected a transform that ends in a float32 tensor, got a "
                f"{getattr(result, 'dtype', None) or type(result).__name__}; end it with ToTensor "
                "and, in timm, without the prefetcher"
            )
        return result


def crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: Sequence[float],
) -> tuple[int, int, int, int]:
    """Top, left, height and width in pixels of a random crop, by torchvision's law.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        draws: 40 numbers, uniform in [0, 1): area, aspect, top and left of every attempt.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(0, 4 * CROP_ATTEMPTS, 4):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[k])
        aspect = math.exp(low + (high - low) * draws[k + 1])
        w = round(math.sqrt(area * aspect))
        h = round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[k + 2] * (height - h + 1)), int(draws[k + 3] * (width - w + 1)), h, w
    return central_box(height, width, ratio)


def central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest central crop that keeps the ratio's bounds."""
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@contextmanager
def _global_states_seeded(generator: torch.Generator) -> Iterator[None]:
    """The global random states at a place drawn from a generator; afterwards where they were."""
    draws = torch.randint(2**32, (1 + MERSENNE_WORDS,), generator=generator).numpy()
    seed, words = int(draws[0]), draws[1:].astype(np.uint32)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - is what is meant
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            # ten times as fast as seeding NumPy's generator with a number
            np.random.set_state(("MT19937", words, MERSENNE_WORDS, 0, 0.0))  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _as_it_is(images: Tensor) -> Tensor:
    return images


@lru_cache(maxsize=32)
def _shift_and_factor(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    mean_C11 = torch.tensor(mean, dtype=torch.float64)[:, None, None]
    std_C11 = torch.tensor(std, dtype=torch.float64)[:, None, None]
    return (255 * mean_C11).float().to(device), (1 / (255 * std_C11)).float().to(device)


def _check(size: int, interpolation: str) -> None:
    if size < 1:
        raise ValueError(f"expected a size of at least 1 pixel, got {size}")
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"expected 'bilinear' or 'bicubic', got {interpolation!r}")
