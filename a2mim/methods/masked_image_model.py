"""A2MIM on a timm backbone (Li et al., ICML 2023); SimMIM is the same model with other choices.

    x_in = x with hidden pixels filled           A2MIM: the image's mean colour; SimMIM: as they are
    z    = backbone(x_in), a mask token blended in at hidden cells of the site
    x^   = decoder(z)                            residual: + mean over the target map, per channel
    loss = L(x^, target(x), visible)

Shapes: B images, C colours, H x W pixels, N mask squares, E channels, h x w feature cells,
K x p x q: channels and cells of the target map (3 x H x W for pixels).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from a2mim.methods.decoder import PixelDecoder
from a2mim.methods.losses import LossSpec, loss_spec
from a2mim.methods.mask_token import TokenInit, TokenMode, token_blend
from a2mim.methods.masking import Mask
from a2mim.methods.sites import (
    Site,
    as_map,
    output_layout,
    output_shape,
    shape_at,
    site_at,
    site_of,
    with_last_norm,
)
from a2mim.methods.targets import Target, target_of
from interactions.fills import Fill, FixedFill, image_mean
from interactions.patches import PatchGrid, hide


class MaskedImageModel(nn.Module):
    """Predict hidden pixels from visible ones.

    The default arguments are A2MIM as the paper has it. The official configurations add
    ``token="damped"`` for CNNs and a loss by name, such as ``"official-r50"``.

    In a ViT, a token that replaces or damps features belongs before the position embedding:
    ``site=site_at(backbone, 0)``. That site also is the one for gradient checkpointing, which
    computes blocks a second time when the token has left them.

    Features are normalised by the backbone's last norm before they are decoded, also where timm
    keeps it behind the pooling. What makes one vector of all features stays untrained: attention
    pools, the blocks for the class token alone (CaiT, XCiT, VOLO), hidden layers of a classifier.

    Args:
        backbone: a timm model; of any family that :func:`a2mim.methods.sites.site_of` finds a site
            in, or any model with a ``site``.
        mask: the mask; also tells the image size.
        site: where the mask token enters; by default that of the backbone's family.
        token: ``"add"`` (A2MIM), ``"damped"`` (A2MIM, official CNNs) or ``"replace"`` (SimMIM).
        token_init: how the token starts, or what it is: see
            :class:`a2mim.methods.mask_token.TokenBlend`.
        detach: whether no gradient passes back into hidden features, but through an
            ``instance_mean``.
        fill: what hidden pixels become in the input; None leaves them, as SimMIM does.
        loss: a loss, or its name in :data:`a2mim.methods.losses.LOSSES`.
        fourier_weight: lambda of the Fourier loss, if not that of ``loss``.
        decoder_depth: depth-wise layers before the linear decoder.
        target: what is predicted, a target or its name: ``"rgb"`` or ``"hog"``. The loss, its
            Fourier part included, is taken over the target map; ``loss="simmim"`` is L1 alone.
        residual: whether what is predicted is the difference from the mean of each image's target,
            per channel (off in all official configurations). Then ``output`` knows that mean.

    Raises:
        ValueError: if mask squares do not consist of whole feature and target cells, because a
            cell that is partly hidden has no mask value; if features or target do not divide the
            image; or for anything unknown by name.
    """

    _fixed_13HW: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        mask: Mask,
        *,
        site: Site | None = None,
        token: TokenMode = "add",
        token_init: TokenInit = "normal",
        detach: bool = False,
        fill: Fill | None = image_mean,
        loss: str | LossSpec = "paper",
        fourier_weight: float | None = None,
        decoder_depth: int = 0,
        target: Literal["rgb", "hog"] | Target = "rgb",
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.loss = loss_spec(loss, fourier_weight)
        self.target = target_of(target)
        self.residual = residual
        size = mask.image_size
        site = site or site_of(backbone, size)
        channels, cells = shape_at(backbone, site, size)
        width, self.feature_cells = output_shape(backbone, site, size)
        _check_cells(mask, cells, f"feature cells at {site.module}", "an earlier site")
        if size % self.feature_cells.rows or size // self.feature_cells.rows % self.target.cell:
            raise ValueError(
                f"expected last features whose cells divide {size} px into multiples of "
                f"{self.target.cell} px, got {self.feature_cells.rows} x {self.feature_cells.cols} "
                "cells; choose another image size, backbone or target"
            )
        target_side = size // self.target.cell
        self.target_cells = PatchGrid(target_side, target_side)
        _check_cells(mask, self.target_cells, "target cells", "another target")
        self.backbone = backbone
        self.mask = mask
        self.site = site
        self.fill: Fill = fill or _unfilled
        # Made once and kept beside the weights; not saved, because the fill says what it is.
        fixed = fill.pattern(3, size, size).float() if isinstance(fill, FixedFill) else None
        self.register_buffer("_fixed_13HW", fixed, persistent=False)
        self.token_blend = token_blend(backbone, site, channels, cells, token, token_init, detach)
        self.token_blend.attach(backbone.get_submodule(site.module), site.side)
        self.decoder = PixelDecoder(
            width,
            target_side // self.feature_cells.rows,
            self.target.channels(colours=3),
            decoder_depth,
        )

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks bool ``(B, N)`` of images with these numbers: see :mod:`a2mim.methods.masking`."""
        return self.mask.draw(images_B, seed)

    def forward(self, images_BCHW: Tensor, visible_BN: Tensor) -> dict[str, Tensor]:
        """One step of masked image modelling.

        Args:
            images_BCHW: normalised images, from which the target is made.
            visible_BN: bool over the mask's squares.

        Returns:
            ``loss``; its parts ``spatial`` and, unless lambda is 0, ``fourier``; ``output``, the
            predicted images (or target maps) ``(B, K, p, q)``.
        """
        masked = hide(images_BCHW, visible_BN, self.mask.grid, self._filling(images_BCHW))
        features = self.encode(masked, visible_BN)
        prediction, target = self.decoder(features), self.target(images_BCHW)
        if self.residual:
            prediction = prediction + target.mean(dim=(2, 3), keepdim=True)
        p, q = self.target_cells.rows, self.target_cells.cols
        visible_B1pq = self.mask.grid.pixels(visible_BN, p, q)
        losses = self.loss(prediction, target, visible_B1pq)
        return {**losses, "output": prediction}

    def _filling(self, images_BCHW: Tensor) -> Tensor:
        fixed = self._fixed_13HW
        if fixed is None or fixed.dtype != images_BCHW.dtype:
            return self.fill(images_BCHW)
        return fixed

    def encode(self, masked_BCHW: Tensor, visible_BN: Tensor) -> Tensor:
        """Features ``(B, E, h, w)`` of masked images, with the token blended in at the site.

        They are normalised by the backbone's last norm, wherever timm keeps it.

        Raises:
            RuntimeError: if the site's module did not run, or more than once.
        """
        cells_BN = self.mask.grid.refine(visible_BN, self.token_blend.grid)
        with self.token_blend.at(cells_BN):
            features = self.backbone.forward_features(masked_BCHW)  # type: ignore[operator]
        if self.token_blend.blends != 1:
            # Gradient checkpointing, for one, goes around modules that hold a sequence.
            raise RuntimeError(
                f"expected {self.site.module} to run once in forward_features, got "
                f"{self.token_blend.blends} times; choose another site, or switch gradient "
                "checkpointing off"
            )
        layout, prefix = output_layout(self.backbone, self.site)
        features_BEhw = as_map(features, layout, prefix, self.feature_cells)
        return with_last_norm(self.backbone, features_BEhw)


def simmim(
    backbone: nn.Module,
    mask: Mask,
    *,
    site: Site | None = None,
    target: Literal["rgb", "hog"] | Target = "rgb",
) -> MaskedImageModel:
    """SimMIM (Xie et al., CVPR 2022) as in the baselines of the official A2MIM code.

    The token replaces features at position 0 (after the patch embedding of a ViT, after the
    pooling of a ResNet), nothing is filled, and the loss is L1 on hidden pixels. In a CNN, what
    lies before the token sees hidden pixels: a stem whose kernels overlap carries a rim of them
    into visible cells, in the official code as well.

    Args:
        backbone: a timm model.
        mask: the mask.
        site: where the token enters, if not at position 0 of :func:`a2mim.methods.sites.site_at`.
        target: what is predicted.

    Returns:
        The model.

    Raises:
        ValueError: see :class:`MaskedImageModel`.
    """
    return MaskedImageModel(
        backbone,
        mask,
        site=site or site_at(backbone, 0, mask.image_size),
        token="replace",
        fill=None,
        loss="simmim",
        target=target,
    )


def _unfilled(images_BCHW: Tensor) -> Tensor:
    """Hidden pixels stay as they are; the token has to hide them."""
    return images_BCHW


def _check_cells(mask: Mask, cells: PatchGrid, what: str, otherwise: str) -> None:
    if cells.rows % mask.grid.rows:
        raise ValueError(
            f"expected mask blocks of whole {what}: "
            f"{mask.image_size // mask.grid.rows} px blocks meet cells of "
            f"{mask.image_size / cells.rows:g} px; use larger blocks or {otherwise}"
        )
