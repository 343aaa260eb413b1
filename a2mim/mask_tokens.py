"""The mask token: one learnable vector that tells the network where patches are hidden.

    add:      z <- z + t m                            (A2MIM)
    replace:  z <- z (1 - m) + t m                    (SimMIM)

m is 1 at hidden positions of the feature map z, t is shared by all positions. The token works on
the three layouts of timm's features, so one hook serves every family.

Shapes: B images, E channels, h x w feature cells, N = h w, T prefix tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from a2mim.sites import Layout, Site, prefix_tokens
from interactions.patches import PatchGrid


class TokenBlend(nn.Module):
    """Blend a mask token into features at hidden positions.

    Args:
        channels: E of the features.
        layout: layout of the features.
        grid: feature cells h x w.
        prefix: leading tokens that are not patches and stay untouched (``BNE`` only).
        mode: ``"add"`` or ``"replace"``.
    """

    def __init__(
        self,
        channels: int,
        layout: Layout,
        grid: PatchGrid,
        prefix: int = 0,
        mode: Literal["add", "replace"] = "add",
    ) -> None:
        super().__init__()
        if mode not in ("add", "replace"):
            raise ValueError(f"expected the mode 'add' or 'replace', got {mode!r}")
        self.layout = layout
        self.grid = grid
        self.prefix = prefix
        self.mode = mode
        self.token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, features: Tensor, visible_BN: Tensor) -> Tensor:
        """Features with the token at hidden cells; ``visible_BN`` is on this blend's grid."""
        hidden = self._like(~visible_BN, features)
        token = self.token.to(features.dtype)
        if self.layout == "BEhw":
            token = token[:, None, None]
        if self.mode == "replace":
            return torch.where(hidden, token, features)
        return features + token * hidden

    def _like(self, hidden_BN: Tensor, features: Tensor) -> Tensor:
        h, w = self.grid.rows, self.grid.cols
        expected = {
            "BEhw": (len(hidden_BN), len(self.token), h, w),
            "BhwE": (len(hidden_BN), h, w, len(self.token)),
            "BNE": (len(hidden_BN), self.prefix + h * w, len(self.token)),
        }[self.layout]
        if tuple(features.shape) != expected:
            raise ValueError(f"expected features {expected}, got {tuple(features.shape)}")
        if self.layout == "BEhw":
            return hidden_BN.reshape(-1, 1, h, w)
        if self.layout == "BhwE":
            return hidden_BN.reshape(-1, h, w, 1)
        patches = hidden_BN[:, :, None]
        return torch.cat([patches.new_zeros(len(patches), self.prefix, 1), patches], dim=1)

    @contextmanager
    def at(self, module: nn.Module, visible_BN: Tensor) -> Iterator[None]:
        """While the context is open, the input of ``module`` passes through this blend."""

        def blend(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self(inputs[0], visible_BN), *inputs[1:])

        hook = module.register_forward_pre_hook(blend)
        try:
            yield
        finally:
            hook.remove()


def token_blend(
    backbone: nn.Module,
    site: Site,
    channels: int,
    grid: PatchGrid,
    mode: Literal["add", "replace"] = "add",
) -> TokenBlend:
    """The blend for a site of a backbone."""
    prefix = prefix_tokens(backbone) if site.layout == "BNE" else 0
    return TokenBlend(channels, site.layout, grid, prefix, mode)
