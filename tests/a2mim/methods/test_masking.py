from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare, hypergeom

from a2mim.data.sampler import keyed_seed
from a2mim.methods import masking
from a2mim.methods.masking import BlockMask, PatchMask, random_squares
from interactions.keys import hashed_words


def test_published_counts():
    """30 of 49 blocks at 224 px, 22 of 36 at 192 px."""
    assert BlockMask(224).hidden == 30
    assert BlockMask(192).hidden == 22
    assert BlockMask(224).grid.n == 49


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_whole_numbers_are_not_rounded_up(ratio):
    mask = BlockMask(160, 32, ratio)
    assert mask.hidden == round(ratio * 25)


# The draws below are fixed: a fair hash fails a test with the probability ERROR, once.
ERROR = 1e-4


@cache
def draws(mask, along):
    """The masks of 20,000 images that follow each other; or of 20 in 1,000 steps that do."""
    if along == "images":
        return mask.draw(torch.arange(20_000), 1)
    seeds = [keyed_seed(0, "masks", s) if along == "steps" else s for s in range(1000)]
    return torch.stack([mask.draw(torch.arange(20), seed) for seed in seeds], dim=1).flatten(0, 1)


@pytest.mark.parametrize("along", ["images", "steps", "unhashed steps"])
@pytest.mark.parametrize("mask", [BlockMask(6, 3, 0.5), BlockMask(9, 3, 0.4), PatchMask(9, 3, 0.7)])
def test_all_masks_of_a_small_grid_are_equally_likely(mask, along):
    """By enumeration: 2 of 4 squares have 6 masks, 4 of 9 have 126, 7 of 9 have 36."""
    visible, kept = draws(mask, along), mask.grid.n - mask.hidden
    codes = (visible.long() << torch.arange(mask.grid.n)).sum(dim=1)
    counts = codes.bincount(minlength=2**mask.grid.n).double()
    possible = [sum(1 << k for k in c) for c in combinations(range(mask.grid.n), kept)]
    assert counts[possible].sum() == len(visible)
    assert chisquare(counts[possible].numpy()).pvalue > ERROR


@pytest.mark.parametrize("along", ["images", "steps"])
@pytest.mark.parametrize("mask", [BlockMask(), PatchMask()])
def test_patches_are_equally_likely_and_independent_of_each_other(mask, along):
    """Each patch, and each pair (2k, 2k + 1), against the hypergeometric law; the worst counts.

    Bonferroni: the worst of m p-values is below ERROR / m with a probability of at most ERROR.
    """
    visible = draws(mask, along).long().numpy()
    n, kept, count = mask.grid.n, mask.grid.n - mask.hidden, len(visible)
    assert (visible.sum(axis=1) == kept).all()
    shown = visible.sum(axis=0)
    assert min(binomtest(int(k), count, kept / n).pvalue for k in shown) > ERROR / n
    pairs = visible[:, : n // 2 * 2].reshape(count, -1, 2).sum(axis=2)
    expected = count * hypergeom(n, kept, 2).pmf([0, 1, 2])
    worst = min(chisquare(np.bincount(pair, minlength=3), expected).pvalue for pair in pairs.T)
    assert worst > ERROR / pairs.shape[1]


@pytest.mark.parametrize("along", ["images", "steps"])
def test_masks_of_neighbours_are_independent(along):
    """What two masks share: of images that follow each other, and of steps that do."""
    mask = PatchMask()
    visible = draws(mask, along)
    shared = (visible[::2] & visible[1::2]).sum(dim=1).numpy()
    law = hypergeom(mask.grid.n, mask.kept, mask.kept)
    cells = np.arange(8, 18)  # rarer overlaps are put together at both ends
    counts = np.bincount(shared.clip(7, 18) - 7, minlength=12)
    expected = len(shared) * np.array([law.cdf(7), *law.pmf(cells), law.sf(17)])
    assert chisquare(counts, expected).pvalue > ERROR


@pytest.mark.parametrize("mask", [BlockMask(64, 16), PatchMask(64, 16)])
def test_a_mask_depends_on_its_image_and_the_seed_alone(mask):
    """Not on the batch it comes in, nor on anything global."""
    numbers = torch.tensor([5, 0, 2**62, 7, 5])
    masks = mask.draw(numbers, 3)
    assert torch.equal(masks[0], masks[4])
    torch.manual_seed(6)
    for k in range(5):
        assert torch.equal(mask.draw(numbers[k:], 3), masks[k:])
    assert torch.equal(mask.draw(numbers.flip(0), 3), masks.flip(0))
    assert not torch.equal(mask.draw(numbers, 4), masks)


@pytest.mark.gpu
@pytest.mark.parametrize("mask", [BlockMask(), PatchMask()])
def test_masks_are_the_same_on_an_accelerator(mask):
    numbers = torch.arange(1000)
    there = mask.draw(numbers.cuda(), 3)
    assert there.is_cuda
    assert torch.equal(there.cpu(), mask.draw(numbers, 3))


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5])
def test_bad_ratios(ratio):
    with pytest.raises(ValueError, match="mask ratio between 0 and 1"):
        BlockMask(ratio=ratio)


def test_blocks_must_divide_the_image():
    with pytest.raises(ValueError, match="blocks that divide an image of 224 px, got 48 px"):
        BlockMask(224, 48)


def test_simmim_and_mae_count_from_both_ends():
    """SimMIM hides ceil(0.6 * 49) = 30 of 49 blocks, MAE keeps int(0.25 * 196) = 49 of 196."""
    assert PatchMask().grid.n == 196
    assert (PatchMask().kept, PatchMask().hidden) == (49, 147)
    assert PatchMask(224, 32, 0.6).hidden == BlockMask(224, 32, 0.6).hidden


@pytest.mark.parametrize("mask", [BlockMask(64, 16, 0.7), PatchMask(64, 16, 0.7)])
def test_all_masks_have_one_interface(mask):
    visible = mask.draw(torch.arange(50), 0)
    assert visible.dtype == torch.bool
    assert visible.shape == (50, mask.grid.n)
    assert ((~visible).sum(dim=1) == mask.hidden).all()
    assert isinstance(hash(mask), int)


def test_a_share_that_is_whole_is_kept_whole():
    """Rounding of 1 - ratio may not lose a patch: 10 (1 - 0.9) is 0.9999999999999998."""
    for side in (5, 10):
        n = side * side
        for kept in range(1, n):
            assert PatchMask(side, 1, 1 - kept / n).kept == kept


def test_bad_patches():
    with pytest.raises(ValueError, match="patches that divide an image of 224 px, got 15 px"):
        PatchMask(224, 15)
    with pytest.raises(ValueError, match="at least one visible patch, got none of 4"):
        PatchMask(32, 16, 0.8)
    with pytest.raises(ValueError, match="mask ratio between 0 and 1"):
        PatchMask(ratio=1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 196, 257])
def test_squares_are_those_of_the_smallest_words(n):
    numbers = torch.arange(200)
    order = hashed_words(n, 3, numbers).argsort(dim=1, stable=True)
    for chosen in {1, n // 2, n - 1, n} - {0}:
        expected = torch.zeros(200, n, dtype=torch.bool).scatter(1, order[:, :chosen], True)
        assert torch.equal(random_squares(numbers, n, chosen, 3), expected)


def test_equal_words_are_told_apart_by_their_place(monkeypatch):
    words = torch.tensor([[5, -5, 5, -5, 5, -5]]) << 40
    monkeypatch.setattr(masking, "hashed_words", lambda n, seed, numbers: words)
    chosen = random_squares(torch.tensor([0]), 6, 4, 0)
    assert chosen.tolist() == [[True, True, False, True, False, True]]
