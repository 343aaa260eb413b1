"""Mixup and cutmix: every image is mixed with a partner, and so are their classes.

    x~ = (1 - o) x + o x',      y~ = (1 - mean o) y + (mean o) y',      mean o over the pixels

    mixup   o = 1 - l in every pixel,                                   l ~ Beta(a, a)
    cutmix  o = 1 in a box, 0 around it,                                l ~ Beta(b, b)
            sides floor(H sqrt(1 - l)) and floor(W sqrt(1 - l)), centre uniform over the pixels;
            what lies outside the image is cut off, and counts for neither x~ nor y~
    y       1 - s + s / K for the class of an image, s / K for the other K - 1

Source: Zhang et al. 2018 (arXiv:1710.09412), Yun et al. 2019 (arXiv:1905.04899), in the form of
timm's ``Mixup`` in its batch mode, which all published recipes take: images that lie together on a
device share one draw, and the partner is the one at the mirrored place. What lies together on a
device would make a result depend on the number of devices and micro-batches; here it is a *group*
of so many neighbours in the batch, and nothing else decides. A micro-batch has to be whole groups.

Shapes: B images of C channels and H x W pixels, K classes, Q groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """What images are mixed by. Every group draws anew; where both are on, one with even odds.

    Attributes:
        mixup: a, of the law of mixup; 0 leaves it out.
        cutmix: b, of the law of cutmix; 0 leaves it out.
        group: neighbours that share a draw and among whom partners are: in the published runs, the
            images that a device has at once.

    Raises:
        ValueError: for values out of range, or if both are left out.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    group: int = 128

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or max(self.mixup, self.cutmix) == 0:
            raise ValueError(
                f"expected mixup and cutmix of at least 0, and one above, got {self.mixup} and "
                f"{self.cutmix}; without both, leave mixing out"
            )
        if self.group < 2:
            raise ValueError(f"expected groups of at least 2 images, got {self.group}")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws for ``count`` images.

        Args:
            count: B, whole groups.
            generator: on the CPU.

        Returns:
            float64 ``(B, 4)``, equal in a group: whether it is cutmix, l, and the centre of the
            box in units of height and width.

        Raises:
            ValueError: if the images are not whole groups.
        """
        self._check(count)
        groups = count // self.group
        odds = 0.5 if self.mixup and self.cutmix else float(self.cutmix > 0)
        draws_Q4 = torch.rand(groups, 4, generator=generator, dtype=torch.float64)
        is_cutmix_Q = draws_Q4[:, 0] < odds
        alpha_Q = np.where(is_cutmix_Q, self.cutmix, self.mixup)
        draws_Q4[:, 0] = is_cutmix_Q
        draws_Q4[:, 1] = torch.from_numpy(betaincinv(alpha_Q, alpha_Q, draws_Q4[:, 1].numpy()))
        return draws_Q4.repeat_interleave(self.group, dim=0)

    def images(self, images_BCHW: Tensor, rows_B4: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images ``(B, C, H, W)``, and the share of the partner in each, float32 ``(B,)``.

        Args:
            images_BCHW: whole groups, in their order.
            rows_B4: their rows of :meth:`draw`.

        Raises:
            ValueError: if they are not whole groups, or the rows have lost their precision.
        """
        self._check(len(images_BCHW))
        if rows_B4.dtype != torch.float64:
            raise ValueError(
                f"expected the float64 rows of Mixing.draw, got {rows_B4.dtype}; "
                "do not convert them with the images"
            )
        share_BHW, share_B = _shares(rows_B4, *images_BCHW.shape[2:])
        weight_B1HW = share_BHW[:, None].to(images_BCHW.dtype)
        return images_BCHW.lerp(self._partners(images_BCHW), weight_B1HW), share_B.float()

    def targets(self, targets_BK: Tensor, share_B: Tensor) -> Tensor:
        """Classes mixed in the same shares, ``(B, K)``."""
        return targets_BK.lerp(self._partners(targets_BK), share_B[:, None])

    def _partners(self, values: Tensor) -> Tensor:
        """In the place of each image of a group, that at the mirrored place."""
        return values.unflatten(0, (-1, self.group)).flip(1).flatten(0, 1)

    def _check(self, count: int) -> None:
        if count < 1 or count % self.group:
            raise ValueError(
                f"expected micro-batches of whole groups of {self.group} images that are mixed, "
                f"got {count}; use smaller groups or other batches"
            )


def soft_targets(labels_B: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Classes as float32 vectors ``(B, K)`` that sum to 1.

    Args:
        labels_B: int64 class indices.
        classes: K.
        smoothing: s, the share of 1 that all classes divide among them.
    """
    rest = smoothing / classes
    targets_BK = torch.full((len(labels_B), classes), rest, device=labels_B.device)
    return targets_BK.scatter_(1, labels_B[:, None], 1 - smoothing + rest)


def _shares(rows_B4: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The partner's share of every pixel ``(B, H, W)`` and of the image ``(B,)``, float64.

    All on the device of the rows, which need not be waited for.
    """
    is_cutmix_B = rows_B4[:, 0] > 0.5
    partner_B = 1 - rows_B4[:, 1]
    edge_B = partner_B.sqrt()
    rows_BH = _between(rows_B4[:, 2], edge_B, height)
    columns_BW = _between(rows_B4[:, 3], edge_B, width)
    box_BHW = rows_BH[:, :, None] & columns_BW[:, None, :]
    area_B = rows_BH.sum(1) * columns_BW.sum(1)
    share_BHW = torch.where(is_cutmix_B[:, None, None], box_BHW, partner_B[:, None, None])
    return share_BHW, torch.where(is_cutmix_B, area_B / (height * width), partner_B)


def _between(centre_B: Tensor, edge_B: Tensor, pixels: int) -> Tensor:
    """Which of the pixels of one axis a box covers, bool ``(B, pixels)``."""
    middle_B1 = (centre_B * pixels).floor()[:, None]
    side_B1 = (edge_B * pixels).floor()[:, None]
    place = torch.arange(pixels, device=centre_B.device)
    before_B1, after_B1 = (side_B1 / 2).floor(), (side_B1 / 2).ceil()
    return (place >= middle_B1 - before_B1) & (place < middle_B1 + after_B1)
