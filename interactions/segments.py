"""Superpixels as players: regions that follow the edges of an image.

SLIC gathers pixels around k centres on a grid of step s, by colour (CIELAB) and place:

    D^2 = d_lab^2 + (compactness d_xy / s)^2

(Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 2012,
section 3; here the implementation of scikit-image.) It gives about k regions. Orders m of an
interaction compare only between games of the same number of players, so the smallest regions are
merged with their neighbours until exactly as many are left as were asked for.

Shapes: B images, C channels, H x W pixels, N players, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactions.patches import check_visible

Labels = NDArray[np.int64]
"""One label for each pixel, shape ``(H, W)``."""


@dataclass(frozen=True, eq=False)  # == of tensors is no boolean; a map equals itself only
class PlayerMap:
    """Players of any shape: every pixel names the player it belongs to.

    Attributes:
        players_HW: int64, the player of each pixel; all of 0 .. n-1 occur.
    """

    players_HW: Tensor

    def __post_init__(self) -> None:
        if self.players_HW.dtype != torch.int64:
            raise TypeError(f"expected players as int64, got {self.players_HW.dtype}; call .long()")
        if self.players_HW.ndim != 2 or self.players_HW.numel() == 0:
            raise ValueError(
                f"expected players of shape (H, W), got {tuple(self.players_HW.shape)}; "
                "give one map for each image"
            )
        present = self.players_HW.unique()
        first, last = int(present[0]), int(present[-1])
        if first != 0 or last != len(present) - 1:
            raise ValueError(
                f"expected players 0 to n-1 without gaps, got {len(present)} players from {first} "
                f"to {last}; number them anew"
            )

    def __repr__(self) -> str:
        H, W = self.players_HW.shape
        return f"PlayerMap({self.n} players, {H} x {W})"

    @cached_property
    def n(self) -> int:
        """The number of players."""
        return int(self.players_HW.max()) + 1

    def check_image(self, height: int, width: int) -> None:
        """Raise a ValueError if the map is of another size than the image."""
        H, W = self.players_HW.shape
        if (height, width) != (H, W):
            raise ValueError(
                f"expected an image of {H} x {W} pixels, as the map of its players has, "
                f"got {height} x {width}; make the map from the image that the model sees"
            )

    def pixels(self, visible_BN: Tensor, height: int, width: int) -> Tensor:
        """Spread visibility from players to pixels.

        Args:
            visible_BN: bool, True = the player keeps its pixels.
            height: image height H.
            width: image width W.

        Returns:
            bool of shape ``(B, 1, H, W)``, on the device of ``visible_BN``.
        """
        self.check_image(height, width)
        check_visible(visible_BN, self.n)
        # As visible_BN[:, players_HW], in a quarter of the time on a CPU.
        players_P = self.players_HW.to(visible_BN.device).flatten()
        pixels_BP = visible_BN.gather(1, players_P.expand(len(visible_BN), -1))
        return pixels_BP.reshape(-1, 1, height, width)

    def neighbours(self) -> NDArray[np.int64]:
        """All pairs i < j of players that touch along the side of a pixel, sorted."""
        return _borders(self.players_HW.cpu().numpy())[0]


def superpixels(
    image_CHW: Tensor, count: int, compactness: float = 10.0, sigma: float = 0.0
) -> PlayerMap:
    """Cut an image into exactly ``count`` connected regions of similar colour.

    SLIC is asked for ever more regions until it gives at least ``count``. Then the smallest region
    joins the neighbour with which it shares the longest border, again and again, until ``count``
    are left. Nothing is random: of equal sizes and borders that of the lower number goes first.

    Args:
        image_CHW: one image, RGB or grey, in any scale: its values are stretched to [0, 1]. An
            image that was normalised channel by channel is cut a little differently from the
            original, as its colours are.
        count: how many regions, at least 3, the fewest players whose interactions are measured.
        compactness: weight of place against colour; larger makes squarer regions.
        sigma: width in pixels of a Gaussian that smooths the image first; 0 does not smooth.

    Returns:
        The regions, numbered by their first pixel, row by row.

    Raises:
        TypeError: for a picture, which has not the size that a network sees.
        ValueError: if the image or a setting is unusable, or SLIC cannot give so many regions.
        ImportError: if scikit-image is not installed.
    """
    if not isinstance(image_CHW, Tensor):
        raise TypeError(
            "expected an image as the network sees it, (C, H, W), such as "
            f"ix.prepare(image, model)[0], got {type(image_CHW).__name__}"
        )
    if image_CHW.ndim != 3 or image_CHW.shape[0] not in (1, 3) or image_CHW.numel() == 0:
        raise ValueError(
            f"expected one image (C, H, W) with 1 or 3 channels, got {tuple(image_CHW.shape)}"
        )
    if not image_CHW.isfinite().all():
        raise ValueError("expected an image of finite values, got some that are not")
    H, W = image_CHW.shape[1:]
    if not 3 <= count <= H * W:
        raise ValueError(
            f"expected between 3 and {H * W} superpixels in an image of {H} x {W} pixels, "
            f"got {count}"
        )
    if not compactness > 0 or not sigma >= 0:
        raise ValueError(f"expected compactness > 0 and sigma >= 0, got {compactness} and {sigma}")
    # In three channels SLIC compares colours in CIELAB, so that compactness means the same for grey
    # images as for RGB ones.
    image_HWC = image_CHW.detach().cpu().double().expand(3, -1, -1).permute(1, 2, 0).numpy()
    regions_HW = _at_least(count, image_HWC, compactness, sigma)
    return PlayerMap(torch.from_numpy(_merged(regions_HW, count)))


def _at_least(
    count: int, image_HWC: NDArray[np.float64], compactness: float, sigma: float
) -> Labels:
    """Connected regions of SLIC: at least ``count``, a few more for a photograph."""
    try:
        from skimage.measure import label
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(
            "expected scikit-image for superpixels, it is not installed; "
            "pip install 'a2mim[superpixels]'"
        ) from error

    pixels = image_HWC.shape[0] * image_HWC.shape[1]
    asked = count
    while True:
        segments_HW = slic(  # it stretches the image to [0, 1] itself
            image_HWC, asked, compactness, sigma=sigma, enforce_connectivity=True, start_label=0
        )
        # SLIC promises connected regions; here they are by construction.
        regions_HW = label(segments_HW, background=-1, connectivity=1).astype(np.int64) - 1
        if regions_HW.max() + 1 >= count:
            return _renumbered(regions_HW)
        if asked == pixels:  # a centre in every pixel: only an overflow can join them
            raise ValueError(
                f"expected {count} regions, but SLIC gives {regions_HW.max() + 1} at compactness "
                f"{compactness}; choose a larger one"
            )
        asked = min(ceil(1.1 * asked), pixels)


def _merged(regions_HW: Labels, count: int) -> Labels:
    """The smallest region joins the neighbour with the longest common border, down to ``count``."""
    sizes = np.bincount(regions_HW.ravel()).tolist()
    borders: list[dict[int, int]] = [{} for _ in sizes]
    pairs_P2, lengths_P = _borders(regions_HW)
    for (i, j), length in zip(pairs_P2.tolist(), lengths_P.tolist(), strict=True):
        borders[i][j] = borders[j][i] = length
    joined = list(range(len(sizes)))
    queue = [(size, region) for region, size in enumerate(sizes)]
    heapify(queue)
    left = len(sizes)
    while left > count:
        size, small = heappop(queue)
        if size != sizes[small]:  # it has grown or joined another since it was queued
            continue
        target = min(borders[small], key=lambda region: (-borders[small][region], region))
        for other, length in borders[small].items():
            del borders[other][small]
            if other != target:
                total = borders[target].get(other, 0) + length
                borders[target][other] = borders[other][target] = total
        joined[small] = target
        sizes[small], sizes[target] = 0, sizes[target] + size
        heappush(queue, (sizes[target], target))
        left -= 1
    for region in range(len(joined)):
        while joined[joined[region]] != joined[region]:
            joined[region] = joined[joined[region]]
    return _renumbered(np.array(joined)[regions_HW])


def _borders(regions_HW: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs i < j ``(P, 2)`` of touching regions, sorted, and their borders ``(P,)`` in pixels."""
    beside = regions_HW[:, :-1].ravel(), regions_HW[:, 1:].ravel()
    below = regions_HW[:-1].ravel(), regions_HW[1:].ravel()
    sides_2E = np.sort(np.concatenate([beside, below], axis=1), axis=0)
    low_E, high_E = sides_2E[:, sides_2E[0] != sides_2E[1]]
    n = int(regions_HW.max()) + 1
    codes_P, lengths_P = np.unique(low_E * n + high_E, return_counts=True)
    return np.stack(np.divmod(codes_P, n), axis=1), lengths_P


def _renumbered(regions_HW: Labels) -> Labels:
    """The same regions, numbered from 0 by their first pixel, row by row."""
    _, first_N, numbers = np.unique(regions_HW, return_index=True, return_inverse=True)
    return first_N.argsort().argsort()[numbers].reshape(regions_HW.shape)
