"""Games of images: players are regions of an image, and a network says what a coalition is worth.

Shapes: K coalitions, N players, B images, C channels or classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from interactions import fills
from interactions.games.base import Reward, check_playable, log_odds
from interactions.games.stream import values_of
from interactions.networks.inference import Precision, running
from interactions.networks.masking import Masked, masked
from interactions.patches import Players


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
        check_playable(self)

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
        return values_of(self, coalitions_KN)

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
        images_BCHW: images ready for the model.
        labels_B: one class for each image, one class for all, or ``"prediction"`` for the class
            that the model gives to the whole image.
        players: the regions of all images, or of each.
        names: one name for each image; ``"0"``, ``"1"``, ... if left out.
        fill: what hidden patches become.
        reward: from the model's outputs and the label to the value.
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
            compile=self.compile,
        )

    def __iter__(self) -> Iterator[PatchGame]:
        return (self[index] for index in range(len(self)))


def predicted_class(model: nn.Module, image_CHW: Tensor) -> int:
    """The class that a classifier gives to a whole image."""
    with torch.inference_mode(), running(model, "float32") as ready:
        return int(model(ready(image_CHW[None])).argmax(dim=1))
