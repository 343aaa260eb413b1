import pytest
import torch
from timm import create_model
from torch import nn

from a2mim.sites import SITES, Site, as_map, output_shape, prefix_tokens, shape_at, site_of
from interactions.patches import PatchGrid


@pytest.mark.parametrize(
    ("name", "size", "site_cells", "last_cells"),
    [
        ("test_vit", 32, (2, 2), (2, 2)),  # patches of 16 px
        ("test_resnet", 64, (4, 4), (2, 2)),  # strides of 16 and 32 px
        ("test_convnext", 64, (2, 2), (2, 2)),  # after the last stride of 32 px
    ],
)
def test_cells_of_each_family(name, size, site_cells, last_cells):
    backbone = create_model(name, num_classes=0, **({"img_size": size} if "vit" in name else {}))
    channels, cells = shape_at(backbone, site_of(backbone), size)
    assert cells == PatchGrid(*site_cells)
    width, last = output_shape(backbone, site_of(backbone), size)
    assert last == PatchGrid(*last_cells)
    features = backbone.eval().forward_features(torch.zeros(2, 3, size, size))
    assert as_map(features, site_of(backbone).layout, prefix_tokens(backbone), last).shape == (
        2,
        width,
        *last_cells,
    )
    assert channels > 0


def test_published_positions_at_224_pixels():
    """ViT: 14 x 14 tokens; ResNet: 14 x 14 before layer4; ConvNeXt: 7 x 7 in its last stage."""
    for name, cells in (
        ("vit_tiny_patch16_224", PatchGrid(14, 14)),
        ("resnet18", PatchGrid(14, 14)),
        ("convnext_atto", PatchGrid(7, 7)),
    ):
        backbone = create_model(name, num_classes=0)
        assert shape_at(backbone, site_of(backbone), 224)[1] == cells


def test_resnet50_has_the_published_channels():
    backbone = create_model("resnet50", num_classes=0)
    assert shape_at(backbone, SITES["ResNet"], 64)[0] == 1024
    assert output_shape(backbone, SITES["ResNet"], 64)[0] == 2048


def test_tokens_become_a_map_row_by_row():
    tokens = torch.arange(1 * 7 * 2.0).reshape(1, 7, 2)
    features = as_map(tokens, "BNE", prefix=1, grid=PatchGrid(2, 3))
    assert features[0, 0].tolist() == [[2, 4, 6], [8, 10, 12]]


def test_channels_last_become_channels_first():
    features = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert as_map(features, "BhwE", 0, PatchGrid(2, 3))[0, 1].tolist() == [[1, 5, 9], [13, 17, 21]]


def test_looking_leaves_no_trace():
    """Neither hooks nor a changed mode nor changed running statistics."""
    backbone = create_model("test_resnet", num_classes=0).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    shape_at(backbone, site_of(backbone), 64)
    assert backbone.training
    assert not backbone.layer4._forward_pre_hooks
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_unknown_families_say_what_to_do():
    with pytest.raises(ValueError, match=r"got Linear; pass site=Site"):
        site_of(nn.Linear(1, 1))
    backbone = create_model("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match=r"expected features BNE, got the shape \(1, "):
        shape_at(backbone, Site("layer4", "BNE"), 64)
    with pytest.raises(ValueError, match="fc did not run in forward_features"):
        shape_at(backbone, Site("fc", "BEhw"), 64)
