"""What frozen features know about classes: nearest neighbours and linear classifiers.

    k-NN      votes_c(x) = sum over the k nearest i of class c of exp(cos(x, x_i) / T)
    L-BFGS    minimise  -1/I sum_i log p(y_i | x_i) + lambda/2 ||W||^2,   p = softmax(W'x + b)
    SGD       v <- mu v + gradient + lambda W,   W <- W - lr(s) v          on batches, as published

Features are those of one view of every image (:func:`a2mim.features.extract`); the published linear
probes augment anew in every epoch, so their SGD is reproduced here up to that. ``"standardise"`` is
what MAE's probe does by a batch norm without affine parameters, (x - mean) / sqrt(var + 1e-6), with
the statistics of all training features in place of running ones: a probe never sees those of a
test batch. Hyper-parameters are chosen on a part of the training images that is held out, never on
the test images; then the probe is fitted again on all. Everything that was decided stands in
``ProbeResult.settings``.

Sources: k-NN from Wu et al. 2018 (arXiv:1805.01978) as in DINO (arXiv:2104.14294), k = 20 and
T = 0.07; batch norm from MAE (arXiv:2111.06377); several learning rates in one run from DINOv2
(arXiv:2304.07193); recipes from the configurations of A2MIM (Westlake-AI/openmixup).

Shapes: I training and J test images, D features, K classes, k neighbours, B images in a batch,
L learning rates.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from a2mim.features import Features
from a2mim.optim import cosine_lr
from a2mim.sampler import Batches, keyed_generator
from interactions import stats

Normalise = Literal["standardise", "l2", "none"]
Schedule = Literal["cosine", "step", "constant"]
Weights = Literal["exp", "uniform"]
Device = torch.device | str
Linear = tuple[Tensor, Tensor]
"""Weights ``(D, K)`` and biases ``(K,)``."""

WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
GRADIENT = 1e-6  # largest entry of the gradient at which L-BFGS ends
ITERATIONS = 1000
EPS = 1e-6  # MAE's
STEPS_AT = (0.6, 0.8)  # shares of the epochs after which "step" takes a tenth
BLOCK = 1 << 24  # numbers of a temporary table: 128 MB in float64
ROUND = 1 << 32  # cosines are whole numbers of 1 / ROUND: what differs by less is a tie


@dataclass(frozen=True)
class ProbeResult:
    """A probe's answer for every test image, and how it came about.

    Attributes:
        predictions_J: int64 class indices.
        labels_J: int64, the right ones.
        chosen: the hyper-parameter that was used: weight decay of L-BFGS, learning rate of SGD;
            None for k-NN.
        grid: every hyper-parameter that was tried, with its accuracy on the held-out part; NaN
            where it diverged. Empty if there was no choice.
        settings: features, normalising and all the rest that decided the number, in JSON.
    """

    predictions_J: Tensor
    labels_J: Tensor
    chosen: float | None
    grid: tuple[tuple[float, float], ...]
    settings: Mapping[str, Any]

    @property
    def correct_J(self) -> Tensor:
        """Whether the prediction is right, bool."""
        return self.predictions_J == self.labels_J

    @property
    def accuracy(self) -> float:
        """Share of test images that are right."""
        return float(self.correct_J.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over test images (Wilson)."""
        found = stats.share(self.correct_J.cpu().numpy())
        return found.low, found.high


def knn(
    train_ID: Tensor,
    labels_I: Tensor,
    test_JD: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    *,
    weights: Weights = "exp",
    device: Device = "cpu",
) -> Tensor:
    """Classes of the test images by votes of the k nearest training images.

    Of training images at the same distance the first ones are taken, and of classes with as many
    votes the first one. Distances are the same if cosines differ by less than about 2e-10. A
    feature vector of zeros has cosine 0 with all.

    Args:
        train_ID: training features.
        labels_I: int64, their classes.
        test_JD: test features.
        k: how many vote.
        temperature: T; small ones leave the vote to the nearest.
        weights: ``"exp"``: exp(cosine / T); ``"uniform"``: one vote each.
        device: where to run, in float64.

    Returns:
        int64 ``(J,)``, on the CPU.

    Raises:
        ValueError: for arguments out of range or shapes that do not fit.
    """
    count = len(train_ID)
    if not 1 <= k <= count:
        raise ValueError(f"expected 1 to {count} neighbours, for as many images, got {k}")
    if temperature <= 0:
        raise ValueError(f"expected a positive temperature, got {temperature}")
    if weights not in ("exp", "uniform"):
        raise ValueError(f"expected weights 'exp' or 'uniform', got {weights!r}")
    if train_ID.ndim != 2 or train_ID.shape[1:] != test_JD.shape[1:] or len(labels_I) != count:
        raise ValueError(
            f"expected features (I, D), labels (I,) and features (J, D), got "
            f"{tuple(train_ID.shape)}, {tuple(labels_I.shape)} and {tuple(test_JD.shape)}"
        )
    labels_I = labels_I.to(device)
    classes = int(labels_I.max()) + 1
    predictions = []
    for test_BD in test_JD.split(1024):
        keys_Bk = _nearest(train_ID, test_BD, k, device)
        nearest_Bk = count - 1 - keys_Bk % count
        cosines_Bk = keys_Bk.div(count, rounding_mode="floor").double() / ROUND
        # relative to the nearest, the first column: where 1 / T is large, all might become 0
        votes_Bk = ((cosines_Bk - cosines_Bk[:, :1]) / temperature).exp()
        votes_Bk = torch.ones_like(votes_Bk) if weights == "uniform" else votes_Bk
        votes_BK = votes_Bk.new_zeros(len(test_BD), classes)
        votes_BK.scatter_add_(1, labels_I[nearest_Bk], votes_Bk)
        predictions.append(votes_BK.argmax(1).cpu())  # the first of equal ones
    return torch.cat(predictions)


def _nearest(train_ID: Tensor, test_BD: Tensor, k: int, device: Device) -> Tensor:
    """Keys of the k largest cosines, ``(B, k)``; key = cosine * ROUND * I + (I - 1 - index).

    No two keys are equal, so the largest ones do not depend on how the table was cut into blocks.
    """
    count = len(train_ID)
    unit_BD = functional.normalize(test_BD.to(device, torch.float64), dim=1)
    best = torch.empty(len(test_BD), 0, dtype=torch.int64, device=device)
    first = 0
    for block in train_ID.split(BLOCK // 1024):
        cosines = unit_BD @ functional.normalize(block.to(device, torch.float64), dim=1).T
        places = torch.arange(count - 1 - first, count - 1 - first - len(block), -1, device=device)
        keys = (cosines * ROUND).round().long() * count + places
        best = torch.cat([best, keys], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
        first += len(block)
    return best


def knn_probe(
    train: Features,
    test: Features,
    k: int = 20,
    temperature: float = 0.07,
    *,
    weights: Weights = "exp",
    device: Device = "cpu",
) -> ProbeResult:
    """:func:`knn`, with its settings.

    Raises:
        ValueError: as :func:`knn`, or if the features are not of one kind.
    """
    labels_I, labels_J, _ = _labels(train, test)
    known_ID, asked_JD = train.features_ID, test.features_ID
    predictions_J = knn(
        known_ID, labels_I, asked_JD, k, temperature, weights=weights, device=device
    )
    settings = {
        "probe": "knn",
        "k": k,
        "temperature": temperature if weights == "exp" else None,
        "weights": weights,
        "normalise": "l2",
        **_features_settings(train, test),
    }
    return ProbeResult(predictions_J, labels_J, None, (), settings)


def _check_normalise(normalise: str) -> None:
    if normalise not in ("standardise", "l2", "none"):
        raise ValueError(f"expected 'standardise', 'l2' or 'none', got {normalise!r}")


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
    """What a classifier of :func:`fit_linear` says of test images.

    Args:
        train: features and labels.
        test: features and labels, of the same network and readout.
        weight_decays: as for :func:`fit_linear`, like all that follows.
        normalise: what is done to features first.
        held_out: share of every class that is held out to choose.
        seed: draws the held-out part.
        device: where to run.

    Raises:
        ValueError: as :func:`fit_linear`, or if the features are not of one kind.
    """
    _, labels_J, _ = _labels(train, test)
    fit = fit_linear(
        train,
        weight_decays=weight_decays,
        normalise=normalise,
        held_out=held_out,
        seed=seed,
        device=device,
    )
    prepare = _normaliser(train.features_ID.to(device), normalise)
    weights = (fit.weight_KD.T, fit.bias_K)
    predictions_J = _predicted(prepare(test.features_ID.to(device)), weights).cpu()
    settings = {**fit.settings, **_features_settings(train, test)}
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
    labels_I, _, classes = _labels(train, train)
    decays = tuple(sorted({float(decay) for decay in weight_decays}, reverse=True))
    if not decays or decays[-1] < 0:
        raise ValueError(f"expected weight decays of at least 0, got {tuple(weight_decays)}")
    _check_normalise(normalise)
    train_ID, labels_I = train.features_ID.to(device), labels_I.to(device)

    grid: list[tuple[float, float]] = []
    if len(decays) > 1:
        fit, held = held_out_split(labels_I, held_out, seed)
        prepare = _normaliser(train_ID[fit], normalise)
        fit_ID, held_ID = prepare(train_ID[fit]), prepare(train_ID[held])
        weights = None
        for decay in decays:  # each begins where the one before ended
            weights, _ = _logistic(fit_ID, labels_I[fit], classes, decay, weights)
            right = _predicted(held_ID, weights) == labels_I[held]
            grid.append((decay, float(right.double().mean())))
        del fit_ID, held_ID
    chosen = max(grid, key=lambda entry: entry[1])[0] if grid else decays[0]

    prepare = _normaliser(train_ID, normalise)
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
        **_choice_settings(held_out, seed, len(decays)),
        **_features_settings(train),
    }
    mean_D, scale_D = _statistics(train_ID)
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
        _check_normalise(self.normalise)

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
    labels_I, labels_J, classes = _labels(train, test)
    train_ID, labels_I = train.features_ID.to(device), labels_I.to(device)
    lrs = tuple(sorted(recipe.lrs))

    grid: list[tuple[float, float]] = []
    if len(lrs) > 1:
        fit, held = held_out_split(labels_I, held_out, seed)
        prepare = _normaliser(train_ID[fit], recipe.normalise, torch.float32)
        held_ID = prepare(train_ID[held])
        tried = _sgd(prepare(train_ID[fit]), labels_I[fit], classes, recipe, lrs, seed)
        for lr, weights in zip(lrs, tried, strict=True):
            right = _predicted(held_ID, weights) == labels_I[held]
            finite = _is_finite(weights)
            grid.append((lr, float(right.double().mean()) if finite else float("nan")))
        best = max(grid, key=lambda entry: -1.0 if np.isnan(entry[1]) else entry[1])
    chosen = best[0] if grid else lrs[0]

    prepare = _normaliser(train_ID, recipe.normalise, torch.float32)
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
        **_choice_settings(held_out, seed, len(lrs)),
        **_features_settings(train, test),
    }
    predictions_J = _predicted(prepare(test.features_ID.to(device)), weights).cpu()
    return ProbeResult(predictions_J, labels_J, chosen, tuple(grid), settings)


@dataclass(frozen=True)
class Repeated:
    """The same probe with several seeds.

    Attributes:
        seeds: which.
        results: one per seed.
    """

    seeds: tuple[int, ...]
    results: tuple[ProbeResult, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """One per seed."""
        return tuple(result.accuracy for result in self.results)

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds."""
        return float(np.mean(self.accuracies))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % t interval of the mean over seeds, for these test images.

        It says how much a probe's own chance matters; how much that of the test images does, say
        the intervals of the results. NaN if all accuracies are the same.
        """
        found = stats.mean(self.accuracies, low=0, high=1)
        return found.low, found.high


def repeat(probe: Callable[[int], ProbeResult], seeds: Sequence[int]) -> Repeated:
    """Run a probe with several seeds.

    Args:
        probe: seed -> result, such as ``lambda seed: linear_probe(train, test, seed=seed)``.
        seeds: at least 2, all different.

    Raises:
        ValueError: for other seeds.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected at least 2 different seeds, got {tuple(seeds)}")
    return Repeated(tuple(seeds), tuple(probe(seed) for seed in seeds))


def held_out_split(labels_I: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images to fit and of those held out, drawn class by class.

    Of n images of a class round(share n) are held out, and at most n - 1.

    Args:
        labels_I: int64 classes.
        share: in (0, 1).
        seed: names the draw.

    Returns:
        Two sorted int64 tensors, on the device of the labels.

    Raises:
        ValueError: if nothing would be held out.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share in (0, 1) to hold out, got {share}")
    labels = labels_I.cpu()
    order = torch.randperm(len(labels), generator=keyed_generator(seed, "held-out"))
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order in each
    counts_K = labels.bincount()
    sorted_labels = labels[order]
    place_I = torch.arange(len(labels)) - (counts_K.cumsum(0) - counts_K)[sorted_labels]
    held_K = (counts_K * share).round().long().minimum(counts_K - 1)
    held_I = place_I < held_K[sorted_labels]
    if not held_I.any():
        raise ValueError(
            f"expected classes of more images than {int(counts_K.max())} to hold out a share of "
            f"{share}; give a single hyper-parameter, for which nothing is held out"
        )
    fit, held = (order[rows].sort().values.to(labels_I.device) for rows in (~held_I, held_I))
    return fit, held


def _labels(train: Features, test: Features) -> tuple[Tensor, Tensor, int]:
    """Both labels and the number of classes, of features that can be compared."""
    labels_I, labels_J = train.labels_I, test.labels_I
    if labels_I is None or labels_J is None:
        raise ValueError(
            "expected features with labels, got some without; add them by dataclasses.replace"
        )
    if not len(labels_I) or not len(labels_J):
        raise ValueError(f"expected images, got {len(labels_I)} and {len(labels_J)}")
    for key in ("model", "weights", "readout", "precision"):
        here, there = train.setting.get(key), test.setting.get(key)
        if here != there:
            raise ValueError(
                f"expected the same {key} for training and test features, got {here} and {there}"
            )
    widths = train.features_ID.shape[1], test.features_ID.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"expected the same number of features, got {widths[0]} and {widths[1]}")
    classes = int(labels_I.max()) + 1
    if int(labels_J.max()) >= classes:
        raise ValueError(
            f"expected test classes among the {classes} of training, got {int(labels_J.max())}"
        )
    return labels_I, labels_J, classes


def _features_settings(train: Features, test: Features | None = None) -> dict[str, Any]:
    settings = {key: value for key, value in train.setting.items() if key != "images"}
    images = {"train": train.setting.get("images")}
    if test is not None:
        images["test"] = test.setting.get("images")
    return {"features": settings, "images": images}


def _choice_settings(held_out: float, seed: int, choices: int) -> dict[str, Any]:
    return {"held_out": held_out if choices > 1 else None, "seed": seed}


def _normaliser(
    features_ID: Tensor, normalise: Normalise, dtype: torch.dtype = torch.float64
) -> Callable[[Tensor], Tensor]:
    """A function for training and test features alike; statistics are those of the given ones."""
    mean_D, scale_D = _statistics(features_ID)

    def prepare(features_ID: Tensor) -> Tensor:
        prepared = features_ID.new_empty(features_ID.shape, dtype=dtype)
        for source, target in zip(_parts(features_ID), _parts(prepared), strict=True):
            part = source.double()
            if normalise == "standardise":
                part = (part - mean_D) * scale_D
            elif normalise == "l2":
                part = functional.normalize(part, dim=1)
            target.copy_(part)
        return prepared

    return prepare


def _statistics(features_ID: Tensor) -> tuple[Tensor, Tensor]:
    """Means and 1 / sqrt(var + 1e-6) of the features, float64 ``(D,)`` each."""
    mean_D = features_ID.mean(0, dtype=torch.float64)
    squares = [((part.double() - mean_D) ** 2).sum(0) for part in _parts(features_ID)]
    return mean_D, (torch.stack(squares).sum(0) / len(features_ID) + EPS).rsqrt()


def _parts(table: Tensor, width: int | None = None) -> Iterator[Tensor]:
    """Rows of a table, so many at once that temporary tables of this width stay small."""
    return iter(table.split(max(1, BLOCK // (width or table.shape[1]))))


def _predicted(features_JD: Tensor, linear: Linear) -> Tensor:
    """The class of the largest logit, of equal ones the first."""
    weights_DK, biases_K = linear
    width = max(weights_DK.shape)
    parts = _parts(features_JD, width)
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
        labels = _parts(labels_I[:, None], max(width, classes))
        for part_BD, labels_B1 in zip(
            _parts(features_ID, max(width, classes)), labels, strict=True
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
