"""Settings of ``a2mim invariance``.

Source: our own; the question is that of Kong & Zhang, CVPR 2023 (occlusion-invariant features), the
measures and baselines are in :mod:`interactions.features.invariance`.
Command: ``a2mim invariance CKPT... --images DIR``, or ``--data NAME``.
Machine and time: images x (1 + fractions x repeats) x 2 forwards for each checkpoint, against the
complement images x 2 fractions x repeats x 2; the command prints its plan before it starts.
Batches of CKA: of equal sizes up to ``--cka-batch``, in an order drawn by ``--seed``, not that of
names, which would make batches of one class from a folder by class. Masks are keyed by the names of
images.
Expected: no value is promised; CKA is exactly 1 at fraction 0 and about 0 for permuted images. On
photographs an untrained ViT is above 0.9 nearly everywhere, which is why it stands beside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from a2mim.settings import shared
from a2mim.settings.numbers import Within
from a2mim.settings.weights import WeightsConfig

FEWEST = 4
"""Images of which there is a CKA."""


@dataclass(frozen=True)
class InvarianceConfig:
    """Settings of ``a2mim invariance``."""

    checkpoints: shared.Checkpoints
    images: shared.Images = None
    data: shared.Data = ""
    count: Annotated[shared.Count, Within(FEWEST)] = 1024
    grid: shared.Grid = None
    against: Literal["whole", "complement"] = "whole"
    """What occluded images are compared with: whole ones, or the same images with exactly the other
    patches visible. Each has its own baselines; do not put them into one figure."""
    fractions: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="FRACTION...")] = None
    """Hidden fractions of the patches: 0, 0.1, ... 0.9 if left out, without 0 against the
    complement, which would be empty."""
    repeats: Annotated[int, Within(1)] = 3
    """Random masks per image and fraction."""
    fill: shared.PlainFill = "zero"
    """What a hidden patch becomes: zero is the mean colour, black and white are those before
    normalisation; or its token is left out of a vision transformer, which is another experiment
    with other numbers."""
    layers: tuple[str, ...] = ()
    """Layers, such as blocks.11, norm, layer4 or output; all if left out."""
    readouts: tuple[Literal["class", "mean", "visible"], ...] = ()
    """How a layer becomes one vector: its class token, the mean of its patches, or of those that
    are wholly visible; all that the network has if left out."""
    seed: shared.Seed = 0
    cka_batch: Annotated[int, Within(FEWEST)] = 256
    """The most images that CKA, centring and retrieval see together: as few batches as this allows,
    of equal sizes, drawn by seed. Part of what the numbers mean, unlike --batch-size."""
    batch_size: shared.BatchSize = 0
    precision: shared.AnyPrecision = "auto"
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    out: shared.Out = None
    device: shared.Device = "auto"
    resume: shared.Resume = True
