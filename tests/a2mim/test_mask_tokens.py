import pytest
import torch
from timm import create_model

from a2mim.mask_tokens import TokenBlend, token_blend
from a2mim.sites import shape_at, site_of
from interactions.patches import PatchGrid

GRID = PatchGrid(2, 3)
VISIBLE = torch.tensor([[True, False, True, True, False, False], [True] * 6])
LAYOUTS = {
    "BEhw": lambda tokens: tokens.transpose(1, 2).reshape(2, 4, 2, 3),
    "BhwE": lambda tokens: tokens.reshape(2, 2, 3, 4),
    "BNE": lambda tokens: tokens,
}


def tokens(seed=0):
    return torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_all_layouts_against_a_loop(layout, mode):
    blend = TokenBlend(4, layout, GRID, mode=mode)
    features = tokens()
    expected = features.clone()
    for b in range(2):
        for k in range(6):
            if not VISIBLE[b, k]:
                expected[b, k] = blend.token + (features[b, k] if mode == "add" else 0)
    to_layout = LAYOUTS[layout]
    torch.testing.assert_close(blend(to_layout(features), VISIBLE), to_layout(expected))


def test_prefix_tokens_stay_untouched():
    blend = TokenBlend(4, "BNE", GRID, prefix=1)
    features = torch.cat([torch.ones(2, 1, 4), tokens()], dim=1)
    out = blend(features, VISIBLE)
    assert torch.equal(out[:, 0], features[:, 0])
    assert not torch.equal(out[0, 2], features[0, 2])


def test_replaced_features_do_not_depend_on_the_image():
    blend = TokenBlend(4, "BNE", GRID, mode="replace")
    one, two = blend(tokens(0), VISIBLE), blend(tokens(1), VISIBLE)
    assert torch.equal(one[~VISIBLE], two[~VISIBLE])


def test_adding_a_zero_token_changes_nothing():
    blend = TokenBlend(4, "BNE", GRID)
    torch.nn.init.zeros_(blend.token)
    assert torch.equal(blend(tokens(), VISIBLE), tokens())


def test_the_token_collects_gradient_from_hidden_positions():
    blend = TokenBlend(4, "BEhw", GRID)
    weight = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(2))
    (blend(LAYOUTS["BEhw"](tokens()), VISIBLE) * weight).sum().backward()
    hidden = (~VISIBLE).reshape(2, 1, 2, 3)
    torch.testing.assert_close(blend.token.grad, (weight * hidden).sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_inside_a_backbone_it_acts_only_while_open(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = create_model(name, num_classes=0, **({"img_size": 64} if "vit" in name else {}))
    backbone.eval()
    site = site_of(backbone)
    channels, cells = shape_at(backbone, site, 64)
    blend = token_blend(backbone, site, channels, cells)
    torch.nn.init.ones_(blend.token)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    module = backbone.get_submodule(site.module)
    all_visible = torch.ones(2, cells.n, dtype=torch.bool)
    with torch.inference_mode():
        plain = backbone.forward_features(images)
        with blend.at(module, all_visible):
            assert torch.equal(backbone.forward_features(images), plain)
        with blend.at(module, ~all_visible):
            assert not torch.allclose(backbone.forward_features(images), plain)
        assert torch.equal(backbone.forward_features(images), plain)
    with pytest.raises(RuntimeError), blend.at(module, all_visible):
        raise RuntimeError
    assert not module._forward_pre_hooks


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected features \(2, 6, 4\), got \(2, 7, 4\)"):
        TokenBlend(4, "BNE", GRID)(torch.zeros(2, 7, 4), VISIBLE)
    with pytest.raises(ValueError, match="'add' or 'replace'"):
        TokenBlend(4, "BNE", GRID, mode="multiply")
