import numpy as np
import pytest
import torch
from scipy import stats
from timm import create_model
from torch import nn

from interactions import fills
from interactions.occlusion.patch_drop import OcclusionCurve, occlusion_curve, random_drop
from interactions.patches import PatchGrid

GRID = PatchGrid(4, 4)


def test_drops_are_nested_counted_and_keyed():
    names = ["a", "b", "c"]
    visible = random_drop(16, (0, 0.25, 0.5, 1), names, 0, repeat=0)
    assert visible.shape == (3, 4, 16)
    assert visible.sum(dim=2).tolist() == [[16, 12, 8, 0]] * 3
    assert (visible[:, 1:] <= visible[:, :-1]).all()
    assert torch.equal(random_drop(16, (0.5,), ["b"], 0, 0)[0, 0], visible[1, 2])
    assert not torch.equal(random_drop(16, (0.5,), ["b"], 0, 1)[0, 0], visible[1, 2])
    with pytest.raises(ValueError, match="hidden fractions between 0 and 1"):
        random_drop(16, (0.5, 2), names, 0, 0)


class BrightCorner(nn.Module):
    """Says class 1 while the first patch is visible, class 0 otherwise."""

    def forward(self, images):
        seen = images[:, 0, 0, 0]
        return torch.stack([torch.full_like(seen, 0.5), seen], dim=1)


def test_curve_of_a_model_whose_answer_is_known():
    images = torch.ones(40, 3, 8, 8)
    labels = torch.ones(40, dtype=torch.int64)
    curve = occlusion_curve(BrightCorner().eval(), images, labels, GRID, repeats=3)
    for f, fraction in enumerate(k / 10 for k in range(10)):
        visible = torch.stack(
            [random_drop(16, (fraction,), curve.images, 0, r)[:, 0, 0] for r in range(3)], dim=1
        )
        np.testing.assert_allclose(curve.correct_IF[:, f], visible.double().mean(dim=1))
    np.testing.assert_allclose(curve.fractions_F[:3], [0, 2 / 16, 3 / 16])
    assert (np.diff(curve.correct_IF, axis=1) <= 0).all()  # nested masks never bring a patch back


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_and_order_do_not_change_the_curve(batch_size):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("test_vit", num_classes=3, img_size=32).eval().double()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    names = list("abcdef")
    kwargs = {"repeats": 2, "fill": fills.image_mean}
    reference = occlusion_curve(model, images, labels, GRID, names=names, **kwargs)
    flipped = occlusion_curve(
        model,
        images.flip(0),
        labels.flip(0),
        GRID,
        names=names[::-1],
        batch_size=batch_size,
        **kwargs,
    )
    np.testing.assert_array_equal(flipped.correct_IF[::-1], reference.correct_IF)


def test_area_and_its_difference():
    """The trapezoid of the specification: accuracies at r = 0, 0.1, ... 0.9 have area .685444."""
    accuracy = np.array([80, 79.5, 78.9, 78, 76.5, 74, 70, 62, 48, 20]) / 100
    curve = OcclusionCurve(("a", "b"), np.arange(10) / 10, np.stack([accuracy, accuracy]))
    assert curve.area().estimate == pytest.approx(0.685444, abs=1e-6)
    assert curve.area().se == 0
    other = OcclusionCurve(
        ("a", "b"), np.arange(10) / 10, np.stack([accuracy - 0.01, accuracy - 0.03])
    )
    assert curve.area_minus(other).estimate == pytest.approx(0.02)
    assert curve.intervals()[0].estimate == 0.8
    with pytest.raises(ValueError, match="same images and fractions"):
        curve.area_minus(OcclusionCurve(("a", "c"), np.arange(10) / 10, other.correct_IF))


def test_no_image_right_is_no_certainty():
    """Wilson's interval where a t interval has no width; means of flags stay in [0, 1]."""
    flags = np.zeros((20, 2))
    flags[:, 0] = 1
    curve = OcclusionCurve(tuple(map(str, range(20))), np.array([0, 0.5]), flags)
    wilson = stats.binomtest(0, 20).proportion_ci(0.95, "wilson").high
    first, last = curve.intervals()
    assert (first.low, first.high) == pytest.approx((1 - wilson, 1))
    assert (last.low, last.high) == pytest.approx((0, wilson))
    area = curve.area()
    assert 0 < area.low < area.estimate == 0.5 < area.high < 1
    same = curve.area_minus(curve)
    assert (same.estimate, same.p) == (0, 1)


def test_bad_input():
    images, labels = torch.ones(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    model = BrightCorner()
    with pytest.raises(ValueError, match="eval mode"):
        occlusion_curve(model.train(), images, labels, GRID)
    with pytest.raises(ValueError, match="ascending"):
        occlusion_curve(model.eval(), images, labels, GRID, fractions=(0.5, 0.1))
    with pytest.raises(ValueError, match="expected 2 labels, got 1"):
        occlusion_curve(model, images, labels[:1], GRID)
    with pytest.raises(ValueError, match="2 distinct image names"):
        occlusion_curve(model, images, labels, GRID, names=["a", "a"])
    with pytest.raises(ValueError, match="at least 1 for repeats"):
        occlusion_curve(model, images, labels, GRID, repeats=0)
    with pytest.raises(ValueError, match="not finite"):
        occlusion_curve(model, images * torch.nan, labels, GRID)
