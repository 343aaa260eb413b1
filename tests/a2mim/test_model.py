import pytest
import torch
from timm import create_model

from a2mim.losses import fourier_loss, masked_l1
from a2mim.masking import BlockMask
from a2mim.model import MaskedImageModel
from a2mim.sites import Site
from interactions.fills import zero

SIZE = 64


def make_model(name, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"img_size": SIZE} if "vit" in name else {}
        backbone = create_model(name, num_classes=0, **size)
        return MaskedImageModel(backbone, BlockMask(SIZE, 32, 0.5), **kwargs)


def batch(count=3):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return images, BlockMask(SIZE, 32, 0.5).draw(count, generator)


FAMILIES = ["test_vit", "test_resnet", "test_convnext"]


@pytest.mark.parametrize("name", FAMILIES)
def test_one_step(name):
    model = make_model(name)
    images, visible = batch()
    out = model(images, visible)
    pixels = model.mask.grid.pixels(visible, SIZE, SIZE)
    assert out["output"].shape == images.shape
    torch.testing.assert_close(out["spatial"], masked_l1(out["output"], images, pixels))
    torch.testing.assert_close(out["fourier"], fourier_loss(out["output"], images, pixels))
    torch.testing.assert_close(out["loss"], out["spatial"] + 0.5 * out["fourier"])
    out["loss"].backward()
    for parameter in (model.token_blend.token, model.decoder.project.weight):
        assert parameter.grad.abs().sum() > 0
    # the classifier's norm of ConvNeXt is trained too
    unused = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_never_sees_a_hidden_pixel(name):
    """With a fill that does not look at the image, hidden pixels cannot change the prediction."""
    model = make_model(name, fill=zero).eval()
    images, visible = batch()
    pixels = model.mask.grid.pixels(visible, SIZE, SIZE)
    other = torch.where(pixels, images, images + 5)
    with torch.inference_mode():
        one, two = model(images, visible), model(other, visible)
    assert torch.equal(one["output"], two["output"])
    assert not torch.equal(one["loss"], two["loss"])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mean_fill_is_the_only_leak(name):
    """Hidden pixels enter through the image's mean colour and through nothing else."""
    model = make_model(name).eval()
    images, visible = batch()
    pixels = model.mask.grid.pixels(visible, SIZE, SIZE).expand_as(images)
    other = images.clone()
    for k in range(len(images)):  # permuting hidden pixels within a colour keeps the mean
        for c in range(3):
            hidden = ~pixels[k, c]
            other[k, c][hidden] = images[k, c][hidden].flip(0)
    with torch.inference_mode():
        one, two = model(images, visible), model(other, visible)
    torch.testing.assert_close(one["output"], two["output"], atol=1e-5, rtol=1e-5)


def test_five_training_steps_lower_the_loss():
    model = make_model("test_resnet")
    images, visible = batch(8)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(images, visible)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


def test_simmim_is_the_same_model_with_other_choices():
    model = make_model("test_vit", token="replace", fill=zero, fourier_weight=0.0)
    images, visible = batch()
    out = model(images, visible)
    assert torch.equal(out["loss"], out["spatial"])


def test_an_early_site_of_a_resnet():
    model = make_model("test_resnet", site=Site("layer1", "BEhw"))
    assert model.token_blend.grid.rows == SIZE // 4
    images, visible = batch()
    assert model(images, visible)["loss"].isfinite()


def test_a_family_without_a_row_works_with_a_site_of_its_own():
    swin = create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=0,
        img_size=64,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
        window_size=2,
    )
    model = MaskedImageModel(swin, BlockMask(SIZE, 32, 0.5), site=Site("layers.1", "BhwE"))
    images, visible = batch()
    out = model(images, visible)
    assert out["output"].shape == images.shape
    out["loss"].backward()
    assert model.token_blend.token.grad.abs().sum() > 0


def test_cells_larger_than_blocks_are_refused():
    backbone = create_model("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match="8 px blocks meet cells of 16 px; use larger blocks"):
        MaskedImageModel(backbone, BlockMask(SIZE, 8))
