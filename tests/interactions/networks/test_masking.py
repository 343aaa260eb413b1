import pytest
import torch
from timm import create_model
from torch import nn

from interactions import fills
from interactions.games.image import PatchGame
from interactions.networks.masking import made_of, masked, token_grid, with_modules
from interactions.patches import PatchGrid, hide

# Families that embed images patch by patch, each with a grid of its patches and a coarser one.
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {}, 4),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, 4),
    "dynamic": ("vit_tiny_patch16_224", {"dynamic_img_size": True}, 4),
    "beit": ("beit_base_patch16_224", {"embed_dim": 96, "num_heads": 3}, 4),
    "eva": ("eva02_tiny_patch14_224", {"patch_size": 16}, 4),
    "swin": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "window_size": 2}, 16),
}


def make(family):
    name, options, tokens = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family in ("vit", "distilled", "dynamic", "beit", "eva"):
            options = options | {"depth": 2}
        return create_model(name, img_size=64, num_classes=5, **options).eval(), tokens


def make_image(size=64):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def make_visible(n, count=6):
    return torch.rand(count, n, generator=torch.Generator().manual_seed(2)) < 0.5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("coarser", [1, 2])
@pytest.mark.parametrize("fill", [fills.zero, fills.image_mean, fills.noise(3)])
def test_composed_outputs_are_those_of_masked_pixels_to_the_bit(family, coarser, fill):
    model, tokens = make(family)
    image, grid = make_image(), PatchGrid(tokens // coarser, tokens // coarser)
    visible = make_visible(grid.n)
    with torch.inference_mode():
        outputs = masked(model, image, grid, fill(image))
        assert outputs.network is not model
        expected = model(hide(image, visible, grid, fill(image)))
        assert torch.equal(outputs(visible), expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "vit_tiny_r_s16_p8_224"])
def test_other_networks_see_masked_pixels(name):
    model = create_model(name, num_classes=5).eval()
    with torch.inference_mode():
        outputs = masked(model, make_image(224), PatchGrid(4, 4), torch.zeros(1, 1, 1, 1))
    assert outputs.network is model


def test_players_across_patches_are_masked_in_pixels():
    model, _ = make("vit")
    image, grid = make_image(), PatchGrid(8, 8)  # a patch holds 2 x 2 players
    visible = make_visible(64)
    with torch.inference_mode():
        outputs = masked(model, image, grid, torch.zeros(1, 1, 1, 1))
        assert outputs.network is model
        expected = model(hide(image, visible, grid, torch.zeros(1, 1, 1, 1)))
        assert torch.equal(outputs(visible), expected)


class Impostor(nn.Module):
    """Has a patch embedding and looks at the pixels as well."""

    def __init__(self):
        super().__init__()
        self.patch_embed = make("vit")[0].patch_embed
        self.head = nn.Linear(192, 5)

    def forward(self, images):
        brightness = images.mean(dim=(1, 2, 3))[:, None]
        return self.head(self.patch_embed(images).mean(dim=1)) + brightness


def test_a_network_that_needs_the_pixels_gets_them():
    model, image, grid = Impostor().eval(), make_image(), PatchGrid(4, 4)
    visible = make_visible(16)
    with torch.inference_mode():
        outputs = masked(model, image, grid, torch.ones(1, 1, 1, 1))
        assert outputs.network is model
        expected = model(hide(image, visible, grid, torch.ones(1, 1, 1, 1)))
        assert torch.equal(outputs(visible), expected)


def test_the_network_is_not_changed():
    model, _ = make("vit")
    before, forward = dict(model._modules), model.patch_embed.forward
    twin = with_modules(model, head=nn.Identity())
    PatchGame(model, make_image()[0], 0, PatchGrid(4, 4))(make_visible(16))
    assert dict(model._modules) == before
    assert model.patch_embed.forward == forward
    assert twin.blocks is model.blocks
    assert isinstance(twin.head, nn.Identity)


def test_token_grids():
    model, _ = make("vit")
    assert token_grid(model, 64, 96) == PatchGrid(4, 6)
    assert token_grid(model, 64, 65) is None
    assert token_grid(nn.Linear(2, 2), 64, 64) is None
    overlapping = nn.Module()
    overlapping.patch_embed = nn.Module()
    overlapping.patch_embed.proj = nn.Conv2d(3, 8, 4, stride=2)
    assert token_grid(overlapping, 64, 64) is None
    assert made_of(PatchGrid(2, 3), PatchGrid(4, 6))
    assert not made_of(PatchGrid(2, 4), PatchGrid(4, 6))
