"""Nearest neighbours of frozen features.

    votes_c(x) = sum over the k nearest i of class c of exp(cos(x, x_i) / T)

Source: Wu et al. 2018 (arXiv:1805.01978) as in DINO (arXiv:2104.14294), k = 20 and T = 0.07.

Shapes: I training and J test images, D features, K classes, k neighbours, B images in a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from a2mim.probes.features import Features
from a2mim.probes.linear import ROUND
from a2mim.probes.results import BLOCK, Device, ProbeResult, features_settings, labels_and_classes


def knn(
    train_ID: Tensor,
    labels_I: Tensor,
    test_JD: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    *,
    device: Device = "cpu",
) -> Tensor:
    """Classes of the test images by votes of the k nearest training images.

    Of training images at the same distance the first ones are taken, and of classes with as many
    votes the first one. Distances are the same if cosines differ by less than about 2e-10. A
    feature vector of zeros has cosine 0 with all.

    Args:
        train_ID: training features.
        labels_I: int64, their classes.
        test_JD: test features.
        k: how many vote.
        temperature: T; small ones leave the vote to the nearest.
        device: where to run, in float64.

    Returns:
        int64 ``(J,)``, on the CPU.

    Raises:
        ValueError: for arguments out of range or shapes that do not fit.
    """
    count = len(train_ID)
    if not 1 <= k <= count:
        raise ValueError(f"expected 1 to {count} neighbours, for as many images, got {k}")
    if temperature <= 0:
        raise ValueError(f"expected a positive temperature, got {temperature}")
    if train_ID.ndim != 2 or train_ID.shape[1:] != test_JD.shape[1:] or len(labels_I) != count:
        raise ValueError(
            f"expected features (I, D), labels (I,) and features (J, D), got "
            f"{tuple(train_ID.shape)}, {tuple(labels_I.shape)} and {tuple(test_JD.shape)}"
        )
    labels_I = labels_I.to(device)
    classes = int(labels_I.max()) + 1
    predictions = []
    for test_BD in test_JD.split(1024):
        keys_Bk = _nearest(train_ID, test_BD, k, device)
        nearest_Bk = count - 1 - keys_Bk % count
        cosines_Bk = keys_Bk.div(count, rounding_mode="floor").double() / ROUND
        # relative to the nearest, the first column: where 1 / T is large, all might become 0
        votes_Bk = ((cosines_Bk - cosines_Bk[:, :1]) / temperature).exp()
        votes_BK = votes_Bk.new_zeros(len(test_BD), classes)
        votes_BK.scatter_add_(1, labels_I[nearest_Bk], votes_Bk)
        predictions.append(votes_BK.argmax(1).cpu())  # the first of equal ones
    return torch.cat(predictions)


def _nearest(train_ID: Tensor, test_BD: Tensor, k: int, device: Device) -> Tensor:
    """Keys of the k largest cosines, ``(B, k)``; key = cosine * ROUND * I + (I - 1 - index).

    No two keys are equal, so the largest ones do not depend on how the table was cut into blocks.
    """
    count = len(train_ID)
    unit_BD = functional.normalize(test_BD.to(device, torch.float64), dim=1)
    best = torch.empty(len(test_BD), 0, dtype=torch.int64, device=device)
    first = 0
    for block in train_ID.split(BLOCK // 1024):
        cosines = unit_BD @ functional.normalize(block.to(device, torch.float64), dim=1).T
        places = torch.arange(count - 1 - first, count - 1 - first - len(block), -1, device=device)
        keys = (cosines * ROUND).round().long() * count + places
        best = torch.cat([best, keys], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
        first += len(block)
    return best


def knn_probe(
    train: Features,
    test: Features,
    k: int = 20,
    temperature: float = 0.07,
    *,
    device: Device = "cpu",
) -> ProbeResult:
    """Classes by :func:`a2mim.probes.knn.knn`, with the settings.

    Args:
        train: features and labels.
        test: features and labels, of the same network and readout.
        k: how many vote.
        temperature: small ones leave the vote to the nearest.
        device: where to run.

    Raises:
        ValueError: as :func:`a2mim.probes.knn.knn`, or if the features are not of one kind.
    """
    labels_I, labels_J, _ = labels_and_classes(train, test)
    predictions_J = knn(
        train.features_ID, labels_I, test.features_ID, k, temperature, device=device
    )
    settings = {
        "probe": "knn",
        "k": k,
        "temperature": temperature,
        "weights": "exp",
        "normalise": "l2",
        **features_settings(train, test),
    }
    return ProbeResult(predictions_J, labels_J, None, (), settings)
