"""Players of the game: regions of an image that are seen or hidden as a whole.

Shapes: B images, C channels, H x W pixels, N players, p x q pixels per cell.
One polarity everywhere: ``visible`` is boolean and True keeps the original pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from interactions.checks import whole
from interactions.keys import Key, raw_words


class Players(Protocol):
    """A division of an image into regions: a grid, or superpixels."""

    @property
    def n(self) -> int:
        """The number of players."""
        ...

    def check_image(self, height: int, width: int) -> None:
        """Raise a ValueError if an image of this size cannot be divided so."""
        ...

    def pixels(self, visible_BN: Tensor, height: int, width: int) -> Tensor:
        """Spread visibility from players to pixels: bool ``(B, N)`` -> bool ``(B, 1, H, W)``."""
        ...


@dataclass(frozen=True)
class PatchGrid:
    """A grid of ``rows x cols`` players over an image, numbered row by row.

    Attributes:
        rows: cells from top to bottom.
        cols: cells from left to right.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        whole(self.rows, "rows", None)
        whole(self.cols, "cols", None)
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"a grid needs at least 1 x 1 cells, got {self.rows} x {self.cols}")

    @property
    def n(self) -> int:
        """The number of players."""
        return self.rows * self.cols

    def cell_size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels (p, q) of one cell in an image of this size.

        Raises:
            ValueError: if the grid does not divide the image.
        """
        if height % self.rows or width % self.cols:
            common, most = math.gcd(height, width), max(self.rows, self.cols)
            side = max(side for side in range(1, most + 1) if common % side == 0)
            raise ValueError(
                f"expected an image that a {self.rows} x {self.cols} grid divides, "
                f"got {height} x {width} pixels; resize the image or choose another grid, such as "
                f"{side} x {side}"
            )
        return height // self.rows, width // self.cols

    def check_image(self, height: int, width: int) -> None:
        """Raise a ValueError if the grid does not divide an image of this size."""
        self.cell_size(height, width)

    def pixels(self, visible_BN: Tensor, height: int, width: int) -> Tensor:
        """Spread visibility from players to pixels.

        Args:
            visible_BN: bool, True = the cell keeps its pixels.
            height: image height H.
            width: image width W.

        Returns:
            bool of shape ``(B, 1, H, W)``.
        """
        p, q = self.cell_size(height, width)
        check_visible(visible_BN, self.n)
        cells = visible_BN.reshape(-1, self.rows, 1, self.cols, 1)
        return cells.expand(-1, -1, p, -1, q).reshape(-1, 1, height, width)

    def refine(self, visible_BN: Tensor, finer: PatchGrid) -> Tensor:
        """The same visibility on a grid whose cells lie inside the cells of this one.

        Returns:
            bool of shape ``(B, finer.n)``.

        Raises:
            ValueError: if ``finer`` is not a subdivision of this grid.
        """
        return self.pixels(visible_BN, finer.rows, finer.cols).flatten(1)

    def cut(self, images_BCHW: Tensor) -> Tensor:
        """Cut images into cells: ``(B, C, H, W)`` -> ``(B, N, C, p, q)``."""
        B, C, H, W = images_BCHW.shape
        p, q = self.cell_size(H, W)
        cells = images_BCHW.reshape(B, C, self.rows, p, self.cols, q)
        return cells.permute(0, 2, 4, 1, 3, 5).reshape(B, self.n, C, p, q)

    def join(self, cells_BNCpq: Tensor) -> Tensor:
        """Undo :meth:`cut`: ``(B, N, C, p, q)`` -> ``(B, C, H, W)``."""
        B, N, C, p, q = cells_BNCpq.shape
        if self.n != N:
            raise ValueError(f"expected {self.n} cells per image, got {N}")
        cells = cells_BNCpq.reshape(B, self.rows, self.cols, C, p, q)
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(B, C, self.rows * p, self.cols * q)


def check_visible(visible_BN: Tensor, n: int) -> None:
    """Raise a TypeError or a ValueError unless visibility is given as bool ``(B, n)``."""
    if visible_BN.dtype != torch.bool:
        raise TypeError(f"expected visible as bool (True = kept), got {visible_BN.dtype}")
    if visible_BN.ndim != 2 or visible_BN.shape[1] != n:
        raise ValueError(
            f"expected visible of shape (B, {n}) for {n} players, got {tuple(visible_BN.shape)}"
        )


def hide(
    images_BCHW: Tensor,
    visible_BN: Tensor,
    players: Players,
    fill: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Replace the pixels of hidden players.

    Args:
        images_BCHW: the images; B may be 1 with many rows of ``visible_BN``.
        visible_BN: bool, True keeps the player's pixels.
        players: the regions.
        fill: what hidden pixels become; broadcasts to the images (see :mod:`interactions.fills`).
        out: where the result goes, ``(B, C, H, W)``; a new tensor if left out.

    Returns:
        ``(B, C, H, W)``; visible pixels are bit-identical to the input.
    """
    H, W = images_BCHW.shape[-2:]
    return torch.where(players.pixels(visible_BN, H, W), images_BCHW, fill, out=out)


def random_order(n: int, images: Sequence[Key], seed: int, *key: Key) -> Tensor:
    """One random order of the players for each image, drawn by key.

    Hiding the first k players of an order for growing k gives nested masks, so that a curve over k
    compares each image with itself.

    Args:
        n: number of players.
        images: one id for each image; an image's order depends on its own id only.
        seed: the seed of the experiment.
        key: further names, such as the repeat.

    Returns:
        int64 of shape ``(B, n)``: the position of each player in its image's order.
    """
    words_BN = np.stack([raw_words(n, "order", seed, image, *key) for image in images])
    positions_BN = words_BN.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return torch.from_numpy(positions_BN)
