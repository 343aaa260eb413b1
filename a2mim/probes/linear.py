"""Linear classifiers of frozen features.

    L-BFGS    minimise  -1/I sum_i log p(y_i | x_i) + lambda/2 ||W||^2,   p = softmax(W'x + b)
    SGD       v <- mu v + gradient + lambda W,   W <- W - lr(s) v          on batches, as published

Features are those of one view of every image (:func:`a2mim.probes.features.extract`); the published
linear probes augment anew in every epoch, so their SGD is reproduced here up to that.
``"standardise"`` is what MAE's probe does by a batch norm without affine parameters, (x - mean) /
sqrt(var + 1e-6), with the statistics of all training features in place of running ones: a probe
never sees those of a test batch. Hyper-parameters are chosen on a part of the training images that
is held out, never on the test images; then the probe is fitted again on all. Everything that was
decided stands in ``ProbeResult.settings``.

Sources: batch norm from MAE (arXiv:2111.06377); several learning rates in one run from DINOv2
(arXiv:2304.07193); recipes from the configurations of A2MIM (Westlake-AI/openmixup).

Shapes: I training and J test images, D features, K classes, B images in a batch, L learning rates.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from a2mim.data.sampler import Batches, keyed_generator
from a2mim.probes.features import Features
from a2mim.probes.results import (
    Device,
    Normalise,
    ProbeResult,
    check_normalise,
    choice_settings,
    features_settings,
    held_out_split,
    in_parts,
    labels_and_classes,
    mean_and_scale,
    normaliser,
)
from a2mim.training.optim import cosine_lr

Schedule = Literal["cosine", "step", "constant"]

Linear = tuple[Tensor, Tensor]
"""Weights ``(D, K)`` and biases ``(K,)``."""

WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
GRADIENT = 1e-6  # largest entry of the gradient at which L-BFGS ends
ITERATIONS = 1000
STEPS_AT = (0.6, 0.8)  # shares of the epochs after which "step" takes a tenth
ROUND = 1 << 32  # cosines are whole numbers of 1 / ROUND: what differs by less is a tie


@dataclass(frozen=True)
class LinearFit:
    """A linear classifier, fitted: logits = ((x - mean) / std) weight^T + bias.

    With ``"l2"`` features x are to be brought to length 1 first.

    Attributes:
        weight_KD: float64, like the rest.
        bias_K: one for each class.
        mean_D: of the training features; 0 unless they are standardised.
        std_D: sqrt(var + 1e-6) of the training features; 1 unless they are standardised.
        chosen: the weight decay that was used.
        grid: as in :class:`ProbeResult`.
        settings: features and all the rest that decided the weights, in JSON.
    """

    weight_KD: Tensor
    bias_K: Tensor
    mean_D: Tensor
    std_D: Tensor
    chosen: float
    grid: tuple[tuple[float, float], ...]
    settings: Mapping[str, Any]


def linear_probe(
    train: Features,
    test: Features,
    *,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    normalise: Normalise = "standardise",
    held_out: float = 0.2,
    seed: int = 0,
    device: Device = "cpu",
) -> ProbeResult:
    """What a classifier of :func:`a2mim.probes.linear.fit_linear` says of test images.

    Args:
        train: features and labels.
        test: features and labels, of the same network and readout.
        weight_decays: as for :func:`a2mim.probes.linear.fit_linear`, like all that follows.
        normalise: what is done to features first.
        held_out: share of every class that is held out to choose.
        seed: draws the held-out part.
        device: where to run.

    Raises:
        ValueError: as :func:`a2mim.probes.linear.fit_linear`, or if the features are not of one
            kind.
    """
    _, labels_J, _ = labels_and_classes(train, test)
    fit = fit_linear(
        train,
        weight_decays=weight_decays,
        normalise=normalise,
        held_out=held_out,
        seed=seed,
        device=device,
    )
    prepare = normaliser(train.features_ID.to(device), normalise)
    weights = (fit.weight_KD.T, fit.bias_K)
    predictions_J = _predicted(prepare(test.features_ID.to(device)), weights).cpu()
    settings = {**fit.settings, **features_settings(train, test)}
    return ProbeResult(predictions_J, labels_J, fit.chosen, fit.grid, settings)


def fit_linear(
    train: Features,
    *,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    normalise: Normalise = "standardise",
    held_out: float = 0.2,
    seed: int = 0,
    device: Device = "cpu",
) -> LinearFit:
    """Multinomial logistic regression by L-BFGS, in float64.

    The weight decay lambda is 1 / (C I) in the words of scikit-learn; biases have none. Of equally
    good ones the largest is chosen. The seed draws the held-out part and nothing else, so with a
    single weight decay it changes nothing: the minimum is the same from wherever one starts.

    Args:
        train: features and labels.
        weight_decays: lambda, to choose from.
        normalise: what is done to features first, with statistics of those that are fitted.
        held_out: share of every class that is held out to choose.
        seed: see above.
        device: where to run, in float64.

    Warns:
        RuntimeWarning: if 1,000 iterations do not lead to the minimum.

    Raises:
        ValueError: for arguments out of range, or features without labels.
    """
    labels_I, _, classes = labels_and_classes(train, train)
    decays = tuple(sorted({float(decay) for decay in weight_decays}, reverse=True))
    if not decays or decays[-1] < 0:
        raise ValueError(f"expected weight decays of at least 0, got {tuple(weight_decays)}")
    check_normalise(normalise)
    train_ID, labels_I = train.features_ID.to(device), labels_I.to(device)

    grid: list[tuple[float, float]] = []
    if len(decays) > 1:
        fit, held = held_out_split(labels_I, held_out, seed)
        prepare = normaliser(train_ID[fit], normalise)
        fit_ID, held_ID = prepare(train_ID[fit]), prepare(train_ID[held])
        weights = None
        for decay in decays:  # each begins where the one before ended
            weights, _ = _logistic(fit_ID, labels_I[fit], classes, decay, weights)
            right = _predicted(held_ID, weights) == labels_I[held]
            grid.append((decay, float(right.double().mean())))
        del fit_ID, held_ID
    chosen = max(grid, key=lambda entry: entry[1])[0] if grid else decays[0]

    prepare = normaliser(train_ID, normalise)
    weights, gradient = _logistic(prepare(train_ID), labels_I, classes, chosen, None)
    if gradient > GRADIENT:
        warnings.warn(
            f"expected a gradient below {GRADIENT:g} after {ITERATIONS} iterations of L-BFGS, got "
            f"{gradient:.2g}; standardise the features or use more weight decay than {chosen:g}",
            RuntimeWarning,
            stacklevel=2,
        )
    settings = {
        "probe": "lbfgs",
        "normalise": normalise,
        "weight_decay": chosen,
        "weight_decays": list(decays),
        "gradient": gradient,
        **choice_settings(held_out, seed, len(decays)),
        **features_settings(train),
    }
    mean_D, scale_D = mean_and_scale(train_ID)
    if normalise != "standardise":
        mean_D, scale_D = torch.zeros_like(mean_D), torch.ones_like(scale_D)
    weights_DK, bias_K = weights
    return LinearFit(weights_DK.T, bias_K, mean_D, 1 / scale_D, chosen, tuple(grid), settings)


@dataclass(frozen=True)
class SgdRecipe:
    """How a linear probe is trained by SGD.

    Attributes:
        lrs: learning rates to choose from, as they are (not per 256 images).
        epochs: over the training features.
        batch_size: B; an incomplete last batch of an epoch is left out.
        schedule: ``"cosine"`` to 0, step by step; ``"step"``: a tenth after 60 %, and again after
            80 % of the epochs; ``"constant"``.
        momentum: mu.
        weight_decay: lambda, of weights and biases as in torch.
        normalise: what is done to features first.
    """

    lrs: tuple[float, ...]
    epochs: int = 100
    batch_size: int = 256
    schedule: Schedule = "cosine"
    momentum: float = 0.9
    weight_decay: float = 0.0
    normalise: Normalise = "none"

    def __post_init__(self) -> None:
        if not self.lrs or min(self.lrs) <= 0 or len(set(self.lrs)) < len(self.lrs):
            raise ValueError(f"expected different positive learning rates, got {self.lrs}")
        if self.epochs < 1:
            raise ValueError(f"expected at least 1 epoch, got {self.epochs}")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                "expected a momentum in [0, 1) and a weight decay of at least 0, got "
                f"{self.momentum} and {self.weight_decay}"
            )
        if self.schedule not in ("cosine", "step", "constant"):
            raise ValueError(
                f"expected the schedule 'cosine', 'step' or 'constant', got {self.schedule!r}"
            )
        check_normalise(self.normalise)

    def factor(self, step: int, steps: int) -> float:
        """The learning rate of a step, as a share of that of the first."""
        if self.schedule == "cosine":
            return cosine_lr(step, steps, warmup=0, peak=1.0)
        if self.schedule == "step":
            epoch = step * self.epochs // steps
            return 0.1 ** sum(epoch >= round(share * self.epochs) for share in STEPS_AT)
        return 1.0


RECIPES: dict[str, SgdRecipe] = {
    "in1k-resnet": SgdRecipe((30.0,), schedule="step"),
    "in1k-vit": SgdRecipe((12.0,), epochs=90, batch_size=1024),
    "cifar100-resnet50": SgdRecipe((0.1,)),
    "cifar100-resnet18": SgdRecipe((1.0,)),
    "cifar100-deit": SgdRecipe((1.0,), batch_size=512),
    "stl10-resnet50": SgdRecipe((1.0,)),
    "stl10-deit": SgdRecipe((0.1,), batch_size=512),
}
"""The linear probes of A2MIM's configurations. They differ here in what cannot be had from cached
features: augmentation in every epoch (mixup, cutmix and RandAugment for DeiT), and ResNets whose
"frozen" batch norms went on in training mode. The one for ViTs on ImageNet cannot be loaded as
published (its data base is missing), and may also mean steps; epochs and schedule of
``stl10-deit`` and ``cifar100-resnet18`` are those of their neighbours."""


def sgd_probe(
    train: Features,
    test: Features,
    recipe: SgdRecipe,
    *,
    held_out: float = 0.2,
    seed: int = 0,
    device: Device = "cpu",
) -> ProbeResult:
    """A linear classifier trained by SGD with momentum, in float32.

    All learning rates are trained at once, from the same weights (normal, standard deviation 0.01;
    biases 0) on the same batches. Of equally good ones the smallest is chosen.

    Args:
        train: features and labels.
        test: features and labels, of the same network and readout.
        recipe: one of :data:`RECIPES`, or another.
        held_out: share of every class that is held out to choose, if there is a choice.
        seed: names the held-out part, the first weights and the order of batches.
        device: where to run.

    Raises:
        FloatingPointError: if the weights are not finite in the end.
        ValueError: for arguments out of range, or features that are not of one kind.
    """
    labels_I, labels_J, classes = labels_and_classes(train, test)
    train_ID, labels_I = train.features_ID.to(device), labels_I.to(device)
    lrs = tuple(sorted(recipe.lrs))

    grid: list[tuple[float, float]] = []
    if len(lrs) > 1:
        fit, held = held_out_split(labels_I, held_out, seed)
        prepare = normaliser(train_ID[fit], recipe.normalise, torch.float32)
        held_ID = prepare(train_ID[held])
        tried = _sgd(prepare(train_ID[fit]), labels_I[fit], classes, recipe, lrs, seed)
        for lr, weights in zip(lrs, tried, strict=True):
            right = _predicted(held_ID, weights) == labels_I[held]
            finite = _is_finite(weights)
            grid.append((lr, float(right.double().mean()) if finite else float("nan")))
        best = max(grid, key=lambda entry: -1.0 if np.isnan(entry[1]) else entry[1])
    chosen = best[0] if grid else lrs[0]

    prepare = normaliser(train_ID, recipe.normalise, torch.float32)
    [weights] = _sgd(prepare(train_ID), labels_I, classes, recipe, (chosen,), seed)
    if not _is_finite(weights):
        raise FloatingPointError(
            f"expected finite weights, they diverge at the learning rate {chosen:g}; use a smaller "
            "one, or standardise the features"
        )
    settings = {
        "probe": "sgd",
        **asdict(recipe),
        "lrs": list(lrs),
        "lr": chosen,
        "views": "one per image",
        **choice_settings(held_out, seed, len(lrs)),
        **features_settings(train, test),
    }
    predictions_J = _predicted(prepare(test.features_ID.to(device)), weights).cpu()
    return ProbeResult(predictions_J, labels_J, chosen, tuple(grid), settings)


def _predicted(features_JD: Tensor, linear: Linear) -> Tensor:
    """The class of the largest logit, of equal ones the first."""
    weights_DK, biases_K = linear
    width = max(weights_DK.shape)
    parts = in_parts(features_JD, width)
    return torch.cat([torch.addmm(biases_K, part, weights_DK).argmax(1) for part in parts])


def _is_finite(linear: Linear) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in linear)


def _logistic(
    features_ID: Tensor, labels_I: Tensor, classes: int, decay: float, start: Linear | None
) -> tuple[Linear, float]:
    """The minimum, and the largest entry of the gradient that is left."""
    from scipy.optimize import minimize

    count, width = features_ID.shape

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = torch.from_numpy(flat).to(features_ID.device).view(width + 1, classes)
        weights_DK, biases_K = theta[:-1], theta[-1]
        loss = decay / 2 * count * weights_DK.square().sum()
        gradient = torch.zeros_like(theta)
        gradient[:-1] = decay * count * weights_DK
        labels = in_parts(labels_I[:, None], max(width, classes))
        for part_BD, labels_B1 in zip(
            in_parts(features_ID, max(width, classes)), labels, strict=True
        ):
            log_p_BK = torch.addmm(biases_K, part_BD, weights_DK).log_softmax(1)
            loss = loss - log_p_BK.gather(1, labels_B1).sum()
            error_BK = log_p_BK.exp_().scatter_add_(
                1, labels_B1, -torch.ones_like(labels_B1, dtype=torch.float64)
            )
            gradient[:-1] += part_BD.T @ error_BK
            gradient[-1] += error_BK.sum(0)
        return float(loss) / count, (gradient / count).flatten().cpu().numpy()

    zero = np.zeros((width + 1) * classes)
    found = minimize(
        loss_and_gradient,
        zero if start is None else torch.cat([start[0], start[1][None]]).flatten().cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": GRADIENT, "ftol": 0.0},
    )
    theta = torch.from_numpy(found.x).to(features_ID.device).view(width + 1, classes)
    return (theta[:-1], theta[-1]), float(np.abs(found.jac).max())


def _sgd(
    features_ID: Tensor,
    labels_I: Tensor,
    classes: int,
    recipe: SgdRecipe,
    lrs: tuple[float, ...],
    seed: int,
) -> list[Linear]:
    """A classifier for every learning rate; their logits come from one product of matrices."""
    batches = Batches(len(features_ID), recipe.batch_size, seed)
    steps = recipe.epochs * batches.per_epoch
    device, width, rates = features_ID.device, features_ID.shape[1], len(lrs)
    # one row per feature and, last, one for the bias
    first = 0.01 * torch.randn(width + 1, 1, classes, generator=keyed_generator(seed, "weights"))
    first[-1] = 0
    theta = first.repeat(1, rates, 1).to(device)
    velocity, gradient = torch.zeros_like(theta), torch.empty_like(theta)
    lr_L1 = torch.tensor(lrs, device=device)[:, None]
    ones = torch.ones(rates, recipe.batch_size, 1, device=device)
    for epoch in range(recipe.epochs):
        order_I = batches.order(epoch).to(device)
        for place in range(batches.per_epoch):
            rows_B = order_I[place * batches.size : (place + 1) * batches.size]
            part_BD = features_ID[rows_B]
            logits = torch.addmm(theta[-1].flatten(), part_BD, theta[:-1].flatten(1))
            error_BLK = logits.view(-1, rates, classes).softmax(2)
            target = labels_I[rows_B][:, None, None].expand(-1, rates, 1)
            error_BLK.scatter_add_(2, target, -ones.transpose(0, 1)).div_(batches.size)
            torch.mm(part_BD.T, error_BLK.flatten(1), out=gradient[:-1].flatten(1))
            gradient[-1] = error_BLK.sum(0)
            velocity.mul_(recipe.momentum).add_(gradient).add_(theta, alpha=recipe.weight_decay)
            step = epoch * batches.per_epoch + place
            theta -= recipe.factor(step, steps) * lr_L1 * velocity
    return [(theta[:-1, k].contiguous(), theta[-1, k].contiguous()) for k in range(rates)]
