"""The only border between estimators and networks: a game.

A game tells the worth v(S) of a coalition S of players: booleans ``(K, N)`` in, numbers ``(K,)``
out, or vectors ``(K, D)``. Estimators know games; they never see a model, an image or a file.

Shapes: K coalitions, N players, D features, B images, C channels or classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from interactions.checks import instance, players_of, whole
from interactions.inputs import is_path, label_of, logits_of, names_of, one_image
from interactions.networks.inference import Precision, check_eval, check_precision, running
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
    logits_BC = _checked(logits_BC, label).double()
    if logits_BC.shape[1] < 2:
        raise ValueError("expected at least 2 classes for log-odds, got 1; use the logit reward")
    others = torch.cat([logits_BC[:, :label], logits_BC[:, label + 1 :]], dim=1)
    return logits_BC[:, label] - others.logsumexp(dim=1)


def logit(logits_BC: Tensor, label: int) -> Tensor:
    """The raw output z_y of the class."""
    return _checked(logits_BC, label)[:, label].double()


def log_prob(logits_BC: Tensor, label: int) -> Tensor:
    """log p of the class: bounded above by 0, so it flattens where the network is sure."""
    return _checked(logits_BC, label).double().log_softmax(dim=1)[:, label]


def probability(logits_BC: Tensor, label: int) -> Tensor:
    """p of the class: saturates at both ends, where second differences vanish."""
    return _checked(logits_BC, label).double().softmax(dim=1)[:, label]


REWARDS: dict[str, Reward] = {
    "log_odds": log_odds,
    "logit": logit,
    "log_prob": log_prob,
    "probability": probability,
}
"""Values of a masked image by name: from the model's outputs and a class to one number each."""


def reward_of(reward: str | Reward) -> Reward:
    """A reward, also by its name.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(reward, str):
        if reward not in REWARDS:
            raise ValueError(f"expected a reward of {', '.join(REWARDS)}, got {reward!r}")
        return REWARDS[reward]
    return reward


def unit_of(reward: Reward) -> str:
    """What the values of a reward are called in figures."""
    names = {known: name for name, known in REWARDS.items()}
    return names.get(reward, getattr(reward, "__name__", "value")).replace("_", " ")


def _checked(outputs: Any, label: int) -> Tensor:
    """The logits of a model's outputs."""
    logits_BC = logits_of(outputs)
    if not isinstance(logits_BC, Tensor) or logits_BC.ndim != 2:
        got = tuple(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(logits_BC).__name__
        raise ValueError(
            f"expected a model that gives logits (B, classes), got {got}; give a reward that reads "
            "the model's outputs"
        )
    if not 0 <= label < logits_BC.shape[1]:
        raise ValueError(f"label {label} is not one of the model's {logits_BC.shape[1]} classes")
    return logits_BC


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


def adapt(game: OnImage) -> None:
    """Turn what a game is given into what it plays with, and check it.

    Pictures are prepared (:func:`interactions.inputs.prepare`), words become functions, and the
    label ``"prediction"`` becomes a class.

    Raises:
        TypeError: for an image or a label that is none.
        ValueError: as :func:`check_playable`.
    """

    def put(**values: object) -> None:
        for name, value in values.items():
            object.__setattr__(game, name, value)

    given, model = game.image_CHW, game.model
    if is_path(given) and game.image == "0":
        put(image=names_of(None, given, 1)[0])
    put(image_CHW=one_image(given, model), reward=reward_of(game.reward))
    check_playable(game)
    if isinstance(game.label, str):
        if game.label != "prediction":
            raise ValueError(f"expected a class or 'prediction', got {game.label!r}")
        put(label=predicted_class(model, game.image_CHW))
    put(label=label_of(game.label))


def predicted_class(model: nn.Module, image_CHW: Tensor) -> int:
    """The class that a classifier gives to a whole image."""
    with torch.inference_mode(), running(model, "float32") as ready:
        return int(logits_of(model(ready(image_CHW[None]))).argmax(dim=1))


def check_playable(game: OnImage) -> None:
    """Raise a ValueError if a game's image, model or settings cannot be played with."""
    if game.image_CHW.ndim != 3:
        raise ValueError(
            f"image {game.image}: expected (C, H, W), got {tuple(game.image_CHW.shape)}"
        )
    instance(game.model, nn.Module, "a network")
    players_of(game.players)
    if game.batch_size is not None:
        whole(game.batch_size, "batch_size")
    check_precision(game.precision)
    check_eval(game.model)
    try:
        game.players.check_image(*game.image_CHW.shape[1:])
    except ValueError as error:
        raise ValueError(f"image {game.image}: {error}") from error


def described(game: OnImage) -> str:
    """A game in one line."""
    C, H, W = game.image_CHW.shape
    return (
        f"{type(game).__name__}({game.image!r}, {type(game.model).__name__}, label {game.label}, "
        f"{C} x {H} x {W}, {game.n} players, {unit_of(game.reward)})"
    )
