import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from a2mim.checkpoints.load import load_model
from a2mim.data.folders import DataError
from a2mim.data.resident import ResidentSamples
from a2mim.data.sampler import Batches, keyed_seed
from a2mim.data.tar import write_shards
from a2mim.messages import UsageError
from a2mim.methods.siamese import ImageLevel, TokenLevel
from a2mim.recipes.pretrain import RECIPES, CmaeTokens, PretrainConfig, changed
from a2mim.recipes.pretraining import (
    Exports,
    backbone_of,
    description,
    first_images,
    method_of,
    samples_of,
)
from a2mim.recipes.watching import pictures

TINY = {
    "model_kwargs": {
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }
}


def recipe(name, **changes):
    return changed(RECIPES[name](), **changes)


def test_folders_and_shards(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images" / "train" / "a"
    folder.mkdir(parents=True)
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.png")
    write_shards(tmp_path / "images", tmp_path / "shards", per_shard=2)
    config = recipe("tiny-imagenet100-vit", data=f"folder:{tmp_path / 'images'}")
    assert samples_of(config).load(0, 0).shape == (3, 64, 64)
    config = recipe("tiny-imagenet100-vit", data=f"tar:{tmp_path / 'shards'}/*.tar")
    assert len(samples_of(config)) == 4


def test_fewer_images_than_pictures_show(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.png")
    write_shards(folder, tmp_path / "shards")
    for data in (f"stream:{tmp_path}/shards/shard-000000.tar", f"folder:{folder}"):
        count = 3 if data.startswith("stream") else None
        config = recipe("digits-vit", data=data, batch_size=2, stream_images=count)
        assert first_images(samples_of(config), config).shape == (3, 3, 32, 32)


@pytest.mark.parametrize(
    ("fill", "colour"),
    [("zero", 128), ("black", 0), ("white", 255), ("image_mean", None), ("noise", None)],
)
def test_hidden_pixels_are_filled_and_shown_so(fill, colour):
    """Digits are normalised by a mean of 0.5: zero is grey."""
    config = recipe("digits-vit", **TINY, fill=fill)
    method = method_of(config)
    images_ICHW = first_images(samples_of(config), config)
    shown = pictures(method, images_ICHW, config)
    visible = method.draw(torch.arange(len(images_ICHW)), keyed_seed(config.seed, "pictures"))
    hidden = ~method.mask.grid.pixels(visible, 32, 32).expand_as(images_ICHW).numpy()
    assert np.array_equal(shown["masked"][~hidden], shown["original"][~hidden])
    if colour is not None:
        assert set(shown["masked"][hidden]) == {colour}
    if fill == "noise":
        others = method_of(recipe("digits-vit", **TINY, fill="noise", seed=1))
        assert not torch.equal(method.fill(images_ICHW), others.fill(images_ICHW))


def test_settings_of_the_token_and_the_prediction_arrive():
    changes = {"token_init": "instance_mean", "detach": True, "residual": True}
    method = method_of(recipe("digits-vit", **TINY, **changes))
    assert (method.token_blend.init, method.token_blend.detach) == ("instance_mean", True)
    assert method.residual


def test_positions_begin_as_sines():
    """Products of two depend on their distance alone: a sum of cos(w d) over both axes."""
    config = recipe("digits-vit", **TINY, positions="sines")
    (positions_ND,) = backbone_of(config).pos_embed.detach()
    width = positions_ND.shape[1]
    side = round(len(positions_ND) ** 0.5)
    at_N2 = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    apart_NN2 = at_N2[:, None] - at_N2
    waves_K = 10_000 ** -(torch.arange(width // 4) / (width // 4)).double()
    expected_NN = (apart_NN2[..., None] * waves_K).cos().sum(dim=(-2, -1))
    products_NN = positions_ND.double() @ positions_ND.double().T
    torch.testing.assert_close(products_NN, expected_NN, rtol=1e-5, atol=1e-5)
    assert len(positions_ND.unique(dim=0)) == side * side
    for name in ("digits-resnet", "cifar10-resnet"):
        with pytest.raises(ValueError, match="expected a ViT whose width is a multiple of 4"):
            backbone_of(recipe(name, positions="sines"))


def test_how_many_unreadable_images_are_put_up_with(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(b"damaged")
    Image.new("RGB", (40, 40)).save(tmp_path / "3.png")
    for resident in (0, 1):
        few, none = (
            recipe("cifar10-vit", data=f"folder:{tmp_path}", unreadable=share, resident=resident)
            for share in (0.5, 0)
        )
        assert samples_of(few).load(0, 0).shape == (3, 32, 32)
        with pytest.raises(DataError, match="at most 0 unreadable images"):
            samples_of(none).load(0, 0)


def test_a_set_is_held_in_memory_if_it_needs_no_more_than_was_said(tmp_path):
    """128 images of 64 x 64 pixels are 1.5 MiB."""
    for k in range(128):
        Image.new("RGB", (64, 64), (k, k, k)).save(tmp_path / f"{k:03d}.png")
    for data, resident, held in (
        (f"folder:{tmp_path}", 2, True),
        (f"folder:{tmp_path}", 1, False),
        (f"folder:{tmp_path}", 0, False),
        ("digits", 3, True),  # 2.6 MiB
    ):
        config = recipe("digits-vit", data=data, resident=resident)
        samples = samples_of(config)
        assert isinstance(samples, ResidentSamples) == held
        assert samples.load(3, 0).dtype == torch.uint8


def test_an_export_on_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("a2mim.recipes.pretraining.save_weights", fail)
    with pytest.raises(UsageError):
        Exports(tmp_path, "{}", 3)(3, {"model/backbone.weight": torch.zeros(1)})


def test_settings_of_two_views_arrive():
    shared = {**TINY, "block": 8, "view2": "full", "stop_gradient": "view2"}
    decoder = (16, 1, 2)
    relaxed = method_of(recipe("cifar10-rmae", **shared, decoder=decoder, penalty_weight=0.25))
    assert (relaxed.view2, relaxed.stop_gradient) == ("full", "view2")
    assert relaxed.penalty_weight == 0.25
    assert relaxed.target is None
    image = method_of(recipe("cifar10-cmae", **shared, temperature=0.2, head=(8,)))
    assert (image.view2, image.stop_gradient, image.temperature) == ("full", "view2", 0.2)
    assert image.level == ImageLevel((8,))
    of = CmaeTokens(decoder=decoder, channels=8, negatives="all", momentum=0.9)
    token = method_of(recipe("cifar10-cmae", **TINY, block=8, method=of))
    assert token.level == TokenLevel(16, 1, 2, 8, "all")
    assert token.stop_gradient is None
    assert token.target.momentum == 0.9


@pytest.mark.parametrize("few", [1, 10, 100, None])
def test_few_images_make_as_many_steps(few):
    """An epoch of 898 digits is 14 steps of 64, and one of 500 is 7, however few there are."""
    for epoch_images, steps in ((None, 14), (500, 7)):
        config = recipe("digits-vit", few=few, epoch_images=epoch_images)
        assert Batches(len(samples_of(config)), config.batch_size).per_epoch == steps


def test_which_images_are_few_is_named_by_a_seed():
    """Of full crops without flips, ten images leave ten."""

    def seen(**changes):
        config = recipe("digits-vit", crop=(1.0, 1.0), **changes)
        samples = samples_of(config)
        images = [samples.load(k, 0) for k in range(60)]
        return {
            tuple(max(x, x.flip(2), key=lambda y: y.flatten().tolist()).flatten().tolist())
            for x in images
        }

    ten = seen(few=10)
    assert len(ten) == 10
    assert ten == seen(few=10, seed=3)  # the run's seed draws crops and weights
    assert not ten & seen(few=10, few_seed=1)
    assert seen(few=1) < ten


def test_a_distilled_network_is_described_with_its_size(tmp_path):
    """Its class takes ``**kwargs``: what is written is read back, and computes the same."""
    options = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
    name = "deit_tiny_distilled_patch16_224"
    backbone = timm.create_model(name, img_size=32, num_classes=0, **options).eval()
    config = PretrainConfig(backbone=name, model_kwargs=options, image_size=32)
    told = description(backbone, config)
    assert told["model_args"]["img_size"] == 32
    save_file(backbone.state_dict(), tmp_path / "backbone.safetensors")
    (tmp_path / "backbone.json").write_text(json.dumps(told))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        got = load_model(tmp_path / "backbone.safetensors").model(images)
        torch.testing.assert_close(got, backbone(images))
