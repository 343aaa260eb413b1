"""The demo: what masked-image pre-training changes in a small ViT and a small ResNet.

Source: the comparison of A2MIM's figures 1 and 5 in miniature (random initialisation against
pre-training, the same fine-tuning budget, interaction order and random patch drop).
Command: ``make demo``, or ``a2mim demo``.
Machine and time: see LOG.md.
Expected: nothing is promised. At this scale the published ordering need not hold; the report says
in words which way each comparison came out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from a2mim.settings.shared import Device, Out, Resume

if TYPE_CHECKING:
    from torch import nn

IMAGE_SIZE = 32
"""Pixels per side."""
GRID = 8
"""Players per side: one for each measured value of a digit."""
MASK_BLOCK = 8
"""Edge of a mask block in pixels: 2 x 2 players, one token of the ViT, and one feature cell before
the last stage of the ResNet."""


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo."""

    data: str = "digits"
    """digits (nothing to download), cifar10 (torchvision may download it) or folder:PATH with
    train/<class>/ and val/<class>/, searched in depth: links are followed, hidden files and folders
    left out."""
    seed: int = 0
    """Random seed of initial weights, order of images, masks, pairs and contexts."""
    out: Out = None
    device: Device = "auto"
    resume: Resume = True
    mask_ratio: float = 0.6
    """Hidden share of the blocks in pre-training."""
    pretrain_steps: int = 400
    """Steps of masked-image pre-training."""
    finetune_steps: int = 300
    """Steps of supervised training, for both arms."""
    batch_size: int = 64
    """Images per training step."""
    lr: float = 1e-3
    """Peak learning rate of pre-training and of supervised training."""
    count: int = 64
    """Test images whose interactions are measured."""
    pairs: int = 5
    """Pairs of neighbouring players per image."""
    replicates: int = 4
    """Independent permutations per pair."""
    windows: int = 2
    """Contexts per permutation."""
    occlusion_images: int = 300
    """Test images whose predictions under patch drop are measured."""
    max_train: int = 5000
    """At most this many training images are read."""
    max_test: int = 1000
    """At most this many test images are read."""


def backbone(name: str, classes: int) -> nn.Module:
    """A small timm backbone: ``"vit"`` (0.5 M parameters) or ``"resnet"`` (0.5 M)."""
    # Imported here, so that reading the settings (as the command line does) needs no torch.
    from timm import create_model
    from torch.nn import Identity

    if name == "vit":
        return create_model(
            "vit_tiny_patch16_224",
            img_size=IMAGE_SIZE,
            patch_size=MASK_BLOCK,
            embed_dim=96,
            depth=4,
            num_heads=3,
            class_token=False,
            global_pool="avg",
            fc_norm=False,  # the last norm stays before pooling, so pre-training trains it too
            num_classes=classes,
        )
    if name == "resnet":
        model = create_model(
            "resnet18", layers=(1, 1, 1, 1), channels=(32, 64, 96, 128), num_classes=classes
        )
        model.maxpool = Identity()  # 32-pixel images: stages of 16, 8, 4 and 2 cells
        return model
    raise ValueError(f"expected the backbone 'vit' or 'resnet', got {name!r}")
