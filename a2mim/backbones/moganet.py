"""MogaNet for timm: the CNN among the official A2MIM backbones that timm does not have.

    block     x <- x + s1 M(BN(x)),    x <- x + s2 A(BN(x))                s1, s2: layer scale
    M(x)    = x + proj_2(SiLU(gate(u)) SiLU(value(u)))                     gated aggregation
              u = SiLU(y + sigma (y - mean_hw y)),    y = proj_1(x)
    value(u)= PW([d_1, DW5x5_2(d_2), DW7x7_3(d_3)]),  d = DW5x5_1(u)       DW_r: dilation r
    A(x)    = fc2(h + sigma (h - GELU(decompose(h)))),  h = GELU(DW3x3(fc1(x)))

d_1, d_2, d_3 are 1/8, 3/8 and 4/8 of the channels; ``decompose`` maps all channels to one; sigma
has one entry per channel and starts at 1e-5. A stage is a down-sampling by a convolution of 3 x 3
with stride 2 (two of them in the first stage), its blocks and a batch norm; there are four.

Source: Li et al., "MogaNet: Multi-order gated aggregation network" (ICLR 2024, arXiv:2211.03295)
and its code (Westlake-AI/MogaNet, ``models/moganet.py``). Parameters have the names of that code:
its ``state_dict`` loads as it is. For weights of openmixup, drop the prefix ``backbone.``, rename
``head.fc`` to ``head``, and see ``attn_force_fp32`` below.

Importing this module registers the models in timm: ``timm.create_model("moganet_small")``. There
are no weights to download.

Shapes: B images, C channels, h x w cells.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

SIGMA_START = 1e-5
STAGES = (1, 2, 3, 4)


class _ChannelScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), SIGMA_START))

    def forward(self, x_BChw: Tensor) -> Tensor:
        return self.scale * x_BChw


def _depthwise(channels: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    """As many cells out as in."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        channels, channels, kernel, padding=padding, dilation=dilation, groups=channels
    )


class _MultiOrderConv(nn.Module):
    """``value``: contexts of three sizes, 5, 13 and 23 cells wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = (channels // 8, 3 * channels // 8, channels // 2)
        self.DW_conv0 = _depthwise(channels, 5)
        self.DW_conv1 = _depthwise(self.split[1], 5, dilation=2)
        self.DW_conv2 = _depthwise(self.split[2], 7, dilation=3)
        self.PW_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, u_BChw: Tensor) -> Tensor:
        low, middle, high = self.DW_conv0(u_BChw).split(self.split, dim=1)
        return self.PW_conv(torch.cat([low, self.DW_conv1(middle), self.DW_conv2(high)], dim=1))


class _GatedAggregation(nn.Module):
    """M: context chosen by position."""

    def __init__(self, channels: int, attn_force_fp32: bool) -> None:
        super().__init__()
        self.attn_force_fp32 = attn_force_fp32
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.value = _MultiOrderConv(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)
        self.sigma = _ChannelScale(channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        y = self.proj_1(x_BChw)
        u = F.silu(y + self.sigma(y - y.mean(dim=(2, 3), keepdim=True)))
        gate, value = F.silu(self.gate(u)), F.silu(self.value(u))
        if not self.attn_force_fp32:
            return x_BChw + self.proj_2(gate * value)
        with torch.autocast(x_BChw.device.type, enabled=False):
            product = F.silu(gate.float()) * F.silu(value.float())
            return x_BChw + self.proj_2(product.to(self.proj_2.weight.dtype))


class _ChannelAggregation(nn.Module):
    """A: a feed-forward network that takes out what its channels have in common."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = _depthwise(hidden, 3)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.decompose = nn.Conv2d(hidden, 1, 1)
        self.sigma = _ChannelScale(hidden)

    def forward(self, x_BChw: Tensor) -> Tensor:
        h = F.gelu(self.dwconv(self.fc1(x_BChw)))
        return self.fc2(h + self.sigma(h - F.gelu(self.decompose(h))))


class MogaBlock(nn.Module):
    """One block: gated aggregation over cells, then aggregation over channels.

    Args:
        channels: C, a multiple of 8.
        mlp_ratio: hidden channels of A per channel.
        ls_init_value: start of the layer scale.
        drop_path: probability of leaving out a branch in training.
        attn_force_fp32: see :class:`MogaNet`.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float = 4.0,
        ls_init_value: float = 1e-5,
        drop_path: float = 0.0,
        attn_force_fp32: bool = False,
    ) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((1, channels, 1, 1), ls_init_value))
        self.layer_scale_2 = nn.Parameter(torch.full((1, channels, 1, 1), ls_init_value))
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = _GatedAggregation(channels, attn_force_fp32)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = _ChannelAggregation(channels, int(mlp_ratio * channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """``(B, C, h, w)`` in and out."""
        x = x_BChw + self.drop_path(self.layer_scale_1 * self.attn(self.norm1(x_BChw)))
        return x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))


class MogaNet(nn.Module):
    """MogaNet with the attributes and methods of a timm model.

    Args:
        in_chans: channels of the images.
        num_classes: outputs of the classifier; 0 leaves it out.
        global_pool: timm's name of the pooling before the classifier; ``""`` with no classifier.
        embed_dims: channels of the four stages, multiples of 8.
        depths: blocks of each stage.
        mlp_ratios: hidden channels per channel in each stage.
        ls_init_value: start of the layer scale.
        drop_rate: dropout before the classifier.
        drop_path_rate: probability of leaving out a branch of the last block; it rises linearly
            from 0 in the first block.
        attn_force_fp32: the gates of the official code under its option of this name: in float32,
            and with SiLU applied to gate and value *twice*. So it is another function of the same
            weights, and weights have to be used as they were trained: without in the repository
            MogaNet, with in openmixup (A2MIM's own configuration among them).

    Raises:
        ValueError: if there are not four stages, or channels are no multiples of 8.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 3, 12, 2),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        ls_init_value: float = 1e-5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attn_force_fp32: bool = False,
    ) -> None:
        super().__init__()
        given = [len(embed_dims), len(depths), len(mlp_ratios)]
        if given != [len(STAGES)] * 3:
            raise ValueError(
                f"expected {len(STAGES)} embed_dims, depths and mlp_ratios, got {given}"
            )
        if any(channels % 8 for channels in embed_dims):
            raise ValueError(f"expected embed_dims that are multiples of 8, got {embed_dims}")
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.drop_rate = drop_rate
        self.feature_info: list[dict[str, Any]] = []
        last = sum(depths) - 1
        drops = iter([drop_path_rate * block / max(last, 1) for block in range(last + 1)])
        before = in_chans
        for stage, channels, depth, ratio in zip(
            STAGES, embed_dims, depths, mlp_ratios, strict=True
        ):
            blocks = (
                MogaBlock(channels, ratio, ls_init_value, next(drops), attn_force_fp32)
                for _ in range(depth)
            )
            down = _stem(before, channels) if stage == 1 else _downsampling(before, channels)
            self.add_module(f"patch_embed{stage}", down)
            self.add_module(f"blocks{stage}", nn.Sequential(*blocks))
            self.add_module(f"norm{stage}", nn.BatchNorm2d(channels))
            self.feature_info.append(
                {"num_chs": channels, "reduction": 2 ** (stage + 1), "module": f"norm{stage}"}
            )
            before = channels
        self.apply(_initialise)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """Normalised features of the last stage, ``(B, C, H / 32, W / 32)``."""
        x = images_BCHW
        for stage in STAGES:
            for part in ("patch_embed", "blocks", "norm"):
                x = getattr(self, f"{part}{stage}")(x)
        return x

    def forward_head(self, features_BChw: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``(B, classes)``, or the pooled features ``(B, C)`` that they are made from."""
        pooled = self.head_drop(self.global_pool(features_BChw))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, classes)``."""
        return self.forward_head(self.forward_features(images_BCHW))

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Put a new classifier in place of the old one; see the arguments of the class."""
        self.num_classes = num_classes
        self.global_pool, self.head_drop, self.head = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=self.drop_rate
        )
        _initialise(self.head)
        self.head.to(self.get_parameter("norm4.weight"))


def _stem(in_chans: int, channels: int) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Conv2d(in_chans, channels // 2, 3, stride=2, padding=1),
        nn.BatchNorm2d(channels // 2),
        nn.GELU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
        nn.BatchNorm2d(channels),
    )
    return nn.Sequential(OrderedDict(projection=layers))


def _downsampling(before: int, channels: int) -> nn.Sequential:
    projection = nn.Conv2d(before, channels, 3, stride=2, padding=1)
    return nn.Sequential(OrderedDict(projection=projection, norm=nn.BatchNorm2d(channels)))


def _initialise(module: nn.Module) -> None:
    """Official start: He's normal by fan-out for convolutions, N(0, 0.02^2) for the classifier."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "moganet_xtiny": ((32, 64, 96, 192), (3, 3, 10, 2)),
    "moganet_tiny": ((32, 64, 128, 256), (3, 3, 12, 2)),
    "moganet_small": ((64, 128, 320, 512), (2, 3, 12, 2)),
    "moganet_base": ((64, 160, 320, 512), (4, 6, 22, 3)),
    "moganet_large": ((64, 160, 320, 640), (4, 6, 44, 4)),
    "moganet_xlarge": ((96, 192, 480, 960), (6, 6, 44, 4)),
}
"""Channels and depths of the published models; all have the ratios 8, 8, 4, 4.

The repository MogaNet lists 2.97 M parameters for XT, 43.9 M for B and 180.8 M for XL; its code
makes 2.96, 43.7 and 181.0 (181 in the abstract). Its pose models agree with its code: that of B has
18.4 M more than that of S. The multiplications below are those listed; they count biases, and norms
twice.
"""

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed1.projection.0",
            "classifier": "head",
        }
        for name in VARIANTS
    }
)


def _create(variant: str, pretrained: bool, options: dict[str, Any]) -> MogaNet:
    channels, depths = VARIANTS[variant]
    return build_model_with_cfg(
        MogaNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **{"embed_dims": channels, "depths": depths, **options},
    )


@register_model
def moganet_xtiny(pretrained: bool = False, **options: Any) -> MogaNet:
    """MogaNet-XT: 2.96 M parameters, 0.80 G multiplications at 224 px."""
    return _create("moganet_xtiny", pretrained, options)


@register_model
def moganet_tiny(pretrained: bool = False, **options: Any) -> MogaNet:
    """MogaNet-T: 5.20 M parameters, 1.10 G multiplications at 224 px."""
    return _create("moganet_tiny", pretrained, options)


@register_model
def moganet_small(pretrained: bool = False, **options: Any) -> MogaNet:
    """MogaNet-S: 25.3 M parameters, 4.97 G multiplications at 224 px."""
    return _create("moganet_small", pretrained, options)


@register_model
def moganet_base(pretrained: bool = False, **options: Any) -> MogaNet:
    """MogaNet-B: 43.7 M parameters, 9.93 G multiplications at 224 px."""
    return _create("moganet_base", pretrained, options)


@register_model
def moganet_large(pretrained: bool = False, **options: Any) -> MogaNet:
    """MogaNet-L: 82.5 M parameters, 15.9 G multiplications at 224 px."""
    return _create("moganet_large", pretrained, options)


@register_model
def moganet_xlarge(pretrained: bool = False, **options: Any) -> MogaNet:
    """MogaNet-XL: 181.0 M parameters, 34.5 G multiplications at 224 px."""
    return _create("moganet_xlarge", pretrained, options)
