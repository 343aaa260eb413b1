"""The linear decoder: a 1 x 1 convolution and a pixel shuffle, after an optional stack.

    stack (d times):  z <- GELU(LayerNorm(DWConv5x5(z)))      same width, no bias; d = 0 or 1
    decoder:          x^ = PixelShuffle(W z + b)

Source: the official A2MIM code; d = 0 in all IN-1K configurations, d = 1 in its "l0_mlp" DeiT-S.
There the stack stands once; more is ours.

Shapes: B images, E channels, h x w feature cells, P pixels per cell edge, H = h P, W = w P.
"""

from __future__ import annotations

from torch import Tensor, nn


class PixelDecoder(nn.Module):
    """Predict the P x P pixels of every feature cell from its channels.

    Output channel c P^2 + r P + s of the convolution is colour c, row r, column s of the cell.

    Args:
        channels: E of the features.
        stride: P, pixels per cell edge (16 for ViT/16, 32 for ResNet and ConvNeXt).
        colours: channels of the image, or of another target map.
        depthwise: how many depth-wise 5 x 5 layers stand before the projection.

    Raises:
        ValueError: for a negative number of layers.
    """

    def __init__(self, channels: int, stride: int, colours: int = 3, depthwise: int = 0) -> None:
        super().__init__()
        if depthwise < 0:
            raise ValueError(f"expected 0 or more depth-wise layers, got {depthwise}")
        self.project = nn.Conv2d(channels, colours * stride * stride, kernel_size=1)
        self.shuffle = nn.PixelShuffle(stride)
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]  # made with a bias above
        self.stack = nn.Sequential(*(_depthwise(channels) for _ in range(depthwise)))

    def forward(self, features_BEhw: Tensor) -> Tensor:
        """Images ``(B, colours, H, W)``."""
        return self.shuffle(self.project(self.stack(features_BEhw)))


def _depthwise(channels: int) -> nn.Sequential:
    from timm.layers import LayerNorm2d  # heavy, and only needed here

    convolution = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
    nn.init.trunc_normal_(convolution.weight, std=0.02)
    return nn.Sequential(convolution, LayerNorm2d(channels), nn.GELU())
