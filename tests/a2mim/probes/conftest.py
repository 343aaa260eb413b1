"""Features and probes that the tests of probes share."""

import math

import pytest
import torch

from a2mim.probes.features import Features
from a2mim.probes.knn import knn_probe
from a2mim.probes.linear import SgdRecipe, linear_probe, sgd_probe


@pytest.fixture
def gaussians():
    def gaussians(count, distance, width=5, classes=2, seed=0, scale=1.0):
        """Classes around the corners of a simplex whose sides have this length, with unit noise."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(classes, (count,), generator=generator)
        corners = torch.eye(width)[:classes] * distance / math.sqrt(2)
        noise = torch.randn(count, width, generator=generator)
        return Features(scale * (corners[labels] + noise), labels)

    return gaussians


@pytest.fixture
def probes():
    def probes(seed=0):
        sgd = SgdRecipe((0.01, 0.1), epochs=5, batch_size=64)
        return {
            "knn": lambda a, b: knn_probe(a, b, k=50),
            "lbfgs": lambda a, b: linear_probe(a, b, weight_decays=(1e-3, 1e-1), seed=seed),
            "sgd": lambda a, b: sgd_probe(a, b, sgd, seed=seed),
        }

    return probes
