import numpy as np
import pytest
import torch

from a2mim.masking import BlockMask


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
