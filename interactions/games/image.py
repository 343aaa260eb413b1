"""Games of images: players are regions of an image, and a network says what a coalition is worth.

Shapes: K coalitions, N players, B images, C channels or classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from interactions import fills
from interactions.games.base import Reward, adapt, described, log_odds, reward_of, unit_of
from interactions.games.stream import values_of
from interactions.inputs import coalitions_of, fill_of, label_of, labels_of, names_of, prepare
from interactions.networks.inference import Precision
from interactions.networks.masking import Masked, masked
from interactions.patches import Players


@dataclass(frozen=True)
class PatchGame:
    """What a network says about one image when only some patches are visible.

    Attributes:
        model: maps images ``(B, C, H, W)`` to logits ``(B, classes)``, also in a dict as
            ``"logits"``, or to anything that the reward can read; in eval mode.
        image_CHW: one image, ready for the model; or a picture (uint8 array, PIL image, path) that
            is prepared as a timm model says, see :func:`interactions.inputs.prepare`.
        label: the class whose reward is played for, or ``"prediction"`` for the one that the model
            gives to the whole image.
        players: the regions of the image: a grid, or superpixels.
        image: the image's name, for random draws and error messages.
        fill: what hidden patches become; also ``"zero"``, ``"image_mean"``, ``"blur"``, and for
            timm models ``"black"`` and ``"white"``.
        reward: from the model's outputs and the label to the value, or a name of ``ix.REWARDS``.
        batch_size: how many masked images go through the model at once, halved as long as the
            device has not memory enough; None for as many as fill the device
            (:func:`~interactions.networks.inference.automatic_batch_size`).
        precision: arithmetic of the model. The two ends, where no mean over contexts lowers the
            noise, are evaluated in float32 in any case (``model``: as the module is).
        compile: whether the network's forward is compiled; worth its half a minute or so from some
            hundred thousand forwards on. The ends in float32 are not, if the rest is in another
            precision.
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
    compile: bool = False

    def __post_init__(self) -> None:
        adapt(self)
        object.__setattr__(self, "fill", fill_of(self.fill, self.model))

    def __repr__(self) -> str:
        return described(self)

    @property
    def n(self) -> int:
        """The number of players."""
        return self.players.n

    @property
    def precise(self) -> PatchGame:
        """The same game in float32."""
        return (
            self
            if self.precision in ("float32", "model")
            else replace(self, precision="float32", compile=False)
        )

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        """Values of coalitions; see :class:`Game`.

        Raises:
            ValueError: if the outputs are not what the reward reads, or a value is not finite.
        """
        return values_of(self, coalitions_of(coalitions_KN, self.n))

    def masked(self, ready: Callable[[Tensor], Tensor]) -> Callable[[int], Masked]:
        """The image as the network sees it; see :class:`~interactions.games.stream.Stream`."""
        images_1CHW = ready(self.image_CHW[None])
        image = masked(self.model, images_1CHW, self.players, self.fill(images_1CHW))
        return lambda kind: image

    def kinds(self, coalitions_KN: Tensor) -> Tensor:
        """All coalitions can share a batch."""
        return torch.zeros(len(coalitions_KN), dtype=torch.int64)


@dataclass(frozen=True)
class PatchGames:
    """One :class:`PatchGame` for each image of a batch, all with the same model and rules.

    Attributes:
        model: as in :class:`PatchGame`.
        images_BCHW: images, as in :class:`PatchGame`: a batch or a list of them.
        labels_B: one class for each image, one class for all, or ``"prediction"`` for the class
            that the model gives to the whole image.
        players: the regions of all images, or of each.
        names: one name for each image; those of files, or ``"0"``, ``"1"``, ... if left out.
        fill: as in :class:`PatchGame`.
        reward: as in :class:`PatchGame`.
        batch_size: as in :class:`PatchGame`.
        precision: as in :class:`PatchGame`.
        compile: as in :class:`PatchGame`.
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
    compile: bool = False

    def __post_init__(self) -> None:
        given, model = self.images_BCHW, self.model
        images_BCHW = prepare(given, model)
        if images_BCHW.ndim != 4 or len(images_BCHW) == 0:
            raise ValueError(
                f"expected images (B, C, H, W) with B > 0, got {tuple(images_BCHW.shape)}"
            )
        labels: Any = self.labels_B
        if isinstance(labels, str):
            if labels != "prediction":
                raise ValueError(f"expected labels or 'prediction', got {labels!r}")
        elif np.ndim(labels) == 0:
            labels = label_of(labels)
        else:
            labels = labels_of(labels)
        several = {
            "labels": labels if isinstance(labels, Tensor) else None,
            "divisions into players": self.players if isinstance(self.players, Sequence) else None,
        }
        for what, many in several.items():
            if many is not None and len(many) != len(images_BCHW):
                raise ValueError(f"expected {len(images_BCHW)} {what}, got {len(many)}")
        put = partial(object.__setattr__, self)
        put("images_BCHW", images_BCHW)
        put("labels_B", labels)
        put("names", names_of(self.names, given, len(images_BCHW)))
        put("fill", fill_of(self.fill, model))
        put("reward", reward_of(self.reward))

    def __repr__(self) -> str:
        (count, C, H, W), players = self.images_BCHW.shape, self.players
        divided = "players of each" if isinstance(players, Sequence) else f"{players.n} players"
        return (
            f"PatchGames({count} images of {C} x {H} x {W}, {type(self.model).__name__}, "
            f"{divided}, {unit_of(self.reward)})"
        )

    def __len__(self) -> int:
        return len(self.images_BCHW)

    def __getitem__(self, index: int) -> PatchGame:
        index = range(len(self))[index]
        label = self.labels_B[index] if isinstance(self.labels_B, Tensor) else self.labels_B
        players = self.players[index] if isinstance(self.players, Sequence) else self.players
        return PatchGame(
            model=self.model,
            image_CHW=self.images_BCHW[index],
            label=cast(int, label),
            players=players,
            image=cast(Sequence[str], self.names)[index],
            fill=self.fill,
            reward=self.reward,
            batch_size=self.batch_size,
            precision=self.precision,
            compile=self.compile,
        )

    def __iter__(self) -> Iterator[PatchGame]:
        return (self[index] for index in range(len(self)))
