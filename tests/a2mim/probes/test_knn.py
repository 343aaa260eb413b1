import math

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional

from a2mim.probes import knn as probe
from a2mim.probes.knn import knn, knn_probe


@pytest.mark.parametrize("k", [1, 5, 20])
def test_uniform_neighbours_are_scikit_learns(k, gaussians):
    train, test = gaussians(150, 1.5, classes=4), gaussians(90, 1.5, classes=4, seed=1)
    theirs = KNeighborsClassifier(k, metric="cosine").fit(train.features_ID, train.labels_I)
    ours = knn(train.features_ID, train.labels_I, test.features_ID, k, weights="uniform")
    assert ours.tolist() == theirs.predict(test.features_ID).tolist()


def neighbours_by_loops(train, test, k, temperature):
    predictions = []
    for x in test.features_ID.double():
        cosines = [float(functional.cosine_similarity(x, y, 0)) for y in train.features_ID.double()]
        nearest = sorted(range(len(cosines)), key=lambda i: (-round(cosines[i], 9), i))[:k]
        votes = [0.0] * 4
        for i in nearest:
            votes[int(train.labels_I[i])] += math.exp((cosines[i] - max(cosines)) / temperature)
        predictions.append(votes.index(max(votes)))
    return predictions


@pytest.mark.parametrize("temperature", [0.07, 1.0, 0.001])
@pytest.mark.parametrize("block", [1 << 24, 4096])
def test_weighted_neighbours_by_loops(temperature, block, monkeypatch, gaussians):
    """Also where the training images come in many blocks, of 4 images here."""
    monkeypatch.setattr(probe, "BLOCK", block)
    train, test = gaussians(61, 1.0, classes=4), gaussians(40, 1.0, classes=4, seed=1)
    ours = knn(train.features_ID, train.labels_I, test.features_ID, 10, temperature)
    assert ours.tolist() == neighbours_by_loops(train, test, 10, temperature)


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
        for weights in ("exp", "uniform"):
            assert set(knn(train, labels, test, k, weights=weights).tolist()) == {expected}
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
        ({"weights": "linear"}, "'exp' or 'uniform', got 'linear'"),
    ],
)
def test_neighbours_out_of_range(arguments, message, gaussians):
    train = gaussians(30, 1.0)
    with pytest.raises(ValueError, match=message):
        knn_probe(train, train, **{"k": 5, **arguments})
    with pytest.raises(ValueError, match=r"got \(30, 5\), \(30,\) and \(30, 4\)"):
        knn(train.features_ID, train.labels_I, train.features_ID[:, :4])
