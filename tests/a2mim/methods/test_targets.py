import numpy as np
import pytest
import torch
from skimage.feature import hog

from a2mim.methods.targets import TARGETS, Hog, Pixels, target_of


def images(count=2, height=32, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("cell", "orientations"), [(8, 9), (16, 6), (4, 8)])
def test_hog_is_that_of_scikit_image(cell, orientations):
    x = images()
    got = Hog(cell, orientations)(x)
    assert got.shape == (2, 3 * orientations, 32 // cell, 48 // cell)
    for b in range(2):
        for c in range(3):
            expected = hog(
                x[b, c].numpy(),
                orientations=orientations,
                pixels_per_cell=(cell, cell),
                cells_per_block=(1, 1),
                block_norm="L2",
                feature_vector=False,
            )[:, :, 0, 0]
            ours = got[b, c * orientations : (c + 1) * orientations].permute(1, 2, 0).numpy()
            # scikit-image adds up each bin in float32
            np.testing.assert_allclose(ours, expected, atol=1e-7)


@pytest.mark.parametrize(("degrees", "bin"), [(10, 0), (50, 2), (90, 4), (130, 6), (170, 8)])
def test_a_ramp_has_one_orientation(degrees, bin):
    """The gradient of a ramp points where it rises; opposite directions are one."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    angle = torch.tensor(degrees * torch.pi / 180, dtype=torch.float64)
    ramp = (x.double() * angle.cos() + y.double() * angle.sin()).expand(1, 3, 24, 24)
    for sign in (1, -1):
        middle = Hog()(sign * ramp)[0, :9, 1, 1]
        expected = torch.zeros(9, dtype=torch.float64)
        expected[bin] = 1
        torch.testing.assert_close(middle, expected)


def test_flat_images_have_no_histogram():
    assert not Hog()(torch.full((1, 3, 16, 16), 0.3)).any()


def test_the_scale_of_an_image_does_not_matter():
    torch.testing.assert_close(Hog()(5 * images() + 2), Hog()(images()), atol=1e-8, rtol=0)


def test_every_cell_has_unit_length_and_no_gradient():
    x = images().requires_grad_()
    got = Hog()(x)
    assert not got.requires_grad
    norm = got.reshape(2, 3, 9, 4, 6).norm(dim=2)
    torch.testing.assert_close(norm, torch.ones_like(norm), atol=1e-6, rtol=0)
    assert not Pixels()(x).requires_grad


def test_an_image_does_not_depend_on_its_batch():
    assert torch.equal(Hog()(images())[:1], Hog()(images()[:1]))


def test_half_precision_is_computed_in_float32():
    half = images().half()
    assert Hog()(half).dtype == torch.float32
    assert torch.equal(Hog()(half), Hog()(half.float()))


def test_pixels_are_the_images():
    assert torch.equal(Pixels()(images()), images())
    assert (Pixels().cell, Pixels().channels(3)) == (1, 3)
    assert (Hog().cell, Hog().channels(3)) == (8, 27)


def test_targets_by_name():
    assert target_of("hog") == TARGETS["hog"] == Hog()
    assert target_of(Hog(16)) == Hog(16)
    with pytest.raises(ValueError, match="target named rgb or hog, got 'lbp'"):
        target_of("lbp")


def test_bad_cells():
    with pytest.raises(ValueError, match="images that 8 px cells divide, got 32 x 44 px"):
        Hog()(images(width=44))
    with pytest.raises(ValueError, match="cells of at least 1 px"):
        Hog(0)
