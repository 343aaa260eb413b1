"""Masked images put together after the patch embedding of a vision transformer.

A patch embedding sees each patch on its own. Where players are made of whole patches, the tokens of
a masked image are those of the image where it is visible and those of the fill where it is hidden,

    E(x_S)_l = E(x)_l if patch l lies in S, else E(fill)_l,

so two embeddings serve all coalitions, and no masked image is ever made. The outputs are the same
to the bit; that is checked once for every network, and where it does not hold, or the network is of
another kind, masked images are made of pixels.

Shapes: B coalitions, N players, L tokens (patches), D channels of a token, C channels, H x W
pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interactions.patches import PatchGrid, Players, hide

_checked: WeakKeyDictionary[nn.Module, dict[object, bool]] = WeakKeyDictionary()


def masked_outputs(
    model: nn.Module, images_1CHW: Tensor, players: Players, filled: Tensor
) -> Callable[[Tensor], Tensor]:
    """What a network says of one image, as a function of who is visible.

    Args:
        model: maps images ``(B, C, H, W)`` to outputs.
        images_1CHW: the image, on the model's device.
        players: regions of the image.
        filled: what hidden pixels become; broadcasts to the image.

    Returns:
        From bool ``(B, N)`` on the model's device to the model's outputs; outputs that are views of
        the images hold until the next call.
    """
    masked = images_1CHW[:0]

    def from_pixels(visible_BN: Tensor) -> Tensor:
        # One place in memory for all batches: what is made anew has to be cleared anew.
        nonlocal masked
        if len(masked) < len(visible_BN):
            masked = images_1CHW.new_empty(len(visible_BN), *images_1CHW.shape[1:])
        place = masked[: len(visible_BN)]
        return model(hide(images_1CHW, visible_BN, players, filled, out=place))

    tokens = token_grid(model, *images_1CHW.shape[2:])
    if tokens is None or not isinstance(players, PatchGrid) or not made_of(players, tokens):
        return from_pixels

    def from_tokens(visible_BN: Tensor) -> Tensor:
        visible_BL = players.refine(visible_BN, tokens)
        shape = (-1, tokens.n, 1) if seen.ndim == 2 else (-1, tokens.rows, tokens.cols, 1)
        return twin(torch.where(visible_BL.reshape(shape), seen, hidden))

    known = _checked.setdefault(model, {})
    device = images_1CHW.device
    key = (tuple(images_1CHW.shape), images_1CHW.dtype, device, players)
    embedding = model.get_submodule("patch_embed")
    seen, hidden = embedding(torch.cat([images_1CHW, filled.expand_as(images_1CHW)]))
    twin = with_modules(model, patch_embed=_giving_back(embedding))
    if key not in known:
        ends = torch.stack([torch.ones(players.n), torch.zeros(players.n)]).bool()
        known[key] = _agree(from_tokens, from_pixels, ends.to(images_1CHW.device))
    return from_tokens if known[key] else from_pixels


def token_grid(model: nn.Module, height: int, width: int) -> PatchGrid | None:
    """The grid of the tokens that a network makes of an image, if it embeds patch by patch.

    Returns:
        None for any other network: one without ``patch_embed`` made of a convolution ``proj`` with
        its stride as its kernel and perhaps a ``norm``, or whose patches do not divide the image.
    """
    embedding = model._modules.get("patch_embed")
    if embedding is None or not {"proj"} <= embedding._modules.keys() <= {"proj", "norm"}:
        return None
    proj, norm = embedding._modules["proj"], embedding._modules.get("norm", nn.Identity())
    if not isinstance(proj, nn.Conv2d) or not isinstance(norm, nn.LayerNorm | nn.Identity):
        return None
    p, q = proj.kernel_size
    by_patch = proj.stride == (p, q) and proj.padding == (0, 0) and proj.dilation == (1, 1)
    if not by_patch or height % p or width % q:
        return None
    return PatchGrid(height // p, width // q)


def with_modules(model: nn.Module, **modules: nn.Module) -> nn.Module:
    """A shallow copy of a network with other modules in some places; the network is not changed."""
    twin = copy(model)
    twin._modules = {**model._modules, **modules}
    return twin


def made_of(players: PatchGrid, tokens: PatchGrid) -> bool:
    """Whether the cells of one grid are made of whole cells of the other."""
    return tokens.rows % players.rows == 0 and tokens.cols % players.cols == 0


def _giving_back(embedding: nn.Module) -> nn.Module:
    """The embedding with all it says of itself, but it takes tokens and gives them back."""
    twin = copy(embedding)
    twin.__dict__["forward"] = lambda tokens: tokens
    return twin


def _agree(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], visible_BN: Tensor
) -> bool:
    expected = other(visible_BN)
    try:
        return torch.equal(one(visible_BN), expected)
    # Networks that only look like a vision transformer fail in ways of their own.
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, AssertionError):
        return False
