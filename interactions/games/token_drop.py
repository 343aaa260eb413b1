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

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from interactions.games.base import Reward, check_playable, log_odds, play
from interactions.networks.inference import Precision, running
from interactions.networks.masking import made_of, token_grid, with_modules
from interactions.patches import PatchGrid


@dataclass(frozen=True)
class TokenDropGame:
    """What a vision transformer says about one image when it is given some tokens only.

    Attributes:
        model: a timm ``VisionTransformer`` with absolute positions that reads its class token
            (``global_pool="token"``: a mean over no tokens does not exist); in eval mode.
        image_CHW: one image, ready for the model.
        label: the class whose reward is played for.
        players: a grid whose cells are made of whole patches of the model.
        image: the image's name, for random draws and error messages.
        reward: from the model's outputs and the label to the value.
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
        check_playable(self)
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
        tokens = token_grid(self.model, *self.image_CHW.shape[1:])
        assert tokens is not None
        keep = KeepVisible(getattr(self.model, "num_prefix_tokens", 0))
        network = with_modules(self.model, patch_drop=keep)

        def outputs(visible_BN: Tensor) -> Tensor:
            keep.visible_BL = self.players.refine(visible_BN, tokens)
            return network(images_1CHW.expand(len(visible_BN), -1, -1, -1))

        sizes_K = coalitions_KN.sum(dim=1)
        values_K = None
        with torch.inference_mode(), running(self.model, self.precision) as ready:
            images_1CHW = ready(self.image_CHW[None])
            # Sequences of one batch have one length.
            for size in sizes_K.unique().tolist():
                rows = (sizes_K == size).nonzero()[:, 0]
                values = play(self, outputs, coalitions_KN[rows])
                if values_K is None:
                    values_K = values.new_empty(len(coalitions_KN), *values.shape[1:])
                values_K[rows] = values
        return torch.empty(0, dtype=torch.float64) if values_K is None else values_K


class KeepVisible(nn.Module):
    """In the place of a transformer's patch dropout: keeps the visible tokens, after positions.

    Args:
        prefix: how many tokens in front are no patches and always kept.

    Attributes:
        visible_BL: the patches to keep, as many for each image; to be set before every forward.
    """

    visible_BL: Tensor

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """The tokens in front and those of visible patches."""
        B, _, D = tokens_BLD.shape
        patches_BLD = tokens_BLD[:, self.prefix :]
        kept = patches_BLD[self.visible_BL].reshape(B, -1, D)
        return torch.cat([tokens_BLD[:, : self.prefix], kept], dim=1)
