"""Masks for pre-training: random blocks, a constant number per image.

Shapes: B images, N blocks. True in ``visible`` keeps the original pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from interactions.patches import PatchGrid


@dataclass(frozen=True)
class BlockMask:
    """Hide ceil(ratio N) random square blocks of every image.

    The published setting is 32-pixel blocks at 224 px and ratio 0.6: 30 of 49 blocks.

    Attributes:
        image_size: height and width of the images in pixels.
        block: edge of a block in pixels.
        ratio: hidden share of the blocks.
    """

    image_size: int = 224
    block: int = 32
    ratio: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"expected a mask ratio between 0 and 1, got {self.ratio}")
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

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Masks for ``count`` images, bool ``(count, N)`` on the generator's device."""
        device = generator.device
        noise_BN = torch.rand(count, self.grid.n, generator=generator, device=device)
        return noise_BN.argsort(dim=1).argsort(dim=1) >= self.hidden
