import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from a2mim.data.folders import DataError
from a2mim.data.limits import Tolerance
from a2mim.data.named import TORCHVISION, labels_of, named_samples, torchvision_set


class Stand(torch.utils.data.Dataset):
    """Stands in for a set of torchvision, and remembers how it was asked for."""

    def __init__(self, root, download, **options):
        self.options = options
        self.targets = [3, 1, 2]

    def __len__(self):
        return 3

    def __getitem__(self, k):
        return Image.new("L", (9, 9), 10 * k), self.targets[k]


def plain(pixels_CHW, generator):
    return pixels_CHW.float()


def test_digits():
    train, test = (named_samples("digits", s, plain, 0, size=16) for s in ("train", "test"))
    assert (len(train), len(test)) == (898, 899)
    assert train.load(0, 0).shape == (3, 16, 16)


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_row_fits_torchvision(name):
    """The options are taken by the class: nothing is read before the folder is found empty."""
    row = TORCHVISION[name]
    kind = getattr(datasets, row.kind)
    for options in (row.train, row.test, row.unlabelled or row.train):
        with pytest.raises(RuntimeError, match=r"(?i)not found|download"):
            kind("/nowhere/at/all", download=False, **options)


def test_a_set_of_torchvision(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "STL10", Stand)
    assert torchvision_set("stl10", "train", tmp_path).options == {"split": "train"}
    assert torchvision_set("stl10", "test", tmp_path).options == {"split": "test"}
    everything = torchvision_set("stl10", "train", tmp_path, unlabelled=True)
    assert everything.options == {"split": "train+unlabeled"}
    samples = named_samples("stl10", "test", plain, 0, root=tmp_path)
    assert samples.labels_I.tolist() == [3, 1, 2]
    assert torch.equal(samples.load(2, 0), torch.full((3, 9, 9), 20.0))


def test_how_many_unreadable_images_of_a_set_are_put_up_with(monkeypatch, tmp_path):
    class Damaged(Stand):
        def __getitem__(self, k):
            if k == 1:
                raise OSError("cut")
            return super().__getitem__(k)

    monkeypatch.setattr(datasets, "SVHN", Damaged)
    named_samples("svhn", "train", plain, 0, root=tmp_path).load(1, 0)
    strict = named_samples("svhn", "train", plain, 0, root=tmp_path, tolerance=Tolerance(0, 0.0))
    with pytest.raises(DataError, match="at most 0 unreadable images"):
        strict.load(1, 0)


def test_labels_without_reading_images():
    class Odd:
        pass

    for attribute, value, labels in (
        ("targets", [1, 0], [1, 0]),
        ("labels", np.array([2, 1]), [2, 1]),
        ("_labels", [0, 1], [0, 1]),
        ("_samples", [("a.png", 4), ("b.png", 5)], [4, 5]),
        ("targets", torch.tensor([7]), [7]),
    ):
        dataset = Odd()
        setattr(dataset, attribute, value)
        labels_I = labels_of(dataset)
        assert labels_I.tolist() == labels
        assert labels_I.dtype == torch.int64
    assert labels_of(Odd()) is None
    partly = Odd()
    partly.labels = np.array([1, -1])
    assert labels_of(partly) is None  # as the unlabelled images of STL-10


def test_what_cannot_be_had(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"got .cifar1000.; did you mean cifar100\?"):
        torchvision_set("cifar1000", "train", tmp_path)

    def refuse(root, download, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets, "SVHN", refuse)
    with pytest.raises(DataError, match=r"expected svhn in .*, got: no network"):
        torchvision_set("svhn", "train", tmp_path / "new")
    assert not (tmp_path / "new").exists()
