"""The mask token: one vector, usually learnable, that tells the network where patches are hidden.

    add:      z <- z + t m                                 (A2MIM, ViT)
    damped:   z <- z (1 - m) + gamma z m + t m             (A2MIM, CNN "init" configurations)
    replace:  z <- z (1 - m) + t m                         (SimMIM)

m is 1 at hidden positions of the feature map z; the token t and the damping gamma have one entry
per channel and are shared by all positions. gamma starts at 1e-6 in the official code, so that the
damped form is a replacement at first and may learn to let features through; the paper does not
mention it. With G the gradient of the loss with respect to the blended features, summed over
hidden positions:  dL/dt = sum G,  dL/dgamma = sum G z.

A token that replaces features has to enter before position embeddings are added, or hidden
positions lose theirs: position 0 of :func:`a2mim.methods.sites.site_at`.

Instead of being learned, the token can stay what it started as, or be the mean of the features that
come in, hidden ones included: over all images of the batch at hand (a constant, without gradient)
or over each image (with it). So the official ResNet has it. The official ViT has the first alone,
and counts the class token in where there is one; we do not. No published configuration uses either.

The token works on the three layouts of timm's features, so one hook serves every family.

Shapes: B images, E channels, h x w feature cells, N = h w, T prefix tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from a2mim.methods.sites import Layout, Site, site_prefix
from interactions.patches import PatchGrid

TokenMode = Literal["add", "damped", "replace"]
TokenInit = Literal["normal", "zeros", "frozen_zeros", "frozen_normal", "mean", "instance_mean"]
GAMMA_START = 1e-6
"""``mask_init`` of the official CNN configurations."""


class TokenBlend(nn.Module):
    """Blend a mask token into features at hidden positions.

    The parameters are ``token`` ``(E,)``, unless it is a mean, and, in mode ``damped``, ``gamma``
    ``(E,)``.

    Args:
        channels: E of the features.
        layout: layout of the features.
        grid: feature cells h x w.
        prefix: leading tokens that are not patches and stay untouched (``BNE`` only).
        mode: ``"add"``, ``"damped"`` or ``"replace"``.
        init: how the token starts: ``"normal"`` (truncated, standard deviation 0.02: ResNet, ViT
            and Swin), ``"zeros"`` (what the official ConvNeXt and MogaNet come to), or without
            learning as ``"frozen_zeros"`` or ``"frozen_normal"``; or what it is in every forward:
            ``"mean"`` of the batch or ``"instance_mean"``.
        detach: whether no gradient passes back into hidden features (gamma and the token keep
            theirs, and so an ``instance_mean`` all its features); off in all official
            configurations.

    Raises:
        ValueError: for an unknown mode or init.
    """

    token: nn.Parameter | None
    gamma: nn.Parameter | None
    blends: int
    """How often features were blended since :meth:`at` was last opened: once, if all went well."""

    def __init__(
        self,
        channels: int,
        layout: Layout,
        grid: PatchGrid,
        prefix: int = 0,
        mode: TokenMode = "add",
        init: TokenInit = "normal",
        detach: bool = False,
    ) -> None:
        super().__init__()
        if mode not in get_args(TokenMode):
            raise ValueError(f"expected the mode 'add', 'damped' or 'replace', got {mode!r}")
        if init not in get_args(TokenInit):
            raise ValueError(f"expected the init {', '.join(get_args(TokenInit))}, got {init!r}")
        self.channels = channels
        self.layout = layout
        self.grid = grid
        self.prefix = prefix
        self.mode = mode
        self.init = init
        self.detach = detach
        self.blends = 0
        self._visible_BN: Tensor | None = None
        token = None
        if "mean" not in init:
            token = nn.Parameter(torch.zeros(channels), requires_grad="frozen" not in init)
            if "normal" in init:
                nn.init.trunc_normal_(token, std=0.02)
        self.register_parameter("token", token)
        gamma = nn.Parameter(torch.full((channels,), GAMMA_START)) if mode == "damped" else None
        self.register_parameter("gamma", gamma)

    def forward(self, features: Tensor, visible_BN: Tensor) -> Tensor:
        """Features with the token at hidden cells; ``visible_BN`` is on this blend's grid."""
        hidden = self._like(~visible_BN, features)
        token = self._token(features)
        if self.mode == "replace":
            return torch.where(hidden, token, features)
        passed = torch.where(hidden, features.detach(), features) if self.detach else features
        if self.gamma is not None:
            return torch.where(hidden, self._per_channel(self.gamma, features) * passed, passed) + (
                token * hidden
            )
        return passed + token * hidden

    def _token(self, features: Tensor) -> Tensor:
        if self.token is not None:
            return self._per_channel(self.token, features)
        cells = features[:, self.prefix :] if self.layout == "BNE" else features
        places = {"BEhw": (2, 3), "BhwE": (1, 2), "BNE": (1,)}[self.layout]
        if self.init == "instance_mean":
            return cells.mean(places, keepdim=True)
        return cells.detach().mean((0, *places), keepdim=True)

    def _per_channel(self, vector: Tensor, features: Tensor) -> Tensor:
        vector = vector.to(features.dtype)
        return vector[:, None, None] if self.layout == "BEhw" else vector

    def _like(self, hidden_BN: Tensor, features: Tensor) -> Tensor:
        h, w = self.grid.rows, self.grid.cols
        expected = {
            "BEhw": (len(hidden_BN), self.channels, h, w),
            "BhwE": (len(hidden_BN), h, w, self.channels),
            "BNE": (len(hidden_BN), self.prefix + h * w, self.channels),
        }[self.layout]
        if tuple(features.shape) != expected:
            raise ValueError(f"expected features {expected}, got {tuple(features.shape)}")
        if self.layout == "BEhw":
            return hidden_BN.reshape(-1, 1, h, w)
        if self.layout == "BhwE":
            return hidden_BN.reshape(-1, h, w, 1)
        patches = hidden_BN[:, :, None]
        return torch.cat([patches.new_zeros(len(patches), self.prefix, 1), patches], dim=1)

    def attach(self, module: nn.Module, side: Literal["input", "output"] = "input") -> None:
        """Let features of a module pass through this blend, from now on; it acts while open.

        The hook is registered once: one that came and went with every forward would break a
        compiled network into pieces.

        Args:
            module: the module.
            side: whether its input or its output is blended.
        """
        if side == "input":
            module.register_forward_pre_hook(self._before)
        else:
            module.register_forward_hook(self._after)

    @contextmanager
    def at(self, visible_BN: Tensor) -> Iterator[None]:
        """While the context is open, features of the modules it is attached to are blended.

        Args:
            visible_BN: bool on this blend's grid.
        """
        self.blends, self._visible_BN = 0, visible_BN
        try:
            yield
        finally:
            self._visible_BN = None

    # Bound methods, because a copy of a network has to use the copy of its blend.
    def _before(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._visible_BN is None:
            return None
        return (self._blend(inputs[0], self._visible_BN), *inputs[1:])

    def _after(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return None if self._visible_BN is None else self._blend(output, self._visible_BN)

    def _blend(self, features: Tensor, visible_BN: Tensor) -> Tensor:
        self.blends += 1
        return self(features, visible_BN)


def token_blend(
    backbone: nn.Module,
    site: Site,
    channels: int,
    grid: PatchGrid,
    mode: TokenMode = "add",
    init: TokenInit = "normal",
    detach: bool = False,
) -> TokenBlend:
    """The blend for a site of a backbone."""
    prefix = site_prefix(backbone, site)
    return TokenBlend(channels, site.layout, grid, prefix, mode, init, detach)
