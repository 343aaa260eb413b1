"""Losses against published vectors, closed forms and derivatives found another way.

The published vectors are those of the official code for the sines and cosines below.
"""

import pytest
import torch

from a2mim.methods.losses import (
    LOSSES,
    LossSpec,
    composite,
    focal_spectrum,
    fourier_loss,
    loss_spec,
    masked_l1,
)
from interactions.patches import PatchGrid


def published():
    b, c, h, w = torch.meshgrid(
        *(torch.arange(k, dtype=torch.float64) for k in (2, 3, 64, 64)), indexing="ij"
    )
    images = torch.sin(0.1 * (b + 1) * (h + 1) + 0.07 * (c + 1) * (w + 1))
    prediction = torch.cos(0.05 * (b + 2) * (h + 1) - 0.03 * (c + 1) * (w + 1))
    rows = torch.tensor([[1, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)  # 1 = hidden
    hidden = rows[:, :, None].expand(2, 4, 4).reshape(2, 16)
    return images, prediction.requires_grad_(), PatchGrid(4, 4).pixels(~hidden, 64, 64)


def gradient(loss, prediction):
    return torch.autograd.grad(loss, prediction)[0]


def test_the_inputs_are_the_published_ones():
    images, prediction, _ = published()
    assert images.mean().item() == pytest.approx(0.00294483, abs=1e-8)
    assert prediction.mean().item() == pytest.approx(0.04017214, abs=1e-8)


def focal(fill):
    return LossSpec(fourier="focal", reduce_spectrum="batch", fft_unmask_replace=fill)


PLAIN = LossSpec(fourier="plain", fft_unmask_replace="mixed")

# Section 3.8 of our specification, computed there with the official code: setting, loss, and norm
# of the gradient with as many digits as are given. The official masks are float32.
PUBLISHED = [
    ("focal-L1", "official-cnn-nofreq", 0.10233995, 1.61422626e-3),
    ("L1", "simmim", 0.82441933, 8.06871530e-3),
    ("L1 and visible", LossSpec(unmask_weight=0.1, fourier_weight=0), 0.82195061, 7.634797e-3),
    ("ResNet-50", "official-r50", 0.27216232, 4.53643136e-3),
    ("ResNet-101", "official-r101", 0.10638062, 1.65807773e-3),
    ("ViT", "official-vit", 0.85837661, 8.46995927e-3),
    ("target", focal("target"), 0.97008073, 1.0212626e-2),
    ("prediction", focal("prediction"), 1.03740143, 1.0353703e-2),
    ("mean", focal("mean"), 1.00896498, 1.0354521e-2),
    ("plain", PLAIN, 0.88431444, 9.032264e-3),
    ("reweighted", LossSpec(**{**vars(PLAIN), "reweight": True}), 1.19025215, 1.0256986e-2),
]


@pytest.mark.parametrize(
    ("loss", "value", "norm"), [row[1:] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED]
)
def test_official_values_with_their_gradients(loss, value, norm):
    images, prediction, visible = published()
    got = loss_spec(loss)(prediction, images, visible)["loss"]
    assert got.item() == pytest.approx(value, abs=1e-7)
    assert gradient(got, prediction).norm().item() == pytest.approx(norm, rel=1e-6)


def test_official_gradient_at_visible_pixels():
    """u = 1e-3 of the ResNets; 1.508497e-6 with the official float32 mask (section 3.8)."""
    images, prediction, visible = published()
    grad = gradient(LOSSES["official-r50"](prediction, images, visible)["loss"], prediction)
    assert (grad * ~visible).norm().item() == pytest.approx(4.536431e-3, rel=1e-6)
    assert (grad * visible).norm().item() == pytest.approx(1.508497e-6, rel=1e-6)


def test_the_published_lambdas():
    """Table 4.2, and 0.5 in the paper."""
    assert {name: spec.fourier_weight for name, spec in LOSSES.items()} == {
        "paper": 0.5,
        "official-vit": 0.1,
        "official-r50": 0.5,
        "official-r101": 0.1,
        "official-cnn-nofreq": 0.0,
        "simmim": 0.0,
    }


def test_the_preset_paper_is_its_two_functions():
    images, prediction, visible = published()
    out = LOSSES["paper"](prediction, images, visible)
    assert torch.equal(out["spatial"], masked_l1(prediction, images, visible))
    assert torch.equal(out["fourier"], fourier_loss(prediction, images, visible))
    assert torch.equal(out["loss"], out["spatial"] + 0.5 * out["fourier"])


def test_the_official_focal_form_term_by_term():
    """Spectra of every image first, then their means, as the official code has it."""
    images, prediction, visible = published()
    shown = composite(prediction, images, visible, 1e-3, "mixed")
    spectra = [torch.fft.fft2(t, norm="ortho").mean(0) for t in (shown, images)]
    D = (spectra[0] - spectra[1]).abs()
    omega = torch.log(D + 1)
    expected = (omega / omega.max() * D**2).mean()
    torch.testing.assert_close(focal_spectrum(shown, images), expected)


FOURIER = [
    LossSpec(
        spatial=spatial,
        fourier=form,
        fft_unmask_weight=u,
        fft_unmask_replace=fill,
        reduce_spectrum=reduce,
        reweight=reweight,
    )
    for spatial in ("l1", "focal_l1")
    for form, reduce, reweight in (
        ("paper", "none", False),
        ("focal", "batch", False),
        ("focal", "none", False),
        ("plain", "none", False),
        ("plain", "none", True),
    )
    for u in (0.0, 1e-3, 1.0)
    for fill in ("target", "prediction", "mean", "mixed")
]


def some(count=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images, prediction = torch.randn(
        2, count, 3, size, size, generator=generator, dtype=torch.float64
    )
    visible = PatchGrid(2, 2).pixels(
        torch.tensor([[True, False, False, True]]).expand(count, 4), size, size
    )
    return images, prediction.requires_grad_(), visible


@pytest.mark.parametrize("loss", FOURIER, ids=str)
def test_gradient_vanishes_exactly_at_visible_pixels(loss):
    """Unit test 5 of section 3.8: for u = 0; and only then, unless nothing else depends on it."""
    images, prediction, visible = some()
    grad = gradient(loss(prediction, images, visible)["loss"], prediction)
    assert ((grad * visible).abs().max() == 0) == (loss.fft_unmask_weight == 0)
    assert (grad * ~visible).abs().max() > 0


@pytest.mark.parametrize("fill", ["target", "prediction", "mean", "mixed"])
@pytest.mark.parametrize("reduce", ["batch", "none"])
def test_copies_of_an_image_cost_what_one_does(fill, reduce):
    """Unit test 6 of section 3.8, for the focal form."""
    loss = LossSpec(fourier="focal", fft_unmask_replace=fill, reduce_spectrum=reduce)
    one = some(count=1)
    many = [t.expand(5, *t.shape[1:]) for t in one]
    for part in ("fourier", "loss"):
        # the epsilon of 1e-5 pixels in the spatial loss counts once per batch
        torch.testing.assert_close(
            loss(one[1], one[0], one[2])[part],
            loss(many[1], many[0], many[2])[part],
            rtol=1e-6,
            atol=0,
        )


@pytest.mark.parametrize("loss", FOURIER, ids=str)
def test_no_error_costs_nothing(loss):
    """Unit test 7 of section 3.8; filling with the mean is an error of its own at visible pixels.

    There the composite is perfect only where everything is hidden.
    """
    images, _, visible = some()
    if loss.fft_unmask_replace == "mean":
        visible = torch.zeros_like(visible)
    prediction = images.clone().requires_grad_()
    out = loss(prediction, images, visible)
    # u x + (1 - u) x is x up to rounding
    assert out["loss"].item() == pytest.approx(0, abs=1e-15)
    grad = gradient(out["loss"], prediction)
    assert grad.isfinite().all()


def test_residuals_that_cancel_over_the_batch_do_not_count_in_the_official_form():
    """Unit test 8 of section 3.8: the official form sees the batch-mean residual alone."""
    images, prediction, visible = some(count=4)
    noise = torch.randn_like(images)
    noise = (noise - noise.mean(dim=0)) * ~visible
    for reduce, same in (("batch", True), ("none", False)):
        loss = LossSpec(fourier="focal", fft_unmask_replace="target", reduce_spectrum=reduce)
        before = loss(prediction, images, visible)["fourier"]
        after = loss(prediction + noise, images, visible)["fourier"]
        assert torch.isclose(before, after) == same


def test_every_form_but_the_official_focal_one_is_a_mean_over_images():
    """Other splits of a batch, as over processes, are the same loss; not so in the focal form."""
    images, prediction, visible = some(count=4)
    for loss in FOURIER:
        parts = [
            loss(prediction[k : k + 2], images[k : k + 2], visible[k : k + 2])["fourier"]
            for k in (0, 2)
        ]
        whole = loss(prediction, images, visible)["fourier"]
        split = torch.stack(parts).mean()
        assert torch.isclose(whole, split) == (loss.reduce_spectrum == "none")


@pytest.mark.parametrize("spatial", ["l1", "focal_l1"])
@pytest.mark.parametrize("fill", ["target", "mean"])
@pytest.mark.parametrize("u", [0.0, 1e-3, 1.0])
def test_gradients_of_the_plain_form_against_finite_differences(spatial, fill, u):
    """The other forms and fills hold something constant: their gradient is no derivative."""
    loss = LossSpec(
        spatial, fourier="plain", fft_unmask_weight=u, fft_unmask_replace=fill, unmask_weight=0.2
    )
    images, prediction, visible = some(count=1, size=4)
    assert torch.autograd.gradcheck(
        lambda p: loss(p, images, visible)["loss"], (prediction,), atol=1e-6
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_stay_in_float32_under_autocast(name, dtype):
    images, prediction, visible = (t.detach() for t in published())
    images, half = images.float(), prediction.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        inside = LOSSES[name](half, images, visible)
    outside = LOSSES[name](half.float(), images, visible)
    for part, value in inside.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, outside[part])


def test_a_large_batch_does_not_leave_the_range_of_float16():
    """4 x 224 x 224 hidden pixels are more than 65,504."""
    images = torch.zeros(4, 3, 224, 224, dtype=torch.float16)
    hidden = torch.zeros(4, 1, 224, 224, dtype=torch.bool)
    assert LOSSES["simmim"](images + 1, images, hidden)["loss"].item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial": "l2"}, "expected spatial as l1 or focal_l1, got 'l2'"),
        ({"fft_unmask_replace": "zero"}, "expected fft_unmask_replace as target or prediction"),
        ({"fft_unmask_weight": 2.0}, "fft_unmask_weight between 0 and 1, got 2.0"),
        ({"fourier_weight": -1.0}, "of at least 0, got 0.0, 1e-05 and -1.0"),
        ({"reduce_spectrum": "batch"}, "with the focal form only, got the form 'paper'"),
        ({"reweight": True}, "with the plain form only, got the form 'paper'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LossSpec(**options)


def test_losses_by_name():
    assert loss_spec("official-r50") is LOSSES["official-r50"]
    assert loss_spec("paper", 0.1) == LossSpec(fourier_weight=0.1)
    with pytest.raises(ValueError, match=r"a loss named paper, official-vit, .*, got 'mse'"):
        loss_spec("mse")


def test_fourier_loss_is_the_published_value_where_everything_is_hidden():
    images, prediction, visible = published()
    loss = fourier_loss(prediction, images, torch.zeros_like(visible))
    assert loss.item() == pytest.approx(0.99325473, abs=1e-7)


@pytest.mark.parametrize("fill", ["target", "prediction", "mean", "mixed"])
@pytest.mark.parametrize("u", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (14, 6)])
def test_the_form_of_the_paper_is_that_of_its_transform(size, u, fill):
    """Value and gradient with the FFT and its omega, in float64; and of no error at all."""
    generator = torch.Generator().manual_seed(0)
    images, prediction = torch.randn(2, 3, 3, *size, generator=generator, dtype=torch.float64)
    prediction.requires_grad_()
    visible = PatchGrid(2, 2).pixels(torch.rand(3, 4, generator=generator) < 0.5, *size)
    for guess in (prediction, images.clone().requires_grad_()):
        shown = composite(guess, images, visible, u, fill)
        D = torch.fft.fft2(shown - images, norm="ortho").abs()
        expected = (D.detach() * D).mean()
        loss = LossSpec(fft_unmask_weight=u, fft_unmask_replace=fill)
        got = loss(guess, images, visible)["fourier"]
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(
            gradient(got, guess), gradient(expected, guess), rtol=0, atol=1e-14
        )
