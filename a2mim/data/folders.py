"""Image files: which of a folder's files are images, and how one becomes RGB of 8 bits.

Every command finds images by :func:`image_names` and opens them by :func:`read_image`, so that no
two of them see other images, or other pixels.

Shapes: H x W pixels.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from a2mim.files import WORK_MARK
from a2mim.messages import in_a_line

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

WHITE_IS_ZERO = 0
SIGNED = 2
PHOTOMETRIC, SAMPLE_FORMAT, BITS = 262, 339, 258
"""Tags of TIFF, and what two of them say."""


class DataError(Exception):
    """Data that cannot be used; the message says what was expected, what came and what to do."""


def image_names(folder: Path) -> list[str]:
    """The images of a folder, searched in depth: paths relative to it, with slashes, sorted.

    An image is a file with a suffix in :data:`IMAGE_SUFFIXES`, in lower or upper case. Links are
    followed, but not in circles; what is hidden (:func:`is_hidden`) is not looked at, nor are
    folders of runs (:func:`is_results`) below the folder: figures are no photographs.

    Raises:
        DataError: if there is no such folder, or one in it cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder of images, found none at {folder}")
    try:
        return sorted(_walk(str(folder), "", frozenset()))
    except OSError as error:
        raise DataError(f"expected a folder of images, cannot read it: {error}") from error


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as found:
        entries = list(found)
    if prefix and is_results({entry.name for entry in entries}):
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here})
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield prefix + entry.name


def is_results(names: Set[str]) -> bool:
    """Whether a folder with files of these names is one that a run made, or works in."""
    return WORK_MARK in names or {"config.json", "rows.csv"} <= names


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: ``.cache``, ``._photo.jpg``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def read_image(source: Path | bytes, name: str = "") -> Image:
    """One image file in RGB, 8 bits per channel; see :func:`to_rgb`.

    By Pillow: torchvision's own decoders are deprecated and as fast. No draft mode: pixels are
    those of the full decoding. The orientation in EXIF is not applied, as in torchvision and timm.
    Of several frames it is the first.

    Args:
        source: the file, or its bytes.
        name: what messages call it, if not by its path.

    Raises:
        DataError: if it cannot be read, or not without guessing its scale.
    """
    from PIL import Image

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow remarks on files that it can read
            with Image.open(file) as image:
                return _rgb(image)
    except Exception as error:  # damaged files make Pillow raise nearly anything
        told = _told(error).replace(f" {file!r}", "")  # a place in memory says nothing
        if isinstance(source, bytes):
            told = f"{len(source)} bytes, {told}"
        else:
            name = name or str(source)
        raise DataError(f"expected an image, cannot read {name}: {told}") from error


def to_rgb(image: Image, name: str) -> Image:
    """An opened image in RGB, 8 bits per channel.

    ==============================  ================================================================
    8 bits or less, palettes, CMYK  as Pillow converts them, like torchvision and timm
    transparency                    left out: a pixel has its colour however transparent it is, as
                                    in torchvision and timm
    16 bits of grey                 the upper 8 bits (v // 256), which is what Pillow makes of 16
                                    bits of colour; of 12 bits v // 16
    floats in [0, 1]                round(255 v)
    other floats, 32 bits, signed,  refused: nothing says which number is white
    16 bits counted from white
    ==============================  ================================================================

    Pillow itself clips: to it, 16 bits of grey are white above 255.

    Args:
        image: as Pillow opened it.
        name: what messages call it.

    Raises:
        DataError: if it is refused, or its file turns out to be damaged.
    """
    try:
        return _rgb(image)
    except Exception as error:
        raise DataError(f"expected an image, cannot read {name}: {_told(error)}") from error


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, DataError) else in_a_line(error)


def _rgb(image: Image) -> Image:
    from PIL import Image

    deep = image.mode == "F" or image.mode.startswith("I")
    tags = getattr(image, "tag_v2", {})
    if SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
        raise DataError("expected numbers from 0 (black) on, got signed ones; convert it")
    if deep and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise DataError(f"expected 0 for black, got 0 for white in mode {image.mode}; convert it")
    if image.mode == "RGB":
        image.load()
        return image
    if not deep:
        return image.convert("RGB")
    values_HW = np.asarray(image)
    if image.mode == "F":
        low, high = values_HW.min(), values_HW.max()
        if not (low >= 0 and high <= 1):  # also where they are not numbers
            raise DataError(
                f"expected floats in [0, 1], got {low:g} to {high:g}: nothing says which is white; "
                "convert it"
            )
        levels_HW = np.round(values_HW * 255)
    elif image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        bits = int(np.max(tags.get(BITS, 16)))
        levels_HW = values_HW >> (bits - 8)
    else:
        raise DataError(
            f"expected at most 16 bits per channel, got 32 (mode {image.mode}): nothing says which "
            "number is white; convert it"
        )
    return Image.fromarray(levels_HW.astype(np.uint8)).convert("RGB")
