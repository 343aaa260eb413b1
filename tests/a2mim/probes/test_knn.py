import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from a2mim.probes import knn as probe
from a2mim.probes.knn import knn, knn_probe


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (5, 0.07), (20, 1.0), (20, 0.001)])
@pytest.mark.parametrize("block", [1 << 24, 4096])
def test_neighbours_are_scikit_learns(k, temperature, block, monkeypatch, gaussians):
    """Also where the training images come in many blocks, of 4 images here."""
    monkeypatch.setattr(probe, "BLOCK", block)
    train, test = gaussians(150, 1.5, classes=4), gaussians(90, 1.5, classes=4, seed=1)

    def votes(distances):  # 1 - cosine
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)

    theirs = KNeighborsClassifier(k, metric="cosine", weights=votes)
    theirs.fit(train.features_ID.double(), train.labels_I)
    ours = knn(train.features_ID, train.labels_I, test.features_ID, k, temperature)
    assert ours.tolist() == theirs.predict(test.features_ID.double()).tolist()


@pytest.mark.parametrize("block", [1 << 24, 2048])
def test_of_equally_near_neighbours_the_first_vote(block, monkeypatch):
    monkeypatch.setattr(probe, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 37, generator=generator, dtype=torch.float64)
    # the same direction at other lengths: cosines equal up to their rounding
    train = one * torch.linspace(0.1, 9, 30)[:, None]
    labels = torch.tensor([2, 2, 1, 1, 1, *[0] * 25])
    test = one + 0.1 * torch.randn(20, 37, generator=generator)
    for k, expected in ((1, 2), (3, 2), (4, 1), (5, 1), (30, 0)):
        assert set(knn(train, labels, test, k).tolist()) == {expected}
    # a vector of zeros is as far from everything: the first again
    assert knn(train, labels, torch.zeros(1, 37), 1).tolist() == [2]


def test_many_test_images_go_through_in_blocks(gaussians):
    train, test = gaussians(50, 2.0), gaussians(1500, 2.0, seed=1)
    whole = knn(train.features_ID, train.labels_I, test.features_ID, 5)
    parts = [knn(train.features_ID, train.labels_I, x, 5) for x in test.features_ID.split(7)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "1 to 30 neighbours, for as many images, got 0"),
        ({"k": 31}, "got 31"),
        ({"temperature": 0.0}, "positive temperature"),
    ],
)
def test_neighbours_out_of_range(arguments, message, gaussians):
    train = gaussians(30, 1.0)
    with pytest.raises(ValueError, match=message):
        knn_probe(train, train, **{"k": 5, **arguments})
    with pytest.raises(ValueError, match=r"got \(30, 5\), \(30,\) and \(30, 4\)"):
        knn(train.features_ID, train.labels_I, train.features_ID[:, :4])
