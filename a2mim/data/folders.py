"""Image files: which of a folder's files are images, and how one becomes pixels for a network.

Every command finds images by :func:`image_names` and opens them by :func:`read_pixels`, so that no
two of them see other images, or other pixels.

Shapes: C channels, H x W pixels.
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from a2mim.files import WORK_MARK
from a2mim.messages import in_a_line, printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

logger = logging.getLogger(__name__)
T = TypeVar("T")

IMAGE_SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    }
)
"""Those that this Pillow cannot read are among them: such an image is named, not passed over."""

ARRAY_SUFFIX = ".npy"
NOT_OURS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
"""Folders that unpacking, storage and file managers leave behind; in two of them lie pictures."""

WHITE_IS_ZERO = 0
SIGNED = 2
PHOTOMETRIC, SAMPLE_FORMAT, BITS = 262, 339, 258
"""Tags of TIFF, and what two of them say."""

ORIENTATION = 0x0112
"""Tag of EXIF: how the picture has to be turned or mirrored to stand upright, 1 to 8."""

MIRRORED_X, MIRRORED_Y = {2, 3, 6, 7}, {3, 4, 7, 8}
"""Orientations that begin at the stored image's far edge, from left to right or from the top."""

REDUCTIONS = (8, 4, 2)
"""By how much libjpeg can reduce an image while it decodes it."""

MOST_VALUES = 2**29
"""Numbers in an array, at most: as many as in the largest picture that Pillow reads."""


class DataError(Exception):
    """Data that cannot be used; the message says what was expected, what came and what to do."""


@dataclass(frozen=True)
class Part:
    """A part of an image, and how far it may be reduced.

    A JPEG is reduced while it is decoded, by 2, 4 or 8 in its blocks of cosines, which takes less
    time than all of its pixels. Edges of the part move by half a reduced pixel at most. Other
    files are never reduced.

    Attributes:
        box: height and width of the upright image in pixels -> top, left, height, width.
        least: its shorter edge has so many pixels, even if it is reduced; None: it is not.
    """

    box: Callable[[int, int], tuple[int, int, int, int]]
    least: int | None = None


@lru_cache(maxsize=10_000)
def remark(message: str) -> None:
    """Warn of something in the data, once: folders are read again for every network."""
    logger.warning("%s", message)


def image_names(folder: Path) -> list[str]:
    """The images of a folder, searched in depth: paths relative to it, with slashes, sorted.

    An image is a file with a suffix in :data:`IMAGE_SUFFIXES`, in lower or upper case; where there
    are none, arrays (``.npy``) are the images. Links are followed, but to each folder once, and not
    to one that holds this one; what is hidden (:func:`is_hidden`) is not looked at, nor are folders
    of runs (:func:`is_results`) below the folder: figures are no photographs.

    Raises:
        DataError: if there is no such folder, or one in it cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder of images, found none at {folder}")
    try:
        found = sorted(_walk(folder))
    except OSError as error:
        raise DataError(f"expected a folder of images, cannot read it: {error}") from error
    odd = [name for name in found if not _is_text(name)]
    if odd:
        remark(
            f"{folder}: images are left out whose names are no text in UTF-8 ({len(odd)}), such as "
            f"{printable(odd[0])}: no table can hold them; rename them"
        )
        found = [name for name in found if _is_text(name)]
    pictures = [name for name in found if not name.lower().endswith(ARRAY_SUFFIX)]
    return pictures or found


def _walk(folder: Path) -> Iterator[str]:
    """Files that may be images, in any order; see :func:`image_names`."""
    seen = {_identity(above) for above in folder.resolve().parents}
    waiting, links, passed = [(str(folder), "")], list[tuple[str, str]](), list[str]()
    while waiting or links:
        if not waiting:  # of two ways to a folder, the one without a link comes first
            links.sort(reverse=True)
            waiting.append(links.pop())
        path, prefix = waiting.pop()
        if (here := _identity(path)) in seen:
            passed.append(prefix)
            continue
        seen.add(here)
        with os.scandir(path) as found:
            entries = list(found)
        if prefix and is_results({entry.name for entry in entries}):
            continue
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                to = links if entry.is_symlink() else waiting
                to.append((entry.path, f"{prefix}{entry.name}/"))
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES | {ARRAY_SUFFIX} and (
                entry.is_file() or not os.path.exists(entry.path)  # a pipe would be waited for
            ):
                yield prefix + entry.name
    if passed:
        remark(
            f"{folder}: links to folders that are looked at anyway, or that this one lies in, are "
            f"left out ({len(passed)}): {printable(min(passed))}"
        )


def _identity(folder: str | Path) -> tuple[int, int]:
    """What all ways to a folder have in common."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_text(name: str) -> bool:
    """Whether a name can be written: bytes of others are halves of characters to Python."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_results(names: Set[str]) -> bool:
    """Whether a folder with files of these names is one that a run made, or works in."""
    return WORK_MARK in names or {"config.json", "rows.csv"} <= names


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: ``.cache``, ``._photo.jpg``, ``__MACOSX``."""
    return name.startswith(".") or name in NOT_OURS


def read_image(source: Path | bytes, name: str = "", part: Part | None = None) -> Image:
    """One image file in RGB, 8 bits per channel; see :func:`to_rgb`.

    By Pillow: torchvision's own decoders are deprecated. Pixels are those of the full decoding,
    unless a part is wanted that may be reduced. Of several frames it is the first. Arrays of one or
    three channels, and TIFF files of these that Pillow cannot read, are read as :func:`read_pixels`
    does.

    Args:
        source: the file, or its bytes.
        name: what messages call it, if not by its path.
        part: of the image that is wanted; None: all.

    Raises:
        DataError: if it cannot be read, or not without guessing its scale.
    """

    def of_array(array: NDArray[Any]) -> Image:
        image = _picture(_levels(_channels_last(array, 3)))
        return image if part is None else _cut(image, part)

    return _opened(source, name, _rgb if part is None else partial(_part, part), of_array)


def read_crop(data: bytes, part: Part, name: str = "") -> NDArray[np.uint8]:
    """The part of :func:`read_image` ``(H, W, 3)`` or ``(H, W, 4)``, in the least time.

    The fourth channel says nothing: it is how Pillow holds colours. With simplejpeg, which is
    libjpeg-turbo as well, a plain JPEG takes three quarters of Pillow's time, and its pixels are
    the same (tests/a2mim/data/test_folders.py).

    Args:
        data: bytes of the file.
        part: of the image.
        name: what messages call it.

    Raises:
        DataError: as :func:`read_image`.
    """

    def of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
        return _held(_cut(_picture(_levels(_channels_last(array, 3))), part))

    return _opened(data, name, partial(_crop, part, data), of_array)


def read_pixels(
    source: Path | bytes, channels: int = 3, name: str = "", part: Part | None = None
) -> Image | Tensor:
    """One image file for a network of so many channels.

    ==========  ====================================================================================
    3 channels  :func:`read_image`
    1 channel   the same as grey of 8 bits (ITU-R 601, as Pillow's ``L``)
    others      float32 ``(C, H, W)``: all channels of a ``.npy`` array or TIFF file ``(H, W, C)``
                or ``(C, H, W)``, or those of a picture with transparency for C of 2 or 4. Bytes
                are divided by 255, 16 bits by 65,535; floats stay what they are
    ==========  ====================================================================================

    Args:
        source: the file, or its bytes.
        channels: C.
        name: what messages call it, if not by its path.
        part: of the image that is wanted; None: all. Of 1 or 3 channels only.

    Raises:
        DataError: as :func:`read_image`, or if it has another number of channels.
    """
    if channels == 3:
        return read_image(source, name, part)
    if channels == 1:
        return read_image(source, name, part).convert("L")
    import torch

    assert part is None, "images of many channels are read as a whole"

    floats_HWC = _opened(
        source,
        name,
        lambda image: _floats(_bands(image, channels)),
        lambda array: _floats(_channels_last(array, channels)),
    )
    return torch.from_numpy(floats_HWC).permute(2, 0, 1).contiguous()


def check_readable(file: Path) -> None:
    """See whether a file is whole, for a network of whatever channels.

    Of a JPEG all is read and little computed: a third of the time of :func:`read_image`.

    Raises:
        DataError: if it is not.
    """
    _opened(file, "", _checked, lambda array: None)


def _checked(image: Image) -> None:
    if image.format == "JPEG":
        image.draft(image.mode, (1, 1))
        image.load()
    elif len(image.getbands()) == 3 or image.mode in ("F", "L", "P", "1") or image.mode[0] == "I":
        _rgb(image)
    else:
        image.load()


def _opened(
    source: Path | bytes,
    name: str,
    of_image: Callable[[Image], T],
    of_array: Callable[[NDArray[Any]], T],
) -> T:
    """What is made of a file, of whatever kind it is.

    Raises:
        DataError: if nothing can be made of it.
    """
    from PIL import Image, UnidentifiedImageError

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow remarks on files that it can read
            if (array := _npy(file)) is not None:
                return of_array(array)
            try:
                with Image.open(file) as image:
                    return of_image(image)
            except (UnidentifiedImageError, _OtherChannels):
                if (array := _tiff(file)) is None:
                    raise
                return of_array(array)
    except Exception as error:  # damaged files make Pillow raise nearly anything
        told = _told(error).replace(f" {file!r}", "")  # a place in memory says nothing
        if isinstance(source, bytes):
            told = f"{len(source)} bytes, {told}"
        else:
            name = name or str(source)
        raise DataError(f"expected an image, cannot read {printable(name)}: {told}") from error


def to_rgb(image: Image, name: str) -> Image:
    """An opened image in RGB, 8 bits per channel.

    An orientation in EXIF is applied: the picture stands upright, as in viewers (torchvision and
    timm leave it lying).

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rgb(image)
    except Exception as error:
        raise DataError(f"expected an image, cannot read {name}: {_told(error)}") from error


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, DataError) else printable(in_a_line(error))


def _rgb(image: Image) -> Image:
    from PIL import Image

    deep = image.mode == "F" or image.mode.startswith("I")
    tags = getattr(image, "tag_v2", {})
    if SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
        raise DataError("expected numbers from 0 (black) on, got signed ones; convert it")
    if deep and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise DataError(f"expected 0 for black, got 0 for white in mode {image.mode}; convert it")
    if not deep:
        image.load()
        return _upright(image if image.mode == "RGB" else image.convert("RGB"))
    values_HW: NDArray[Any] = np.asarray(image)
    levels_HW: NDArray[Any]
    if image.mode == "F":
        levels_HW = _levels(values_HW)
    elif image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        bits = int(np.max(tags.get(BITS, 16)))
        levels_HW = values_HW >> (bits - 8)
    else:
        raise DataError(
            f"expected at most 16 bits per channel, got 32 (mode {image.mode}): nothing says which "
            "number is white; convert it"
        )
    grey = Image.fromarray(levels_HW.astype(np.uint8))
    return _upright(_with_exif(grey, image).convert("RGB"))


def _crop(part: Part, data: bytes, image: Image) -> NDArray[np.uint8]:
    """A part of an opened image, in RGB or as Pillow holds that."""
    if image.format == "JPEG" and image.mode == "RGB" and _orientation(image) == 1:
        top, left, high, wide = part.box(image.height, image.width)
        if _reduction(part, high, wide) == 1 and (pixels_HWC := _simplejpeg(data)) is not None:
            return pixels_HWC[top : top + high, left : left + wide]
    return _held(_part(part, image))


def _simplejpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels of a JPEG; None without the package, or for what Pillow shall judge."""
    try:
        import simplejpeg

        return simplejpeg.decode_jpeg(data, "RGB")
    except (ImportError, ValueError):
        return None


def _held(picture: Image) -> NDArray[np.uint8]:
    """A picture in RGB as Pillow holds it, ``(H, W, 4)``: packing three channels takes time."""
    levels = np.frombuffer(picture.tobytes("raw", "RGBX"), np.uint8)
    return levels.reshape(picture.height, picture.width, 4)


def _reduction(part: Part, high: int, wide: int) -> int:
    """By how much a JPEG is reduced, of which a part has this height and width."""
    least = part.least or math.inf
    return next((n for n in REDUCTIONS if min(high, wide) >= n * least), 1)


def _part(part: Part, image: Image) -> Image:
    """A part of an opened image, in RGB; of a JPEG, reduced as far as it may be."""
    from PIL.JpegImagePlugin import JpegImageFile

    if not isinstance(image, JpegImageFile):
        return _cut(_rgb(image), part)
    stored, orientation = image.size, _orientation(image)
    width, height = stored if orientation < 5 else stored[::-1]
    top, left, high, wide = part.box(height, width)
    n = _reduction(part, high, wide)
    if n > 1:
        image.draft(None, (stored[0] // n, stored[1] // n))
    reduced = _rgb(image)
    # The last pixel of a reduced row stands for what is left of the row; mirrored, it is the first.
    x0 = reduced.width - width / n if orientation in MIRRORED_X else 0
    y0 = reduced.height - height / n if orientation in MIRRORED_Y else 0
    x1, y1 = x0 + (left + wide) / n, y0 + (top + high) / n
    return reduced.crop((round(x0 + left / n), round(y0 + top / n), round(x1), round(y1)))


def _cut(image: Image, part: Part) -> Image:
    top, left, height, width = part.box(image.height, image.width)
    return image.crop((left, top, left + width, top + height))


def _orientation(image: Image) -> int:
    """1 to 8; damaged EXIF says nothing, which is 1."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return found if found in range(1, 9) else 1


def _upright(image: Image) -> Image:
    """Turned and mirrored as its EXIF says."""
    from PIL import ImageOps

    if _orientation(image) == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _with_exif(image: Image, original: Image) -> Image:
    image.info = {key: value for key, value in original.info.items() if key == "exif"}
    return image


class _OtherChannels(DataError):
    """A picture that has not the channels of the network, for all that Pillow can tell."""


def _bands(image: Image, channels: int) -> NDArray[Any]:
    """Pixels ``(H, W, C)`` of a picture with transparency.

    Raises:
        DataError: for another.
    """
    bands = image.getbands()
    if len(bands) != channels or bands[-1] != "A":
        raise _OtherChannels(
            f"expected {channels} channels, got {len(bands)} ({image.mode}); give .npy arrays or "
            f"TIFF files of {channels} channels"
        )
    image.load()
    return np.asarray(_upright(image))


def _npy(file: Path | io.BytesIO) -> NDArray[Any] | None:
    """The array in a ``.npy`` file; None for another file."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            is_array = opened.read(6) == b"\x93NUMPY"
        if not is_array:
            return None
        return np.load(file, mmap_mode="r", allow_pickle=False)
    if file.getvalue()[:6] != b"\x93NUMPY":
        return None
    return np.load(file, allow_pickle=False)


def _tiff(file: Path | io.BytesIO) -> NDArray[Any] | None:
    """All channels of the first page of a TIFF file; None for another file.

    Raises:
        DataError: if the reader for these is missing.
    """
    data = file.read_bytes() if isinstance(file, Path) else file.getvalue()
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    try:
        import tifffile
    except ImportError as error:
        raise DataError(
            "Pillow cannot read this TIFF file, tifffile may: pip install 'a2mim[tiff]'"
        ) from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says is raised too
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        page: Any = opened.pages[0]
        if page.size > MOST_VALUES:
            raise DataError(f"expected at most {MOST_VALUES} numbers, got {page.size}")
        if page.photometric == WHITE_IS_ZERO:
            raise DataError("expected 0 for black, got 0 for white; convert it")
        array: NDArray[Any] = page.asarray()
    return array


def _channels_last(array: NDArray[Any], channels: int) -> NDArray[Any]:
    """An array as ``(H, W, C)``; for a network of colours, also one of grey.

    Raises:
        DataError: if it has other channels, or it cannot be told which axis they are.
    """
    if array.size > MOST_VALUES:
        raise DataError(f"expected at most {MOST_VALUES} numbers, got {array.size}")
    if array.ndim == 2:
        array = array[..., None]
    wanted = (1, 3) if channels == 3 else (channels,)
    shape = " x ".join(map(str, array.shape))
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"expected an array (H, W, C) or (C, H, W), got {shape}")
    last, first = array.shape[2] in wanted, array.shape[0] in wanted
    if last and first:
        raise DataError(f"expected to tell rows from channels, got an array of {shape}")
    if not (last or first):
        raise DataError(f"expected {' or '.join(map(str, wanted))} channels, got an array {shape}")
    return array if last else np.moveaxis(array, 0, 2)


def _levels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers of an array as 0 to 255, by the table of :func:`to_rgb`.

    Raises:
        DataError: if nothing says which number is white.
    """
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind != "f":
        raise DataError(
            f"expected bytes, 16 bits without a sign or floats in [0, 1], got {array.dtype}: "
            "nothing says which number is white; convert it"
        )
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also where they are not numbers
        raise DataError(
            f"expected floats in [0, 1], got {low:g} to {high:g}: nothing says which is white; "
            "convert it"
        )
    return np.round(array * 255).astype(np.uint8)


def _floats(array: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of an array of many channels; see :func:`read_pixels`.

    Raises:
        DataError: if they are not finite, or their scale is not known.
    """
    scale = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(array.dtype)
    if scale is None and array.dtype.kind != "f":
        raise DataError(f"expected bytes, 16 bits without a sign or floats, got {array.dtype}")
    floats = np.array(array, dtype=np.float32)
    if scale is not None:
        floats /= scale
        return floats
    if not np.isfinite(floats).all():
        raise DataError("expected finite numbers, got others")
    return floats


def _picture(levels_HWC: NDArray[np.uint8]) -> Image:
    from PIL import Image

    grey = levels_HWC.shape[2] == 1
    return Image.fromarray(levels_HWC[..., 0] if grey else levels_HWC).convert("RGB")
