"""Every measure of several checkpoints, on the same images, pairs, contexts and masks.

Source: the estimator of ``a2mim interactions`` and the protocols of ``a2mim occlusion``,
``invariance`` and ``spectrum``, each of which is a panel of the page.
Command: ``a2mim compare CKPT CKPT ... --images DIR``, or ``--data NAME``.
Machine and time: ``--budget`` forwards for each network; the command times each network and says
how long that takes before it starts.
Expected: nothing; differences come with their intervals and with Holm's correction for their
number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from a2mim.settings import shared
from a2mim.settings.invariance import FEWEST
from a2mim.settings.numbers import Within
from a2mim.settings.weights import WeightsConfig

Panel = Literal["predictions", "interactions", "similarity", "spectrum"]
Fill = Literal["image_mean", "zero", "blur"]
Label = Literal["auto", "truth", "prediction"]


@dataclass(frozen=True)
class CompareConfig:
    """Settings of ``a2mim compare``."""

    checkpoints: shared.Checkpoints
    images: shared.Images = None
    data: shared.Data = ""
    count: Annotated[shared.Count, Within(FEWEST)] = 100
    budget: Annotated[int, Within(1)] = 20_000
    """Forwards that may be spent on each network, over all panels. What is left beside the others
    goes into interactions, whose images (at most --count), pairs and contexts are then planned; a
    small budget also means fewer images."""
    skip: tuple[Panel, ...] = ()
    """Panels to leave out: predictions (accuracy and occlusion), interactions, similarity (of
    features of occluded images), spectrum."""
    pictures: Annotated[int, Within(0)] = 2
    """Images over which the strongest pairs and the weight of each patch are drawn, beside each
    other for all networks; 0: none. Their forwards are those of interactions, of which they take
    at most 30 %: with a small budget there are fewer."""
    grid: shared.Grid = None
    fill: Fill = "image_mean"
    """What hidden pixels become. The mean colour of the image is the same for networks of different
    normalisation; zero (after normalisation), as published, is not."""
    label: Label = "auto"
    """The class that interactions are about and predictions are judged by: the true one, or what
    each network predicts for the whole image; auto: the true one where it is known and all
    classifiers have as many classes as the images."""
    probe_data: str = ""
    """Clean training images with the same classes for a linear probe on networks without a
    classifier: a set by name, or folder:PATH; those of --data if left out."""
    probe_max_train: Annotated[int | None, Within(2)] = None
    """At most this many of them, drawn by seed 0."""
    seed: shared.Seed = 0
    precision: shared.AnyPrecision = "auto"
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    out: shared.Out = None
    device: shared.Device = "auto"
    resume: shared.Resume = True
