"""Settings of ``a2mim spectrum``.

Source: Park & Kim, ICLR 2022, figure 2, and A2MIM's figures A3 and A4 (6656 images there).
Command: ``a2mim spectrum CKPT... --images DIR``, or ``--data NAME``.
Machine and time: one forward per image and checkpoint, and transforms of all maps.
Expected: masked pre-training lowers high frequencies and, with depth, the variance of maps (our
notes, section 6.5); no value is promised.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from a2mim.settings import shared
from a2mim.settings.weights import WeightsConfig


@dataclass(frozen=True)
class SpectrumConfig:
    """Settings of ``a2mim spectrum``."""

    checkpoints: shared.Checkpoints
    images: shared.Images = None
    data: shared.Data = ""
    count: shared.Count = 1024
    layers: tuple[str, ...] = ()
    """Maps, such as stem, blocks.3/attention, blocks.3/mlp or layer4.2; all if left out. They are
    those of the residual stream of ViT, BEiT, EVA, Swin, ResNet or ConvNeXt; of other convolutional
    networks the outputs of their blocks, if those are certainly maps (B, E, h, w). Maps of
    fewer than 3 x 3 cells are left out, unless they are named: then they are refused."""
    seed: shared.Seed = 0
    batch_size: shared.BatchSize = 0
    precision: shared.AnyPrecision = "auto"
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    out: shared.Out = None
    device: shared.Device = "auto"
    resume: shared.Resume = True
