import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.stats import kstest
from torchvision.transforms.v2.functional import gaussian_blur

from interactions import fills
from interactions.patches import PatchGrid, hide

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_zero_and_image_mean():
    assert (fills.zero(IMAGES) == 0).all()
    mean = fills.image_mean(IMAGES)
    assert mean.shape == (2, 3, 1, 1)
    torch.testing.assert_close(mean[1, 2, 0, 0], IMAGES[1, 2].sum() / 256)


def test_black_is_pixel_value_zero():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    black = fills.black(mean, std)(IMAGES)
    # the value that IPViT's images have after normalisation
    expected = torch.tensor([-2.1179, -2.0357, -1.8044])
    torch.testing.assert_close(black.flatten(), expected, atol=5e-5, rtol=0)


def test_blur_agrees_with_scipy():
    sigma = 1.5
    expected = IMAGES.double().numpy()
    for axis in (2, 3):
        expected = gaussian_filter1d(expected, sigma, axis=axis, mode="mirror", radius=5)
    torch.testing.assert_close(fills.blur(sigma)(IMAGES.double()), torch.from_numpy(expected))


def test_the_blur_of_jain_et_al_is_torchvisions():
    images = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(1)).double()
    expected = gaussian_blur(images, kernel_size=[21, 21], sigma=[10.0, 10.0])
    torch.testing.assert_close(fills.blur(10, radius=10)(images), expected)
    assert not torch.allclose(fills.blur(10)(images), expected, atol=1e-2)


def test_a_wide_blur_of_a_small_image_keeps_a_constant():
    constant = torch.full((1, 3, 8, 8), 2.5)
    torch.testing.assert_close(fills.blur(10)(constant), constant)


def test_noise_is_the_same_for_an_image_alone_and_in_a_batch():
    fill = fills.noise(seed=3, std=0.5)
    assert torch.equal(fill(IMAGES)[0], fill(IMAGES[1:])[0])
    assert not torch.equal(fill(IMAGES), fills.noise(seed=4, std=0.5)(IMAGES))
    wide = torch.zeros(1, 3, 64, 64)
    assert abs(fill(wide).std().item() - 0.5) < 0.02  # 12,288 draws: 4 standard errors are 0.013


MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


@pytest.mark.parametrize("fill", [fills.constant(MEAN), fills.black(MEAN, STD), fills.noise(1)])
def test_a_fixed_fill_is_its_pattern_in_the_numbers_of_the_images(fill):
    pattern = fill.pattern(3, 16, 16)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert torch.equal(fill(IMAGES.to(dtype)), pattern.to(dtype))
    with pytest.raises(ValueError, match="colour of 4 channels, got 3"):
        fills.constant(MEAN).pattern(4, 16, 16)


@pytest.mark.parametrize("make", [fills.random_colour, fills.uniform_noise])
def test_what_is_drawn_by_name_is_the_same_in_any_batch(make):
    fill = make(MEAN, STD, seed=3)
    both = fill.for_images(["a", "b"])(IMAGES)
    assert torch.equal(both[1:], fill.for_images(["b"])(IMAGES[:1]))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, make(MEAN, STD, seed=4).for_images(["a", "b"])(IMAGES))
    with pytest.raises(ValueError, match=r"expected 2 names, .* got 1,"):
        fill.for_images(["a"])(IMAGES)


def test_random_colours_and_noise_are_uniform_pixels():
    """In every channel, once normalising is undone; colours over images, noise over pixels."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    names = [str(k) for k in range(400)]
    colours = fills.random_colour(MEAN, STD).for_images(names)(torch.zeros(400, 3, 2, 2))
    noise = fills.uniform_noise(MEAN, STD).for_images(["0"])(torch.zeros(1, 3, 20, 20))
    assert colours.shape == (400, 3, 1, 1)
    assert noise.shape == (1, 3, 20, 20)
    for pixels in (colours * std + mean, noise * std + mean):
        for channel in pixels.transpose(0, 1).flatten(1):
            # 1.95 / sqrt(400): a chance of 1e-3 that the distance of Kolmogorov is larger
            assert kstest(channel.numpy(), "uniform").statistic < 0.0975


@pytest.mark.parametrize(
    "fill",
    [
        fills.zero,
        fills.image_mean,
        fills.black((0.5,) * 3, (0.5,) * 3),
        fills.blur(),
        fills.noise(0),
        fills.random_colour(MEAN, STD).for_images(["a", "b"]),
        fills.uniform_noise(MEAN, STD).for_images(["a", "b"]),
    ],
)
def test_every_fill_can_hide(fill):
    grid = PatchGrid(4, 4)
    visible = torch.zeros(2, 16, dtype=torch.bool)
    visible[0] = True
    out = hide(IMAGES, visible, grid, fill(IMAGES))
    assert torch.equal(out[0], IMAGES[0])
    assert torch.equal(out[1], fill(IMAGES).expand(2, 3, 16, 16)[-1])


def test_bad_arguments():
    with pytest.raises(ValueError, match="colour of 3 channels, got 2"):
        fills.constant((0, 1))(IMAGES)
    with pytest.raises(ValueError, match="sigma > 0"):
        fills.blur(0)
    with pytest.raises(ValueError, match="radius >= 1"):
        fills.blur(1, radius=0)
