"""Masked autoencoder: encode the visible patches alone, predict the pixels of the hidden ones.

    z   = encoder(x_k + position_k   for visible patches k)
    y   = decoder(z at visible, the mask token at hidden patches, + position_k   for all k)
    t_k = (x_k - mean(x_k)) / sqrt(var(x_k) + 1e-6)          (norm_pix; otherwise t_k = x_k)
    L   = mean over hidden patches k of  |y_k - t_k|^2 / D

He et al., "Masked autoencoders are scalable vision learners" (CVPR 2022), section 3. What the paper
leaves open follows the official code (facebookresearch/mae, ``models_mae.py``): var divides by
D - 1, floor(N (1 - ratio)) patches are kept, a patch vector runs over rows, then columns, then
colours.

What differs from the official code: the encoder keeps the positions and the initialisation of its
timm backbone (official: frozen sin-cos positions, Xavier weights). Visible tokens stay in reading
order (official: shuffled) and the channels of the decoder's positions come in timm's order; neither
changes what the networks can compute, because attention ignores the order of its tokens and the
first linear layers can permute channels.

Shapes: B images, C colours, H x W pixels, N patches, K of them visible, p x q pixels per patch,
D = p q C numbers per patch, T prefix tokens, E encoder channels, F decoder channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from timm.layers import LayerNorm, PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from a2mim.methods.masking import kept_patches, random_squares
from a2mim.methods.sites import last_norm
from interactions.patches import PatchGrid, check_visible

EPSILON = 1e-6
"""Added to the variance of a patch; the official value."""


class MaskedAutoencoder(nn.Module):
    """MAE around a timm vision transformer, which stays a plain timm model.

    Args:
        backbone: a timm ``VisionTransformer``, with or without class token and registers. Its
            image and patch size are those of this model.
        ratio: hidden share of the patches.
        decoder_width: F; a multiple of 4 and of the heads.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        norm_pix: predict the pixels of each patch relative to its own mean and deviation.

    Raises:
        TypeError: if the backbone is no ``VisionTransformer``, or embeds patches otherwise than one
            by one: a convolutional stem would carry hidden pixels into visible tokens.
        ValueError: if patches do not fill the image, the backbone drops patches itself, the ratio
            leaves no patch, or the decoder's width does not fit.
    """

    def __init__(
        self,
        backbone: nn.Module,
        ratio: float = 0.75,
        *,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = vision_transformer(backbone)
        self.grid, self.kept = patches_of(self.backbone, ratio)
        self.norm_pix = norm_pix
        self.decoder = pixel_decoder(self.backbone, decoder_width, decoder_depth, decoder_heads)

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks bool ``(B, N)`` of images with these numbers: see :mod:`a2mim.methods.masking`.

        The same number of patches is visible in every image; which ones, is a uniform draw per
        image.
        """
        return random_squares(images_B, self.grid.n, self.kept, seed)

    def forward(self, images_BCHW: Tensor, visible_BN: Tensor) -> dict[str, Tensor]:
        """One step of masked autoencoding.

        Args:
            images_BCHW: normalised images, which are also the target.
            visible_BN: bool over the patches, the same number in every row (see :meth:`draw`).

        Returns:
            ``loss``; ``output``, the predicted images in the space of the input. With ``norm_pix``
            each patch of the prediction is given the target's own mean and deviation back, so
            ``output`` is for looking at: it knows two numbers of every hidden patch. (The official
            demo shows a model without ``norm_pix`` instead.) Visible patches are predicted too,
            but nothing trains them.

        Raises:
            ValueError: if images and masks do not fit this model.
        """
        predicted_BND = self.predict(images_BCHW, visible_BN)
        target = pixel_target(images_BCHW, self.grid, self.norm_pix)
        loss = hidden_mse(predicted_BND, target.patches_BND, visible_BN)
        return {"loss": loss, "output": target.image(predicted_BND)}

    def predict(self, images_BCHW: Tensor, visible_BN: Tensor) -> Tensor:
        """y: predicted numbers of all patches ``(B, N, D)``, relative to each if ``norm_pix``."""
        places_BK = visible_places(visible_BN, self.grid.n, self.kept)
        return self.decoder(encode_visible(self.backbone, images_BCHW, places_BK), places_BK)

    def encode(self, images_BCHW: Tensor, visible_BN: Tensor) -> Tensor:
        """Tokens ``(B, T + K, E)`` of the visible patches, in reading order after the prefix."""
        return encode_visible(self.backbone, images_BCHW, visible_places(visible_BN, self.grid.n))


class PatchDecoder(nn.Module):
    """Predict numbers, such as pixels, for all patches from the tokens of some of them.

    Positions are fixed sines and cosines of the patch's row and column; prefix tokens (the class
    token, registers) pass through without a position.

    Args:
        channels: E of the encoder's tokens.
        width: F.
        depth: number of blocks.
        heads: attention heads.
        grid: the N patches.
        numbers: D, numbers to predict per patch.
        prefix: T.

    Raises:
        ValueError: if the width is not a multiple of 4 (positions) and of the heads.
    """

    positions: Tensor

    def __init__(
        self,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        grid: PatchGrid,
        numbers: int,
        prefix: int,
    ) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise ValueError(
                f"expected a decoder width that is a multiple of 4 and of its {heads} heads, "
                f"got {width}"
            )
        self.prefix = prefix
        self.embed = nn.Linear(channels, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = LayerNorm(width)
        self.predict = nn.Linear(width, numbers)
        positions_NF = build_sincos2d_pos_embed([grid.rows, grid.cols], width)
        self.register_buffer("positions", positions_NF, persistent=False)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, places_BK: Tensor) -> Tensor:
        """Patches ``(B, N, D)`` from tokens ``(B, T + K, E)``, whose patches are at ``places``."""
        embedded = self.embed(tokens)
        prefix, visible_BKF = embedded[:, : self.prefix], embedded[:, self.prefix :]
        B, _, F = visible_BKF.shape
        masked_BNF = self.mask_token.to(embedded.dtype).expand(B, len(self.positions), F)
        all_BNF = masked_BNF.scatter(1, places_BK[:, :, None].expand(-1, -1, F), visible_BKF)
        tokens = torch.cat([prefix, all_BNF + self.positions.to(embedded.dtype)], dim=1)
        return self.predict(self.norm(self.blocks(tokens)))[:, self.prefix :]


def vision_transformer(backbone: nn.Module) -> VisionTransformer:
    """The same backbone, with a place for :class:`VisiblePatches`; otherwise as it was.

    Raises:
        TypeError: if it is no timm ``VisionTransformer``, or embeds patches otherwise than one by
            one.
        ValueError: if patches do not fill the image, or the backbone drops patches itself.
    """
    if not isinstance(backbone, VisionTransformer):
        raise TypeError(
            f"expected a timm VisionTransformer, got {type(backbone).__name__}; "
            "use MaskedImageModel, which works for every family"
        )
    _geometry(backbone)
    if not isinstance(backbone.patch_drop, VisiblePatches):
        cast(nn.Module, backbone).patch_drop = VisiblePatches(backbone.num_prefix_tokens)
    return backbone


def patches_of(backbone: VisionTransformer, ratio: float) -> tuple[PatchGrid, int]:
    """The patches of a vision transformer, and how many of them stay visible.

    Raises:
        ValueError: if the ratio keeps no patch, or all.
    """
    grid, _ = _geometry(backbone)
    kept = kept_patches(grid.n, ratio)
    if not 0 < ratio < 1 or not 0 < kept < grid.n:
        raise ValueError(
            f"expected a mask ratio between 0 and 1 that keeps one of {grid.n} patches and hides "
            f"one, got {ratio}"
        )
    return grid, kept


def pixel_decoder(backbone: VisionTransformer, width: int, depth: int, heads: int) -> PatchDecoder:
    """A decoder from the tokens of a vision transformer to the pixels of its patches."""
    grid, (C, H, W) = _geometry(backbone)
    return PatchDecoder(
        backbone.embed_dim,
        width,
        depth,
        heads,
        grid,
        C * H * W // grid.n,
        backbone.num_prefix_tokens,
    )


def encode_visible(backbone: VisionTransformer, images_BCHW: Tensor, places_BK: Tensor) -> Tensor:
    """Tokens ``(B, T + K, E)`` of the patches at these places, in their order after the prefix.

    A backbone that pools by averaging keeps its last norm in the classifier (``fc_norm``); it is
    applied to every token here, so that a decoder always sees normalised tokens.

    Raises:
        ValueError: if the images are not as many as the rows of places, or of another size.
    """
    expected = (len(places_BK), *_geometry(backbone)[1])
    if tuple(images_BCHW.shape) != expected:
        raise ValueError(
            f"expected images {expected}, one for each row of visible, "
            f"got {tuple(images_BCHW.shape)}; resize them, or create the backbone with another "
            "img_size"
        )
    K = backbone.num_prefix_tokens + places_BK.shape[1]
    visible = cast(VisiblePatches, backbone.patch_drop)
    visible.places_BK = places_BK
    try:
        tokens = backbone.forward_features(images_BCHW)
    finally:
        visible.places_BK = None
    if tokens.shape[1] != K:
        raise RuntimeError(f"expected {K} tokens of visible patches, got {tokens.shape[1]}")
    norm = last_norm(backbone)
    return tokens if norm is None else norm(tokens)


class VisiblePatches(nn.Module):
    """In the place of a ViT's ``patch_drop``: while places are given, only these patches go on.

    timm calls it between the positions and the blocks. It stays there: a hook that came and went
    with every forward would break a compiled network into pieces.

    Args:
        prefix: T, the leading tokens that are not patches and always go on.
    """

    places_BK: Tensor | None

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.places_BK = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, T + N, E)`` -> ``(B, T + K, E)``."""
        if self.places_BK is None:
            return tokens
        patches_BNE = tokens[:, self.prefix :]
        places_BKE = self.places_BK[:, :, None].expand(-1, -1, tokens.shape[2])
        return torch.cat([tokens[:, : self.prefix], patches_BNE.gather(1, places_BKE)], dim=1)


def visible_places(visible_BN: Tensor, n: int, kept: int | None = None) -> Tensor:
    """Indices ``(B, K)`` of the visible patches, ascending.

    Args:
        visible_BN: bool, the same number of patches visible in every row.
        n: N.
        kept: this number; counted if it is left out, which waits for the device.

    Raises:
        TypeError: if ``visible_BN`` is not bool.
        ValueError: unless its shape is ``(B, n)`` and this number, at least one, is visible in
            every row. On CUDA and compiled it is a RuntimeError, so that nobody waits for it.
    """
    check_visible(visible_BN, n)
    counts_B = visible_BN.sum(dim=1)
    kept = int(counts_B[0]) if kept is None else kept
    if torch.compiler.is_compiling() or visible_BN.is_cuda:
        torch._assert_async((counts_B == kept).all(), f"expected {kept} visible patches per image")
    elif (counts := sorted(set(counts_B.tolist()))) != [kept] or not kept:
        raise ValueError(
            f"expected {kept or 1} visible patches in every image, got {counts}; "
            "draw masks with the method's draw"
        )
    order_BN = visible_BN.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return order_BN[:, :kept]


def patchify(images_BCHW: Tensor, grid: PatchGrid) -> Tensor:
    """Cut images into patch vectors ``(B, N, D)``.

    Number (r q + s) C + c of a vector is row r, column s, colour c of the patch.
    """
    return grid.cut(images_BCHW).permute(0, 1, 3, 4, 2).flatten(2)


def unpatchify(patches_BND: Tensor, grid: PatchGrid, height: int, width: int) -> Tensor:
    """Undo :func:`patchify`: ``(B, N, D)`` -> ``(B, C, height, width)``."""
    p, q = grid.cell_size(height, width)
    return grid.join(patches_BND.unflatten(2, (p, q, -1)).permute(0, 1, 4, 2, 3))


def pixel_statistics(patches_BND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation sqrt(var + 1e-6) of each patch, over its pixels and colours together.

    The variance is unbiased (divides by D - 1), like the official code's.
    """
    var_BN1, mean_BN1 = torch.var_mean(patches_BND, dim=2, correction=1, keepdim=True)
    return mean_BN1, (var_BN1 + EPSILON).sqrt()


@dataclass(frozen=True)
class PixelTarget:
    """What is to be predicted, t = (x - mean) / deviation, and the way back to an image.

    Attributes:
        patches_BND: t.
        mean_BN1: of the pixels of each patch; 0 if they are not normalised.
        deviation_BN1: of the same; 1 if they are not normalised.
        grid: the N patches.
        size: height and width of the images.
    """

    patches_BND: Tensor
    mean_BN1: Tensor
    deviation_BN1: Tensor
    grid: PatchGrid
    size: tuple[int, int]

    def image(self, predicted_BND: Tensor) -> Tensor:
        """Predicted patches as images ``(B, C, H, W)`` in the space of the input."""
        pixels_BND = predicted_BND * self.deviation_BN1 + self.mean_BN1
        return unpatchify(pixels_BND, self.grid, *self.size)


def pixel_target(images_BCHW: Tensor, grid: PatchGrid, norm_pix: bool) -> PixelTarget:
    """The pixels of each patch, relative to its own mean and deviation if ``norm_pix``."""
    x_BND = patchify(images_BCHW, grid)
    if norm_pix:
        mean_BN1, deviation_BN1 = pixel_statistics(x_BND)
    else:
        mean_BN1, deviation_BN1 = x_BND.new_zeros(1, 1, 1), x_BND.new_ones(1, 1, 1)
    H, W = images_BCHW.shape[2:]
    return PixelTarget((x_BND - mean_BN1) / deviation_BN1, mean_BN1, deviation_BN1, grid, (H, W))


def hidden_mse(predicted_BND: Tensor, target_BND: Tensor, visible_BN: Tensor) -> Tensor:
    """L: squared error averaged over the D numbers, then over the hidden patches of the batch."""
    error_BN = ((predicted_BND - target_BND) ** 2).mean(dim=2)
    hidden_BN = ~visible_BN
    return (error_BN * hidden_BN).sum() / hidden_BN.sum()


def _geometry(backbone: VisionTransformer) -> tuple[PatchGrid, tuple[int, int, int]]:
    """The grid of patches, and (C, H, W) of the images, of a backbone."""
    embed = backbone.patch_embed
    if not isinstance(embed, PatchEmbed):
        raise TypeError(
            f"expected patches embedded one by one (PatchEmbed), got {type(embed).__name__}; "
            "hidden pixels must not reach visible tokens"
        )
    if not isinstance(backbone.patch_drop, nn.Identity | VisiblePatches):
        raise ValueError(
            "expected a backbone that keeps all patches, got one with patch dropout; "
            "create it with patch_drop_rate=0"
        )
    (H, W), (p, q) = embed.img_size, embed.patch_size
    if H % p or W % q:
        raise ValueError(
            f"expected an image size that {p} x {q} px patches fill, got {H} x {W}; "
            "create the backbone with another img_size"
        )
    return PatchGrid(H // p, W // q), (embed.proj.in_channels, H, W)
