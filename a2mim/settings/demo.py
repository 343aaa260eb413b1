"""The demo: what masked-image pre-training changes in a small ViT and a small ResNet.

Source: the comparison of A2MIM's figures 1 and 5 in miniature (random initialisation against
pre-training, the same fine-tuning, interaction order and random patch drop), with training seeds.
Command: ``make demo``, or ``a2mim demo``.
Machine and time: about 4 minutes on two cores (3:42 to 4:15, LOG.md).
Expected: networks of all labels that are right on 95 % of the test images and more. Nothing is
promised of the comparisons; the page says which way each came out, or that it is not decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from a2mim.settings.numbers import Within
from a2mim.settings.shared import Device, Out, Resume


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo."""

    seeds: Annotated[int, Within(2)] = 3
    """Training seeds, at least 2: each has initial weights, few labels and order of images."""
    labels: Annotated[int, Within(1)] = 10
    """Labels of each class, where they are few."""
    effort: Annotated[float, Within(0, 1, above=True)] = 1.0
    """Share of the epochs of all training: with less, networks are worth nothing."""
    count: Annotated[int, Within(2)] = 24
    """Test images whose interactions are measured."""
    pairs: Annotated[int, Within(1)] = 3
    """Pairs of neighbouring players per image."""
    replicates: Annotated[int, Within(2)] = 4
    """Independent contexts per pair and order."""
    occlusion_images: Annotated[int, Within(2)] = 300
    """Test images whose predictions under patch drop are measured."""
    workers: Annotated[int, Within(0)] = 0
    """Processes side by side, which share the cores; 0: as many as there are cores."""
    out: Out = None
    device: Device = "auto"
    resume: Resume = True
