"""Masks for pre-training: random squares, a constant number per image.

    BlockMask:  hidden = ceil(ratio N)             SimMIM and A2MIM: blocks of 32 px
    PatchMask:  kept   = floor((1 - ratio) N)      MAE: the patches of the model

SimMIM (Xie et al., CVPR 2022) and A2MIM draw the same masks, so they share one class. At equal N
and ratio both classes hide the same number, N - floor((1 - ratio) N) = ceil(ratio N); what differs
is the size of the squares.

Which squares, is a hash of (seed, image): the same on every device, in any batch and process.

Shapes: B images, N squares. True in ``visible`` keeps the original pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Protocol

import torch
from torch import Tensor

from interactions.keys import hashed_words
from interactions.patches import PatchGrid


class Mask(Protocol):
    """How many squares of an image are hidden, and which."""

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        ...

    @property
    def grid(self) -> PatchGrid:
        """The grid of squares."""
        ...

    @property
    def hidden(self) -> int:
        """Hidden squares per image, the same for all images."""
        ...

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks bool ``(B, N)`` of images with these numbers, on the device of the numbers."""
        ...


@dataclass(frozen=True)
class BlockMask:
    """Hide ceil(ratio N) random square blocks of every image (SimMIM, A2MIM).

    The published setting is 32-pixel blocks at ratio 0.6: 30 of 49 at 224 px, 22 of 36 at 192 px.

    Attributes:
        image_size: height and width of the images in pixels.
        block: edge of a block in pixels.
        ratio: hidden share of the blocks.
    """

    image_size: int = 224
    block: int = 32
    ratio: float = 0.6

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)
        if self.block < 1 or self.image_size % self.block:
            raise ValueError(
                f"expected blocks that divide an image of {self.image_size} px, got {self.block} px"
            )

    @property
    def grid(self) -> PatchGrid:
        """The grid of blocks."""
        side = self.image_size // self.block
        return PatchGrid(side, side)

    @property
    def hidden(self) -> int:
        """Hidden blocks per image, the same for all images."""
        # The subtraction keeps 0.6 * 25 = 15.000000000000002 from becoming 16.
        return ceil(self.ratio * self.grid.n - 1e-9)

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks bool ``(B, N)`` of images with these numbers, on the device of the numbers.

        The mask of an image depends on the seed and on its own number, and on nothing else.
        """
        return ~random_squares(images_B, self.grid.n, self.hidden, seed)


@dataclass(frozen=True)
class PatchMask:
    """Keep floor((1 - ratio) N) random patches of every image (MAE, He et al., CVPR 2022).

    The published setting keeps 49 of 196 patches at 224 px.

    Attributes:
        image_size: height and width of the images in pixels.
        patch: edge of the model's patches in pixels.
        ratio: hidden share of the patches.

    Raises:
        ValueError: for a ratio outside (0, 1), for patches that do not divide the image, or if no
            patch would be kept.
    """

    image_size: int = 224
    patch: int = 16
    ratio: float = 0.75

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)
        if self.patch < 1 or self.image_size % self.patch:
            raise ValueError(
                f"expected patches that divide an image of {self.image_size} px, "
                f"got {self.patch} px"
            )
        if self.kept == 0:
            raise ValueError(
                f"expected at least one visible patch, got none of {self.grid.n} at a ratio of "
                f"{self.ratio}; lower the ratio or use smaller patches"
            )

    @property
    def grid(self) -> PatchGrid:
        """The grid of patches."""
        side = self.image_size // self.patch
        return PatchGrid(side, side)

    @property
    def kept(self) -> int:
        """Visible patches per image, the same for all images."""
        return kept_patches(self.grid.n, self.ratio)

    @property
    def hidden(self) -> int:
        """Hidden patches per image, the same for all images."""
        return self.grid.n - self.kept

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks bool ``(B, N)`` of images with these numbers: see :meth:`BlockMask.draw`."""
        return ~random_squares(images_B, self.grid.n, self.hidden, seed)


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ValueError(f"expected a mask ratio between 0 and 1, got {ratio}")


def kept_patches(n: int, ratio: float) -> int:
    """floor((1 - ratio) n): how many of n patches MAE keeps."""
    # The addition keeps 10 * (1 - 0.9) = 0.9999999999999998 from becoming 0.
    return floor((1 - ratio) * n + 1e-9)


def random_squares(images_B: Tensor, n: int, chosen: int, seed: int) -> Tensor:
    """Some of n squares per image, uniform draws without replacement.

    Every square hashes (seed, image, square); those with the smallest numbers are chosen.

    Args:
        images_B: int64, the number of each image. Its squares depend on it and on the seed alone:
            not on the other images, nor on the device.
        n: N, squares of an image.
        chosen: how many of them, 1 to N.
        seed: of the step.

    Returns:
        bool ``(B, N)`` on the device of the numbers.
    """
    # The last bits are the square's place: no two numbers are equal, and the smallest are the same
    # whatever way they are found.
    bits = (n - 1).bit_length()
    places_N = torch.arange(n, device=images_B.device)
    words_BN = (hashed_words(n, seed, images_B) >> bits << bits) | places_N
    return words_BN <= words_BN.kthvalue(chosen, dim=1, keepdim=True).values
