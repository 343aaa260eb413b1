"""Settings of ``a2mim spectrum``.

Source: Park & Kim, ICLR 2022, figure 2, and A2MIM's figures A3 and A4 (6656 images there).
Command: ``a2mim spectrum CKPT... --images DIR``, or ``--data NAME``.
Machine and time: one forward per image and checkpoint, and transforms of all maps.
Expected: masked pre-training lowers high frequencies and, with depth, the variance of maps (our
notes, section 6.5); no value is promised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from a2mim.settings.weights import WeightsConfig


@dataclass(frozen=True)
class SpectrumConfig:
    """Settings of ``a2mim spectrum``."""

    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CKPT...")]
    """Files, timm names (timm's own weights), hf-hub:USER/NAME, or untrained:NAME for a random
    network; NETWORK=FILE where a file does not tell its network; CODE.py:FUNCTION=FILE for one of
    your own. The residual stream of ViT, BEiT,
    EVA, Swin, ResNet or ConvNeXt; of other convolutional networks the outputs of their blocks, if
    those are certainly maps (B, E, h, w). No classifier is needed."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder of images, searched in depth: links are followed, hidden files and folders left
    out."""
    data: str = ""
    """A data set by name instead of a folder (digits, cifar10, ...): its test images."""
    count: int = 1024
    """At most this many images, drawn by seed."""
    layers: tuple[str, ...] = ()
    """Maps, such as stem, blocks.3/attention, blocks.3/mlp or layer4.2; all if left out. They have
    to have 3 x 3 cells at least."""
    seed: int = 0
    """Which images, if there are more."""
    forward_batch: int = 32
    """Images through the network at once; no more than rounding depends on it."""
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    out: Path = Path("results/spectrum")
    """Where the results go."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is one."""
    resume: bool = True
    """Go on where an interrupted run of the same command was, or start anew."""
