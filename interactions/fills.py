"""What a hidden patch becomes.

A fill takes images that are ready for the network (normalised) and returns a tensor that broadcasts
to them. The choice changes every number that is measured with it: published tools disagree between
``zero`` (the data set's mean colour, because it is applied after normalisation) and ``black``.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Fill = Callable[[Tensor], Tensor]
"""Normalised images ``(B, C, H, W)`` -> a tensor that broadcasts to them."""


def zero(images_BCHW: Tensor) -> Tensor:
    """0 after normalisation: the colour that the normalisation calls the mean of the data set.

    This is the baseline of the published interaction code and of the OpenMixup occlusion tool.
    """
    return images_BCHW.new_zeros(1, 1, 1, 1)


def image_mean(images_BCHW: Tensor) -> Tensor:
    """The mean colour of each image over all its pixels, hidden ones included (A2MIM's fill)."""
    return images_BCHW.mean(dim=(2, 3), keepdim=True)


def constant(colour_C: Sequence[float]) -> Fill:
    """One colour, given in the units of the normalised image."""

    def fill(images_BCHW: Tensor) -> Tensor:
        C = images_BCHW.shape[1]
        if len(colour_C) != C:
            raise ValueError(f"expected a colour of {C} channels, got {len(colour_C)}")
        return images_BCHW.new_tensor(colour_C).reshape(1, C, 1, 1)

    return fill


def black(mean_C: Sequence[float], std_C: Sequence[float]) -> Fill:
    """Pixel value 0 before normalisation with these constants (the fill of IPViT)."""
    return constant([-m / s for m, s in zip(mean_C, std_C, strict=True)])


def blur(sigma: float = 10.0) -> Fill:
    """A Gaussian blur of the image itself, with ``sigma`` in pixels and reflected borders."""
    if not sigma > 0:
        raise ValueError(f"expected a blur of sigma > 0 pixels, got {sigma}")

    def fill(images_BCHW: Tensor) -> Tensor:
        C, H, W = images_BCHW.shape[1:]
        # Reflection can reach at most to the far border, so small images get a shorter kernel.
        radius = min(int(3 * sigma + 0.5), H - 1, W - 1)
        x = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(images_BCHW)
        padded = F.pad(images_BCHW, (radius,) * 4, mode="reflect")
        rows = F.conv2d(padded, kernel.expand(C, 1, 1, -1), groups=C)
        return F.conv2d(rows, kernel[:, None].expand(C, 1, -1, 1), groups=C)

    return fill


def noise(seed: int, std: float = 1.0) -> Fill:
    """Gaussian noise of this standard deviation around 0, in units of the normalised image.

    One pattern is drawn from ``seed`` and shared by all images of a size, so that the fill of an
    image does not depend on the batch it came in.
    """

    def fill(images_BCHW: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        pattern = torch.randn(images_BCHW.shape[1:], generator=generator, dtype=torch.float32)
        return (std * pattern)[None].to(images_BCHW)

    return fill
