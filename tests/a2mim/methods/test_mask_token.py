from copy import deepcopy

import pytest
import torch
from timm import create_model

from a2mim.methods.mask_token import TokenBlend, token_blend
from a2mim.methods.sites import shape_at, site_of
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
@pytest.mark.parametrize("mode", ["add", "damped", "replace"])
def test_all_layouts_against_a_loop(layout, mode):
    blend = TokenBlend(4, layout, GRID, mode=mode)
    passes = {"add": 1, "damped": torch.tensor([0.5, 0, -1, 2]), "replace": 0}[mode]
    if mode == "damped":
        blend.gamma.data = passes
    features = tokens()
    expected = features.clone()
    for b in range(2):
        for k in range(6):
            if not VISIBLE[b, k]:
                expected[b, k] = blend.token + passes * features[b, k]
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


def test_damping_starts_at_the_published_value_and_at_zero_is_a_replacement():
    """``mask_init`` is 1e-6 in the official CNN configurations."""
    damped = TokenBlend(4, "BNE", GRID, mode="damped")
    replaced = TokenBlend(4, "BNE", GRID, mode="replace")
    replaced.load_state_dict({"token": damped.token.data})
    assert damped.gamma.tolist() == pytest.approx([1e-6] * 4)
    assert not torch.equal(damped(tokens(), VISIBLE), replaced(tokens(), VISIBLE))
    torch.nn.init.zeros_(damped.gamma)
    assert torch.equal(damped(tokens(), VISIBLE), replaced(tokens(), VISIBLE))


def test_parameter_names():
    names = {
        mode: [name for name, _ in TokenBlend(4, "BNE", GRID, mode=mode).named_parameters()]
        for mode in ("add", "replace", "damped")
    }
    assert names == {"add": ["token"], "replace": ["token"], "damped": ["token", "gamma"]}


def test_how_tokens_start():
    starts = {
        init: TokenBlend(4000, "BNE", GRID, init=init).token
        for init in ("normal", "zeros", "frozen_zeros", "frozen_normal")
    }
    # the error of a standard deviation of 4000 draws is 1.1 %
    for init in ("normal", "frozen_normal"):
        assert starts[init].std().item() == pytest.approx(0.02, rel=0.05)
    assert not starts["zeros"].any()
    assert not starts["frozen_zeros"].any()
    assert [token.requires_grad for token in starts.values()] == [True, True, False, False]


@pytest.mark.parametrize(("layout", "prefix"), [("BEhw", 0), ("BhwE", 0), ("BNE", 0), ("BNE", 1)])
@pytest.mark.parametrize("init", ["mean", "instance_mean"])
def test_means_of_features_against_a_loop(init, prefix, layout):
    """Of all patches, hidden ones too, but of no prefix; only the mean of an image has gradient."""
    blend = TokenBlend(4, layout, GRID, prefix, mode="replace", init=init).double()
    assert not list(blend.parameters())
    z = tokens().double().requires_grad_()
    with_prefix = torch.cat([torch.full((2, prefix, 4), 1e3).double(), z], dim=1)
    expected = z.detach().clone()
    for b in range(2):
        for k in range(6):
            if not VISIBLE[b, k]:
                expected[b, k] = sum(z[c, j] for c in range(2) for j in range(6)) / 12
                if init == "instance_mean":
                    expected[b, k] = sum(z[b, j] for j in range(6)) / 6
    expected = torch.cat([with_prefix[:, :prefix], expected], dim=1).detach()
    blended = blend(LAYOUTS[layout](with_prefix), VISIBLE)
    torch.testing.assert_close(blended.detach(), LAYOUTS[layout](expected))
    blended.sum().backward()
    passed = VISIBLE[:, :, None].double().expand(2, 6, 4)
    if init == "instance_mean":
        passed = passed + (~VISIBLE).sum(dim=1)[:, None, None] / 6
    torch.testing.assert_close(z.grad, passed)


@pytest.mark.parametrize("mode", ["add", "damped", "replace"])
@pytest.mark.parametrize("detach", [False, True])
def test_gradients_in_closed_form(mode, detach):
    """With G = dL/d(blended): dt = sum G m, dgamma = sum G z m, dz = G (1 - m) + passed G m."""
    blend = TokenBlend(4, "BNE", GRID, mode=mode, detach=detach).double()
    if mode == "damped":
        torch.nn.init.normal_(blend.gamma)
    z = tokens().double().requires_grad_()
    G = tokens(1).double()
    blend(z, VISIBLE).backward(G)
    hidden = (~VISIBLE)[:, :, None].double()
    torch.testing.assert_close(blend.token.grad, (G * hidden).sum(dim=(0, 1)))
    if mode == "damped":
        torch.testing.assert_close(blend.gamma.grad, (G * z * hidden).sum(dim=(0, 1)).detach())
    passes = {"add": torch.ones(4).double(), "damped": blend.gamma, "replace": torch.zeros(4)}[mode]
    expected = G * (1 - hidden) + (0 if detach else passes * G * hidden)
    torch.testing.assert_close(z.grad, expected.detach())


def test_the_output_of_a_module_can_be_blended():
    module = torch.nn.Identity()
    blend = TokenBlend(4, "BNE", GRID)
    blend.attach(module, "output")
    with blend.at(VISIBLE):
        assert torch.equal(module(tokens()), blend(tokens(), VISIBLE))
    assert blend.blends == 1
    assert torch.equal(module(tokens()), tokens())
    with blend.at(VISIBLE):
        assert blend.blends == 0


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
    all_visible = torch.ones(2, cells.n, dtype=torch.bool)
    with torch.inference_mode():
        plain = backbone.forward_features(images)
        blend.attach(backbone.get_submodule(site.module))
        assert torch.equal(backbone.forward_features(images), plain)
        with blend.at(all_visible):
            assert torch.equal(backbone.forward_features(images), plain)
        with blend.at(~all_visible):
            assert not torch.allclose(backbone.forward_features(images), plain)
        assert torch.equal(backbone.forward_features(images), plain)
        with pytest.raises(RuntimeError), blend.at(~all_visible):
            raise RuntimeError
        assert torch.equal(backbone.forward_features(images), plain)


def test_a_copy_of_a_network_uses_the_copy_of_its_token():
    blend = TokenBlend(4, "BNE", GRID)
    network = torch.nn.ModuleDict({"blend": blend, "module": torch.nn.Identity()})
    blend.attach(network["module"])
    copy = deepcopy(network)
    torch.nn.init.ones_(copy["blend"].token)
    with copy["blend"].at(VISIBLE):
        assert torch.equal(network["module"](tokens()), tokens())
        hidden = (~VISIBLE)[:, :, None]
        assert torch.equal(copy["module"](tokens()), tokens() + hidden)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected features \(2, 6, 4\), got \(2, 7, 4\)"):
        TokenBlend(4, "BNE", GRID)(torch.zeros(2, 7, 4), VISIBLE)
    with pytest.raises(ValueError, match="'add', 'damped' or 'replace'"):
        TokenBlend(4, "BNE", GRID, mode="multiply")
    with pytest.raises(ValueError, match=r"expected the init normal, zeros, .*got 'ones'"):
        TokenBlend(4, "BNE", GRID, init="ones")
