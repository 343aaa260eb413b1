"""Losses against published vectors, closed forms and derivatives found another way.

The published vectors are those of the official code for the sines and cosines below.
"""

import pytest
import torch

from a2mim.losses import fourier_loss, masked_l1
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


def test_l1_is_the_official_value_with_its_gradient():
    images, prediction, visible = published()
    loss = masked_l1(prediction, images, visible)
    assert loss.item() == pytest.approx(0.82441933, abs=1e-7)
    grad = gradient(loss, prediction)
    assert grad.norm().item() == pytest.approx(8.06871530e-3, abs=1e-9)
    assert (grad[visible.expand_as(grad)] == 0).all()


def test_fourier_loss_is_the_published_value_where_everything_is_hidden():
    images, prediction, visible = published()
    loss = fourier_loss(prediction, images, torch.zeros_like(visible))
    assert loss.item() == pytest.approx(0.99325473, abs=1e-7)


def test_fourier_loss_by_parseval():
    """Its value is the mean squared error over all pixels."""
    images, prediction, visible = published()
    loss = fourier_loss(prediction, images, visible)
    torch.testing.assert_close(loss, ((prediction - images) ** 2).mean())


def test_fourier_gradient_is_half_of_the_squared_error_at_hidden_pixels():
    images, prediction, visible = published()
    got = gradient(fourier_loss(prediction, images, visible), prediction)
    whole = gradient(((prediction - images) ** 2).mean(), prediction)
    torch.testing.assert_close(got, 0.5 * whole * ~visible, atol=1e-12, rtol=1e-8)


def test_fourier_loss_against_a_transform_by_matrices():
    images, prediction, visible = published()
    k = torch.arange(64, dtype=torch.float64)
    transform = torch.exp(-2j * torch.pi * k[:, None] * k / 64) / 8
    residual = (prediction - images).to(torch.complex128)
    D = (transform @ residual @ transform.T).abs()
    torch.testing.assert_close(fourier_loss(prediction, images, visible), (D**2).mean())


@pytest.mark.parametrize("loss", [masked_l1, fourier_loss])
def test_a_perfect_prediction_costs_nothing_and_has_a_finite_gradient(loss):
    images, _, visible = published()
    prediction = images.clone().requires_grad_()
    value = loss(prediction, images, visible)
    assert value.item() == 0
    assert gradient(value, prediction).isfinite().all()


def test_half_precision_is_transformed_in_float32():
    images, prediction, visible = published()
    half = fourier_loss(prediction.detach().bfloat16(), images.bfloat16(), visible)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(fourier_loss(prediction, images, visible).item(), rel=0.01)
