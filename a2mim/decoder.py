"""The linear decoder: a 1 x 1 convolution and a pixel shuffle.

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
        colours: channels of the image.
    """

    def __init__(self, channels: int, stride: int, colours: int = 3) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, colours * stride * stride, kernel_size=1)
        self.shuffle = nn.PixelShuffle(stride)
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]  # made with a bias above

    def forward(self, features_BEhw: Tensor) -> Tensor:
        """Images ``(B, colours, H, W)``."""
        return self.shuffle(self.project(features_BEhw))
