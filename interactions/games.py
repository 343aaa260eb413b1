"""The only border between estimators and networks: a game.

A game tells the worth v(S) of a coalition S of players: booleans ``(K, N)`` in, numbers ``(K,)``
out, or vectors ``(K, D)``. Estimators know games; they never see a model, an image or a file.

Shapes: K coalitions, N players, D features, B images, C channels or classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from interactions import fills
from interactions.compose import masked_outputs
from interactions.forwards import (
    Precision,
    arithmetic,
    automatic_batch_size,
    check_precision,
    device_of,
    in_batches,
)
from interactions.patches import Players


class Game(Protocol):
    """A cooperative game over ``n`` players.

    Attributes:
        n: number of players.
        image: name of what is played on; random draws are keyed by it.
    """

    @property
    def n(self) -> int:
        """The number of players."""
        ...

    @property
    def image(self) -> str:
        """The name of what is played on."""
        ...

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values v(S), float64 on the CPU, of coalitions given as bool ``(K, N)``.

        Returns:
            Shape ``(K,)``, or ``(K, D)`` for a game whose values are vectors.
        """
        ...


Reward = Callable[[Any, int], Tensor]
"""Outputs of the model and a class -> values ``(B,)`` or vectors ``(B, D)`` in float64."""


def log_odds(logits_BC: Tensor, label: int) -> Tensor:
    """log p/(1-p) of the class: z_y - logsumexp over the other classes.

    The published reward. It is computed from logits in float64, because 1-p loses all digits as
    p approaches 1.

    Raises:
        ValueError: with a single class, where 1-p is 0.
    """
    _check_class(logits_BC, label)
    logits_BC = logits_BC.double()
    if logits_BC.shape[1] < 2:
        raise ValueError("expected at least 2 classes for log-odds, got 1; use the logit reward")
    others = torch.cat([logits_BC[:, :label], logits_BC[:, label + 1 :]], dim=1)
    return logits_BC[:, label] - others.logsumexp(dim=1)


def logit(logits_BC: Tensor, label: int) -> Tensor:
    """The raw output z_y of the class."""
    _check_class(logits_BC, label)
    return logits_BC[:, label].double()


def log_prob(logits_BC: Tensor, label: int) -> Tensor:
    """log p of the class: bounded above by 0, so it flattens where the network is sure."""
    _check_class(logits_BC, label)
    return logits_BC.double().log_softmax(dim=1)[:, label]


def probability(logits_BC: Tensor, label: int) -> Tensor:
    """p of the class: saturates at both ends, where second differences vanish."""
    _check_class(logits_BC, label)
    return logits_BC.double().softmax(dim=1)[:, label]


REWARDS: dict[str, Reward] = {
    "log_odds": log_odds,
    "logit": logit,
    "log_prob": log_prob,
    "probability": probability,
}


def _check_class(logits_BC: Tensor, label: int) -> None:
    if not isinstance(logits_BC, Tensor) or logits_BC.ndim != 2:
        got = tuple(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(logits_BC).__name__
        raise ValueError(
            f"expected a model that gives logits (B, classes), got {got}; give a reward that reads "
            "the model's outputs"
        )
    if not 0 <= label < logits_BC.shape[1]:
        raise ValueError(f"label {label} is not one of the model's {logits_BC.shape[1]} classes")


@dataclass(frozen=True)
class PatchGame:
    """What a network says about one image when only some patches are visible.

    Attributes:
        model: maps images ``(B, C, H, W)`` to logits ``(B, classes)``, or to anything that the
            reward can read; in eval mode.
        image_CHW: one image, ready for the model.
        label: the class whose reward is played for.
        players: the regions of the image: a grid, or superpixels.
        image: the image's name, for random draws and error messages.
        fill: what hidden patches become.
        reward: from the model's outputs and the label to the value.
        batch_size: how many masked images go through the model at once, halved as long as the
            device has not memory enough; None for as many as fill the device
            (:func:`~interactions.forwards.automatic_batch_size`).
        precision: arithmetic of the model. In float16 and TF32 the two ends, where no mean over
            contexts lowers the noise, are still evaluated in float32.
    """

    model: nn.Module
    image_CHW: Tensor
    label: int
    players: Players
    image: str = "0"
    fill: fills.Fill = fills.zero
    reward: Reward = log_odds
    batch_size: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_playable(self)

    @property
    def n(self) -> int:
        """The number of players."""
        return self.players.n

    @property
    def precise(self) -> PatchGame:
        """The same game in float32."""
        return self if self.precision == "float32" else replace(self, precision="float32")

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions; see :class:`Game`.

        Raises:
            ValueError: if the outputs are not what the reward reads, or a value is not finite.
        """
        device = device_of(self.model)
        with torch.inference_mode(), arithmetic(self.precision, device):
            images_1CHW = self.image_CHW[None].to(device)
            outputs = masked_outputs(self.model, images_1CHW, self.players, self.fill(images_1CHW))
            return play(self, outputs, coalitions_KN)


class OnImage(Protocol):
    """What games of a network and an image have in common; see :class:`PatchGame`."""

    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def image_CHW(self) -> Tensor: ...  # noqa: D102
    @property
    def players(self) -> Players: ...  # noqa: D102
    @property
    def label(self) -> int: ...  # noqa: D102
    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def image(self) -> str: ...  # noqa: D102
    @property
    def reward(self) -> Reward: ...  # noqa: D102
    @property
    def batch_size(self) -> int | None: ...  # noqa: D102
    @property
    def precision(self) -> Precision: ...  # noqa: D102


def check_playable(game: OnImage) -> None:
    """Raise a ValueError if a game's image, model or settings cannot be played with."""
    if game.image_CHW.ndim != 3:
        raise ValueError(
            f"image {game.image}: expected (C, H, W), got {tuple(game.image_CHW.shape)}"
        )
    if game.batch_size is not None and game.batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {game.batch_size}")
    check_precision(game.precision)
    if game.model.training:
        raise ValueError(
            "expected a model in eval mode, got one in training mode, whose batch statistics "
            "and dropout make v(S) depend on the batch; call model.eval() first"
        )
    try:
        game.players.check_image(*game.image_CHW.shape[1:])
    except ValueError as error:
        raise ValueError(f"image {game.image}: {error}") from error


def play(game: OnImage, outputs: Callable[[Tensor], Any], coalitions_KN: Tensor) -> Tensor:
    """Values of coalitions from what the network says of them, in batches.

    Args:
        game: whose reward, batch size and name are used.
        outputs: from bool ``(B, N)`` on the model's device to the model's outputs.
        coalitions_KN: bool.

    Raises:
        ValueError: if the outputs are not what the reward reads, or a value is not finite.
    """
    device = device_of(game.model)

    def values_of(visible_BN: Tensor) -> Tensor:
        return game.reward(outputs(visible_BN.to(device)), game.label)

    size = game.batch_size or automatic_batch_size(
        game.model,
        game.image_CHW,
        game.precision,
        device,
        lambda count: values_of(torch.ones(count, game.n, dtype=torch.bool)),
    )
    try:
        values = in_batches(values_of, coalitions_KN, size)
    except ValueError as error:
        raise ValueError(f"image {game.image}: {error}") from error
    if not values.isfinite().all():
        raise ValueError(f"image {game.image}: the model gave values that are not finite")
    return values


@dataclass(frozen=True)
class PatchGames:
    """One :class:`PatchGame` for each image of a batch, all with the same model and rules.

    Attributes:
        model: as in :class:`PatchGame`.
        images_BCHW: images ready for the model.
        labels_B: one class for each image, one class for all, or ``"prediction"`` for the class
            that the model gives to the whole image.
        players: the regions of all images, or of each.
        names: one name for each image; ``"0"``, ``"1"``, ... if left out.
        fill: what hidden patches become.
        reward: from the model's outputs and the label to the value.
        batch_size: as in :class:`PatchGame`.
        precision: as in :class:`PatchGame`.
    """

    model: nn.Module
    images_BCHW: Tensor
    labels_B: Tensor | Sequence[int] | int | Literal["prediction"]
    players: Players | Sequence[Players]
    names: Sequence[str] | None = None
    fill: fills.Fill = fills.zero
    reward: Reward = log_odds
    batch_size: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.images_BCHW.ndim != 4 or len(self.images_BCHW) == 0:
            raise ValueError(
                f"expected images (B, C, H, W) with B > 0, got {tuple(self.images_BCHW.shape)}"
            )
        if isinstance(self.labels_B, str) and self.labels_B != "prediction":
            raise ValueError(f"expected labels or 'prediction', got {self.labels_B!r}")
        several = {
            "labels": None if isinstance(self.labels_B, str | int) else self.labels_B,
            "names": self.names,
            "divisions into players": self.players if isinstance(self.players, Sequence) else None,
        }
        for what, many in several.items():
            if many is not None and len(many) != len(self.images_BCHW):
                raise ValueError(f"expected {len(self.images_BCHW)} {what}, got {len(many)}")
        if self.names is not None and len(set(self.names)) != len(self.names):
            raise ValueError("expected distinct image names: random draws are keyed by them")

    def __len__(self) -> int:
        return len(self.images_BCHW)

    def __getitem__(self, index: int) -> PatchGame:
        index = range(len(self))[index]
        image_CHW = self.images_BCHW[index]
        if isinstance(self.labels_B, str):
            label = predicted_class(self.model, image_CHW)
        elif isinstance(self.labels_B, int):
            label = self.labels_B
        else:
            label = int(self.labels_B[index])
        players = self.players[index] if isinstance(self.players, Sequence) else self.players
        return PatchGame(
            model=self.model,
            image_CHW=image_CHW,
            label=label,
            players=players,
            image=str(index) if self.names is None else self.names[index],
            fill=self.fill,
            reward=self.reward,
            batch_size=self.batch_size,
            precision=self.precision,
        )

    def __iter__(self) -> Iterator[PatchGame]:
        return (self[index] for index in range(len(self)))


def predicted_class(model: nn.Module, image_CHW: Tensor) -> int:
    """The class that a classifier gives to a whole image."""
    device = device_of(model)
    with torch.inference_mode(), arithmetic("float32", device):
        return int(model(image_CHW[None].to(device)).argmax(dim=1))
