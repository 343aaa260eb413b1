import pytest
import torch
from timm import create_model

from a2mim.checkpoints.save import load_backbone, pools_without_gradient, save_backbone
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask


def make(classes=3, seed=0, name="test_resnet"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_model(name, num_classes=classes).eval()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_there_and_back(name, tmp_path):
    one, two = make(name=name, seed=0), make(name=name, seed=1)
    size = one.default_cfg["input_size"][-1]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    save_backbone(one, tmp_path / "w.safetensors")
    load_backbone(two, tmp_path / "w.safetensors")
    with torch.inference_mode():
        assert torch.equal(one(images), two(images))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_only_the_classifier_may_be_missing(name, tmp_path):
    save_backbone(make(0, name=name), tmp_path / "w.safetensors")
    model = make(3, seed=1, name=name)
    before = model.get_classifier().weight.clone()
    load_backbone(model, tmp_path / "w.safetensors")
    assert torch.equal(model.get_classifier().weight, before)
    first = next(iter(make(0, name=name).parameters()))
    assert torch.equal(next(iter(model.parameters())), first)


def test_wrong_files_change_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    model = make(3, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save_backbone(make(name="test_vit"), path)
    with pytest.raises(ValueError, match=r"weights of this ResNet, but .* lacks bn1.bias and"):
        load_backbone(model, path)
    save_backbone(make(5), path)
    with pytest.raises(ValueError, match=r"reshapes fc.bias and 1 more"):
        load_backbone(model, path)
    torch.nn.Module.register_buffer(extra := make(3), "surplus", torch.zeros(1))
    save_backbone(extra, path)
    with pytest.raises(ValueError, match="has unknown surplus"):
        load_backbone(model, path)
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="expected safetensors weights, cannot read"):
        load_backbone(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}, ["attn_pool"]),
        ("cait_xxs24_224", {"depth_token_only": 1}, ["blocks_token_only.0"]),
        ("vit_tiny_patch16_224", {}, []),
    ],
    ids=["pool", "class attention", "none"],
)
def test_pools_that_pre_training_does_not_reach(name, options, expected):
    """Weights, gradients and random state are as they were."""
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
    backbone = create_model(name, num_classes=0, **small, **options)
    method = MaskedImageModel(backbone, BlockMask(32, 8))
    before = torch.random.get_rng_state()
    assert pools_without_gradient(
        method, torch.randn(2, 3, 32, 32, generator=torch.Generator())
    ) == (expected)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in method.parameters())


def test_a_pool_that_is_trained_is_not_named():
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = create_model(
                "vit_tiny_patch16_224",
                **{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3},
                **{"global_pool": "map", "class_token": False, "num_classes": 0},
            )

        def draw(self, numbers, seed):
            return numbers

        def forward(self, images, numbers):
            return {"loss": self.backbone(images).square().mean()}

    assert pools_without_gradient(Pooled(), torch.randn(2, 3, 32, 32)) == []
