"""Losses of masked image modelling, preset ``paper`` of A2MIM.

    L       = L_spa + lambda L_freq
    L_spa   = mean of |x^ - x| over hidden pixels and channels of the batch
    L_freq  = sum over c, u, v of omega |D|  /  (3 H W B),      omega = stop-gradient of |D|
    D       = DFT(x^ at hidden pixels, stop-gradient of x^ elsewhere) - DFT(x),  orthonormal

The paper writes L_freq as a sum; it is divided by the number of terms here, which keeps its size
independent of image and batch size.

What this Fourier loss is: the transform is orthonormal, so by Parseval its value is the mean
squared error over *all* pixels, and because omega is held constant its gradient is *half* the
gradient of that mean squared error, taken at hidden pixels. So with omega = |D|^1, as in the paper,
no frequency gets more than its share of the squared error; the official code weights otherwise.

Shapes: B images, C colours, H x W pixels; ``visible`` is bool ``(B, 1, H, W)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_l1(prediction_BCHW: Tensor, images_BCHW: Tensor, visible_B1HW: Tensor) -> Tensor:
    """L_spa: mean absolute error over the hidden pixels of the batch.

    The denominator carries the official epsilon of 1e-5 hidden pixels.
    """
    hidden = (~visible_B1HW).to(prediction_BCHW.dtype)
    error = (prediction_BCHW - images_BCHW).abs() * hidden
    return error.sum() / ((hidden.sum() + 1e-5) * images_BCHW.shape[1])


def fourier_loss(prediction_BCHW: Tensor, images_BCHW: Tensor, visible_B1HW: Tensor) -> Tensor:
    """L_freq: see the top of this file. Computed in float32 at least, whatever the input is."""
    visible_as_given = torch.where(visible_B1HW, prediction_BCHW.detach(), prediction_BCHW)
    residual = visible_as_given - images_BCHW
    if residual.dtype in (torch.float16, torch.bfloat16):
        residual = residual.float()  # half-precision FFTs only exist for powers of two
    D = torch.fft.fft2(residual, norm="ortho").abs()
    return (D.detach() * D).mean()
