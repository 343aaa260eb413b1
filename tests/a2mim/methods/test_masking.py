import numpy as np
import pytest
import torch

from a2mim.methods.masking import BlockMask, PatchMask, random_squares


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_published_counts():
    """30 of 49 blocks at 224 px, 22 of 36 at 192 px."""
    assert BlockMask(224).hidden == 30
    assert BlockMask(192).hidden == 22
    assert BlockMask(224).grid.n == 49


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_whole_numbers_are_not_rounded_up(ratio):
    mask = BlockMask(160, 32, ratio)
    assert mask.hidden == round(ratio * 25)


def test_every_image_hides_the_same_number_and_blocks_are_equally_likely():
    mask = BlockMask(128, 32, 0.6)
    visible = mask.draw(4000, generator())
    assert visible.dtype == torch.bool
    assert ((~visible).sum(dim=1) == 10).all()
    share = (~visible).double().mean(dim=0).numpy()
    # binomial error of 4000 draws is 0.0077
    np.testing.assert_allclose(share, 10 / 16, atol=0.035)


def test_masks_come_from_the_generator_alone():
    mask = BlockMask(64, 16)
    torch.manual_seed(5)
    first = mask.draw(3, generator(1))
    torch.manual_seed(6)
    assert torch.equal(mask.draw(3, generator(1)), first)
    assert not torch.equal(mask.draw(3, generator(2)), first)


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
    visible = mask.draw(50, generator())
    assert visible.shape == (50, mask.grid.n)
    assert visible.device == generator().device
    assert ((~visible).sum(dim=1) == mask.hidden).all()
    assert torch.equal(mask.draw(50, generator()), visible)
    assert isinstance(hash(mask), int)


def test_kept_patches_are_equally_likely():
    mask = PatchMask(64, 16, 0.75)
    share = mask.draw(4000, generator()).double().mean(dim=0).numpy()
    np.testing.assert_allclose(share, 4 / 16, atol=0.035)  # binomial error is 0.0068


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


def test_squares_are_those_of_a_stable_sort_even_where_numbers_are_equal():
    noise = torch.rand(5000, 196, generator=torch.Generator().manual_seed(3))
    ordered = noise.sort(dim=1).values
    assert (ordered[:, 1:] == ordered[:, :-1]).any()
    expected = torch.zeros(5000, 196, dtype=torch.bool)
    expected.scatter_(1, noise.argsort(stable=True, dim=1)[:, :49], True)
    got = random_squares(5000, 196, 49, torch.Generator().manual_seed(3))
    assert torch.equal(got, expected)
