"""What looks wrong about images, labels and networks, in a sentence each: nothing is refused.

Intervals hold for independent images, accuracies for images that were not trained on and for labels
of the network, and all numbers for networks that say the same of an image again.

Shapes: I images, B of a batch, C channels, H x W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from a2mim.checkpoints.load import LoadReport
from a2mim.data.contents import UNREADABLE
from a2mim.data.samples import FolderSamples
from a2mim.data.sources import Source, class_names
from a2mim.measure.networks import Subject
from a2mim.messages import UsageError
from interactions.networks.inference import arithmetic
from interactions.stats import share

LOOKED_AT = 4
"""Images that a network is tried on."""

ROUNDING = 1e-3
"""Of the largest output: more than batches and kernels change in float32, less than images do."""

FEWEST = 20
"""Images from which labels are doubted."""


def of_images(identities: Sequence[tuple[str, Any, str]]) -> list[str]:
    """Whether images are there more than once, by their contents.

    Args:
        identities: of :meth:`a2mim.data.sources.Source.identity`: name, class, hash.
    """
    first: dict[str, str] = {}
    pairs = []
    for name, _, contents in identities:
        if contents in first:
            pairs.append((first[contents], name))
        first.setdefault(contents, name)
    if not pairs:
        return []
    a, b = pairs[0]
    return [
        f"Only {len(first)} of {len(identities)} images differ ({a} and {b} are the same): copies "
        "count as independent images, so intervals are too narrow."
    ]


def of_texts(title: str, report: LoadReport, config: Any) -> list[str]:
    """:func:`of_class_names` of a network and the images of settings; none without texts.

    Args:
        title: what the network is called.
        report: on its weights.
        config: with ``images`` and ``data``.

    Raises:
        UsageError: as that.
    """
    texts = report.class_names
    if not texts:
        return []
    return of_class_names(title, texts, class_names(config.images, config.data, len(texts)))


def of_class_names(title: str, texts: Sequence[str], images: Sequence[str] | None) -> list[str]:
    """Whether the classes that a classifier was given by name are those of the images.

    Upper case, underscores and hyphens make no difference.

    Args:
        title: what the network is called.
        texts: names of its outputs; none for a classifier without.
        images: names of the images' classes, as many; None if only their numbers are known.

    Raises:
        UsageError: if a class of the images is another output: all accuracies would be wrong.
    """
    if not texts or images is None or len(texts) != len(images):
        return []
    outputs, classes = (
        [" ".join(re.split(r"[\s_-]+", name.strip().lower())) for name in names]
        for names in (texts, images)
    )
    place = {name: k for k, name in enumerate(outputs)}
    for k, name in enumerate(classes):
        if place.get(name, k) != k:
            raise UsageError(
                f"expected texts in the order of the images' classes, {images[k]!r} is class {k} "
                f"of the images and output {place[name]} of {title}; give texts in that order, or "
                "the order of the texts as classes.txt beside the images"
            )
    other = [k for k, name in enumerate(classes) if name not in place]
    if not other:
        return []
    k = other[0]
    return [
        f"{title}: {len(other)} of {len(images)} classes have other names than its outputs, such "
        f"as class {k}, {images[k]} ({texts[k]}): accuracies hold if these mean the same."
    ]


def of_training(train: object, test: object) -> list[str]:
    """Whether test images are among the training images, by the bytes of their files.

    Args:
        train: images to train on; nothing is known of others than files in folders.
        test: images to test on.
    """
    if not (isinstance(train, FolderSamples) and isinstance(test, FolderSamples)):
        return []
    sizes = [samples.sizes() for samples in (train, test)]
    common = set(sizes[0]) & set(sizes[1]) - {0}
    of_train, of_test = (
        samples.identities([k for k, size in enumerate(of) if size in common])
        for samples, of in zip((train, test), sizes, strict=True)
    )
    known = {contents for *_, contents in of_train} - {UNREADABLE}
    seen = [name for name, _, contents in of_test if contents in known]
    if not seen:
        return []
    return [
        f"{len(seen)} of {len(test)} test images are training images too (such as {seen[0]}): "
        "their accuracy says little about others."
    ]


def of_labels(name: str, predicted_I: NDArray[Any], labels_I: NDArray[Any]) -> list[str]:
    """Whether other labels than those given would fit a classifier far better.

    Its accuracy is not clearly above chance, and of the labels plus or minus one it is clearly more
    than twice as high (by their intervals), or of those shifted by another number.

    Args:
        name: of the network.
        predicted_I: class indices.
        labels_I: class indices.
    """
    if len(labels_I) < FEWEST:
        return []
    chance = 1 / max(len(np.unique(labels_I)), 2)
    given = share((predicted_I == labels_I).astype(float))
    if given.low > chance:
        return []
    shifts, counts = np.unique(predicted_I - labels_I, return_counts=True)
    shift = int(shifts[counts.argmax()])
    shifted = share((predicted_I == labels_I + shift).astype(float))
    if shift == 0 or shifted.low <= 2 * max(given.high, chance):
        return []
    return [
        f"{name}: accuracy {100 * given.estimate:.1f} % is not above chance "
        f"({100 * chance:.1f} %), but {100 * shifted.estimate:.1f} % with labels "
        f"{'plus' if shift > 0 else 'minus'} {abs(shift)}: they may be numbered otherwise than "
        "the outputs of the network."
    ]


def of_pool(name: str, idle: Sequence[str]) -> str:
    """That features are read through attention that was never trained."""
    return (
        f"{name}: its features are read through {', '.join(idle)}, which got no gradient in "
        "pre-training and is as random as it was made; --pool mean reads the patches instead."
    )


def of_subject(subject: Subject, sources: Sequence[Source]) -> list[str]:
    """:func:`of_network` on a few of the images of a run.

    Raises:
        DataError: if one cannot be read.
    """
    images_BCHW = subject.see_all(sources[:LOOKED_AT])
    return of_network(f"{subject.name} ({subject.weights})", subject.model, images_BCHW)


def of_network(name: str, model: nn.Module, images_BCHW: Tensor) -> list[str]:
    """Whether a network says the same of all images, or not the same of one image again.

    Args:
        name: of the network.
        model: the network, in eval mode.
        images_BCHW: some images.
    """
    device = next((p.device for p in model.parameters()), images_BCHW.device)
    images_BCHW = images_BCHW.to(device)
    with torch.inference_mode(), arithmetic("float32", device):
        once, again, alone = (
            _flat(model, images) for images in (images_BCHW, images_BCHW, images_BCHW[:1])
        )
    if once is None or again is None or alone is None or not once.isfinite().all():
        return []  # what such a network gives is refused where it is measured
    large = float(once.abs().max())
    found = []
    if (once - again).abs().max() > ROUNDING * large:
        found.append(
            f"{name}: its output for the same images changes from call to call, by up to "
            f"{float((once - again).abs().max()):.2g}: no number of it can be repeated."
        )
    elif (once[:1] - alone).abs().max() > ROUNDING * large:
        found.append(
            f"{name}: its output for an image depends on the other images of the batch, by up to "
            f"{float((once[:1] - alone).abs().max()):.2g}: numbers depend on the batch size."
        )
    same = (images_BCHW == images_BCHW[:1]).flatten(1).all()
    if len(once) > 1 and not same and (once - once[:1]).abs().max() <= 1e-6 * large:
        found.append(
            f"{name}: its output is the same for {len(once)} different images: nothing can be "
            "learned from what hiding changes."
        )
    return found


def _flat(model: nn.Module, images_BCHW: Tensor) -> Tensor | None:
    outputs = model(images_BCHW)
    return outputs.float().flatten(1) if isinstance(outputs, Tensor) else None
