import numpy as np
import pytest
import torch
from PIL import Image
from timm import create_model
from timm.data import create_transform, resolve_model_data_config
from torchvision import transforms

from a2mim.data.arrays import (
    data_config,
    digits,
    photographs,
    size_of_images,
)
from a2mim.data.folders import DataError


def test_digits():
    train, test = digits(32)
    assert (len(train), len(test)) == (898, 899)
    assert train.pixels_ICHW.shape == (898, 3, 32, 32)
    assert train.pixels_ICHW.dtype == torch.uint8
    assert len(set(train.names) | set(test.names)) == 1797
    assert train.classes == tuple("0123456789")
    # each measured value is a constant 4 x 4 square, the same in all colours
    squares = test.pixels_ICHW.unfold(2, 4, 4).unfold(3, 4, 4)
    assert (squares == squares[:, :1, :, :, :1, :1]).all()
    assert torch.equal(digits(8)[1].pixels_ICHW, squares[..., 0, 0])
    with pytest.raises(ValueError, match="multiple of 8"):
        digits(30)


def test_statistics_against_torch():
    train, _ = digits(8)
    pixels = train.pixels_ICHW.double() / 255
    mean, std = train.statistics()
    torch.testing.assert_close(mean.double(), pixels.mean(dim=(0, 2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        std.double(), pixels.std(dim=(0, 2, 3), correction=0), atol=1e-6, rtol=0
    )
    normalised = train.normalised(mean, std)
    assert normalised.mean().abs() < 1e-5
    assert abs(normalised.std() - 1) < 1e-4


def test_drawing_images_is_by_seed():
    train, _ = digits(8)
    chosen = train.draw(10, seed=1)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 10
    assert train.draw(10, seed=1) == chosen != train.draw(10, seed=2)
    assert set(chosen) <= set(train.draw(20, seed=1))
    assert train.draw(10_000, seed=1) == list(range(898))


def test_photographs_as_a_model_wants_them(tmp_path):
    model = create_model("test_resnet", num_classes=5)
    rng = np.random.default_rng(0)
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a.jpg", "deep/c.webp"):
        Image.fromarray(rng.integers(0, 256, (200, 180, 3), np.uint8)).save(tmp_path / name)
    images, names = photographs(str(tmp_path), model)
    assert names == ["a.jpg", "b.png", "deep/c.webp"]
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    expected = transform(Image.open(tmp_path / "b.png").convert("RGB"))
    torch.testing.assert_close(images[1], expected)
    assert len(photographs(tmp_path, model, count=2)[0]) == 2
    with pytest.raises(DataError, match="found none at"):
        photographs(tmp_path / "nowhere", model)
    with pytest.raises(DataError, match="at least 2 images"):
        photographs(tmp_path / "deep", model)


def test_photographs_with_labels_files_and_the_pictures_again(tmp_path):
    model = create_model("test_resnet", num_classes=5)
    rng = np.random.default_rng(0)
    levels = {}
    for name in ("cat/a.png", "cat/b.png", "dog/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        levels[name] = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(levels[name]).save(tmp_path / name)
    found = photographs(tmp_path, model, labels=True)
    assert found.labels_I.tolist() == [0, 0, 1]
    assert repr(found) == "Photographs(3 images of 3 x 160 x 160, with labels)"
    two = photographs(tmp_path, model, 2, seed=1, labels=True)  # numbered as all of them
    assert two.labels_I.tolist() == [found.labels_I[found.names.index(n)] for n in two.names]
    files = [tmp_path / "dog/a.png", tmp_path / "cat/a.png"]
    listed = photographs(files, model)
    assert listed.names == [file.as_posix() for file in files]  # two files of one name
    assert torch.equal(listed.images_ICHW[1], found.images_ICHW[0])
    assert photographs(files[:1], model).names == ["a.png"]

    own = torch.nn.Flatten()  # says nothing about images
    with pytest.raises(DataError, match=r"says how it sees images .*give transform="):
        photographs(tmp_path, own)
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)])
    pictures = photographs(tmp_path, own, transform=plain).pictures()
    np.testing.assert_array_equal(pictures, list(levels.values()))  # there and back
    with pytest.raises(ValueError, match="mean and std"):
        photographs(tmp_path, own, transform=transforms.ToTensor()).pictures()


def test_photographs_for_a_model_of_wide_images(tmp_path):
    """Height x width of the network, from the centre, without distortion."""
    model = create_model("test_vit", num_classes=5, img_size=(96, 160))
    assert size_of_images(model) == (96, 160)
    assert data_config(model) == resolve_model_data_config(model) | {"input_size": (3, 96, 160)}
    # A picture of the same shape at twice the size, 1 / crop_pct larger, and what is cut off.
    height, width = (2 * int(edge / model.pretrained_cfg["crop_pct"]) for edge in (96, 160))
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(levels).save(tmp_path / name)
    images, _ = photographs(tmp_path, model)
    assert images.shape == (2, 3, 96, 160)
    small = Image.fromarray(levels).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    left, top = round((width // 2 - 160) / 2), round((height // 2 - 96) / 2)
    cut = np.array(small.crop((left, top, left + 160, top + 96))) / 255
    expected = (cut - model.pretrained_cfg["mean"]) / model.pretrained_cfg["std"]
    np.testing.assert_allclose(images[0].permute(1, 2, 0), expected, atol=1e-5)
    assert size_of_images(create_model("test_resnet", num_classes=5)) is None


def test_a_grey_model_has_the_mean_over_colours_and_others_none():
    colours = {"mean": (0.1, 0.2, 0.6), "std": (0.2, 0.2, 0.5)}
    model = create_model("test_resnet", in_chans=1, pretrained_cfg_overlay=colours)
    config = data_config(model)
    assert config["input_size"][0] == 1
    assert config["mean"] == pytest.approx((0.3,))
    assert config["std"] == pytest.approx((0.3,))
    wide = data_config(create_model("test_resnet", in_chans=5))
    assert (wide["input_size"][0], wide["mean"], wide["std"]) == (5, (), ())
