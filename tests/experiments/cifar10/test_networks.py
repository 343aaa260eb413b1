import pytest
import timm
import torch

from experiments.cifar10 import networks


@pytest.mark.parametrize("size", [32, 64])
def test_both_have_2_to_6_million_parameters_and_8_x_8_patches(size):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=size, **networks.vit(size))
    resnet = timm.create_model("small_image_resnet", **networks.resnet(size))
    assert vit.patch_embed.grid_size == (8, 8)
    for model in (vit, resnet):
        assert 2.5e6 < sum(p.numel() for p in model.parameters()) < 6e6


def test_the_maps_of_a_stem_for_small_images():
    model = timm.create_model("small_image_resnet", num_classes=0).eval()
    with torch.inference_mode():
        assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 256, 4, 4)


def test_there_are_no_weights_to_download():
    with pytest.raises((ValueError, RuntimeError)):
        networks.small_image_resnet(pretrained=True)
