"""The only border between estimators and networks: a game.

A game tells the worth v(S) of a coalition S of players: booleans ``(K, N)`` in, numbers ``(K,)``
out. Estimators know games; they never see a model, an image or a file.

Shapes: K coalitions, N players, B images, C channels or classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from interactions import fills
from interactions.patches import PatchGrid, hide


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
        """Values v(S), float64 ``(K,)`` on the CPU, of coalitions given as bool ``(K, N)``."""
        ...


Reward = Callable[[Tensor, int], Tensor]
"""Logits ``(B, C)`` and a class -> values ``(B,)`` in float64."""


def log_odds(logits_BC: Tensor, label: int) -> Tensor:
    """log p/(1-p) of the class: z_y - logsumexp over the other classes.

    The published reward. It is computed from logits in float64, because 1-p loses all digits as
    p approaches 1.

    Raises:
        ValueError: with a single class, where 1-p is 0.
    """
    logits_BC = logits_BC.double()
    if logits_BC.shape[1] < 2:
        raise ValueError("expected at least 2 classes for log-odds, got 1; use the logit reward")
    others = torch.cat([logits_BC[:, :label], logits_BC[:, label + 1 :]], dim=1)
    return logits_BC[:, label] - others.logsumexp(dim=1)


def logit(logits_BC: Tensor, label: int) -> Tensor:
    """The raw output z_y of the class."""
    return logits_BC[:, label].double()


def log_prob(logits_BC: Tensor, label: int) -> Tensor:
    """log p of the class: bounded above by 0, so it flattens where the network is sure."""
    return logits_BC.double().log_softmax(dim=1)[:, label]


def probability(logits_BC: Tensor, label: int) -> Tensor:
    """p of the class: saturates at both ends, where second differences vanish."""
    return logits_BC.double().softmax(dim=1)[:, label]


REWARDS: dict[str, Reward] = {
    "log_odds": log_odds,
    "logit": logit,
    "log_prob": log_prob,
    "probability": probability,
}


@dataclass(frozen=True)
class PatchGame:
    """What a classifier says about one image when only some patches are visible.

    Attributes:
        model: maps images ``(B, C, H, W)`` to logits ``(B, classes)``; in eval mode.
        image_CHW: one image, ready for the model.
        label: the class whose reward is played for.
        grid: the players.
        image: the image's name, for random draws and error messages.
        fill: what hidden patches become.
        reward: from logits and label to the value.
        batch_size: how many masked images go through the model at once; halved as long as the
            device has not memory enough.
    """

    model: nn.Module
    image_CHW: Tensor
    label: int
    grid: PatchGrid
    image: str = "0"
    fill: fills.Fill = fills.zero
    reward: Reward = log_odds
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.image_CHW.ndim != 3:
            raise ValueError(
                f"image {self.image}: expected (C, H, W), got {tuple(self.image_CHW.shape)}"
            )
        if self.batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {self.batch_size}")
        if self.model.training:
            raise ValueError(
                "expected a model in eval mode, got one in training mode, whose batch statistics "
                "and dropout make v(S) depend on the batch; call model.eval() first"
            )
        self.grid.cell_size(*self.image_CHW.shape[1:])

    @property
    def n(self) -> int:
        """The number of players."""
        return self.grid.n

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions; see :class:`Game`.

        Raises:
            ValueError: if the label is not a class of the model, or an output is not finite.
        """
        device = device_of(self.model)
        values = []
        with torch.inference_mode():
            images_1CHW = self.image_CHW[None].to(device)
            filled = self.fill(images_1CHW)
            start, size = 0, self.batch_size
            while start < len(coalitions_KN):
                chunk_KN = coalitions_KN[start : start + size]
                try:
                    logits = self.model(hide(images_1CHW, chunk_KN.to(device), self.grid, filled))
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    size //= 2
                    continue
                self._check(logits)
                values.append(self.reward(logits, self.label))
                start += len(chunk_KN)
        values_K = torch.cat(values).cpu() if values else torch.empty(0, dtype=torch.float64)
        if not values_K.isfinite().all():
            raise ValueError(f"image {self.image}: the model gave values that are not finite")
        return values_K

    def _check(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise ValueError(
                f"expected a model that gives logits (B, classes), got {tuple(logits.shape)}"
            )
        if not 0 <= self.label < logits.shape[1]:
            raise ValueError(
                f"image {self.image}: label {self.label} is not one of the model's "
                f"{logits.shape[1]} classes"
            )


@dataclass(frozen=True)
class PatchGames:
    """One :class:`PatchGame` for each image of a batch, all with the same model and rules.

    Attributes:
        model: as in :class:`PatchGame`.
        images_BCHW: images ready for the model.
        labels_B: one class for each image.
        grid: the players.
        names: one name for each image; ``"0"``, ``"1"``, ... if left out.
        fill: what hidden patches become.
        reward: from logits and label to the value.
        batch_size: how many masked images go through the model at once.
    """

    model: nn.Module
    images_BCHW: Tensor
    labels_B: Tensor | Sequence[int]
    grid: PatchGrid
    names: Sequence[str] | None = None
    fill: fills.Fill = fills.zero
    reward: Reward = log_odds
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.images_BCHW.ndim != 4 or len(self.images_BCHW) == 0:
            raise ValueError(
                f"expected images (B, C, H, W) with B > 0, got {tuple(self.images_BCHW.shape)}"
            )
        for what, many in (("labels", self.labels_B), ("names", self.names)):
            if many is not None and len(many) != len(self.images_BCHW):
                raise ValueError(f"expected {len(self.images_BCHW)} {what}, got {len(many)}")
        if self.names is not None and len(set(self.names)) != len(self.names):
            raise ValueError("expected distinct image names: random draws are keyed by them")

    def __len__(self) -> int:
        return len(self.images_BCHW)

    def __getitem__(self, index: int) -> PatchGame:
        index = range(len(self))[index]
        return PatchGame(
            model=self.model,
            image_CHW=self.images_BCHW[index],
            label=int(self.labels_B[index]),
            grid=self.grid,
            image=str(index) if self.names is None else self.names[index],
            fill=self.fill,
            reward=self.reward,
            batch_size=self.batch_size,
        )

    def __iter__(self) -> Iterator[PatchGame]:
        return (self[index] for index in range(len(self)))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives; the CPU for a model without parameters."""
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device
