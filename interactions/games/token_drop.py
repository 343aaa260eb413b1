"""A game of its own: hidden patches are left out of a vision transformer, as in MAE's encoder.

    v(S) = reward(network on the tokens of the patches in S, with their positions)

No fill takes the place of what is hidden, so nothing depends on a colour, and a coalition costs
what its visible tokens cost: about half of a masked image over the published orders. But the
network sees sequences of another length, and values and interactions are not those of
:class:`~interactions.games.image.PatchGame`. Never draw both into one figure.

Shapes: B coalitions of one size, K coalitions, N players, L tokens, D channels, C channels,
H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from interactions.games.base import Reward, adapt, described, log_odds
from interactions.games.stream import values_of
from interactions.inputs import coalitions_of
from interactions.networks.inference import Precision
from interactions.networks.masking import Masked, made_of, token_grid, with_modules
from interactions.patches import PatchGrid


@dataclass(frozen=True)
class TokenDropGame:
    """What a vision transformer says about one image when it is given some tokens only.

    Attributes:
        model: a timm ``VisionTransformer`` with absolute positions that reads its class token
            (``global_pool="token"``: a mean over no tokens does not exist); in eval mode.
        image_CHW: as in :class:`~interactions.games.image.PatchGame`.
        label: as in :class:`~interactions.games.image.PatchGame`.
        players: a grid whose cells are made of whole patches of the model.
        image: the image's name, for random draws and error messages.
        reward: as in :class:`~interactions.games.image.PatchGame`.
        batch_size: as in :class:`~interactions.games.image.PatchGame`.
        precision: as in :class:`~interactions.games.image.PatchGame`.
    """

    model: nn.Module
    image_CHW: Tensor
    label: int
    players: PatchGrid
    image: str = "0"
    reward: Reward = log_odds
    batch_size: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        adapt(self)
        tokens = token_grid(self.model, *self.image_CHW.shape[1:])
        if tokens is None or "patch_drop" not in self.model._modules:
            raise ValueError(
                "expected a timm VisionTransformer, whose tokens can be dropped, got "
                f"{type(self.model).__name__}; hide pixels with PatchGame instead"
            )
        if not made_of(self.players, tokens):
            raise ValueError(
                f"expected players made of whole patches, got {self.players.rows} x "
                f"{self.players.cols} players over {tokens.rows} x {tokens.cols} patches"
            )
        if getattr(self.model, "global_pool", None) != "token":
            raise ValueError(
                "expected a model that reads its class token (global_pool='token'): the mean over "
                "tokens does not exist where all are hidden"
            )

    def __repr__(self) -> str:
        return described(self)

    @property
    def compile(self) -> bool:
        """Never: every size of a coalition would be compiled anew."""
        return False

    @property
    def n(self) -> int:
        """The number of players."""
        return self.players.n

    @property
    def precise(self) -> TokenDropGame:
        """The same game in float32."""
        return (
            self if self.precision in ("float32", "model") else replace(self, precision="float32")
        )

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions; see :class:`~interactions.games.base.Game`.

        Raises:
            ValueError: if the outputs are not what the reward reads, or a value is not finite.
        """
        return values_of(self, coalitions_of(coalitions_KN, self.n))

    def masked(self, ready: Callable[[Tensor], Tensor]) -> Callable[[int], Masked]:
        """The image as the network sees it; see :class:`~interactions.games.stream.Stream`."""
        images_1CHW = ready(self.image_CHW[None])
        tokens = token_grid(self.model, *self.image_CHW.shape[1:])
        assert tokens is not None

        def of_size(size: int) -> Masked:
            count = size * (tokens.n // self.players.n)

            def compose(visible_BN: Tensor, images_BCHW: Tensor, kept_BK: Tensor) -> None:
                images_BCHW.copy_(images_1CHW.expand_as(images_BCHW))
                kept_BK.copy_(first_visible(self.players.refine(visible_BN, tokens), count))

            kept_1K = torch.zeros(1, count, dtype=torch.int64, device=images_1CHW.device)
            return Masked(_OnVisible(self.model), (images_1CHW, kept_1K), compose)

        return of_size

    def kinds(self, coalitions_KN: Tensor) -> Tensor:
        """Their sizes: sequences of one batch have one length."""
        return coalitions_KN.sum(dim=1)


class _OnVisible(nn.Module):
    """A transformer as a function of images and of which of their tokens it is given."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.keep = KeepVisible(getattr(model, "num_prefix_tokens", 0))
        self.network = with_modules(model, patch_drop=self.keep)

    def forward(self, images_BCHW: Tensor, kept_BK: Tensor) -> Any:
        """Outputs of the network."""
        self.keep.kept_BK = kept_BK
        return self.network(images_BCHW)


def first_visible(visible_BL: Tensor, count: int) -> Tensor:
    """Numbers of the first ``count`` visible patches, ``(B, K)``; the device is not waited for."""
    return (~visible_BL).byte().argsort(dim=1, stable=True)[:, :count]


class KeepVisible(nn.Module):
    """In the place of a transformer's patch dropout: keeps the visible tokens, after positions.

    Args:
        prefix: how many tokens in front are no patches and always kept.

    Attributes:
        kept_BK: the patches to keep, as many for each image, as ascending numbers; to be set before
            every forward, see :func:`first_visible`.
    """

    kept_BK: Tensor

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """The tokens in front and those of visible patches."""
        patches_BLD = tokens_BLD[:, self.prefix :]
        kept_BKD = patches_BLD.take_along_dim(self.kept_BK[:, :, None], dim=1)
        return torch.cat([tokens_BLD[:, : self.prefix], kept_BKD], dim=1)
