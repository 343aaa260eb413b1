"""Settings of ``a2mim reconstruct``.

Source: the pictures of He et al. (CVPR 2022), figure 2, and Xie et al. (CVPR 2022), figure 7.
Command: ``a2mim reconstruct CKPT... --images DIR``, or ``--data NAME``.
Machine and time: one forward per image and checkpoint.
Expected: pictures; the error of hidden pixels beside that of their mean colour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from a2mim.settings.numbers import Within
from a2mim.settings.shared import Checkpoints, Data, Device, Images, Out, Resume, Seed
from a2mim.settings.weights import WeightsConfig


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of ``a2mim reconstruct``."""

    checkpoints: Checkpoints
    images: Images = None
    data: Data = ""
    count: Annotated[int, Within(1)] = 8
    """At most this many images, drawn by the random seed."""
    mask_ratio: Annotated[float | None, Within(0, 1, above=True)] = None
    """Hidden share; as in pre-training if left out: that of the recipe, 0.75 for official MAE and
    0.6 for SimMIM."""
    block: Annotated[int | None, Within(1)] = None
    """Edge of a mask block in pixels; as in pre-training if left out: that of the recipe, the patch
    for MAE, 32 for official SimMIM."""
    norm_pix: Literal["auto", "yes", "no"] = "auto"
    """Whether an MAE predicts pixels relative to the mean and deviation of each patch, which are
    then taken from the original. Files do not tell; auto takes what its predictions fit better."""
    seed: Seed = 0
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    out: Out = None
    device: Device = "auto"
    resume: Resume = True
