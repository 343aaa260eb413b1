"""Counts, nesting and keys of every family, and what is published of the tools we imitate."""

import pytest
import torch
from torchvision.transforms.functional import normalize

from interactions.occlusion.presets import PRESETS
from interactions.patches import hide


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)],
)
def test_where_zero_is_written(mean, std):
    raw = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    images, zero = normalize(raw, mean, std), torch.zeros(())
    for name, preset in PRESETS.items():
        visible = torch.zeros(2, 196, dtype=torch.bool)
        visible[:, ::3] = True
        ours = hide(images, visible, preset.players, preset.fill(mean, std)(images))
        if name == "openmixup":
            theirs = hide(images, visible, preset.players, zero)
        else:
            theirs = normalize(hide(raw, visible, preset.players, zero), mean, std)
        assert torch.equal(ours, theirs), name
