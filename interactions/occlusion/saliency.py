"""How much each player matters, for occluders that hide the salient ones first.

Three sources: the attention of a vision transformer's class token (IPViT: last block of DINO
ViT-S/16, head 1), an attribution of captum's (Kokhlikyan et al. 2020, arXiv:2009.07896) or of any
other kind, or numbers of one's own.

    saliency_n = sum over the pixels of player n, and over channels, of the attribution

With fused attention no attention map is ever computed, and a hook sees nothing; it is switched off
here for one forward pass and put back.

Shapes: B images, C channels, H x W pixels, N players, L tokens, A heads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from interactions.keys import Key, raw_words, torch_seeded
from interactions.networks.inference import arithmetic, check_eval, device_of, in_batches
from interactions.patches import PatchGrid
from interactions.segments import PlayerMap

RELU_METHODS = ("GuidedBackprop", "Deconvolution")
"""Attributions of captum that change what goes back through each ``nn.ReLU``."""

PIXEL_METHODS = ("Saliency", "InputXGradient", "IntegratedGradients", *RELU_METHODS)
"""Attributions of captum that are computed for each pixel."""

METHODS = (*PIXEL_METHODS, "Occlusion", "ShapleyValueSampling")
"""Attributions of captum by name; the last ones hide patches.

They need nothing but a network, an image and a class. Not among them: ``FeatureAblation``, which is
``Occlusion`` if the window moves from patch to patch; ``DeepLift``, which takes the functions that
it does not know, such as GELU, for linear ones without a word; and ``LRP``, which has no rules for
timm's networks.
"""

AT_ONCE = 16
"""Masked images through the network at once."""


def class_attention(
    model: nn.Module,
    images_BCHW: Tensor,
    head: int | None = 1,
    *,
    block: int = -1,
    batch_size: int = 64,
) -> Tensor:
    """Attention of the class token to each patch.

    Args:
        model: a timm vision transformer with a class token, in eval mode, such as
            ``vit_small_patch16_224.dino``.
        images_BCHW: images ready for *this* model; see :func:`renormalised`. (IPViT feeds it with
            images that are normalised for the model it evaluates.)
        head: which head, from 0: 1 as published; None for the mean over heads.
        block: which block; the last one as published.
        batch_size: images at once.

    Returns:
        float64 ``(B, N)`` on the CPU, N patches row by row; class and register tokens are left out,
        so rows sum to less than 1. Fold it into a coarser grid with :func:`from_attribution`.

    Raises:
        ValueError: for a model in training mode, of another kind or without such a head.
    """
    check_eval(model)
    blocks: Any = model._modules.get("blocks")
    attention: Any = None if blocks is None else getattr(blocks[block], "attn", None)
    prefix = getattr(model, "num_prefix_tokens", 0)
    if getattr(model, "cls_token", None) is None or not hasattr(attention, "fused_attn"):
        raise ValueError(
            "expected a timm vision transformer with a class token, got "
            f"{type(model).__name__}; give saliency from an attribution instead"
        )
    if head is not None and not 0 <= head < attention.num_heads:
        raise ValueError(f"expected a head from 0 to {attention.num_heads - 1} or None, got {head}")
    device = device_of(model)
    seen: list[Tensor] = []

    def saliency(index_B1: Tensor) -> Tensor:
        seen.clear()
        model(images_BCHW[index_B1[:, 0]].to(device))
        if len(seen) != 1:
            raise ValueError(
                f"expected one attention map of {type(model).__name__}, got {len(seen)}; "
                "its attention is of another kind"
            )
        heads_BAL = seen[0][:, :, 0, prefix:].double()
        return heads_BAL.mean(dim=1) if head is None else heads_BAL[:, head]

    fused = attention.fused_attn
    hook = attention.attn_drop.register_forward_hook(lambda _, args, attn: seen.append(attn))
    try:
        attention.fused_attn = False
        with torch.inference_mode(), arithmetic("float32", device):
            return in_batches(saliency, torch.arange(len(images_BCHW))[:, None], batch_size)
    finally:
        attention.fused_attn = fused
        hook.remove()


def captum_attribution(
    model: nn.Module,
    images_BCHW: Tensor,
    grid: PatchGrid,
    method: str,
    *,
    seed: int = 0,
    names: Sequence[Key] | None = None,
) -> Tensor:
    """What patches contribute to the class that a network predicts, by an attribution of captum's.

    Settings are captum's defaults; its baseline is 0, the mean colour of normalised images. Images
    are attributed one by one, so the result does not depend on which others there are.

    Args:
        model: from images to logits ``(B, K)``, in eval mode.
        images_BCHW: images ready for the model.
        grid: the patches.
        method: one of :data:`METHODS`, a class of ``captum.attr``.
        seed: random seed of the methods that draw.
        names: of the images, which name their draws; their numbers if left out.

    Returns:
        float64 ``(B, N)`` on the CPU: sums over the pixels and channels of a patch, with their
        sign (``Saliency`` has none).

    Raises:
        ValueError: for an unknown method, a model in training mode, or one for which there is no
            such attribution.
    """
    from captum import attr

    if method not in METHODS:
        raise ValueError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
    check_eval(model)
    if method in RELU_METHODS and not any(isinstance(m, nn.ReLU) for m in model.modules()):
        raise ValueError(
            f"expected a network with nn.ReLU for {method}, got {type(model).__name__} without; "
            "choose another method"
        )
    C, H, W = images_BCHW.shape[1:]
    grid.check_image(H, W)
    device = device_of(model)
    options: dict[str, Any] = {}
    if method == "Occlusion":
        window = (C, *grid.cell_size(H, W))
        options = {"sliding_window_shapes": window, "strides": window}
    if method == "ShapleyValueSampling":
        patches_N1HW = grid.pixels(torch.eye(grid.n, dtype=torch.bool), H, W)
        options = {"feature_mask": patches_N1HW.int().argmax(dim=0, keepdim=True).to(device)}
    if method not in PIXEL_METHODS:
        options["perturbations_per_eval"] = AT_ONCE
    rows = []
    for k, image_CHW in enumerate(images_BCHW):
        name = k if names is None else names[k]
        key = int(raw_words(1, "attribution", seed, name)[0]) >> 1
        image_1CHW = image_CHW[None].to(device)
        with torch.no_grad(), arithmetic("float32", device):
            target = int(model(image_1CHW).argmax())
        with _attributable(model), torch_seeded(key), arithmetic("float32", device):
            try:
                maps = getattr(attr, method)(model).attribute(
                    image_1CHW.requires_grad_(method in PIXEL_METHODS), target=target, **options
                )
            except Exception as error:  # each method has errors of its own
                said = " ".join(str(error).split())
                raise ValueError(
                    f"captum's {method} does not work on {type(model).__name__}: {said}"
                ) from error
        rows.append(from_attribution(maps, grid))
    return torch.cat(rows)


@contextmanager
def _attributable(model: nn.Module) -> Iterator[None]:
    """No activation works in place, which captum's hooks do not bear, and captum does not warn."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False)]
    try:
        for module in changed:
            module.inplace = False  # type: ignore[assignment]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"captum\b")
            yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


def from_attribution(
    attribution: Tensor, players: PatchGrid | PlayerMap, *, absolute: bool = False
) -> Tensor:
    """Saliency of players from attributions of pixels.

    Args:
        attribution: ``(B, C, H, W)`` as captum gives it, or ``(B, H, W)``. The saliency of the
            patches of a grid is a map as well, of one pixel a patch: ``reshape(B, rows, cols)``.
        players: the regions.
        absolute: sum sizes, whatever the sign (and do not let channels cancel).

    Returns:
        float64 ``(B, N)`` on the CPU: sums over pixels and channels.

    Raises:
        ValueError: if the players do not fit the map, or it is not finite.
    """
    map_BHW = attribution.detach().cpu().double()
    if map_BHW.ndim not in (3, 4):
        raise ValueError(
            f"expected attributions (B, C, H, W) or (B, H, W), got {tuple(attribution.shape)}"
        )
    if not map_BHW.isfinite().all():
        raise ValueError("expected finite attributions, got some that are not")
    if absolute:
        map_BHW = map_BHW.abs()
    if map_BHW.ndim == 4:
        map_BHW = map_BHW.sum(dim=1)
    players.check_image(*map_BHW.shape[1:])
    if isinstance(players, PatchGrid):
        return players.cut(map_BHW[:, None]).sum(dim=(2, 3, 4))
    saliency_BN = map_BHW.new_zeros(len(map_BHW), players.n)
    return saliency_BN.index_add_(1, players.players_HW.cpu().flatten(), map_BHW.flatten(1))


def renormalised(
    images_BCHW: Tensor,
    mean_C: Sequence[float],
    std_C: Sequence[float],
    to_mean_C: Sequence[float],
    to_std_C: Sequence[float],
) -> Tensor:
    """Images that are normalised with one mean and deviation, as another network expects them.

    Args:
        images_BCHW: the images.
        mean_C: of the normalisation that was applied.
        std_C: of the normalisation that was applied.
        to_mean_C: of the one that is needed.
        to_std_C: of the one that is needed.
    """
    mean, std, to_mean, to_std = (
        torch.tensor(x, dtype=torch.float64)[:, None, None]
        for x in (mean_C, std_C, to_mean_C, to_std_C)
    )
    scale, shift = std / to_std, (mean - to_mean) / to_std
    return images_BCHW * scale.to(images_BCHW) + shift.to(images_BCHW)
