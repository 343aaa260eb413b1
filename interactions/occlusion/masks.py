"""What is hidden: families of masks, drawn by key, and transformations that move pixels.

An occluder goes from a scene (players, names of images, seed, repeat, perhaps saliency) and hidden
fractions f to visibility. Most of them order the players of each image and hide the first ones,

    visible_n(f) = position(n) >= count(N, f),

so the masks of growing fractions are nested and a curve compares every image with itself. Counts:

    nearest   round(N f)            ours, OpenMixup
    tenths    floor(d N / 10)       IPViT, f = d / 10
    at_least  ceil(f N)             SimMIM, A2MIM (in units of 32 px)
    mae       N - floor((1 - f) N)  MAE, which keeps floor((1 - f) N)

Two are no orders. ``BlockWise`` is the mask of BEiT (Bao et al., ICLR 2022, algorithm 1, as in the
repository ``microsoft/unilm``). ``SaliencyMass`` is that of IPViT (Naseer et al., NeurIPS 2021):
with saliency normalised to sum 1, the foreground F(lambda) are the players whose cumulative
saliency, in ascending order, exceeds 1 - lambda. Salient drop hides F(f), non-salient drop hides
what is outside F(1 - f): f is a share of saliency there, not of players, which for small f are many
more than f N where they are not salient and fewer where they are.

Shapes: I images, F fractions, N players, B images of a batch, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count as naturals
from itertools import islice
from math import ceil, exp, floor, log, sqrt
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from interactions import fills
from interactions.keys import Key, permutation, raw_words
from interactions.patches import PatchGrid, Players, random_order

Corner = Literal["top left", "top right", "bottom left", "bottom right"]

TENTHS = tuple(k / 10 for k in range(10))
"""Hidden fractions 0, 0.1, ... 0.9."""


@dataclass(frozen=True)
class ShiftedGrid:
    """A grid whose masks are moved down and to the right: IPViT's "offset grid".

    The strip that is uncovered at the top and on the left is visible, and cells are cut off at the
    bottom and on the right, so a mask hides a little less than its share of players.

    Attributes:
        grid: the players.
        offset: how far, in pixels both ways; 8 as published, half a patch.
    """

    grid: PatchGrid
    offset: int = 8

    @property
    def n(self) -> int:
        """The number of players."""
        return self.grid.n

    def check_image(self, height: int, width: int) -> None:
        """Raise a ValueError if the grid does not divide the image, or is moved by a cell."""
        cell = min(self.grid.cell_size(height, width))
        if not 0 < self.offset < cell:
            raise ValueError(
                f"expected an offset of 1 to {cell - 1} pixels, less than a cell, got {self.offset}"
            )

    def pixels(self, visible_BN: Tensor, height: int, width: int) -> Tensor:
        """Spread visibility from players to pixels, bool ``(B, 1, H, W)``."""
        self.check_image(height, width)
        unmoved_B1HW = self.grid.pixels(visible_BN, height, width)
        moved_B1HW = torch.ones_like(unmoved_B1HW)
        k = self.offset
        moved_B1HW[..., k:, k:] = unmoved_B1HW[..., :-k, :-k]
        return moved_B1HW


@dataclass(frozen=True)
class Scene:
    """What an occluder may know of the images that it hides parts of.

    Attributes:
        players: the regions; most families are about a grid.
        images: one name for each image, the key of its masks.
        seed: the seed of the experiment.
        repeat: which of several independent masks.
        saliency_IN: how much each player matters, for occluders that ask for it.
    """

    players: Players
    images: tuple[Key, ...]
    seed: int = 0
    repeat: int = 0
    saliency_IN: Tensor | None = None

    @property
    def grid(self) -> PatchGrid:
        """The grid of the players.

        Raises:
            ValueError: if they form none.
        """
        players = self.players.grid if isinstance(self.players, ShiftedGrid) else self.players
        if not isinstance(players, PatchGrid):
            raise ValueError(
                f"expected players on a grid, got {type(players).__name__}; only 'random', 'mae', "
                "'complement' and the salient occluders know players of any shape"
            )
        return players

    @property
    def saliency(self) -> NDArray[np.float64]:
        """Saliency ``(I, N)``.

        Raises:
            ValueError: if it is missing, of another shape or not finite.
        """
        expected = (len(self.images), self.players.n)
        if self.saliency_IN is None:
            raise ValueError(
                f"expected saliency of shape {expected}, got none; "
                "see interactions.occlusion.saliency"
            )
        if tuple(self.saliency_IN.shape) != expected:
            raise ValueError(
                f"expected saliency of shape {expected}, got {tuple(self.saliency_IN.shape)}"
            )
        if not self.saliency_IN.isfinite().all():
            raise ValueError("expected finite saliency, got some that is not")
        return self.saliency_IN.detach().cpu().double().numpy()


class Occluder(Protocol):
    """A family of masks."""

    @property
    def nested(self) -> bool:
        """Whether what is hidden at one fraction stays hidden at all larger ones."""
        ...

    def __call__(self, scene: Scene, fractions: Sequence[float]) -> Tensor:
        """Visibility, bool ``(I, F, N)`` on the CPU.

        Raises:
            ValueError: for fractions outside [0, 1], or a scene that the family cannot use.
        """
        ...


Count = Callable[[int, float], int]


def nearest(n: int, fraction: float) -> int:
    """round(n fraction), halves to the even number as Python rounds them."""
    return round(n * fraction)


def tenths(n: int, fraction: float) -> int:
    """floor(d n / 10) for a fraction of d tenths (IPViT).

    Raises:
        ValueError: for other fractions.
    """
    d = round(10 * fraction)
    if abs(10 * fraction - d) > 1e-9:
        raise ValueError(f"expected a fraction in tenths, as in IPViT, got {fraction}")
    return d * n // 10


def at_least(n: int, fraction: float) -> int:
    """ceil(fraction n) (SimMIM)."""
    # The subtraction keeps 0.6 * 25 = 15.000000000000002 from becoming 16.
    return ceil(fraction * n - 1e-9)


def mae(n: int, fraction: float) -> int:
    """n - floor((1 - fraction) n): all but those that MAE keeps."""
    # The addition keeps 10 * (1 - 0.9) = 0.9999999999999998 from becoming 0.
    return n - floor((1 - fraction) * n + 1e-9)


Order = Callable[[Scene, tuple[Key, ...]], Tensor]


def random(scene: Scene, key: tuple[Key, ...] = ()) -> Tensor:
    """A uniform order of the players."""
    return random_order(
        scene.players.n, scene.images, scene.seed, "random drop", scene.repeat, *key
    )


def salient_first(scene: Scene, key: tuple[Key, ...] = ()) -> Tensor:
    """By falling saliency; equals in random order."""
    return _sorted_by(-scene.saliency, random(scene, key))


def salient_last(scene: Scene, key: tuple[Key, ...] = ()) -> Tensor:
    """By rising saliency; equals in random order."""
    return _sorted_by(scene.saliency, random(scene, key))


def block(scene: Scene, key: tuple[Key, ...] = ()) -> Tensor:
    """Around a random point: a growing square, in one piece at every fraction, cut at the border.

    The point is uniform over the image. Cells are ordered by the larger of their vertical and
    horizontal distances to it, in cells.
    """
    row_N, column_N = _places(scene.grid)
    size_2 = np.array([scene.grid.rows, scene.grid.cols])
    distance_IN = []
    for image in scene.images:
        words_2 = raw_words(2, "block", scene.seed, image, scene.repeat, *key)
        y, x = uniform(words_2) * size_2 - 0.5
        distance_IN.append(np.maximum(abs(row_N - y), abs(column_N - x)))
    return _sorted_by(np.stack(distance_IN), random(scene, key))


def centre_first(scene: Scene, key: tuple[Key, ...] = ()) -> Tensor:
    """From the centre to the border, ring by ring, each ring in random order."""
    return _sorted_by(_rings(scene.grid), random(scene, key))


def border_first(scene: Scene, key: tuple[Key, ...] = ()) -> Tensor:
    """From the border to the centre, ring by ring, each ring in random order."""
    return _sorted_by(-_rings(scene.grid), random(scene, key))


def checkerboard(scene: Scene, key: tuple[Key, ...] = ()) -> Tensor:
    """First the cells of one colour of a checkerboard, then the others; random within a colour.

    Which colour comes first is random. At a fraction of 1/2 half of the cells are hidden and no two
    of them touch; below it the hidden cells are part of such a mask.
    """
    row_N, column_N = _places(scene.grid)
    first_I1 = np.array(
        [
            [raw_words(1, "checkerboard", scene.seed, image, scene.repeat, *key)[0] & np.uint64(1)]
            for image in scene.images
        ],
        dtype=np.int64,
    )
    return _sorted_by((row_N + column_N + first_I1) % 2, random(scene, key))


@dataclass(frozen=True)
class Ordered:
    """Hides the first players of an order.

    Attributes:
        order: of the players of each image.
        count: how many are hidden at a fraction.
        unit: edge of the squares that are hidden as a whole, in cells; counts count squares then.
        nested: one order for all fractions; otherwise every fraction has an order of its own.
        share: how many consecutive images share their masks, as the batches of published tools do;
            they are keyed by the name of the first one.
    """

    order: Order
    count: Count = nearest
    unit: int = 1
    nested: bool = True
    share: int = 1

    def __post_init__(self) -> None:
        if self.unit < 1 or self.share < 1:
            raise ValueError(
                f"expected a unit and a share of at least 1, got {self.unit} and {self.share}"
            )

    def __call__(self, scene: Scene, fractions: Sequence[float]) -> Tensor:
        """Visibility, bool ``(I, F, N)``; see :class:`Occluder`."""
        check_fractions(fractions)
        total, firsts = len(scene.images), scene.images[:: self.share]
        saliency_IN = None if scene.saliency_IN is None else scene.saliency_IN[:: self.share]
        shared = replace(scene, images=firsts, saliency_IN=saliency_IN)
        if self.unit > 1:
            shared = replace(shared, players=_units(scene.grid, self.unit))
        n = shared.players.n
        if self.nested:
            positions = self.order(shared, ())[:, None]
        else:
            keys = [("fraction", f"{fraction:.9g}") for fraction in fractions]
            positions = torch.stack([self.order(shared, key) for key in keys], dim=1)
        hidden_F1 = torch.tensor([self.count(n, fraction) for fraction in fractions])[:, None]
        visible_IFN = positions >= hidden_F1
        if self.unit > 1:
            coarse, shape = shared.grid, visible_IFN.shape[:2]
            visible_IFN = coarse.refine(visible_IFN.flatten(0, 1), scene.grid).reshape(*shape, -1)
        return visible_IFN.repeat_interleave(self.share, dim=0)[:total]


@dataclass(frozen=True)
class SaliencyMass:
    """Hides a share of the saliency, as IPViT does; see the top of this module.

    Not for saliency below 0. A fraction of 0 hides nothing, one of 1 everything.

    Attributes:
        salient: hide the most salient players, the smallest set that holds about a share f of all
            saliency; otherwise the least salient ones, as published at lambda = 1 - f.
    """

    salient: bool
    nested = True

    def __call__(self, scene: Scene, fractions: Sequence[float]) -> Tensor:
        """Visibility, bool ``(I, F, N)``; see :class:`Occluder`."""
        check_fractions(fractions)
        saliency_IN = torch.from_numpy(scene.saliency)
        if self.salient:
            return torch.stack([~foreground(saliency_IN, f) for f in fractions], dim=1)
        return torch.stack([foreground(saliency_IN, 1 - f) for f in fractions], dim=1)


def foreground(saliency_IN: Tensor, mass: float) -> Tensor:
    """F(lambda): the most salient players, which together hold about a share ``mass`` of it all.

    Args:
        saliency_IN: not below 0, and above 0 somewhere in each image.
        mass: lambda of IPViT; 0 gives no player and 1 all.

    Returns:
        bool ``(I, N)``, True = foreground: players whose cumulative share of saliency, summed in
        ascending order, exceeds 1 - ``mass``.

    Raises:
        ValueError: for other saliency.
    """
    saliency_IN = saliency_IN.double()
    if (saliency_IN < 0).any() or not (saliency_IN > 0).any(dim=1).all():
        raise ValueError(
            "expected saliency of at least 0 with a positive sum in each image, got other values; "
            "take absolute values, or occluders 'salient' and 'non_salient', which only sort"
        )
    if mass >= 1:  # also players of saliency 0
        return torch.ones_like(saliency_IN, dtype=torch.bool)
    ascending_IN, order_IN = saliency_IN.sort(dim=1, stable=True)
    cumulative_IN = ascending_IN.cumsum(dim=1)
    cumulative_IN = cumulative_IN / cumulative_IN[:, -1:]
    # To where each player was before sorting.
    return torch.empty_like(order_IN, dtype=torch.bool).scatter_(
        1, order_IN, cumulative_IN > 1 - mass
    )


@dataclass(frozen=True)
class BlockWise:
    """BEiT's block-wise mask: rectangles, one after the other, until the fraction is hidden.

    Each rectangle has an area between ``smallest`` and what is left to hide (the other way round
    when less is left), an aspect ratio between ``aspect`` and its inverse, uniform in its
    logarithm, rounded sides that are shorter than the grid's, and a uniform place. It is taken if
    it hides something new and not too much; after ten in a row that are not, the mask is done. So
    at most round(N f) players are hidden, often a few less, and masks of two fractions are not
    nested.

    Attributes:
        smallest: patches in the smallest rectangle; 16 in BEiT's pre-training.
        aspect: the smallest ratio of height to width.
    """

    smallest: int = 16
    aspect: float = 0.3
    nested = False

    def __post_init__(self) -> None:
        if self.smallest < 1 or not 0 < self.aspect <= 1:
            raise ValueError(
                f"expected blocks of at least 1 patch and an aspect ratio in (0, 1], "
                f"got {self.smallest} and {self.aspect}"
            )

    def __call__(self, scene: Scene, fractions: Sequence[float]) -> Tensor:
        """Visibility, bool ``(I, F, N)``; see :class:`Occluder`."""
        check_fractions(fractions)
        grid = scene.grid
        masks = [
            [
                self._draw(grid, round(grid.n * f), scene.seed, image, scene.repeat)
                for f in fractions
            ]
            for image in scene.images
        ]
        return torch.from_numpy(~np.array(masks)).flatten(2)

    def _draw(self, grid: PatchGrid, total: int, *key: Key) -> NDArray[np.bool_]:
        """Hidden cells ``(rows, cols)``, at most ``total``."""
        hidden = np.zeros((grid.rows, grid.cols), dtype=bool)
        uniforms = _uniforms("block-wise", total, *key)
        refused = 0
        while refused < 10 and (left := total - int(hidden.sum())):
            u_4 = list(islice(uniforms, 4))
            area = self.smallest + (left - self.smallest) * u_4[0]
            ratio = exp((2 * u_4[1] - 1) * log(self.aspect))
            height, width = round(sqrt(area * ratio)), round(sqrt(area / ratio))
            refused += 1
            if height < grid.rows and width < grid.cols:
                top = int(u_4[2] * (grid.rows - height + 1))
                start = int(u_4[3] * (grid.cols - width + 1))
                place = hidden[top : top + height, start : start + width]
                if 0 < (~place).sum() <= left:
                    place[:] = True
                    refused = 0
        return hidden


@dataclass(frozen=True)
class Complement:
    """Hides what another occluder shows: at fraction f the complement of its mask of 1 - f.

    Attributes:
        of: the other occluder.
    """

    of: Occluder

    @property
    def nested(self) -> bool:
        """As the other occluder's masks are."""
        return self.of.nested

    def __call__(self, scene: Scene, fractions: Sequence[float]) -> Tensor:
        """Visibility, bool ``(I, F, N)``; see :class:`Occluder`."""
        check_fractions(fractions)
        return ~self.of(scene, [1 - fraction for fraction in fractions])


OCCLUDERS: dict[str, Occluder] = {
    "random": Ordered(random),
    "complement": Complement(Ordered(random)),
    "salient": Ordered(salient_first),
    "non_salient": Ordered(salient_last),
    "salient_mass": SaliencyMass(salient=True),
    "non_salient_mass": SaliencyMass(salient=False),
    "block": Ordered(block),
    "centre": Ordered(centre_first),
    "border": Ordered(border_first),
    "checkerboard": Ordered(checkerboard),
    "mae": Ordered(random, mae),
    "simmim": Ordered(random, at_least, unit=2),
    "beit": BlockWise(),
}
"""Occluders by name. ``simmim`` hides squares of 2 x 2 cells: 32 px on cells of 16 px. Superpixels
are not an occluder but players (:func:`~interactions.segments.superpixels`)."""


def patch_shuffle(
    images_BCHW: Tensor,
    grid: PatchGrid,
    images: Sequence[Key],
    *,
    seed: int = 0,
    repeat: int = 0,
    share: int = 1,
) -> Tensor:
    """Images whose cells have changed places. Nothing is lost, only where it was.

    Args:
        images_BCHW: the images.
        grid: the cells; IPViT has 2 x 2 to 16 x 16.
        images: one name for each image, the key of its permutation.
        seed: the seed of the experiment.
        repeat: which of several independent permutations.
        share: how many consecutive images share a permutation: a whole batch in IPViT.

    Raises:
        ValueError: if names are not as many as images, or the grid does not divide them.
    """
    if len(images) != len(images_BCHW):
        raise ValueError(f"expected {len(images_BCHW)} names, got {len(images)}")
    permutations = [
        permutation(grid.n, "patch shuffle", seed, image, repeat) for image in images[::share]
    ]
    from_BN = torch.from_numpy(np.stack(permutations)).repeat_interleave(share, dim=0)
    from_BN = from_BN[: len(images)].to(images_BCHW.device)
    cells_BNCpq = grid.cut(images_BCHW)
    return grid.join(cells_BNCpq[torch.arange(len(images))[:, None], from_BN])


def in_corner(
    images_BCHW: Tensor, corner: Corner, edge: int = 128, fill: fills.Fill = fills.zero
) -> Tensor:
    """The whole image, made smaller, in one corner of a canvas of the old size (IPViT: context).

    Args:
        images_BCHW: images ready for the network.
        corner: where.
        edge: height and width of the small image in pixels; 128 of 224 as published.
        fill: what the canvas is; black as published.

    Returns:
        ``(B, C, H, W)``. The image is resized bilinearly, with anti-aliasing; the published filter
        is not known to us.

    Raises:
        ValueError: for an unknown corner, or an edge that is not shorter than the image's.
    """
    H, W = images_BCHW.shape[-2:]
    if corner not in get_args(Corner):
        raise ValueError(f"expected a corner of {', '.join(get_args(Corner))}, got {corner!r}")
    if not 0 < edge < min(H, W):
        raise ValueError(f"expected an edge of 1 to {min(H, W) - 1} pixels, got {edge}")
    small = functional.interpolate(
        images_BCHW, (edge, edge), mode="bilinear", align_corners=False, antialias=True
    )
    canvas = fill(images_BCHW).expand_as(images_BCHW).clone()
    rows = slice(edge) if corner.startswith("top") else slice(H - edge, H)
    columns = slice(edge) if corner.endswith("left") else slice(W - edge, W)
    canvas[..., rows, columns] = small
    return canvas


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise a ValueError unless there are fractions and all lie between 0 and 1."""
    if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError(f"expected hidden fractions between 0 and 1, got {tuple(fractions)}")


def _sorted_by(first: ArrayLike, then_IN: Tensor) -> Tensor:
    """Positions ``(I, N)`` of players sorted by ``first`` (N,) or (I, N), equals by ``then_IN``."""
    then = then_IN.numpy()
    order_IN = np.lexsort((then, np.broadcast_to(first, then.shape)), axis=1)
    return torch.from_numpy(order_IN.argsort(axis=1, kind="stable"))


def _places(grid: PatchGrid) -> NDArray[np.int64]:
    """Row and column of each cell, ``(2, N)``."""
    return np.indices((grid.rows, grid.cols)).reshape(2, -1)


def _rings(grid: PatchGrid) -> NDArray[np.int64]:
    """How far each cell is from the centre, in rings: whole numbers, equal all around a ring."""
    row_N, column_N = _places(grid)
    return np.maximum(
        abs(2 * row_N + 1 - grid.rows) * grid.cols, abs(2 * column_N + 1 - grid.cols) * grid.rows
    )


def _units(grid: PatchGrid, unit: int) -> PatchGrid:
    """The coarser grid whose cells are squares of ``unit x unit`` cells."""
    if grid.rows % unit or grid.cols % unit:
        raise ValueError(
            f"expected a grid of units of {unit} x {unit} cells, got {grid.rows} x {grid.cols} "
            "cells; choose another grid or unit"
        )
    return PatchGrid(grid.rows // unit, grid.cols // unit)


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) from random words, with 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _uniforms(*key: Key) -> Iterator[float]:
    """Uniform numbers in [0, 1), as many as are asked for."""
    for part in naturals():
        yield from uniform(raw_words(64, *key, part)).tolist()
