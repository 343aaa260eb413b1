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
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interactions.patches import PatchGrid, Players, hide

_checked: WeakKeyDictionary[nn.Module, dict[object, bool]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Masked:
    """An image of which a network can be shown any part.

    Attributes:
        network: from tensors with a row for each masked image to the model's outputs.
        entry: one row of each of these tensors, ``(1, ...)``.
        compose: writes what bool ``(B, N)`` leaves visible into B rows of these tensors.
    """

    network: nn.Module
    entry: tuple[Tensor, ...]
    compose: Callable[..., object]

    def places(self, count: int) -> tuple[Tensor, ...]:
        """Empty tensors for a batch, in the layout of the entry."""
        return tuple(place(tensor, count) for tensor in self.entry)

    def __call__(self, visible_BN: Tensor) -> Any:
        """What the network says of masked images, for bool ``(B, N)`` on its device."""
        places = self.places(len(visible_BN))
        self.compose(visible_BN, *places)
        return self.network(*places)


def place(entry: Tensor, count: int) -> Tensor:
    """An empty tensor for a batch of such entries ``(1, ...)``, in their layout."""
    wide = entry.expand(count, *entry.shape[1:])
    return torch.empty_like(wide, memory_format=_layout_of(entry))


def masked(model: nn.Module, images_1CHW: Tensor, players: Players, filled: Tensor) -> Masked:
    """One image for a network: of tokens where that gives the same outputs, otherwise of pixels.

    Args:
        model: maps images ``(B, C, H, W)`` to outputs.
        images_1CHW: the image, on the model's device and in its number format.
        players: regions of the image.
        filled: what hidden pixels become; broadcasts to the image.
    """

    def from_pixels(visible_BN: Tensor, place: Tensor) -> None:
        hide(images_1CHW, visible_BN, players, filled, out=place)

    pixels = Masked(model, (images_1CHW,), from_pixels)
    tokens = token_grid(model, *images_1CHW.shape[2:])
    if tokens is None or not isinstance(players, PatchGrid) or not made_of(players, tokens):
        return pixels

    def from_tokens(visible_BN: Tensor, place: Tensor) -> None:
        visible_BL = players.refine(visible_BN, tokens)
        shape = (-1, tokens.n, 1) if seen.ndim == 2 else (-1, tokens.rows, tokens.cols, 1)
        torch.where(visible_BL.reshape(shape), seen, hidden, out=place)

    known = _checked.setdefault(model, {})
    arithmetic = torch.backends.cuda.matmul.fp32_precision
    key = (tuple(images_1CHW.shape), images_1CHW.dtype, images_1CHW.device, arithmetic, players)
    embedding = model.get_submodule("patch_embed")
    seen, hidden = embedding(torch.cat([images_1CHW, filled.expand_as(images_1CHW)]))
    twin = with_modules(model, patch_embed=_giving_back(embedding))
    composed = Masked(twin, (seen[None],), from_tokens)
    if key not in known:
        ends = torch.stack([torch.ones(players.n), torch.zeros(players.n)]).bool()
        known[key] = _agree(composed, pixels, ends.to(images_1CHW.device))
    return composed if known[key] else pixels


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


def _layout_of(tensor_1: Tensor) -> torch.memory_format:
    last = tensor_1.ndim == 4 and tensor_1.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor_1.is_contiguous() else torch.contiguous_format


def _agree(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], visible_BN: Tensor
) -> bool:
    expected = other(visible_BN)
    try:
        return torch.equal(one(visible_BN), expected)
    # Networks that only look like a vision transformer fail in ways of their own.
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, AssertionError):
        return False
