"""Losses of masked image modelling: those of the A2MIM paper and those of its official code.

Spatial loss, with M = 1 at hidden and w = ``unmask_weight`` at visible pixels:

    L_spa = sum of l(x^ - x) M  /  ((sum of M + 1e-5) C)
    l1:        l(d) = |d|                                       (paper; ViT in the code)
    focal_l1:  l(d) = |d| (2 sigmoid(0.2 |d|) - 1)              (CNN in the code)

Fourier loss, between the target x and a composite q that shows the prediction where M_f is 1,
with M_f = 1 at hidden and u = ``fft_unmask_weight`` at visible pixels, and a fill rho without
gradient elsewhere (``fft_unmask_replace``: the target, the prediction, the target's mean per
channel, or half target and half prediction, which is "mixed"):

    q = x^ M_f + rho (1 - M_f),     D = DFT(q) - DFT(x),  orthonormal, per image and channel

    paper:  L_freq = mean of omega |D|,     omega = stop-gradient of |D|
    plain:  L_freq = mean of l(|D|),        reweighted: mean of stop-gradient(l) l
    focal:  L_freq = mean of omega |D|^2,   omega = stop-gradient of log(1 + |D|) / max, in [0, 1]

    L = L_spa + lambda L_freq

Sources: A2MIM (Li et al., ICML 2023) for ``paper``; the official code (openmixup) for the others.
The paper writes L_freq as a sum; it is divided by the number of terms here, which keeps its size
independent of image and batch size.

What the paper's Fourier loss is: the transform is orthonormal, so by Parseval its value is the mean
squared error over *all* pixels, and because omega is held constant its gradient is *half* the
gradient of that mean squared error, taken at hidden pixels: that of the mean of sg(q - x) (q - x),
which is how it is computed, without a transform. So with omega = |D|^1, as in the paper,
no frequency gets more than its share of the squared error; the official code weights otherwise.

Which losses depend on the local batch: the official focal form averages the spectra of the batch
first (``reduce_spectrum="batch"``), so that it is a function of the batch-mean residual alone.
Independent errors cancel, its size falls like 1/B, and B is what one process holds in one forward
pass: another number of processes or another accumulation is another loss. L_spa is a mean over the
hidden pixels of the local batch, which is the mean over images because all hide the same number.
All other forms are means over images.

Shapes: B images, C colours, H x W pixels; ``visible`` is bool ``(B, 1, H, W)``. Everything is
computed in float32 at least, also under autocast: half-precision FFTs only exist for powers of two,
and a sum over the pixels of a batch leaves the range of float16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

Criterion = Literal["l1", "focal_l1"]
FourierForm = Literal["paper", "focal", "plain"]
Replace = Literal["target", "prediction", "mean", "mixed"]
Reduce = Literal["none", "batch"]

EPSILON = 1e-5
"""The official epsilon of L_spa, in hidden pixels."""


@dataclass(frozen=True)
class LossSpec:
    """A loss of masked image modelling, by the formulas of :mod:`a2mim.methods.losses`.

    Attributes:
        spatial: l of L_spa, and of the plain Fourier form, as in the official code.
        unmask_weight: w, the weight of visible pixels in L_spa.
        eps: added to the weight of all pixels in L_spa.
        fourier_weight: lambda; at 0 the Fourier loss is not computed.
        fourier: the form of L_freq.
        fft_unmask_weight: u, the share of the prediction at visible pixels of the composite.
        fft_unmask_replace: rho, what else stands there.
        reduce_spectrum: ``"batch"`` (official) averages spectra over the local batch before the
            focal form weights them; ``"none"`` weights every image by itself, with the maximum
            over its channels and frequencies.
        reweight: whether the plain form weights its terms with themselves.

    Raises:
        ValueError: for unknown names, negative weights, or options of another form.
    """

    spatial: Criterion = "l1"
    unmask_weight: float = 0.0
    eps: float = EPSILON
    fourier_weight: float = 0.5
    fourier: FourierForm = "paper"
    fft_unmask_weight: float = 0.0
    fft_unmask_replace: Replace = "prediction"
    reduce_spectrum: Reduce = "none"
    reweight: bool = False

    def __post_init__(self) -> None:
        for field, known in (
            ("spatial", Criterion),
            ("fourier", FourierForm),
            ("fft_unmask_replace", Replace),
            ("reduce_spectrum", Reduce),
        ):
            if getattr(self, field) not in get_args(known):
                raise ValueError(
                    f"expected {field} as {' or '.join(get_args(known))}, "
                    f"got {getattr(self, field)!r}"
                )
        if not (self.unmask_weight >= 0 and self.eps >= 0 and self.fourier_weight >= 0):
            raise ValueError(
                "expected unmask_weight, eps and fourier_weight of at least 0, got "
                f"{self.unmask_weight}, {self.eps} and {self.fourier_weight}"
            )
        if not 0 <= self.fft_unmask_weight <= 1:
            raise ValueError(
                f"expected fft_unmask_weight between 0 and 1, got {self.fft_unmask_weight}"
            )
        if self.reduce_spectrum == "batch" and self.fourier != "focal":
            raise ValueError(
                "expected reduce_spectrum='batch' with the focal form only, got the form "
                f"{self.fourier!r}; use fourier='focal' or reduce_spectrum='none'"
            )
        if self.reweight and self.fourier != "plain":
            raise ValueError(
                f"expected reweight with the plain form only, got the form {self.fourier!r}; use "
                "fourier='plain'"
            )

    def __call__(
        self, prediction_BCHW: Tensor, target_BCHW: Tensor, visible_B1HW: Tensor
    ) -> dict[str, Tensor]:
        """The loss and its parts.

        Args:
            prediction_BCHW: what the decoder predicts.
            target_BCHW: what it is compared with, without gradient.
            visible_B1HW: bool, True where the network saw the image.

        Returns:
            Scalars: ``loss``, ``spatial`` and, unless lambda is 0, ``fourier``.
        """
        spatial = spatial_loss(
            prediction_BCHW, target_BCHW, visible_B1HW, self.spatial, self.unmask_weight, self.eps
        )
        if not self.fourier_weight:
            return {"loss": spatial, "spatial": spatial}
        shown = composite(
            prediction_BCHW,
            target_BCHW,
            visible_B1HW,
            self.fft_unmask_weight,
            self.fft_unmask_replace,
        )
        if self.fourier == "paper":
            fourier = paper_spectrum(shown, target_BCHW)
        elif self.fourier == "focal":
            fourier = focal_spectrum(shown, target_BCHW, self.reduce_spectrum)
        else:
            fourier = plain_spectrum(shown, target_BCHW, self.spatial, self.reweight)
        return {
            "loss": spatial + self.fourier_weight * fourier,
            "spatial": spatial,
            "fourier": fourier,
        }


LOSSES: dict[str, LossSpec] = {
    "paper": LossSpec(),
    "official-vit": LossSpec(
        fourier="focal", fourier_weight=0.1, fft_unmask_replace="mixed", reduce_spectrum="batch"
    ),
    "official-r50": LossSpec(
        spatial="focal_l1",
        fourier="focal",
        fourier_weight=0.5,
        fft_unmask_weight=1e-3,
        fft_unmask_replace="mixed",
        reduce_spectrum="batch",
    ),
    "official-r101": LossSpec(
        spatial="focal_l1",
        fourier="plain",
        fourier_weight=0.1,
        fft_unmask_weight=1e-3,
        fft_unmask_replace="mixed",
    ),
    "official-cnn-nofreq": LossSpec(spatial="focal_l1", fourier_weight=0.0),
    "simmim": LossSpec(fourier_weight=0.0),
}
"""Losses by name: the paper's, and those of the official configurations for ImageNet-1K.

``official-vit`` is ViT-S, B and L; ``official-r101`` also ResNet-152 in the repository of A2MIM;
``official-cnn-nofreq`` is ResNet-200, ConvNeXt, MogaNet, and ResNet-152 in openmixup; ``simmim`` is
plain L1 on hidden pixels.
"""


def loss_spec(loss: str | LossSpec, fourier_weight: float | None = None) -> LossSpec:
    """A loss by name, or the loss itself; with another lambda if one is given.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"expected a loss named {', '.join(LOSSES)}, got {loss!r}")
        loss = LOSSES[loss]
    return loss if fourier_weight is None else replace(loss, fourier_weight=fourier_weight)


def spatial_loss(
    prediction_BCHW: Tensor,
    target_BCHW: Tensor,
    visible_B1HW: Tensor,
    criterion: Criterion = "l1",
    unmask_weight: float = 0.0,
    eps: float = EPSILON,
) -> Tensor:
    """L_spa: the mean error over the hidden pixels and channels of the local batch."""
    prediction = _at_least_float32(prediction_BCHW)
    weight_B1HW = (~visible_B1HW).to(prediction.dtype)
    if unmask_weight:
        weight_B1HW = weight_B1HW + (1 - weight_B1HW) * unmask_weight
    error = _criterion((prediction - target_BCHW).abs(), criterion) * weight_B1HW
    return error.sum() / ((weight_B1HW.sum() + eps) * target_BCHW.shape[1])


def masked_l1(prediction_BCHW: Tensor, images_BCHW: Tensor, visible_B1HW: Tensor) -> Tensor:
    """L_spa of the preset ``paper``: mean absolute error over the hidden pixels of the batch."""
    return spatial_loss(prediction_BCHW, images_BCHW, visible_B1HW)


def fourier_loss(prediction_BCHW: Tensor, images_BCHW: Tensor, visible_B1HW: Tensor) -> Tensor:
    """L_freq of the preset ``paper``: a mean over images, the same for any split of the batch."""
    shown = composite(prediction_BCHW, images_BCHW, visible_B1HW, 0.0, "prediction")
    return paper_spectrum(shown, images_BCHW)


def composite(
    prediction_BCHW: Tensor,
    target_BCHW: Tensor,
    visible_B1HW: Tensor,
    unmask_weight: float,
    fill: Replace,
) -> Tensor:
    """q: the prediction at hidden pixels, ``unmask_weight`` of it and ``fill`` at visible ones.

    At ``unmask_weight`` 1 the fill plays no part, and q is the prediction.
    """
    prediction = _at_least_float32(prediction_BCHW)
    target = _at_least_float32(target_BCHW)
    fills = {
        "target": lambda: target,
        "prediction": prediction.detach,
        "mean": lambda: target.mean(dim=(2, 3), keepdim=True),
        "mixed": lambda: 0.5 * prediction.detach() + 0.5 * target,
    }
    if unmask_weight == 1:
        return prediction
    seen = unmask_weight * prediction if unmask_weight else prediction.new_zeros(())
    return torch.where(visible_B1HW, seen + (1 - unmask_weight) * fills[fill](), prediction)


def plain_spectrum(
    shown_BCHW: Tensor, target_BCHW: Tensor, criterion: Criterion = "l1", reweight: bool = False
) -> Tensor:
    """L_freq of the plain form: the mean criterion of |D|. A mean over images."""
    error = _criterion(_spectrum(shown_BCHW - target_BCHW).abs(), criterion)
    return (error.detach() * error if reweight else error).mean()


def focal_spectrum(shown_BCHW: Tensor, target_BCHW: Tensor, reduce: Reduce = "batch") -> Tensor:
    """L_freq of the focal form; with ``"batch"`` it depends on what the local batch holds.

    The transform is linear, so the difference of two mean spectra is the spectrum of the mean
    difference, which costs one transform per channel instead of 2 B.
    """
    residual = _at_least_float32(shown_BCHW) - target_BCHW
    if reduce == "batch":
        residual = residual.mean(dim=0, keepdim=True)
    D = _spectrum(residual)
    omega = torch.log1p(D.detach().abs())
    # A perfect prediction has no largest error: 0 / 0 becomes 0.
    omega = (omega / omega.amax(dim=(1, 2, 3), keepdim=True)).nan_to_num(nan=0.0).clamp(0, 1)
    return (omega * (D.real.square() + D.imag.square())).mean()


def paper_spectrum(shown_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """L_freq of the paper, by Parseval: a mean over images."""
    residual = _at_least_float32(shown_BCHW) - target_BCHW
    return (residual.detach() * residual).mean()


def _spectrum(residual_BCHW: Tensor) -> Tensor:
    return torch.fft.fft2(_at_least_float32(residual_BCHW), norm="ortho")


def _criterion(distance: Tensor, criterion: Criterion) -> Tensor:
    """l as a function of |d|."""
    if criterion == "l1":
        return distance
    # 2 sigmoid(a) - 1 = tanh(a / 2), without the cancellation at small errors
    return distance * torch.tanh(0.1 * distance)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
