import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from a2mim.data.augment import CentreCrop
from a2mim.data.samples import ArraySamples, FolderSamples, find_test_files, find_training_files
from a2mim.measure.doubts import (
    of_class_names,
    of_images,
    of_labels,
    of_network,
    of_training,
)
from a2mim.messages import UsageError


def test_copies_among_images():
    differ = [(f"{k}.jpg", k, f"hash {k}") for k in range(5)]
    assert of_images(differ) == []
    (said,) = of_images([*differ, ("again.jpg", 9, "hash 2"), ("x.jpg", 0, "hash 2")])
    assert "5 of 7" in said
    assert "2.jpg and again.jpg" in said


def test_test_images_among_training_images(tmp_path):
    for split, first in (("train", 0), ("val", 5)):
        for k in range(first, first + 6):
            place = tmp_path / split / f"class{k % 2}"
            place.mkdir(parents=True, exist_ok=True)
            levels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(levels).save(place / f"{split}{k}.png")
    files = find_training_files(tmp_path)
    train = FolderSamples(files, CentreCrop(8), 0)
    test = FolderSamples(find_test_files(tmp_path, files.classes), CentreCrop(8), 0)
    (said,) = of_training(train, test)
    assert "1 of 6" in said
    assert "val5.png" in said
    (tmp_path / "val/class1/val5.png").unlink()
    test = FolderSamples(find_test_files(tmp_path, files.classes), CentreCrop(8), 0)
    assert of_training(train, test) == []
    assert of_training(train, ArraySamples) == []


def test_names_of_classes_that_are_those_of_the_outputs():
    images = ("ice_cream", "Tench", "n02123045")
    assert of_class_names("net", (), images) == []
    assert of_class_names("net", ("ice cream", "tench"), None) == []
    assert of_class_names("net", ("Ice-Cream", "tench", "N02123045"), images) == []
    (said,) = of_class_names("net", ("ice cream", "tench", "tabby"), images)
    assert "net: 1 of 3 classes have other names" in said
    assert "class 2, n02123045 (tabby)" in said


def test_classes_in_another_order_than_the_outputs_are_refused():
    with pytest.raises(UsageError, match=r"'b' is class 1 of the images and output 2 of net; give"):
        of_class_names("net", ("a", "c", "b"), ("a", "b", "x"))


@pytest.mark.parametrize("shift", [-1, 1, 7])
def test_labels_that_are_numbered_otherwise(shift):
    rng = np.random.default_rng(0)
    labels_I = rng.integers(0, 100, 300)
    predicted_I = np.where(rng.random(300) < 0.8, labels_I, rng.integers(0, 100, 300))
    assert of_labels("net", predicted_I, labels_I) == []
    (said,) = of_labels("net", predicted_I + shift, labels_I)
    assert f"{'plus' if shift > 0 else 'minus'} {abs(shift)}" in said
    right = 100 * np.mean(predicted_I == labels_I)
    assert f"{right:.1f} %" in said


def test_chance_is_no_reason_for_doubt():
    """Nor is a network that always says the same, or a handful of images."""
    rng = np.random.default_rng(0)
    for classes in (2, 10, 100):
        for _ in range(50):
            labels_I, predicted_I = rng.integers(0, classes, (2, 200))
            assert of_labels("net", predicted_I, labels_I) == []
        assert of_labels("net", np.zeros(200, int), labels_I) == []
    few = np.arange(5)
    assert of_labels("net", few + 1, few) == []


class Batch(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)).flatten(1)


class Draws(nn.Module):
    def forward(self, x):
        return x.flatten(1) + torch.rand(())


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 3)


NETWORKS = {Batch: "batch size", Draws: "call to call", Constant: "same for 4", nn.Flatten: None}


@pytest.mark.parametrize(("network", "expected"), NETWORKS.items())
def test_networks_that_do_not_say_the_same_again(network, expected):
    images_BCHW = torch.randn(4, 3, 8, 8)
    said = of_network("net", network(), images_BCHW)
    assert len(said) == (expected is not None)
    assert all(expected in one for one in said)
    same = images_BCHW[:1].expand(4, -1, -1, -1)
    assert of_network("net", Constant(), same) == []
