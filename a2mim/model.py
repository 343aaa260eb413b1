"""A2MIM on a timm backbone (Li et al., ICML 2023); SimMIM is the same model with other choices.

Shapes: B images, C colours, H x W pixels, N mask blocks, E channels, h x w feature cells.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from a2mim.decoder import PixelDecoder
from a2mim.losses import fourier_loss, masked_l1
from a2mim.mask_tokens import token_blend
from a2mim.masking import BlockMask
from a2mim.sites import Site, as_map, output_shape, prefix_tokens, shape_at, site_of
from interactions.fills import Fill, image_mean
from interactions.patches import hide


class MaskedImageModel(nn.Module):
    """Predict hidden pixels from visible ones.

    Args:
        backbone: a timm ViT, ResNet or ConvNeXt, or any timm model with a ``site``.
        mask: the mask blocks; also tells the image size.
        site: where the mask token enters; by default that of the backbone's family.
        token: ``"add"`` (A2MIM) or ``"replace"`` (SimMIM).
        fill: what hidden pixels become in the input.
        fourier_weight: lambda of the Fourier loss.

    Raises:
        ValueError: if mask blocks do not consist of whole feature cells, because a cell that is
            partly hidden has no mask value.
    """

    def __init__(
        self,
        backbone: nn.Module,
        mask: BlockMask,
        *,
        site: Site | None = None,
        token: Literal["add", "replace"] = "add",
        fill: Fill = image_mean,
        fourier_weight: float = 0.5,
    ) -> None:
        super().__init__()
        site = site or site_of(backbone)
        channels, cells = shape_at(backbone, site, mask.image_size)
        if cells.rows % mask.grid.rows:
            raise ValueError(
                f"expected mask blocks of whole feature cells at {site.module}: "
                f"{mask.block} px blocks meet cells of {mask.image_size / cells.rows:g} px; "
                "use larger blocks or an earlier site"
            )
        width, self.feature_cells = output_shape(backbone, site, mask.image_size)
        self.backbone = backbone
        self.mask = mask
        self.site = site
        self.fill = fill
        self.fourier_weight = fourier_weight
        self.token_blend = token_blend(backbone, site, channels, cells, token)
        self.decoder = PixelDecoder(width, mask.image_size // self.feature_cells.rows)

    def forward(self, images_BCHW: Tensor, visible_BN: Tensor) -> dict[str, Tensor]:
        """One step of masked image modelling.

        Args:
            images_BCHW: normalised images, which are also the target.
            visible_BN: bool over the mask's blocks.

        Returns:
            ``loss``; its parts ``spatial`` and ``fourier``; ``output``, the predicted images.
        """
        masked = hide(images_BCHW, visible_BN, self.mask.grid, self.fill(images_BCHW))
        features = self.encode(masked, visible_BN)
        prediction = self.decoder(features)
        visible_B1HW = self.mask.grid.pixels(visible_BN, *images_BCHW.shape[2:])
        spatial = masked_l1(prediction, images_BCHW, visible_B1HW)
        fourier = fourier_loss(prediction, images_BCHW, visible_B1HW)
        loss = spatial + self.fourier_weight * fourier
        return {"loss": loss, "output": prediction, "spatial": spatial, "fourier": fourier}

    def encode(self, masked_BCHW: Tensor, visible_BN: Tensor) -> Tensor:
        """Features ``(B, E, h, w)`` of masked images, with the token blended in at the site."""
        cells_BN = self.mask.grid.refine(visible_BN, self.token_blend.grid)
        with self.token_blend.at(self.backbone.get_submodule(self.site.module), cells_BN):
            features = self.backbone.forward_features(masked_BCHW)  # type: ignore[operator]
        if self.site.last_norm:
            features = self.backbone.get_submodule(self.site.last_norm)(features)
        prefix = prefix_tokens(self.backbone)
        return as_map(features, self.site.layout, prefix, self.feature_cells)
