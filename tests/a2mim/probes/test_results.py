import math

import numpy as np
import pytest
import torch
from scipy.stats import t
from torch import nn

from a2mim.probes import results as probe
from a2mim.probes.results import ProbeResult, held_out_split, repeat


@pytest.mark.parametrize("normalise", ["standardise", "l2", "none"])
def test_normalising_by_hand(normalise, gaussians):
    train, test = gaussians(40, 2.0, scale=4.0), gaussians(7, 2.0, seed=1)
    found = probe.normaliser(train.features_ID, normalise)(test.features_ID)
    x = test.features_ID.double()
    if normalise == "standardise":  # torch's own, in eval mode
        norm = nn.BatchNorm1d(5, eps=1e-6, momentum=None, affine=False, dtype=torch.float64)
        norm(train.features_ID.double())
        # its running variance is the one without bias, its normalising in training the other
        x = (x - norm.running_mean) / (norm.running_var * 39 / 40 + 1e-6).sqrt()
    elif normalise == "l2":
        x = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("kind", ["lbfgs", "sgd"])
def test_repeating(kind, gaussians, probes):
    train, test = gaussians(200, 1.5, width=40), gaussians(300, 1.5, width=40, seed=1)
    found = repeat(lambda seed: probes(seed)[kind](train, test), range(4))
    again = repeat(lambda seed: probes(seed)[kind](train, test), [3, 2, 1, 0])
    assert found.accuracies == again.accuracies[::-1]
    assert found.seeds == (0, 1, 2, 3)
    assert len(set(found.accuracies)) > 1 or kind == "lbfgs"
    assert [result.settings["seed"] for result in found.results] == [0, 1, 2, 3]
    assert found.mean == pytest.approx(sum(found.accuracies) / 4)


def test_the_interval_over_seeds_is_students():
    def result(right):
        labels = torch.zeros(10, dtype=torch.int64)
        return ProbeResult((torch.arange(10) >= right).long(), labels, None, (), {})

    found = repeat(result, [4, 5, 7])
    low, high = t.interval(0.95, 2, 16 / 30, np.std([0.4, 0.5, 0.7], ddof=1) / math.sqrt(3))
    assert found.interval == pytest.approx((low, high))
    assert repeat(result, [0, 5, 10]).interval == (0, 1)  # what an accuracy can be
    # equal accuracies say nothing of other seeds
    assert np.isnan(repeat(lambda seed: result(5), [1, 2, 3]).interval).all()
    for wrong in ([1], [1, 1]):
        with pytest.raises(ValueError, match="at least 2 different seeds"):
            repeat(result, wrong)


def test_the_held_out_part():
    labels = torch.tensor([0] * 50 + [1] * 10 + [3] * 2 + [4])
    fit, held = held_out_split(labels, 0.3, 0)
    assert torch.equal(torch.cat([fit, held]).sort().values, torch.arange(63))
    assert labels[held].bincount(minlength=5).tolist() == [15, 3, 0, 1, 0]
    again, other = held_out_split(labels, 0.3, 0)[1], held_out_split(labels, 0.3, 1)[1]
    assert torch.equal(held, again)
    assert not torch.equal(held, other)
    # 90 % of two images are both of them, of which one stays
    assert labels[held_out_split(labels, 0.9, 0)[0]].bincount().tolist() == [5, 1, 0, 1, 1]
    # every image is held out as often as another: 0.3 of 400 draws, five standard errors
    drawn = torch.cat([held_out_split(labels, 0.3, seed)[1] for seed in range(400)])
    often = drawn.bincount(minlength=63)
    assert (often[:50] - 120).abs().max() < 5 * math.sqrt(400 * 0.3 * 0.7)
    with pytest.raises(ValueError, match="more images than 1 to hold out"):
        held_out_split(torch.arange(5), 0.2, 0)
    with pytest.raises(ValueError, match=r"share in \(0, 1\)"):
        held_out_split(labels, 1.0, 0)
