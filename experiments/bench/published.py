"""The published way to measure interactions, written plainly: the baseline of the benchmark.

    Delta v(i, j, S) = v(S+ij) - v(S+i) - v(S+j) + v(S),   v = log-odds of the label
    J^(m)            = E over images and pairs |mean over K contexts|, over its mean over orders

(Deng et al., ICLR 2022; A2MIM, Li et al., ICML 2023.) Written from a description of the published
tools, not from their code. What costs time is done as they do it: order after order and pair after
pair, K contexts by ``choice`` without replacement, also at m = 0 and m = n-2, where there is one
context only; 400 images a forward, each context as S+ij, S+i, S+j, S; the mask as numbers for every
channel, enlarged to pixels; the image copied for every coalition and multiplied; the outputs of all
classes kept until the order is complete. Files between the stages are left out, which favours the
baseline. So do contexts that are turned into masks a pair at a time, in NumPy.

Shapes: P pairs, K contexts, O orders, N players, B masked images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from interactions.networks.inference import device_of
from interactions.orders.pairs import Pairs
from interactions.patches import PatchGrid

BATCH = 400
"""Masked images in one forward."""


@torch.no_grad()
def published_differences(
    model: nn.Module,
    image_CHW: Tensor,
    label: int,
    grid: PatchGrid,
    pairs_P2: Pairs,
    orders: Sequence[int],
    contexts: int,
    index: int,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Delta v of one image in every context that is drawn.

    Args:
        model: a classifier, in eval mode.
        image_CHW: the image, normalised.
        label: its class.
        grid: the players.
        pairs_P2: which pairs.
        orders: which orders m.
        contexts: K, for each pair and order.
        index: the image's place in the list of images; names its contexts.
        seed: names the contexts too, by the published rule.

    Returns:
        Shape ``(P, K, O)``.
    """
    device = device_of(model)
    image_1CHW = image_CHW[None].to(device)
    _, C, H, W = image_1CHW.shape
    per_order = []
    for order in orders:
        stream = np.random.RandomState(1000 * index + order + 1 + seed)
        masks = np.concatenate([_masks(pair, grid.n, order, contexts, stream) for pair in pairs_P2])
        logits = []
        for mask_BN in torch.from_numpy(masks).to(image_1CHW.dtype).split(BATCH):
            B = len(mask_BN)
            mask = mask_BN.to(device).reshape(B, 1, grid.rows, grid.cols).repeat(1, C, 1, 1)
            mask_BCHW = F.interpolate(mask, size=(H, W), mode="nearest")
            logits.append(model(image_1CHW.expand(B, C, H, W).clone() * mask_BCHW))
        logits_BC = torch.cat(logits)
        others_BC = torch.cat([logits_BC[:, :label], logits_BC[:, label + 1 :]], dim=1)
        values = logits_BC[:, label] - others_BC.logsumexp(dim=1)
        both, only_i, only_j, neither = values.reshape(len(pairs_P2), contexts, 4).unbind(dim=2)
        per_order.append((both - only_i - only_j + neither).double().cpu().numpy())
    return np.stack(per_order, axis=-1)


def published_J(differences: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """J^(m) of images from their :func:`published_differences`, all of as many pairs; ``(O,)``."""
    strength_O = np.abs(np.stack(differences).mean(axis=2)).mean(axis=(0, 1))
    return strength_O / strength_O.mean()


def _masks(
    pair: NDArray[np.int64], n: int, order: int, contexts: int, stream: np.random.RandomState
) -> NDArray[np.float32]:
    """(S+ij, S+i, S+j, S) for each of K contexts, ``(4 K, N)``; 1 keeps the player."""
    i, j = pair
    others = np.delete(np.arange(n), pair)
    masks_K4N = np.zeros((contexts, 4, n), dtype=np.float32)
    for masks_4N in masks_K4N:
        masks_4N[:, stream.choice(others, order, replace=False)] = 1
    masks_K4N[:, [0, 1], i] = 1
    masks_K4N[:, [0, 2], j] = 1
    return masks_K4N.reshape(-1, n)
