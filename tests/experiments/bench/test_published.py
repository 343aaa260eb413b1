"""The baseline gives what the estimator gives on the same contexts, and does all its work."""

import numpy as np
import pytest
import torch
from torch import nn

import interactions as ix
from experiments.bench.published import BATCH, published_differences, published_J
from interactions.orders.estimator import measure_one, orders_of
from interactions.orders.published import PublishedContexts, PublishedPairs

GRID = ix.PatchGrid(3, 3)
ORDERS = orders_of(ix.PUBLISHED_RATIOS, GRID.n)


class Net(nn.Module):
    """A network whose values have interactions of all orders, in float64; counts its batches."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inner = nn.Parameter(torch.randn(2 * 36, 12, generator=generator).double())
        self.outer = nn.Parameter(torch.randn(12, 4, generator=generator).double())
        self.batches = []

    def forward(self, images_BCHW):
        self.batches.append(images_BCHW.detach().clone())
        return (images_BCHW.flatten(1) @ self.inner).tanh() @ self.outer


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def image():
    return torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(4)).double()


@pytest.mark.parametrize(("index", "seed"), [(0, 0), (7, 2)])
def test_the_same_interactions_as_the_estimator_on_the_same_contexts(net, image, index, seed):
    pairs, K = PublishedPairs(GRID, 5), 30
    design = ix.Design(pairs, PublishedContexts(pairs, K), seed=seed)
    game = ix.PatchGame(net, image, 2, GRID, image=str(index))
    differences = published_differences(
        net, image, 2, GRID, pairs.draw(GRID.n, seed, str(index)), ORDERS, K, index, seed
    )
    record = measure_one(game, design)
    np.testing.assert_allclose(differences, record.replicates_PRO, rtol=0, atol=1e-12)
    expected = ix.strength([record], "plug_in").J
    np.testing.assert_allclose(published_J([differences]), expected, rtol=1e-12)


@pytest.mark.integration
def test_many_contexts_come_to_the_exact_interactions(net, image):
    """At m = 0, 1, 6 and 7 of 9 players all or nearly all of the few contexts are met."""
    table = ix.exact(ix.PatchGame(net, image, 0, GRID))
    pairs = ix.AllPairs().draw(GRID.n, 0, "")
    exact_PO = table.interactions()[:, list(ORDERS)]
    differences = published_differences(net, image, 0, GRID, pairs, ORDERS, 200, index=0)
    mean_PO = differences.mean(axis=1)
    np.testing.assert_allclose(mean_PO[:, [0, -1]], exact_PO[:, [0, -1]], rtol=0, atol=1e-12)
    # 36 pairs x 6 inner orders: 5.5 standard errors are left with a probability below 1e-5.
    se_PO = differences.std(axis=1, ddof=1) / np.sqrt(200)
    assert (np.abs(mean_PO - exact_PO) <= 5.5 * se_PO + 1e-12).all()


def test_every_repeat_is_evaluated_in_batches_of_400(net, image):
    pairs, K = ix.AllPairs().draw(GRID.n, 0, "")[:7], 50
    published_differences(net, image, 0, GRID, pairs, [0, 3], K, index=0)
    per_order = 4 * len(pairs) * K
    sizes = [len(batch) for batch in net.batches]
    assert sum(sizes) == 2 * per_order
    assert sizes == [BATCH] * 3 + [200] + [BATCH] * 3 + [200]


def test_a_context_comes_as_both_one_the_other_and_neither(net, image):
    """Hidden cells are 0, visible ones the image; order 0 has the empty context only."""
    published_differences(net, image, 0, GRID, np.array([[1, 5]]), [0], 1, index=0)
    (masked_4CHW,) = net.batches
    cells_4N = GRID.cut(masked_4CHW).flatten(2).abs().sum(dim=2) > 0
    visible = [set(torch.nonzero(row).flatten().tolist()) for row in cells_4N]
    assert visible == [{1, 5}, {1}, {5}, set()]
    assert torch.equal(GRID.cut(masked_4CHW)[0, 1], GRID.cut(image[None])[0, 1])


def test_J_by_hand():
    # Two images of two pairs, two contexts, two orders.
    first = np.array([[[1, 4], [3, -4]], [[-2, 2], [-2, 2]]], dtype=float)  # means 2, 0; -2, 2
    second = np.array([[[0, 1], [0, 1]], [[1, -3], [-1, -3]]], dtype=float)  # 0, 1; 0, -3
    # |means|: 2 2 0 0 -> 1 at the first order, 0 2 1 3 -> 1.5 at the second.
    np.testing.assert_allclose(published_J([first, second]), [0.8, 1.2], rtol=1e-15)
