"""Settings of published occlusion tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interactions import fills
from interactions.occlusion.masks import (
    TENTHS,
    Occluder,
    Ordered,
    SaliencyMass,
    ShiftedGrid,
    random,
    tenths,
)
from interactions.patches import PatchGrid, Players


@dataclass(frozen=True)
class Preset:
    """The settings of a published tool, where they are not ours.

    Neither tool fixes the seed of its random masks (and IPViT shuffles the images), so counts,
    sharing, fill and order of operations are reproduced, not the very masks.

    Attributes:
        occluder: the masks. Random ones are shared by a batch, that is by 256 consecutive images,
            and drawn anew for each fraction.
        players: the regions, for images of 224 px.
        fractions: hidden fractions, of saliency where that is what is hidden.
        raw: hidden pixels are 0 before normalisation, which is black; otherwise after it, which is
            the mean colour of the data set.
    """

    occluder: Occluder
    players: Players
    fractions: tuple[float, ...]
    raw: bool

    def fill(self, mean_C: Sequence[float], std_C: Sequence[float]) -> fills.Fill:
        """What hidden pixels become in images that were normalised with these constants."""
        if not self.raw:
            return fills.zero
        # In float32, so that hidden pixels equal those of a mask that is applied before torchvision
        # normalises, to the bit; fills.black can differ in the last one.
        mean, std = torch.tensor(mean_C), torch.tensor(std_C)
        return fills.constant(((0 - mean) / std).tolist())


_GRID = PatchGrid(14, 14)
_TO_ONE = (*TENTHS, 1.0)

PRESETS: dict[str, Preset] = {
    "ipvit": Preset(Ordered(random, tenths, nested=False, share=256), _GRID, TENTHS, raw=True),
    "ipvit_offset": Preset(
        Ordered(random, tenths, nested=False, share=256), ShiftedGrid(_GRID, 8), TENTHS, raw=True
    ),
    "ipvit_salient": Preset(SaliencyMass(salient=True), _GRID, _TO_ONE[1:], raw=True),
    "ipvit_non_salient": Preset(SaliencyMass(salient=False), _GRID, TENTHS, raw=True),
    "openmixup": Preset(Ordered(random, nested=False, share=256), _GRID, _TO_ONE, raw=False),
}
"""Published settings by name. IPViT's batches hold 256 images; OpenMixup's are those of the
configuration that is evaluated, and 256 stands here for want of a published number. IPViT's salient
curves have lambda = 0.1 ... 1, which is f for salient and 1 - f for non-salient drop; its saliency
is head 1 of DINO ViT-S/16 (:func:`~interactions.occlusion.saliency.class_attention`)."""
