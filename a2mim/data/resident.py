"""Small sets of images in one tensor on the device, where whole batches are cropped at once.

    draws    u(seed, epoch, image, attempt)           counters, hashed (``sampler.keyed_uniforms``)
    crop     the boxes of ``augment.crop_box``
    resize   out[y, x] = sum over k, l of w[y, k] w[x, l] in[top + p[y, k], left + q[x, l]]

with w the antialiased bilinear (or bicubic) weights of ``torch.nn.functional.interpolate``, and
rounding to uint8 at the end. Boxes are drawn on the CPU, by a few operations for a whole batch; all
the rest is done where the images are, in floating-point operations that are rounded one by one. So
an image does not depend on the batch it is in, on workers or processes, and is the same on a CPU
and on a GPU.

Shapes: I images, B in a batch, C channels, H x W pixels, S x S pixels of a crop, T weights of one
of its pixels along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from a2mim.data.augment import CROP_ATTEMPTS, CropAndFlip, central_box
from a2mim.data.sampler import keyed_seed, keyed_uniforms
from a2mim.data.samples import FolderSamples

MIB = 1 << 20
THREADS = 8
FLIP = 4 * CROP_ATTEMPTS
"""Number of the draw that decides the flip; those of the attempts come before it."""

ATTEMPTS = (np.arange(3), np.arange(3, CROP_ATTEMPTS))
"""Attempts that are drawn together: few images need more than the first ones."""

RADIUS = {"bilinear": 1, "bicubic": 2}


class Readable(Protocol):
    """Images that can be read as they are, before anything is drawn."""

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def pixels(self, index: int, epoch: int) -> Tensor:
        """One image, uint8 ``(C, H, W)``; or another one in the place of an unreadable one."""
        ...


class TensorSamples:
    """Images that are made already: nothing is drawn.

    Args:
        images_ICHW: float32, as the network wants them, on any device.
    """

    def __init__(self, images_ICHW: Tensor) -> None:
        self._images_ICHW = images_ICHW

    def __len__(self) -> int:
        return len(self._images_ICHW)

    def load(self, index: int, epoch: int) -> Tensor:
        """One image, the same in every epoch."""
        return self._images_ICHW[index]

    def batch(self, indices: Sequence[int], epochs: Sequence[int], device: torch.device) -> Tensor:
        """Some images, on a device."""
        if self._images_ICHW.device != device:
            self._images_ICHW = self._images_ICHW.to(device)
        chosen_B = torch.tensor(indices).to(device, non_blocking=True)
        return self._images_ICHW.index_select(0, chosen_B)


def resident(
    samples: Readable, augment: CropAndFlip, seed: int, limit: float = math.inf
) -> ResidentSamples | None:
    """Read all images of a set that is small enough; None if it is not.

    Args:
        samples: where they are read from, once. Names, classes, contents and unreadable images are
            what these say; an image in the place of an unreadable one is that of its epoch 0.
        augment: what is done with them.
        seed: names the draws.
        limit: bytes that they may need, filled up to the size of the largest one.

    Raises:
        DataError: if too many are unreadable.
        ValueError: for images of different numbers of channels.
    """
    held = _read(samples, limit)
    return None if held is None else ResidentSamples(samples, augment, seed, *held)


class ResidentSamples:
    """Images held as uint8, cropped and flipped by whole batches; made by :func:`resident`.

    Args:
        samples: what they were read from.
        augment: what is done with them.
        seed: names the draws.
        pixels_IWHC: uint8, columns first, filled up to one size.
        sizes_I2: their own heights and widths.
    """

    labels_I: Tensor | None = None

    def __init__(
        self,
        samples: Readable,
        augment: CropAndFlip,
        seed: int,
        pixels_IWHC: Tensor,
        sizes_I2: NDArray[np.int64],
    ) -> None:
        self._samples = samples
        self._augment = augment
        self._seed = keyed_seed("augment", seed)
        for name in ("names", "labels_I", "damage"):
            if hasattr(samples, name):
                setattr(self, name, getattr(samples, name))
        self._pixels_IWHC, self._sizes_I2 = pixels_IWHC, sizes_I2
        self._on: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self._sizes_I2)

    def contents(self, indices: Sequence[int] | None = None) -> str:
        """A hash of all images, or of some."""
        contents: str = cast(Any, self._samples).contents(indices)
        return contents

    def load(self, index: int, epoch: int) -> Tensor:
        """One image ``(C, S, S)``.

        Raises:
            IndexError: if there is no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"expected an image index below {len(self)}, got {index}")
        return self.batch([index], [epoch], torch.device("cpu"))[0]

    def batch(self, indices: Sequence[int], epochs: Sequence[int], device: torch.device) -> Tensor:
        """Images ``(B, C, S, S)`` on a device."""
        indices_B, epochs_B = np.asarray(indices), np.asarray(epochs)
        height_B, width_B = self._sizes_I2[indices_B].T
        augment = self._augment

        def draws(rows: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
            keys = (epochs_B[rows, None], indices_B[rows, None], numbers)
            return keyed_uniforms(self._seed, *keys)

        boxes_B4 = crop_boxes(height_B, width_B, augment.scale, augment.ratio, draws)
        flip_B = draws(np.arange(len(indices_B)), np.array([FLIP]))[:, 0] < augment.flip
        table = np.column_stack([indices_B, boxes_B4, flip_B]).astype(np.int64)
        stretch = max(boxes_B4[:, 2:].max() / augment.size, 1.0)
        rows_B6 = torch.from_numpy(table).to(device, non_blocking=True)
        pixels_BCSS = crops(
            self._held_on(device), rows_B6, augment.size, augment.interpolation, stretch
        )
        return augment.normalised(pixels_BCSS)

    def _held_on(self, device: torch.device) -> Tensor:
        if device not in self._on:
            self._on[device] = self._pixels_IWHC.to(device)
        return self._on[device]


def crop_boxes(
    height_B: NDArray[np.int64],
    width_B: NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]],
) -> NDArray[np.int64]:
    """Top, left, height and width of a random crop of every image, ``(B, 4)``.

    The law of ``augment.crop_box``; draws of attempts that an image does not need are not made.

    Args:
        height_B: of the images in pixels.
        width_B: of the images in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        draws: images, and the numbers of the draws -> uniform in [0, 1), ``(images, numbers)``.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    boxes_B4 = np.empty((len(height_B), 4), np.int64)
    left_L = np.arange(len(height_B))
    for attempts_A in ATTEMPTS:
        numbers = (4 * attempts_A[:, None] + np.arange(4)).ravel()
        area, aspect, top, left = (
            draws(left_L, numbers).reshape(len(left_L), len(attempts_A), 4).transpose(2, 0, 1)
        )
        height_L1, width_L1 = height_B[left_L, None], width_B[left_L, None]
        area_LA = height_L1 * width_L1 * (scale[0] + (scale[1] - scale[0]) * area)
        aspect_LA = np.exp(low + (high - low) * aspect)
        w_LA = np.rint(np.sqrt(area_LA * aspect_LA))
        h_LA = np.rint(np.sqrt(area_LA / aspect_LA))
        fits_LA = (w_LA > 0) & (w_LA <= width_L1) & (h_LA > 0) & (h_LA <= height_L1)
        rows_L, first_L = np.arange(len(left_L)), fits_LA.argmax(axis=1)
        boxes_LA4 = np.stack(
            [top * (height_L1 - h_LA + 1), left * (width_L1 - w_LA + 1), h_LA, w_LA], axis=-1
        )
        found_L = fits_LA[rows_L, first_L]
        boxes_B4[left_L[found_L]] = boxes_LA4[rows_L, first_L][found_L]
        left_L = left_L[~found_L]
    for k in left_L:
        boxes_B4[k] = central_box(int(height_B[k]), int(width_B[k]), ratio)
    return boxes_B4


def crops(
    pixels_IWHC: Tensor, rows_B6: Tensor, size: int, interpolation: str, stretch: float
) -> Tensor:
    """Parts of images, resized to a square, uint8 ``(B, C, S, S)``.

    Args:
        pixels_IWHC: uint8, on the device.
        rows_B6: int64, on the device: image, top, left, height, width, and whether it is flipped.
        size: S.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        stretch: the largest edge of a crop divided by S, at least 1.
    """
    image_B, top_B, left_B, height_B, width_B, flip_B = rows_B6.T
    I, W, H, C = pixels_IWHC.shape
    taps = math.ceil(2 * RADIUS[interpolation] * stretch)
    x_TBS, across_TBS = _weights(left_B, width_B, size, interpolation, taps, flip_B)
    y_TBS, down_TBS = _weights(top_B, height_B, size, interpolation, taps)
    columns = _mixed(pixels_IWHC.view(I * W, H * C), image_B[:, None] * W + x_TBS, across_TBS)
    turned = columns.view(len(image_B), size, H, C).transpose(1, 2).reshape(-1, size * C)
    place_B1 = torch.arange(len(image_B), device=rows_B6.device)[:, None] * H
    mixed = _mixed(turned, place_B1 + y_TBS, down_TBS)
    levels = mixed.add_(0.5).clamp_(0, 255).view(-1, size, size, C).permute(0, 3, 1, 2)
    return levels.to(torch.uint8, memory_format=torch.contiguous_format)


def _mixed(lines: Tensor, places_TBS: Tensor, weights_TBS: Tensor) -> Tensor:
    """Sums of T lines each, by their weights, ``(B S, length of a line)``."""
    total: Tensor | None = None
    for place_BS, weight_BS in zip(places_TBS, weights_TBS, strict=True):
        # Products and sums one by one: fused, they would be rounded otherwise on a GPU.
        part = lines.index_select(0, place_BS.flatten()).float().mul_(weight_BS.reshape(-1, 1))
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _weights(
    first_B: Tensor,
    length_B: Tensor,
    size: int,
    interpolation: str,
    taps: int,
    flip_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Which pixels of one axis make up those of a crop, and with which weights, ``(T, B, S)``."""
    to_BS = torch.arange(size, device=first_B.device).expand(len(first_B), size)
    if flip_B is not None:
        to_BS = torch.where(flip_B[:, None] > 0, size - 1 - to_BS, to_BS)
    length_B1 = length_B[:, None]
    stretch_B1 = (length_B1 / size).double().clamp(min=1)
    centre_BS = (to_BS + 0.5).double() * length_B1 / size
    reach_B1 = stretch_B1 * RADIUS[interpolation]
    low_BS = (centre_BS - reach_B1 + 0.5).clamp(min=0).long()
    high_BS = torch.minimum((centre_BS + reach_B1 + 0.5).long(), length_B1)
    place_TBS = low_BS + torch.arange(taps, device=first_B.device)[:, None, None]
    distance_TBS = ((place_TBS - centre_BS + 0.5) / stretch_B1).abs()
    weight_TBS = _filter(distance_TBS, interpolation) * (place_TBS < high_BS)
    weight_TBS /= weight_TBS.sum(dim=0)
    within_TBS = torch.minimum(place_TBS, length_B1 - 1)
    return first_B[:, None] + within_TBS, weight_TBS.float()


def _filter(x: Tensor, interpolation: str) -> Tensor:
    """The triangle, or Keys' cubic with a = -1/2, as Pillow and torch have them."""
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _read(samples: Readable, limit: float) -> tuple[Tensor, NDArray[np.int64]] | None:
    """All images and their sizes as :class:`ResidentSamples` has them; None if they are too large.

    That is known as soon as one is seen of which there is no room for as many.
    """
    count = len(samples)
    sizes_I2 = np.empty((count, 2), np.int64)
    pixels: Tensor | None = None
    for k, image_CHW in enumerate(_images(samples)):
        channels, height, width = image_CHW.shape
        sizes_I2[k] = height, width
        before = (0, 0, 0, channels) if pixels is None else pixels.shape
        if channels != before[3]:
            raise ValueError(f"expected images of {before[3]} channels, got one of {channels}")
        wide, high = max(before[1], width), max(before[2], height)
        if pixels is None or (wide, high) != before[1:3]:
            if count * wide * high * channels > limit:
                return None
            larger = torch.zeros(count, wide, high, channels, dtype=torch.uint8)
            if pixels is not None:
                larger[:k, : before[1], : before[2]] = pixels[:k]
            pixels = larger
        pixels[k, :width, :height] = image_CHW.permute(2, 1, 0)
    assert pixels is not None
    return pixels, sizes_I2


def _images(samples: Readable) -> Iterator[Tensor]:
    """All images in order; files by several threads, a few ahead."""
    if not isinstance(samples, FolderSamples):
        yield from (samples.pixels(index, 0) for index in range(len(samples)))
        return
    ahead = 64 * THREADS
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(samples), ahead):
            part = range(start, min(start + ahead, len(samples)))
            yield from pool.map(lambda index: samples.pixels(index, 0), part)
