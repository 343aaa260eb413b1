import pytest
import torch
import torch.nn.functional as F
from captum import attr
from captum.attr import Saliency
from timm import create_model
from timm.utils import AttentionExtract
from torch import nn

from interactions.keys import raw_words, torch_seeded
from interactions.occlusion.masks import OCCLUDERS, Scene
from interactions.occlusion.saliency import (
    METHODS,
    captum_attribution,
    class_attention,
    from_attribution,
    renormalised,
)
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


GRID = PatchGrid(2, 4)
PATCHES_HW = torch.arange(8).reshape(2, 4).repeat_interleave(4, 0).repeat_interleave(2, 1)
SMALL = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
DIRECT = {
    "Occlusion": {"sliding_window_shapes": (3, 4, 2), "strides": (3, 4, 2)},
    "ShapleyValueSampling": {"feature_mask": PATCHES_HW[None, None]},
}


@pytest.fixture
def rectified():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(512, 5)
    ).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require:UserWarning")
def test_attributions_are_those_of_captum(method, rectified):
    found = captum_attribution(rectified, SMALL, GRID, method, names=["a", "b", "c"])
    assert rectified[1].inplace
    assert not rectified[1]._forward_hooks
    assert found.shape == (3, 8)
    rectified[1].inplace = False
    for k, name in enumerate("abc"):
        image = SMALL[[k]]
        target = int(rectified(image).argmax())
        with torch_seeded(int(raw_words(1, "attribution", 0, name)[0]) >> 1):
            made = getattr(attr, method)(rectified)
            maps = made.attribute(image.clone(), target=target, **DIRECT.get(method, {}))
        sums = F.avg_pool2d(maps.detach().double(), (4, 2)).sum(dim=1).flatten() * 8
        torch.testing.assert_close(found[k], sums, rtol=1e-4, atol=1e-5)


def test_an_image_has_its_attribution_whatever_the_others(rectified):
    def sampled(images, names, seed=0):
        return captum_attribution(
            rectified, images, GRID, "ShapleyValueSampling", names=names, seed=seed
        )

    before = torch.get_rng_state()
    whole = sampled(SMALL, "abc")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(sampled(SMALL[[2, 0]], "ca"), whole[[2, 0]])
    assert not torch.equal(sampled(SMALL, "abd")[2], whole[2])
    assert not torch.equal(sampled(SMALL, "abc", seed=1), whole)


def test_what_speaks_for_the_class_is_hidden_first(rectified):
    saliency_IN = captum_attribution(rectified, SMALL, GRID, "IntegratedGradients")
    scene = Scene(GRID, ("a", "b", "c"), saliency_IN=saliency_IN)
    hidden_IFN = ~OCCLUDERS["salient"](scene, (0.0, 0.125, 0.5))
    for hidden_FN, saliency_N in zip(hidden_IFN, saliency_IN, strict=True):
        for hidden_N, count in zip(hidden_FN, (0, 1, 4), strict=True):
            assert set(hidden_N.nonzero()[:, 0].tolist()) == set(saliency_N.topk(count)[1].tolist())


def test_attributions_that_cannot_be_had(rectified):
    class Odd(nn.Module):
        def forward(self, images):
            return images.detach().mean(dim=(1, 2, 3))[:, None].expand(-1, 2)

    for model, method, message in (
        (rectified, "Salience", "got 'Salience'"),
        (rectified, "LRP", "got 'LRP'"),
        (nn.Flatten(), "Saliency", "eval mode"),
        (nn.Flatten().eval(), "GuidedBackprop", r"nn\.ReLU"),
        (Odd().eval(), "Saliency", "captum's Saliency does not work on Odd"),
    ):
        with pytest.raises(ValueError, match=message):
            captum_attribution(model, SMALL, GRID, method)


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
