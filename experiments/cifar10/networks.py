"""The two backbones: a ViT with an eighth of the image as patch, and a ResNet for small images.

Both have 8 x 8 patches or cells where they are compared, and about 2.7 M parameters.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

WIDTHS = (32, 64, 128, 256)

# Where timm looks for the names of stem and classifier.
default_cfgs = generate_default_cfgs(
    {"small_image_resnet": {"input_size": (3, 32, 32), "first_conv": "conv1", "classifier": "fc"}}
)


@register_model
def small_image_resnet(
    pretrained: bool = False,
    *,
    stem_stride: int = 1,
    channels: tuple[int, ...] = WIDTHS,
    layers: tuple[int, ...] = (2, 2, 2, 2),
    **options: Any,
) -> nn.Module:
    """ResNet-18 of half the width whose stem is one 3 x 3 convolution, as is usual on CIFAR.

    Its last maps have an eighth of the image's edge (a 16th with ``stem_stride`` 2, for 64 px).

    Raises:
        ValueError: if pretrained weights are asked for: there are none.
    """
    if pretrained:
        raise ValueError("expected no pretrained weights for small_image_resnet: there are none")
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(name, None)  # timm's, for weights that it would download
    block: Any = BasicBlock
    model: Any = ResNet(block, tuple(layers), channels=tuple(channels), **options)
    model.conv1 = nn.Conv2d(
        options.get("in_chans", 3), 64, kernel_size=3, stride=stem_stride, padding=1, bias=False
    )
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def vit(image_size: int, width: int = 192, depth: int = 6, heads: int = 3) -> dict[str, Any]:
    """What timm's ``vit_tiny_patch16_224`` is made with, but for the size of images."""
    return {
        "patch_size": image_size // 8,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }


def resnet(image_size: int, channels: tuple[int, ...] = WIDTHS, blocks: int = 2) -> dict[str, Any]:
    """What :func:`small_image_resnet` is made with."""
    return {
        "stem_stride": image_size // 32,
        "channels": tuple(channels),
        "layers": (blocks,) * len(channels),
    }
