"""What people have becomes what games and measures take: pictures, labels, coalitions, outputs.

This is the border: everything that comes in is turned into the one form that the code behind
trusts, or refused with what was expected and what came.

    float tensors and arrays (C, H, W)        are ready for the network and taken as they are, if
                                              their values can be (:func:`checked`)
    uint8 arrays (H, W, C) or (H, W),         are pictures: they go through the network's own
    PIL images, paths of files                preparation (size, crop, normalisation) if it is a
                                              timm model, or through a ``transform`` that is given
    a list or a batch of them, a DataLoader   is a batch

Nothing is guessed: for a network that does not say how it sees pictures a transform is asked for.

Shapes: B images, C channels or classes, H x W pixels, K coalitions, N players.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from interactions import fills

if TYPE_CHECKING:
    from PIL.Image import Image

Colours = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of a normalisation, per channel, of pixels in [0, 1]."""

Transform = Callable[[Any], Tensor]
"""From a PIL image to a tensor ``(C, H, W)`` that is ready for the network."""

WHITEST = 32
"""Above what networks take for white; below what nearly all pictures of 8 bits hold."""

AT_ONCE = 64
"""Pictures that are read at once."""


def prepare(images: Any, model: object = None, transform: Transform | None = None) -> Tensor:
    """Images of any kind as a batch that is ready for a network.

    Args:
        images: an image or several: a tensor, a numpy array, a PIL image, a path, a list, or a
            ``DataLoader``, all of whose batches are read (its labels are left out).
        model: the network; pictures are prepared as a timm model says.
        transform: prepares pictures instead, such as torchvision's ``weights.transforms()``.

    Returns:
        Floats ``(B, C, H, W)``; tensors that are ready are returned as they are.

    Raises:
        TypeError: for what is no image.
        ValueError: for images of a wrong shape or of several sizes, for pictures if nothing
            says how they are prepared, or as :func:`checked`.
        OSError: for a file that cannot be read.
    """
    if isinstance(images, DataLoader):
        return torch.cat([_batch(batch, model, transform) for batch in images])
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        if isinstance(images, Tensor) and images.is_floating_point():
            return checked(images, model)
        images = list(images)
    if not isinstance(images, list | tuple):
        images = [images]
    if not len(images):
        raise ValueError("expected at least one image, got none")
    ready = [_one(image, model, transform) for image in images]
    sizes = sorted({tuple(image_CHW.shape) for image_CHW in ready})
    if len(sizes) > 1:
        raise ValueError(f"expected images of one size, got {sizes[0]} and {sizes[1]}")
    return checked(torch.stack(ready), model)


def checked(images_BCHW: Tensor, model: object = None) -> Tensor:
    """Images that are ready for a network, if their values can be.

    Of a network that says its normalisation they can be what it makes of pixels, give or take
    sixteen times that range for noise and attacks, or four times if none is negative, for floats
    in [0, 255] are a common mistake.

    Raises:
        ValueError: if they cannot.
    """
    if not images_BCHW.numel():
        return images_BCHW
    low, high = (float(end) for end in torch.aminmax(images_BCHW.detach()))
    if (colours := colours_of(model)) is None:
        if low >= 0 and WHITEST < high <= 255:
            warnings.warn(
                f"images hold {low:.3g} to {high:.3g}, as pixels of 8 bits do; they go into "
                f"{type(model).__name__} as they are, for it does not say its normalisation",
                stacklevel=3,
            )
        return images_BCHW
    ends = [(end - m) / s for end in (0, 1) for m, s in zip(*colours, strict=True)]
    least, most = min(ends), max(ends)
    room = (4 if low >= 0 else 16) * (most - least)
    if low < least - room or high > most + room:
        looks = ", which looks like pixels of 8 bits" if low >= 0 and high <= 255 else ""
        raise ValueError(
            f"expected floats that are ready for the network, whose normalisation makes "
            f"{least:.3g} to {most:.3g} of pixels, got {low:.3g} to {high:.3g}{looks}; give "
            "pictures as uint8, or normalise them"
        )
    return images_BCHW


def one_image(image: Any, model: object = None, transform: Transform | None = None) -> Tensor:
    """:func:`prepare` for a single image, ``(C, H, W)``.

    Raises:
        ValueError: for several images, or as :func:`prepare`.
    """
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3:
        return checked(image, model)
    images_BCHW = prepare(image, model, transform)
    if len(images_BCHW) != 1:
        raise ValueError(f"expected one image, got {len(images_BCHW)}")
    return images_BCHW[0]


def _one(image: Any, model: object, transform: Transform | None) -> Tensor:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        image = torch.from_numpy(np.ascontiguousarray(image))
        image = image.float() if image.dtype == torch.float64 else image
    if isinstance(image, Tensor) and image.is_floating_point():
        if image.ndim == 4 and len(image) == 1:
            image = image[0]
        if image.ndim != 3:
            raise ValueError(f"expected an image (C, H, W), got {tuple(image.shape)}")
        if image.shape[2] in (1, 3, 4) and image.shape[0] not in (1, 3, 4):
            raise ValueError(
                f"expected floats (C, H, W) that are ready for the network, got "
                f"{tuple(image.shape)}, which looks like (H, W, C); give pixels as uint8, or "
                "permute them and normalise them as the network wants"
            )
        return image
    picture = picture_of(image)
    if transform is None:
        transform = transform_of(model)
    ready = transform(picture)
    if not isinstance(ready, Tensor) or ready.ndim != 3 or not ready.is_floating_point():
        got = tuple(ready.shape) if isinstance(ready, Tensor) else type(ready).__name__
        raise ValueError(f"expected a transform that gives floats (C, H, W), got {got}")
    return ready


def names_of(names: Any, images: Any, count: int) -> tuple[str, ...]:
    """Distinct names of images: as given, those of their files, or ``"0"``, ``"1"``, ...

    Raises:
        ValueError: for names that are not distinct or not as many as images.
    """
    if names is None:
        names = range(count)
        if is_path(images):
            images = [images]
        if isinstance(images, list | tuple) and all(map(is_path, images)):
            names = [os.path.basename(path) for path in images]
            if len(set(names)) < len(names):
                names = [os.fspath(path) for path in images]
    names = tuple(map(str, names))
    if not len(names) == len(set(names)) == count:
        raise ValueError(
            f"expected {count} distinct image names, by which random draws are keyed, "
            f"got {len(set(names))} of {len(names)}"
        )
    return names


def is_path(image: object) -> bool:
    """Whether it is the path of a file."""
    return isinstance(image, str | os.PathLike)


def batches_of(images: Any, model: object = None) -> tuple[Iterable[Tensor], int | None]:
    """Batches ``(B, C, H, W)`` that are ready for a network, and how many images, if it is known.

    Args:
        images: batches, such as of a ``DataLoader`` (of which labels are left out), or whatever
            :func:`prepare` takes; pictures are read when they are needed.
        model: as for :func:`prepare`.

    Raises:
        ValueError: as :func:`prepare`.
    """
    if isinstance(images, Tensor | np.ndarray) or is_path(images):
        images_BCHW = prepare(images, model)
        return [images_BCHW], len(images_BCHW)
    if isinstance(images, list | tuple):
        if not images:
            return images, 0
        first = images[0]
        if not (isinstance(first, Tensor) and first.ndim == 4) and not isinstance(first, tuple):
            starts = range(0, len(images), AT_ONCE)
            return (prepare(images[k : k + AT_ONCE], model) for k in starts), len(images)
        if isinstance(first, Tensor):
            return [checked(batch, model) for batch in images], None
    return (_batch(batch, model) for batch in images), _count_of(images)


def _batch(batch: Any, model: object, transform: Transform | None = None) -> Tensor:
    """The images of a batch, perhaps with labels; a tensor is one, whatever its shape."""
    images = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
    if isinstance(images, Tensor) and images.is_floating_point():
        return checked(images, model)
    return prepare(images, model, transform)


def _count_of(loader: Any) -> int | None:
    """How many images a ``DataLoader`` gives, if it knows."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return None
    if not isinstance(loader.sampler, Sized):
        return None
    count = len(loader.sampler)
    return count - count % loader.batch_size if loader.drop_last else count


def picture_of(image: Any) -> Image:
    """A picture as PIL image in RGB: from uint8 pixels, another PIL image, or a file.

    Raises:
        TypeError: for what is none.
        ValueError: for pixels of another shape.
        OSError: for a file that cannot be read.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if isinstance(image, str | os.PathLike):
        if "\0" in os.fspath(image):
            raise ValueError(f"expected the path of a picture, got a zero byte in {image!r}")
        with pil.open(image) as opened:
            return _rgb(ImageOps.exif_transpose(opened))
    if isinstance(image, pil.Image):
        return _rgb(image)
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(
            "expected an image as tensor, numpy array, PIL image or path, got "
            f"{type(image).__name__}"
        )
    if image.dtype != np.uint8:
        raise TypeError(f"expected pixels as uint8, or floats (C, H, W), got {image.dtype}")
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4) and image.shape[0] in (1, 3, 4):
        image = image.transpose(1, 2, 0)  # (C, H, W), as torchvision reads files
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(f"expected pixels (H, W, 3) or (H, W), got {image.shape}")
    return _rgb(pil.fromarray(np.ascontiguousarray(image)))


def _rgb(image: Image) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(
            f"expected 8 bits per channel, got mode {image.mode}: which number is white? Convert it"
        )
    return image.convert("RGB")


def transform_of(model: object) -> Transform:
    """How a timm model prepares pictures.

    Raises:
        ValueError: for a network that does not say it.
    """
    if not getattr(model, "pretrained_cfg", None):
        raise ValueError(
            "expected a network that says how it prepares pictures (timm), got "
            f"{type(model).__name__}; give images as floats (C, H, W) that are ready for it, or "
            "prepare them with a transform, such as torchvision's weights.transforms(), by "
            "ix.prepare(images, transform=...)"
        )
    from timm.data import create_transform, resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:  # made for another size than the published weights
        config["input_size"] = (config["input_size"][0], int(size[0]), int(size[1]))
    return cast(Transform, create_transform(**config, is_training=False))


def colours_of(model: object) -> Colours | None:
    """Mean and standard deviation that a timm model takes out of pixels; None if it is another."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return (config["mean"], config["std"]) if {"mean", "std"} <= set(config) else None


def _own_colours(model: object) -> Colours:
    colours = colours_of(model)
    if colours is None:
        raise ValueError(
            "expected a network that says its normalisation (timm), got "
            f"{type(model).__name__}; give a colour (ix.fills.black, ix.fills.constant)"
        )
    return colours


def visible_picture(image_CHW: Tensor, colours: Colours | None = None) -> NDArray[np.float32]:
    """An image that is ready for a network, for the eye: ``(H, W, 3)`` in [0, 1].

    Args:
        image_CHW: the image.
        colours: what its normalisation took out; if that is not known, values are stretched to
            [0, 1], unless they lie there.
    """
    image_CHW = image_CHW.detach().cpu().float()
    if colours is not None and len(colours[0]) == len(image_CHW):
        mean, std = (torch.tensor(x)[:, None, None] for x in colours)
        image_CHW = image_CHW * std + mean
    elif image_CHW.amin() < 0 or image_CHW.amax() > 1:
        low, high = image_CHW.amin(), image_CHW.amax()
        image_CHW = (image_CHW - low) / (high - low).clamp(min=1e-12)
    if len(image_CHW) not in (1, 3):
        image_CHW = image_CHW.mean(dim=0, keepdim=True)
    return image_CHW.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


FILLS: dict[str, Callable[[object], fills.Fill]] = {
    "zero": lambda model: fills.zero,
    "image_mean": lambda model: fills.image_mean,
    "blur": lambda model: fills.blur(),
    "black": lambda model: fills.black(*_own_colours(model)),
    "white": lambda model: fills.white(*_own_colours(model)),
}
"""Fills by name, from the network whose normalisation they may need."""


def fill_of(fill: Any, model: object) -> Any:
    """A fill, also by its name.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(fill, str):
        if fill not in FILLS:
            raise ValueError(f"expected a fill of {', '.join(FILLS)}, got {fill!r}")
        return FILLS[fill](model)
    return fill


def label_of(label: Any) -> int:
    """One class index, from a Python or numpy integer or an array of one.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(label, Tensor | np.ndarray) and np.prod(label.shape) == 1:
        label = label.item()
    if isinstance(label, bool | np.bool_) or not isinstance(label, Integral):
        raise TypeError(f"expected a class as an integer, got {label!r}")
    return int(label)


def labels_of(labels: Any) -> Tensor:
    """Class indices int64 ``(B,)``, from a tensor, an array, a column of a table, or a list.

    Raises:
        TypeError: for anything but integers.
    """
    if isinstance(labels, Tensor):
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"expected classes as integers, got {labels.dtype}")
        return labels.long()
    return torch.tensor([label_of(label) for label in labels], dtype=torch.int64)


def coalitions_of(coalitions: Any, n: int) -> Tensor:
    """Coalitions as bool ``(K, n)``, from a tensor, an array, or a list of them.

    Raises:
        TypeError: for anything but booleans.
        ValueError: for another shape.
    """
    if not isinstance(coalitions, Tensor):
        coalitions = torch.from_numpy(np.asarray(coalitions))
    if coalitions.dtype != torch.bool:
        raise TypeError(f"expected coalitions as bool (True = visible), got {coalitions.dtype}")
    if coalitions.ndim != 2 or coalitions.shape[1] != n:
        raise ValueError(f"expected coalitions (K, {n}), got {tuple(coalitions.shape)}")
    return coalitions


def logits_of(outputs: Any) -> Any:
    """The logits among a model's outputs: themselves, ``outputs["logits"]`` or ``outputs.logits``.

    What holds none of these is returned as it is, for the one who reads it to refuse.
    """
    if isinstance(outputs, Mapping):
        return outputs.get("logits", outputs)
    return outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", outputs)
