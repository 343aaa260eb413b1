"""Rewards for networks without a classifier: what an encoder's features say of an image.

With g the features of a masked image x_S, x_N the whole image and x_0 the image with all hidden,

    projection   v(S) = <g(x_S) - g(x_0), u>,   u = (g(x_N) - g(x_0)) / ||g(x_N) - g(x_0)||
    cosine       v(S) = cos(g(x_S), g(x_N))
    features     v(S) = g(x_S), a vector

The projection is linear in the features, 0 for the empty coalition and the default; the cosine is
bounded, so its second differences shrink near the whole image as those of a probability do. The
features themselves make a game of vectors, whose strength is a mean length ||I^(m)||; its square
has an exact U-statistic (``strength(records, "rms")``).

Shapes: B masked images, D features, C channels, H x W pixels, N players.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from interactions import fills
from interactions.games.base import Reward
from interactions.games.image import PatchGame, PatchGames
from interactions.networks.inference import Precision, running
from interactions.patches import Players, hide

Kind = Literal["projection", "cosine", "features"]
"""Names of the rewards."""


def projection(whole_D: Tensor, empty_D: Tensor) -> Reward:
    """The projection reward of an image with these features when whole and when all hidden.

    Raises:
        ValueError: if both are the same, so that there is nothing to project on.
    """
    difference_D = whole_D.double() - empty_D.double()
    length = difference_D.norm()
    if length == 0:
        raise ValueError("expected features that change when the image is hidden, got none")
    direction_D = difference_D / length

    def reward(features_BD: Tensor, label: int) -> Tensor:
        device = features_BD.device  # a game may be played again on another one
        return (features_BD.double() - empty_D.double().to(device)) @ direction_D.to(device)

    return reward


def cosine(whole_D: Tensor) -> Reward:
    """The cosine reward of an image with these features when whole.

    Raises:
        ValueError: if the features are all 0.
    """
    if not whole_D.any():
        raise ValueError("expected features of the whole image, got only zeros")

    def reward(features_BD: Tensor, label: int) -> Tensor:
        whole_1D = whole_D.double()[None].to(features_BD.device)
        return torch.cosine_similarity(features_BD.double(), whole_1D, dim=1)

    return reward


def features(features_BD: Tensor, label: int) -> Tensor:
    """The features themselves: the reward of a game of vectors."""
    return features_BD.double()


def encoder_games(
    encoder: nn.Module,
    images_BCHW: Tensor,
    players: Players,
    *,
    kind: Kind = "projection",
    names: Sequence[str] | None = None,
    fill: fills.Fill = fills.zero,
    batch_size: int | None = None,
    precision: Precision = "float32",
    compile: bool = False,
) -> list[PatchGame]:
    """One game per image for an encoder, as ``PatchGames`` are for a classifier.

    Args:
        encoder: maps images to features ``(B, D)``, such as a timm model with ``num_classes=0``; in
            eval mode.
        images_BCHW: images, as in :class:`~interactions.games.image.PatchGames`.
        players: the regions of all images.
        kind: the reward.
        names: one name per image; ``"0"``, ``"1"``, ... if left out.
        fill: what hidden patches become.
        batch_size: as in :class:`~interactions.games.image.PatchGame`.
        precision: as in :class:`~interactions.games.image.PatchGame`.
        compile: as in :class:`~interactions.games.image.PatchGame`.

    Raises:
        ValueError: for an unknown reward, features that are not ``(B, D)``, or features that do
            not depend on the image.
    """
    if kind not in ("projection", "cosine", "features"):
        raise ValueError(f"expected the reward 'projection', 'cosine' or 'features', got {kind!r}")
    games = PatchGames(
        encoder, images_BCHW, 0, players, names, fill, features, batch_size, precision, compile
    )
    ends = torch.stack([torch.ones(players.n), torch.zeros(players.n)]).bool()
    made = []
    for game in games:
        with torch.inference_mode(), running(encoder, "float32") as ready:
            image = ready(game.image_CHW[None])
            features_2D = encoder(hide(image, ends.to(image.device), players, fill(image)))
        if features_2D.ndim != 2:
            raise ValueError(
                f"expected an encoder that gives features (B, D), got {tuple(features_2D.shape)}; "
                "pool tokens or maps first"
            )
        whole_D, empty_D = features_2D.clone()
        reward: Reward = features
        try:
            if kind == "projection":
                reward = projection(whole_D, empty_D)
            elif kind == "cosine":
                reward = cosine(whole_D)
        except ValueError as error:
            raise ValueError(f"image {game.image}: {error}") from error
        made.append(replace(game, reward=reward))
    return made
