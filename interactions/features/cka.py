"""Linear CKA of features over batches, by an unbiased estimate of HSIC.

With K = x x', L = y y' over a batch of n images and both diagonals set to 0 (Song et al., JMLR
2012, for HSIC_1; averaged over batches as by Nguyen et al., ICLR 2021):

    HSIC_1(K, L) = [tr KL + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 1'KL1 / (n-2)] / (n (n-3))
    CKA          = mean HSIC_1(K, L) / sqrt(mean HSIC_1(K, K) mean HSIC_1(L, L)),

means over batches, by their images. Each mean is unbiased, so two unrelated sets of features have
CKA 0 and not 0.75 (n = 256, 768 features), as biased CKA has it.

Shapes: I images, N images of a batch, n of them for short, D features.
"""

from __future__ import annotations

import math
import warnings
from array import array
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interactions.stats import Interval, correlation, effective_images

FEWEST = 4
"""Images that a batch needs: HSIC_1 divides by n - 3."""


def cka(x_ID: Tensor, y_ID: Tensor, batch: int = 256, level: float = 0.95) -> Interval:
    """Unbiased linear CKA of two sets of features, with its interval over batches.

    Args:
        x_ID: features, one row per image.
        y_ID: other features of the same images, of any width.
        batch: the most images in a batch; batches are part of the definition.
        level: coverage of the interval, whose ends are NaN for a single batch.

    Raises:
        ValueError: for features that are not paired, not ``(I, D)``, not finite, or of fewer than 4
            images.
    """
    check_pair(x_ID, y_ID)
    found = LinearCKA()
    sizes = batch_sizes(len(x_ID), batch)
    for x_ND, y_ND in zip(x_ID.split(sizes), y_ID.split(sizes), strict=True):
        found.update(x_ND, y_ND)
    return found.interval(level)


class LinearCKA:
    """Unbiased linear CKA, one batch after another, in float64.

    The batches are part of the definition: give the same images in the same batches to compare.
    They weigh by their images.
    """

    def __init__(self) -> None:
        # Plain numbers, four per batch: a small array of its own would be six times as large.
        self._terms = array("d")

    def update(self, x_ND: Tensor, y_ND: Tensor) -> None:
        """Add a batch of paired features; one of fewer than 4 images is left out, with a warning.

        Args:
            x_ND: features, one row per image.
            y_ND: other features of the same images, of any width.

        Raises:
            ValueError: for features that are not paired, not ``(N, D)``, or not finite.
        """
        check_pair(x_ND, y_ND)
        if not too_few(len(x_ND)):
            self._terms.extend([len(x_ND), *hsic_terms(x_ND, y_ND).tolist()])

    @classmethod
    def restored(cls, numbers_B4: ArrayLike) -> LinearCKA:
        """One that has seen the batches of these :attr:`numbers_B4`."""
        cka = cls()
        cka._terms.extend(np.ravel(numbers_B4).tolist())
        return cka

    @property
    def numbers_B4(self) -> NDArray[np.float64]:
        """Images and :attr:`terms_B3` of every batch."""
        if not self._terms:
            raise ValueError("expected at least one batch of at least 4 images, got none")
        return np.array(self._terms).reshape(-1, 4)

    @property
    def images_B(self) -> NDArray[np.float64]:
        """Images of every batch."""
        return self.numbers_B4[:, 0]

    @property
    def terms_B3(self) -> NDArray[np.float64]:
        """HSIC_1 of (K, L), (K, K) and (L, L) for every batch."""
        return self.numbers_B4[:, 1:]

    @property
    def _means_3(self) -> NDArray[np.float64]:
        return np.average(self.terms_B3, axis=0, weights=self.images_B)

    @property
    def value(self) -> float:
        """CKA; NaN if one of both features is the same for all images of each batch."""
        both, first, second = self._means_3
        return float(both / np.sqrt(first * second)) if first * second > 0 else np.nan

    @property
    def influence_B(self) -> NDArray[np.float64]:
        """Each batch's contribution, by the delta method for a ratio of means; sums to 0."""
        terms_B3, means_3, images_B = self.terms_B3, self._means_3, self.images_B
        if not means_3[1] * means_3[2] > 0:
            return np.full(len(terms_B3), np.nan)
        off_B3 = (terms_B3 - means_3) / [np.sqrt(means_3[1] * means_3[2]), means_3[1], means_3[2]]
        influence_B = off_B3 @ [1, -self.value / 2, -self.value / 2]
        return influence_B * images_B / images_B.mean()

    def interval(self, level: float = 0.95) -> Interval:
        """CKA with its interval over batches (t of Fisher's z); its ends are NaN for a single one.

        Batches are resampled units here, images are not: drawn twice, an image is similar to itself
        and inflates CKA.
        """
        return cka_interval([self], level)


def hsic_terms(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """HSIC_1 of (K, L), (K, K) and (L, L) for linear kernels of one batch.

    Computed from the kernels in O(n^2 D) or from the features in O(n D^2), whichever is less.

    Args:
        x_ND: features, at least 4 rows.
        y_ND: paired features, of any width.

    Returns:
        float64 ``(3,)``.
    """
    x_ND, y_ND = without_mean(x_ND), without_mean(y_ND)
    n, width = len(x_ND), x_ND.shape[1] + y_ND.shape[1]
    sides = [(x_ND, y_ND), (x_ND, x_ND), (y_ND, y_ND)]
    if n * width <= sum(a_ND.shape[1] * b_ND.shape[1] for a_ND, b_ND in sides):
        return terms_of_kernels(kernel(x_ND), kernel(y_ND))
    terms = []
    for a_ND, b_ND in sides:
        # The diagonal is taken out of traces and row sums; rows of a whole kernel sum to 0 already.
        a_N, b_N = a_ND.square().sum(dim=1), b_ND.square().sum(dim=1)
        terms.append(_hsic((a_ND.mT @ b_ND).square().sum() - a_N @ b_N, -a_N, -b_N))
    return torch.stack(terms)


def kernel(centred_ND: Tensor) -> Tensor:
    """K = x x' with a diagonal of 0: ``(..., N, D)`` -> ``(..., N, N)``."""
    K_NN = centred_ND @ centred_ND.mT
    K_NN.diagonal(dim1=-2, dim2=-1).zero_()
    return K_NN


def terms_of_kernels(K_NN: Tensor, L_NN: Tensor) -> Tensor:
    """HSIC_1 of (K, L), (K, K) and (L, L), for many pairs of :func:`kernel` at once.

    Args:
        K_NN: ``(..., N, N)``.
        L_NN: of the paired features.

    Returns:
        ``(..., 3)``.
    """
    k_N, l_N = K_NN.sum(dim=-1), L_NN.sum(dim=-1)
    both = [(K_NN, L_NN, k_N, l_N), (K_NN, K_NN, k_N, k_N), (L_NN, L_NN, l_N, l_N)]
    return torch.stack([_hsic((A * B).sum(dim=(-2, -1)), a, b) for A, B, a, b in both], dim=-1)


def cka_interval(ckas: Sequence[LinearCKA], level: float) -> Interval:
    """The mean of CKAs of the same batches, with its interval over batches."""
    value = float(np.mean([cka.value for cka in ckas]))
    influence_B = np.mean([cka.influence_B for cka in ckas], axis=0)
    return correlation(value, influence_B, level, units=effective_images(ckas[0].images_B))


def too_few(images: int) -> bool:
    """Whether a batch is too short for HSIC_1, and says so."""
    if images >= FEWEST:
        return False
    warnings.warn(
        f"left out a last batch of {images} images: unbiased CKA needs at least {FEWEST}",
        RuntimeWarning,
        stacklevel=3,
    )
    return True


def check_pair(x_ND: Tensor, y_ND: Tensor) -> None:
    """Refuse features that are not paired.

    Raises:
        ValueError: if they are not ``(N, D)`` of the same images.
    """
    if x_ND.ndim != 2 or y_ND.ndim != 2 or len(x_ND) != len(y_ND) or not x_ND.numel():
        raise ValueError(
            f"expected paired features (N, D) of at least one image, got {tuple(x_ND.shape)} "
            f"and {tuple(y_ND.shape)}"
        )
    if not (x_ND.isfinite().all() and y_ND.isfinite().all()):
        raise ValueError("expected finite features, got NaN or infinity")


def _hsic(trace: Tensor, k_N: Tensor, l_N: Tensor) -> Tensor:
    """HSIC_1 from tr KL and the row sums of K and L."""
    n = k_N.shape[-1]
    sums = k_N.sum(dim=-1) * l_N.sum(dim=-1)
    corrected = trace + sums / ((n - 1) * (n - 2)) - 2 * (k_N * l_N).sum(dim=-1) / (n - 2)
    return corrected / (n * (n - 3))


def without_mean(x_ND: Tensor) -> Tensor:
    """Features ``(..., N, D)`` less their mean over the batch, in float64; 0 if all are the same.

    They are where they differ by no more than the rounding of a network, whose last bits depend on
    an image's place in the batch.
    """
    wide_ND = x_ND.double()
    centred_ND = wide_ND - wide_ND.mean(dim=-2, keepdim=True)
    size, spread = (
        torch.linalg.vector_norm(z_ND, dim=(-2, -1), keepdim=True) for z_ND in (wide_ND, centred_ND)
    )
    return centred_ND * (spread > 16 * torch.finfo(x_ND.dtype).eps * size)


def cosine_of(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """Cosines of paired rows, exactly 1 for equal ones; NaN where one is 0."""
    # One root of the product: the square of a root is not the number that the root was of.
    squares_N = (x_ND * x_ND).sum(dim=-1) * (y_ND * y_ND).sum(dim=-1)
    return (x_ND * y_ND).sum(dim=-1) / squares_N.sqrt()


def batch_sizes(images: int, batch: int) -> list[int]:
    """Sizes of as few batches as hold some images, which differ by one at most; larger ones first.

    Args:
        images: how many there are.
        batch: the most in a batch; more only if one would have fewer than 4.

    Raises:
        ValueError: for fewer than 4 images.
    """
    if images < FEWEST:
        raise ValueError(f"expected at least {FEWEST} images, got {images}; give more")
    batches = min(math.ceil(images / batch), images // FEWEST)
    size, larger = divmod(images, batches)
    return [size + 1] * larger + [size] * (batches - larger)
