import numpy as np
import pytest
import scipy.stats
import timm.data.mixup
import torch

from a2mim.data.sampler import keyed_generator
from a2mim.training.mixing import Mixing, soft_targets


def rows(cutmix, lam, y, x, count):
    return torch.tensor([[cutmix, lam, y, x]], dtype=torch.float64).repeat(count, 1)


@pytest.mark.parametrize(
    ("cutmix", "lam", "y", "x"),
    [
        (False, 0.3, 0.0, 0.0),
        (False, 1.0, 0.0, 0.0),
        (True, 0.4, 0.5, 0.5),
        (True, 0.77, 0.01, 0.99),  # in a corner: most of the box lies outside
        (True, 0.05, 0.4, 0.9),
        (True, 1.0, 0.5, 0.5),
        (True, 0.0, 0.3, 0.6),
    ],
)
def test_timm_mixes_the_same(cutmix, lam, y, x, monkeypatch):
    """timm's Mixup with the draws given: images and soft classes."""
    images, labels = torch.randn(6, 3, 13, 18), torch.tensor([0, 4, 2, 2, 3, 1])
    reference = timm.data.mixup.Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=5)
    monkeypatch.setattr(reference, "_params_per_batch", lambda: (lam, cutmix))
    centres = iter([int(13 * y), int(18 * x)])
    monkeypatch.setattr(np.random, "randint", lambda *a, **k: np.int64(next(centres)))
    expected_images, expected_targets = reference(images.clone(), labels)

    mixing = Mixing(0.8, 1.0, group=6)
    mixed, share = mixing.images(images, rows(cutmix, lam, y, x, 6))
    targets = mixing.targets(soft_targets(labels, 5, 0.1), share)
    torch.testing.assert_close(mixed, expected_images)
    torch.testing.assert_close(targets, expected_targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_cutmix_pixel_by_pixel():
    """Every pixel is that of the image or of its partner, and shares are counted."""
    mixing = Mixing(0.0, 1.0, group=4)
    images = torch.arange(8.0)[:, None, None, None].expand(8, 1, 9, 7)
    drawn = mixing.draw(8, keyed_generator(3))
    mixed, share = mixing.images(images, drawn)
    partner = torch.tensor([3, 2, 1, 0, 7, 6, 5, 4])
    for i in range(8):
        taken = mixed[i, 0] == partner[i]
        assert ((mixed[i, 0] == i) | taken).all()
        assert share[i] == pytest.approx(taken.double().mean().item())
        # a rectangle
        assert taken.sum() == taken.any(0).sum() * taken.any(1).sum()


def test_draws_follow_their_laws():
    """Kolmogorov-Smirnov against scipy's Beta; false alarm one in a million each."""
    mixing = Mixing(0.8, 0.3, group=2)
    drawn = mixing.draw(8000, keyed_generator(0, "laws"))
    assert torch.equal(drawn[0::2], drawn[1::2])
    drawn = drawn[0::2].numpy()
    is_cutmix = drawn[:, 0] == 1
    assert scipy.stats.binomtest(int(is_cutmix.sum()), 4000).pvalue > 1e-6
    for chosen, alpha in ((is_cutmix, 0.3), (~is_cutmix, 0.8)):
        law = scipy.stats.beta(alpha, alpha)
        assert scipy.stats.kstest(drawn[chosen, 1], law.cdf).pvalue > 1e-6
    for column in (2, 3):
        assert scipy.stats.kstest(drawn[:, column], "uniform").pvalue > 1e-6


@pytest.mark.parametrize(("mixup", "cutmix", "share"), [(0.2, 0.0, 0), (0.0, 1.0, 1)])
def test_one_of_the_two(mixup, cutmix, share):
    assert (Mixing(mixup, cutmix, 2).draw(64, keyed_generator(0))[:, 0] == share).all()


def test_a_draw_is_that_of_its_key():
    mixing = Mixing(group=4)
    drawn = mixing.draw(16, keyed_generator(0, "masks", 7))
    state = torch.random.get_rng_state()
    assert torch.equal(mixing.draw(16, keyed_generator(0, "masks", 7)), drawn)
    assert not torch.equal(mixing.draw(16, keyed_generator(0, "masks", 8)), drawn)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("size", [4, 8, 12])
def test_micro_batches_change_nothing(size):
    mixing = Mixing(group=4)
    images, labels = torch.randn(24, 3, 8, 8), torch.randint(0, 5, (24,))
    drawn = mixing.draw(24, keyed_generator(1))
    whole, shares = mixing.images(images, drawn)
    targets = mixing.targets(soft_targets(labels, 5), shares)
    for k in range(0, 24, size):
        part = slice(k, k + size)
        mixed, share = mixing.images(images[part], drawn[part])
        assert torch.equal(mixed, whole[part])
        assert torch.equal(mixing.targets(soft_targets(labels[part], 5), share), targets[part])


def test_soft_targets_by_hand():
    targets = soft_targets(torch.tensor([1, 0]), 4, 0.1)
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025], [0.925, 0.025, 0.025, 0.025]])
    torch.testing.assert_close(targets, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -0.1}, "mixup and cutmix of at least 0"),
        ({"mixup": 0.0, "cutmix": 0.0}, "without both, leave mixing out"),
        ({"group": 1}, "groups of at least 2 images, got 1"),
    ],
)
def test_bad_mixing(options, message):
    with pytest.raises(ValueError, match=message):
        Mixing(**options)


def test_bad_calls():
    mixing = Mixing(group=4)
    with pytest.raises(ValueError, match="whole groups of 4 images that are mixed, got 6"):
        mixing.draw(6, keyed_generator(0))
    drawn = mixing.draw(8, keyed_generator(0))
    with pytest.raises(ValueError, match="got 2; use smaller groups or other batches"):
        mixing.images(torch.zeros(2, 3, 8, 8), drawn[:2])
    with pytest.raises(ValueError, match=r"float64 rows of Mixing.draw, got torch.bfloat16"):
        mixing.images(torch.zeros(8, 3, 8, 8), drawn.bfloat16())
