"""What hidden patches are to be predicted as: their pixels, or histograms of oriented gradients.

    HOG, per image channel c and pixel:
        g_y = x[y + 1] - x[y - 1],   g_x likewise,   0 on the border of the image
        k   = floor(9 angle / 180),  angle = atan2(g_y, g_x) in degrees modulo 180
        h[c, k] of a cell = mean over its 8 x 8 pixels of |g| where the pixel's bin is k
        target = h / sqrt(sum_k h^2 + 1e-10)

Source: the target of MaskFeat (Wei et al., CVPR 2022): 9 unsigned orientations, cells of 8 x 8
pixels, every colour channel on its own, L2 norm per cell and channel. The parametrisation is one
that scikit-image can reproduce, channel by channel (its multichannel mode keeps only the strongest
channel of every pixel). MaskFeat's code smooths gradients across their direction (Sobel) and can
weight pixels by a Gaussian window, neither of which stands here, and it counts angles from the
other axis, which only renames the bins.

    skimage.feature.hog(channel, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(1, 1),
                        block_norm="L2")

Because of the norm the target hardly depends on the scale of the images; the small constant in it
turns cells without any gradient into 0.

Shapes: B images, C colours, H x W pixels, K = 9 C target channels, p x q target cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Target(Protocol):
    """A map that is made from the images and that the decoder has to predict."""

    @property
    def cell(self) -> int:
        """Edge in pixels of one cell of the map."""
        ...

    def channels(self, colours: int) -> int:
        """Channels of the map for images of this many colours."""
        ...

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """The map of these images, without gradient."""
        ...


@dataclass(frozen=True)
class Pixels:
    """The images themselves, as they were normalised."""

    @property
    def cell(self) -> int:
        """One pixel."""
        return 1

    def channels(self, colours: int) -> int:
        """One per colour."""
        return colours

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """The images."""
        return images_BCHW.detach()


@dataclass(frozen=True)
class Hog:
    """Histograms of oriented gradients, as :mod:`a2mim.methods.targets` defines them.

    Attributes:
        cell: edge of a cell in pixels.
        orientations: bins of 180 degrees.
    """

    cell: int = 8
    orientations: int = 9

    def __post_init__(self) -> None:
        if self.cell < 1 or self.orientations < 1:
            raise ValueError(
                f"expected cells of at least 1 px and at least 1 orientation, got {self.cell} px "
                f"and {self.orientations}"
            )

    def channels(self, colours: int) -> int:
        """One per colour and orientation; channel c K + k is orientation k of colour c."""
        return colours * self.orientations

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Histograms ``(B, 9 C, H / 8, W / 8)`` in float32 at least.

        Raises:
            ValueError: if cells do not divide the images.
        """
        H, W = images_BCHW.shape[2:]
        if H % self.cell or W % self.cell:
            raise ValueError(
                f"expected images that {self.cell} px cells divide, got {H} x {W} px; resize them"
            )
        images = images_BCHW.float() if images_BCHW.dtype != torch.float64 else images_BCHW
        down, right = torch.zeros_like(images), torch.zeros_like(images)
        down[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
        right[..., 1:-1] = images[..., 2:] - images[..., :-2]
        magnitude = torch.hypot(right, down)
        turns = torch.atan2(down, right) * (self.orientations / torch.pi)
        bins = turns.floor().long() % self.orientations
        # One pooling per bin: a scatter would add in another order on every run of a GPU.
        histogram = torch.stack(
            [F.avg_pool2d(magnitude * (bins == k), self.cell) for k in range(self.orientations)],
            dim=2,
        )
        norm = (histogram.square().sum(dim=2, keepdim=True) + 1e-10).sqrt()
        return (histogram / norm).flatten(1, 2)


TARGETS: dict[str, Target] = {"rgb": Pixels(), "hog": Hog()}
"""The targets by name."""


def target_of(target: str | Target) -> Target:
    """A target by name, or the target itself.

    Raises:
        ValueError: for an unknown name.
    """
    if not isinstance(target, str):
        return target
    if target not in TARGETS:
        raise ValueError(f"expected a target named {' or '.join(TARGETS)}, got {target!r}")
    return TARGETS[target]
