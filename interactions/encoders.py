"""Rewards for networks without a classifier: what an encoder's features say of an image.

With g the features of a masked image x_S, x_N the whole image and x_0 the image with all hidden,

    projection   v(S) = <g(x_S) - g(x_0), u>,   u = (g(x_N) - g(x_0)) / ||g(x_N) - g(x_0)||
    cosine       v(S) = cos(g(x_S), g(x_N))

The projection is linear in the features, 0 for the empty coalition and the default; the cosine is
bounded, so its second differences shrink near the whole image as those of a probability do.

Shapes: B masked images, D features, C channels, H x W pixels, N players.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from interactions import fills
from interactions.games import PatchGame, PatchGames, Reward, device_of
from interactions.patches import PatchGrid, hide


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
        return (features_BD.double() - empty_D.double()) @ direction_D

    return reward


def cosine(whole_D: Tensor) -> Reward:
    """The cosine reward of an image with these features when whole.

    Raises:
        ValueError: if the features are all 0.
    """
    if not whole_D.any():
        raise ValueError("expected features of the whole image, got only zeros")

    def reward(features_BD: Tensor, label: int) -> Tensor:
        return torch.cosine_similarity(features_BD.double(), whole_D.double()[None], dim=1)

    return reward


def encoder_games(
    encoder: nn.Module,
    images_BCHW: Tensor,
    grid: PatchGrid,
    *,
    kind: Literal["projection", "cosine"] = "projection",
    names: Sequence[str] | None = None,
    fill: fills.Fill = fills.zero,
    batch_size: int = 256,
) -> list[PatchGame]:
    """One game per image for an encoder, as ``PatchGames`` are for a classifier.

    Args:
        encoder: maps images to features ``(B, D)``, such as a timm model with ``num_classes=0``; in
            eval mode.
        images_BCHW: images ready for the encoder.
        grid: the players.
        kind: the reward.
        names: one name per image; ``"0"``, ``"1"``, ... if left out.
        fill: what hidden patches become.
        batch_size: how many masked images go through the encoder at once.

    Raises:
        ValueError: for an unknown reward, features that are not ``(B, D)``, or features that do
            not depend on the image.
    """
    if kind not in ("projection", "cosine"):
        raise ValueError(f"expected the reward 'projection' or 'cosine', got {kind!r}")
    games = PatchGames(
        encoder, images_BCHW, [0] * len(images_BCHW), grid, names, fill, batch_size=batch_size
    )
    ends = torch.stack([torch.ones(grid.n), torch.zeros(grid.n)]).bool()
    made = []
    for game in games:
        image = game.image_CHW[None].to(device_of(encoder))
        with torch.inference_mode():
            features = encoder(hide(image, ends.to(image.device), grid, fill(image)))
        if features.ndim != 2:
            raise ValueError(
                f"expected an encoder that gives features (B, D), got {tuple(features.shape)}; "
                "pool tokens or maps first"
            )
        whole_D, empty_D = features.clone()
        try:
            reward = projection(whole_D, empty_D) if kind == "projection" else cosine(whole_D)
        except ValueError as error:
            raise ValueError(f"image {game.image}: {error}") from error
        made.append(replace(game, reward=reward))
    return made
