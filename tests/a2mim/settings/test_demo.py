import pytest
import torch

from a2mim.methods.sites import shape_at, site_of
from a2mim.settings.demo import IMAGE_SIZE, MASK_BLOCK, backbone
from interactions.patches import PatchGrid


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_backbones_are_small_and_meet_the_mask_blocks(name):
    model = backbone(name, 10)
    assert 0.3e6 < sum(p.numel() for p in model.parameters()) < 1e6
    side = IMAGE_SIZE // MASK_BLOCK
    assert shape_at(model, site_of(model), IMAGE_SIZE)[1] == PatchGrid(side, side)
    assert model(torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)).shape == (2, 10)


def test_unknown_names():
    with pytest.raises(ValueError, match="'vit' or 'resnet', got 'mlp'"):
        backbone("mlp", 10)
