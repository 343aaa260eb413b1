import pytest
import torch
from captum.attr import Saliency
from timm import create_model
from timm.utils import AttentionExtract
from torch import nn

from interactions.occlusion.saliency import class_attention, from_attribution, renormalised
from interactions.patches import PatchGrid
from interactions.segments import PlayerMap


@pytest.fixture(scope="module")
def vit():
    return create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3
    ).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_attention_of_each_head_is_what_timm_extracts(vit, images):
    for block in vit.blocks:
        block.attn.fused_attn = False
    extract = AttentionExtract(vit, names=["blocks.1.attn.softmax"], method="fx")
    expected = extract(images)["blocks.1.attn.softmax"][:, :, 0, 1:].detach().double()
    for block in vit.blocks:
        block.attn.fused_attn = True
    heads = [class_attention(vit, images, head, batch_size=2) for head in range(3)]
    for head, found in enumerate(heads):
        torch.testing.assert_close(found, expected[:, head], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(class_attention(vit, images), heads[1])
    torch.testing.assert_close(class_attention(vit, images, None), torch.stack(heads).mean(dim=0))
    assert not torch.allclose(class_attention(vit, images, block=0), heads[1])
    assert heads[0].dtype == torch.float64
    assert (heads[0].sum(dim=1) < 1).all()


def test_the_network_is_put_back(vit, images):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    before = [block.attn.fused_attn for block in vit.blocks]
    class_attention(vit, images)
    norm, vit.norm = vit.norm, Broken()
    with pytest.raises(RuntimeError, match="broken"):
        class_attention(vit, images)
    vit.norm = norm
    assert [block.attn.fused_attn for block in vit.blocks] == before
    assert not any(module._forward_hooks for module in vit.modules())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("beit_base_patch16_224", {}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
)
def test_other_families_have_as_many_patches(name, kwargs, images):
    small = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    model = create_model(name, **small, **kwargs).eval()
    assert class_attention(model, images).shape == (5, 16)


def test_bad_models(vit, images):
    with pytest.raises(ValueError, match="eval mode"):
        class_attention(create_model("test_vit"), images)
    with pytest.raises(ValueError, match="with a class token, got ResNet"):
        class_attention(create_model("test_resnet").eval(), images)
    with pytest.raises(ValueError, match="a head from 0 to 2 or None, got 3"):
        class_attention(vit, images, 3)


def test_attributions_are_summed_over_players():
    attribution = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    grid = PatchGrid(3, 2)
    found = from_attribution(attribution, grid)
    for image in range(2):
        for row in range(3):
            for col in range(2):
                cell = attribution[image, :, 2 * row : 2 * row + 2, 4 * col : 4 * col + 4]
                assert found[image, 2 * row + col] == pytest.approx(cell.double().sum().item())
    cells = grid.pixels(torch.eye(6, dtype=torch.bool), 6, 8)[:, 0]
    players = PlayerMap(cells.int().argmax(dim=0))
    torch.testing.assert_close(from_attribution(attribution, players), found)
    torch.testing.assert_close(from_attribution(attribution.sum(dim=1), grid), found)
    sizes = from_attribution(attribution, grid, absolute=True)
    torch.testing.assert_close(sizes, from_attribution(attribution.abs(), grid))
    # Patches of a fine grid are the pixels of a coarse one.
    fine = from_attribution(attribution, PatchGrid(6, 4))
    torch.testing.assert_close(from_attribution(fine.reshape(2, 6, 4), grid), found)
    for bad, message in (
        (torch.zeros(6, 8), r"got \(6, 8\)"),
        (torch.full((1, 6, 8), torch.nan), "finite attributions"),
        (torch.zeros(1, 7, 8), "divides"),
    ):
        with pytest.raises(ValueError, match=message):
            from_attribution(bad, grid)


def test_captum_finds_the_patch_that_a_model_reads():
    class OnePatch(nn.Module):
        def forward(self, images):
            return images[:, :, 4:8, 0:4].sum(dim=(1, 2, 3))[:, None].expand(-1, 2)

    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    attribution = Saliency(OnePatch()).attribute(images, target=0)
    saliency = from_attribution(attribution, PatchGrid(2, 2))
    assert saliency.tolist() == [[0, 0, 48, 0]] * 2


def test_renormalised_images():
    raw = torch.rand(2, 3, 4, 4)
    one, two = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))

    def normalised(mean, std):
        return (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    torch.testing.assert_close(renormalised(normalised(*one), *one, *two), normalised(*two))
