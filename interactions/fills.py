"""What a hidden patch becomes.

A fill takes images that are ready for the network (normalised) and returns a tensor that broadcasts
to them. The choice changes every number that is measured with it: published tools disagree between
``zero`` (the data set's mean colour, because it is applied after normalisation) and ``black``.
A fill that draws anew for each image needs its name: a :class:`NamedFill` takes the names as well.
One that does not look at the images is a :class:`FixedFill`, whose pattern can be kept on a device.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from interactions.keys import Key, raw_words

Fill = Callable[[Tensor], Tensor]
"""Normalised images ``(B, C, H, W)`` -> a tensor that broadcasts to them."""


@dataclass(frozen=True)
class NamedFill:
    """A fill that is drawn for each image by its name, whatever batch it comes in.

    Attributes:
        draw: normalised images and their names -> a tensor that broadcasts to the images.
    """

    draw: Callable[[Tensor, Sequence[Key]], Tensor]

    def for_images(self, names: Sequence[Key]) -> Fill:
        """The fill of a batch of images with these names."""
        return lambda images_BCHW: self.draw(images_BCHW, names)


@dataclass(frozen=True)
class FixedFill:
    """A fill that is the same for all images of a size.

    Attributes:
        pattern: C, H, W -> a tensor on the CPU that broadcasts to images of this size.
    """

    pattern: Callable[[int, int, int], Tensor]

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """The pattern for these images, on their device."""
        _, C, H, W = images_BCHW.shape
        return self.pattern(C, H, W).to(images_BCHW)


def zero(images_BCHW: Tensor) -> Tensor:
    """0 after normalisation: the colour that the normalisation calls the mean of the data set.

    This is the baseline of the published interaction code and of the OpenMixup occlusion tool.
    """
    return images_BCHW.new_zeros(1, 1, 1, 1)


def image_mean(images_BCHW: Tensor) -> Tensor:
    """The mean colour of each image over all its pixels, hidden ones included (A2MIM's fill)."""
    return images_BCHW.mean(dim=(2, 3), keepdim=True)


def constant(colour_C: Sequence[float]) -> FixedFill:
    """One colour, given in the units of the normalised image."""

    def pattern(C: int, H: int, W: int) -> Tensor:
        if len(colour_C) != C:
            raise ValueError(f"expected a colour of {C} channels, got {len(colour_C)}")
        return torch.tensor(colour_C, dtype=torch.float64).reshape(1, C, 1, 1)

    return FixedFill(pattern)


def black(mean_C: Sequence[float], std_C: Sequence[float]) -> FixedFill:
    """Pixel value 0 before normalisation with these constants (the fill of IPViT)."""
    return constant([-m / s for m, s in zip(mean_C, std_C, strict=True)])


def white(mean_C: Sequence[float], std_C: Sequence[float]) -> Fill:
    """Pixel value 1 before normalisation with these constants."""
    return constant([(1 - m) / s for m, s in zip(mean_C, std_C, strict=True)])


def blur(sigma: float = 10.0, radius: int | None = None) -> Fill:
    """A Gaussian blur of the image itself, with reflected borders.

    Args:
        sigma: in pixels.
        radius: how far the kernel reaches, in pixels; 3 sigma if left out. The blur of Jain et al.
            (ICLR 2022) has sigma 10 and a kernel of 21 pixels: radius 10, nearly a box.

    Raises:
        ValueError: for a sigma or radius that is not positive.
    """
    if not sigma > 0 or (radius is not None and radius < 1):
        raise ValueError(
            f"expected a blur of sigma > 0 and radius >= 1 pixels, got {sigma} and {radius}"
        )
    reach = int(3 * sigma + 0.5) if radius is None else radius

    def fill(images_BCHW: Tensor) -> Tensor:
        C, H, W = images_BCHW.shape[1:]
        # Reflection can reach at most to the far border, so small images get a shorter kernel.
        near = min(reach, H - 1, W - 1)
        x = torch.arange(-near, near + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(images_BCHW)
        padded = F.pad(images_BCHW, (near,) * 4, mode="reflect")
        rows = F.conv2d(padded, kernel.expand(C, 1, 1, -1), groups=C)
        return F.conv2d(rows, kernel[:, None].expand(C, 1, -1, 1), groups=C)

    return fill


def noise(seed: int, std: float = 1.0) -> FixedFill:
    """Gaussian noise of this standard deviation around 0, in units of the normalised image.

    One pattern is drawn from ``seed`` and shared by all images of a size, so that the fill of an
    image does not depend on the batch it came in.
    """

    def pattern(C: int, H: int, W: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return std * torch.randn(1, C, H, W, generator=generator, dtype=torch.float32)

    return FixedFill(pattern)


def random_colour(mean_C: Sequence[float], std_C: Sequence[float], seed: int = 0) -> NamedFill:
    """One colour for each image, uniform over [0, 1] in every channel before normalisation.

    Args:
        mean_C: of the normalisation.
        std_C: of the normalisation.
        seed: names the draws, together with the names of the images.
    """

    def draw(images_BCHW: Tensor, names: Sequence[Key]) -> Tensor:
        pixels_BC11 = _uniform((images_BCHW.shape[1], 1, 1), "random colour", seed, names)
        return _normalised(pixels_BC11, mean_C, std_C, images_BCHW)

    return NamedFill(draw)


def uniform_noise(mean_C: Sequence[float], std_C: Sequence[float], seed: int = 0) -> NamedFill:
    """Every pixel of each image uniform over [0, 1] in every channel before normalisation.

    Args:
        mean_C: of the normalisation.
        std_C: of the normalisation.
        seed: names the draws, together with the names of the images.
    """

    def draw(images_BCHW: Tensor, names: Sequence[Key]) -> Tensor:
        pixels_BCHW = _uniform(images_BCHW.shape[1:], "uniform noise", seed, names)
        return _normalised(pixels_BCHW, mean_C, std_C, images_BCHW)

    return NamedFill(draw)


def _uniform(shape: Sequence[int], purpose: str, seed: int, names: Sequence[Key]) -> Tensor:
    """Uniform numbers in [0, 1) of this shape for each name, float64."""
    words = [raw_words(prod(shape), purpose, seed, name) for name in names]
    numbers = (np.stack(words) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(numbers).reshape(len(names), *shape)


def _normalised(
    pixels: Tensor, mean_C: Sequence[float], std_C: Sequence[float], images_BCHW: Tensor
) -> Tensor:
    """Pixels in [0, 1], normalised as the images are."""
    B, C = images_BCHW.shape[:2]
    if (len(pixels), len(mean_C), len(std_C)) != (B, C, C):
        raise ValueError(
            f"expected {B} names, and means and deviations of {C} channels, got {len(pixels)}, "
            f"{len(mean_C)} and {len(std_C)}"
        )
    mean_C11, std_C11 = (pixels.new_tensor(x)[:, None, None] for x in (mean_C, std_C))
    return ((pixels - mean_C11) / std_C11).to(images_BCHW)
