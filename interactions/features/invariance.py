"""Occlusion invariance: how much of a network's features is left when patches are hidden.

Features y of occluded images are compared with features x of their partners: the whole images, or
the same images with exactly the other patches visible. Of a batch there is linear CKA
(:mod:`interactions.features.cka`); per image there are

    cosine           x.y / |x||y|, raw, and after the mean of the batch was subtracted from each
    pearson          the cosine after every image's mean over features was subtracted
    relative l2      |x - y| / |x|
    recall@k         whether x is among the k partners in the batch that y is most similar to

An untrained ViT, and even the plain mean of the visible raw patches, have a CKA of 0.98 on
photographs of which half is hidden. A number means something only beside its baselines, so
:func:`invariance` puts them into the same row.

Batches are part of the definitions: a fixed number of images in a fixed order. Their sizes differ
by one image at most (:func:`batch_sizes`), because a last batch of a few images is noisy, and finds
its images again among fewer others. How many images a network takes at once is not part of the
definitions, and changes nothing.

:func:`similarity_rows` measures: of each batch it gives one row per image and mask, and the terms
of CKA. :func:`summarised` makes means, intervals and baselines of such rows, one batch after the
other. :func:`invariance` is both. Images, masks and fills of a batch are on the network's device
once; features stay there, and their statistics are computed for all layers and masks together.

Shapes: N images of a batch, n of them for short, D features, R repeats (masks per image), F
fractions, P players or places (what was read where), M measures, C channels, H x W pixels; Q any
leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count as naturals
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from interactions import fills
from interactions.checks import instance, level_of_interval, numbers, whole
from interactions.features.cka import (
    FEWEST,
    LinearCKA,
    batch_sizes,
    cka_interval,
    cosine_of,
    kernel,
    terms_of_kernels,
    without_mean,
)
from interactions.features.moments import Moments
from interactions.inputs import batches_of, fill_of
from interactions.keys import permutation, raw_words, torch_seeded
from interactions.networks.inference import (
    Precision,
    automatic_batch_size,
    check_eval,
    check_precision,
    device_of,
    running,
)
from interactions.networks.layers import (
    LayerFeatures,
    Readout,
    layer_features,
    mean_of_visible,
    readouts_of,
)
from interactions.occlusion.patch_drop import TENTHS, random_drop
from interactions.patches import PatchGrid, hide
from interactions.progress import Bar, until_interrupted
from interactions.stats import Interval

if TYPE_CHECKING:
    import pandas as pd

Against = Literal["whole", "complement"]
"""The partner of an occluded image: the whole one, or the one with the other patches visible."""

Pairing = Literal["value", "untrained", "pixels", "permuted"]
"""Whose features were compared: the network's own, or those of a baseline."""

Place = tuple[Pairing, str, str, float]
"""Whose features, the layer (``"pixels"`` for raw pixels), the readout, and the hidden share of the
patches, as realised."""

PER_IMAGE = ("cosine", "centred cosine", "pearson", "relative l2")
"""Measures that every image has."""

RECALLS = {"recall@1": 1, "recall@5": 5}
"""Retrieval measures and their k."""

MEASURES = (*PER_IMAGE, *RECALLS)
"""All that is known image by image."""

BOUNDS = {
    "cosine": (-1, 1),
    "centred cosine": (-1, 1),
    "pearson": (-1, 1),
    "relative l2": (0, math.inf),
}
"""What a measure of an image can be at the least and at the most."""

STATISTICS: dict[str, float] = {"median": 0.5, "p05": 0.05}
"""Quantiles over images that are given beside means."""

ON_CPU, AT_ONCE = 1 << 20, 1 << 25
"""Numbers of the layers that statistics are computed for at once: on a CPU they should stay in its
caches; elsewhere few launches count, and memory for some such slices."""


@dataclass(frozen=True)
class BatchRows:
    """What was measured on one batch: a row for each place, mask and image, and the terms of CKA.

    Attributes:
        images: names of the N images.
        places: P of them, in the order of measuring.
        values_PRNM: :data:`MEASURES`; cosines are NaN where a feature has no length.
        terms_PR3: HSIC_1 of (K, L), (K, K) and (L, L) of the batch, K of partners, L of occluded
            images: CKA is made of their means over batches.
    """

    images: tuple[str, ...]
    places: tuple[Place, ...]
    values_PRNM: NDArray[np.floating]
    terms_PR3: NDArray[np.float64]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table: ``image``, place, ``repeat`` and :data:`MEASURES`."""
        import pandas as pd

        place_K, repeat_K, image_K = (x.ravel() for x in np.indices(self.values_PRNM.shape[:3]))
        pairing_P, layer_P, readout_P, ratio_P = zip(*self.places, strict=True)
        places = {"pairing": pairing_P, "layer": layer_P, "readout": readout_P, "ratio": ratio_P}
        return pd.DataFrame(
            {
                "image": np.array(self.images, dtype=object)[image_K],
                **{name: np.array(of_P)[place_K] for name, of_P in places.items()},
                "repeat": repeat_K,
                **dict(zip(MEASURES, self.values_PRNM.reshape(-1, len(MEASURES)).T, strict=True)),
            }
        )


def compared(
    x_QND: Tensor, y_QND: Tensor, others_N: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Everything about many pairs of sets of features at once, and no number leaves the device.

    Args:
        x_QND: features of partners; any leading axes Q.
        y_QND: features of the same images, occluded.
        others_N: for each image another one, for the pairing ``"permuted"``.

    Returns:
        The :data:`MEASURES` ``(Q, N, M)`` and ``(Q, 4)``, the terms of CKA and whether all features
        are finite; then the same for permuted partners, if there are any. float64.
    """
    x, y = x_QND.double(), y_QND.double()
    centred_x, centred_y = without_mean(x_QND), without_mean(y_QND)
    K, L = kernel(centred_x), kernel(centred_y)
    similar = _similar(x, y)
    finite = (x.isfinite() & y.isfinite()).flatten(-2).all(dim=-1, keepdim=True).double()
    found = []
    for pairing in (None, others_N) if others_N is not None else (None,):
        if pairing is not None:  # kernels of permuted images are permuted kernels
            x, centred_x = x[..., pairing, :], centred_x[..., pairing, :]
            K, similar = K[..., pairing, :][..., pairing], similar[..., pairing]
        values = torch.cat([_per_image(x, y, centred_x, centred_y), _recalls(similar)], dim=-1)
        found.append((values, torch.cat([terms_of_kernels(K, L), finite], dim=-1)))
    return found


def _per_image(x_ND: Tensor, y_ND: Tensor, centred_x_ND: Tensor, centred_y_ND: Tensor) -> Tensor:
    over_features = [z_ND - z_ND.mean(dim=-1, keepdim=True) for z_ND in (x_ND, y_ND)]
    norm = torch.linalg.vector_norm
    return torch.stack(
        [
            cosine_of(x_ND, y_ND),
            cosine_of(centred_x_ND, centred_y_ND),
            cosine_of(*over_features),
            norm(x_ND - y_ND, dim=-1) / norm(x_ND, dim=-1),
        ],
        dim=-1,
    )


def _similar(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """Cosines of each query y with all of the gallery x, ``(..., N, N)``."""
    # Features without length are as similar to one as to another.
    x_ND, y_ND = (F.normalize(z_ND, dim=-1, eps=1e-300) for z_ND in (x_ND, y_ND))
    return y_ND @ x_ND.mT


def _recalls(similar_NN: Tensor) -> Tensor:
    """The chances of each query to find its partner among the first k, ``(..., N, 2)``.

    Among equally similar images one is drawn, in expectation: a network that says the same of all
    images finds 1 of N.
    """
    lead_NN = similar_NN - similar_NN.diagonal(dim1=-2, dim2=-1)[..., None]
    # Sums in another order differ in the last bits, so equal ones are equal to 1e-12.
    ahead_N = (lead_NN > 1e-12).sum(dim=-1)
    level_N = (lead_NN.abs() <= 1e-12).sum(dim=-1)  # with the right one itself
    chances = [((k - ahead_N).double() / level_N).clamp(0, 1) for k in RECALLS.values()]
    return torch.stack(chances, dim=-1)


def untrained(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with fresh weights, drawn by key: the baseline of :func:`invariance`.

    Args:
        make: builds the network, with the options that the trained one was built with, such as
            ``lambda: timm.create_model("vit_small_patch16_224", num_classes=0)``. Built anew a
            network has the weights that its training began with; no way of resetting the modules
            of a trained one is sure to.
        seed: of the weights, which do not depend on, or change, the global random state of torch.

    Returns:
        The network in eval mode.
    """
    with torch_seeded(int(raw_words(1, "untrained", seed)[0]) >> 1):
        return make().eval()


def default_fractions(against: Against = "whole") -> tuple[float, ...]:
    """Hidden fractions 0, 0.1, ... 0.9; without 0 against the complement, which is empty there."""
    return TENTHS if against == "whole" else TENTHS[1:]


def invariance(
    model: nn.Module,
    images: Any,
    grid: PatchGrid,
    *,
    untrained: nn.Module | None,
    fill: str | fills.Fill | None = fills.zero,
    against: Against = "whole",
    fractions: Sequence[float] | None = None,
    repeats: int = 3,
    layers: Sequence[str] | None = None,
    readouts: Sequence[Readout] | None = None,
    names: Iterable[str] | None = None,
    count: int | None = None,
    seed: int = 0,
    cka_batch: int = 256,
    batch_size: int | None = None,
    precision: Precision = "float32",
    level: float = 0.95,
    progress: bool = False,
) -> pd.DataFrame:
    """How similar features of occluded images are to those of their partners, layer by layer.

    Arguments are those of :func:`interactions.features.invariance.similarity_rows`. Images are also
    pictures (:func:`interactions.prepare`), and fills have names as in
    :class:`interactions.PatchGame`. With ``progress`` there is a bar, and an interrupt ends the
    measurement alone, with a warning: the table of the batches that are done is returned.

    Returns:
        The table of :func:`interactions.features.invariance.summarised`, with ``hiding``
        (``"fill"`` or ``"token_drop"``) and ``against``.

    Raises:
        ValueError: as :func:`interactions.features.invariance.similarity_rows`.
    """
    level_of_interval(level)
    batches, known = batches_of(images, model)
    filler: fills.Fill | None = fill_of(fill, model)
    rows = similarity_rows(
        model,
        batches,
        grid,
        untrained=untrained,
        fill=filler,
        against=against,
        fractions=fractions,
        repeats=repeats,
        layers=layers,
        readouts=readouts,
        names=names,
        count=known if count is None else count,
        seed=seed,
        cka_batch=cka_batch,
        batch_size=batch_size,
        precision=precision,
    )
    with Bar(known, "images", shown=progress) as bar:
        table = summarised(until_interrupted(rows, bar, lambda batch: len(batch.images)), level)
    table.insert(2, "hiding", "token_drop" if fill is None else "fill")
    table.insert(3, "against", against)
    return table


def similarity_rows(
    model: nn.Module,
    images: Iterable[Tensor],
    grid: PatchGrid,
    *,
    untrained: nn.Module | None,
    fill: fills.Fill | None = fills.zero,
    against: Against = "whole",
    fractions: Sequence[float] | None = None,
    repeats: int = 3,
    layers: Sequence[str] | None = None,
    readouts: Sequence[Readout] | None = None,
    names: Iterable[str] | None = None,
    count: int | None = None,
    seed: int = 0,
    cka_batch: int = 256,
    batch_size: int | None = None,
    precision: Precision = "float32",
    only: Sequence[int] | None = None,
) -> Iterator[BatchRows]:
    """Compare features of occluded images with those of their partners, batch by batch.

    Each image has its own random masks, drawn by its name: the same for every model, and nested
    over ratios. Its partner is the whole image, read out over all patches whatever is hidden in the
    other, or the complement: the same image with exactly the other patches visible, occluded and
    read out in the same way. Two complements share no patch, as the two views of masked image
    modelling (Kong & Zhang, CVPR 2023), and yet they are not independent of one another:

    - A fill made of the image (its mean, its blur) tells each half of the other.
    - What one lacks the other has. Of a single image under many masks the mean pixels of the halves
      are opposites: their centred cosine is -1, and CKA, which does not see signs, is 1. Read CKA
      beside the centred cosine; the baselines ``untrained`` and ``pixels`` have a share in it too.

    The pairings are the network's own ``value`` and, of the same images and masks, the baselines

    - ``untrained``: the network with fresh weights;
    - ``pixels``: raw patches in the place of tokens: the mean over visible patches for the readout
      ``"visible"``, and over all patches that the network is given for any other;
    - ``permuted``: occluded images paired with the partners of other images of the same batch.
      CKA and centred cosine are 0 there, up to the noise of the batches and a bias of about
      -1 / (n - 1); what raw cosine has there it does not owe to the image.

    Args:
        model: a network in eval mode; layers inside are read from timm models.
        images: batches of any size ``(B, C, H, W)``, ready for the model, in a fixed order.
        grid: the players; for token drop made of whole patches of the model.
        untrained: the same architecture with fresh weights (:func:`untrained`), on the device of
            the model; None leaves this baseline out, as NaN.
        fill: what becomes of hidden pixels; None leaves their tokens out of a vision transformer.
            These are two different experiments; do not put them into one figure.
        against: the partner, ``"whole"`` or ``"complement"``.
        fractions: hidden ones below 1, against the complement above 0, that hide different numbers
            of players, round(P fraction). :func:`default_fractions` if left out.
        repeats: masks per image and fraction.
        layers: see :func:`~interactions.networks.layers.layer_features`.
        readouts: by default :func:`~interactions.networks.layers.readouts_of`; for token drop
            without ``"visible"``, which is the mean there.
        names: one per image, the keys of its masks; ``"0"``, ``"1"``, ... if left out.
        count: how many images there are; needed only if neither they nor names are a list.
        seed: the seed of the experiment.
        cka_batch: the most images in a batch of CKA, centred cosine, quantiles and retrieval; see
            :func:`batch_sizes`.
        batch_size: images through the network at once, not more than are in a batch; chosen for the
            device if left out. It changes no number.
        precision: see :data:`~interactions.networks.inference.Precision`; statistics are in float64
            in any case.
        only: numbers of the batches to measure, ascending from 0, where others are measured
            elsewhere with the same arguments. Images and names are theirs; ``count`` is that of
            all.

    Raises:
        ValueError: for networks in training mode or of different architectures, ratios or counts
            out of range, names or a count that are not as many as images, fewer than 4 images, or
            features that are not finite.
    """
    check_eval(model)
    if against not in ("whole", "complement"):
        raise ValueError(f"expected against whole or complement, got {against!r}")
    check_precision(precision)
    _check_networks(model, untrained)
    instance(grid, PatchGrid, "a grid")
    fractions = default_fractions(against) if fractions is None else numbers(fractions, "fractions")
    for what, value in (("repeats", repeats), ("cka_batch", cka_batch), ("seed", seed)):
        whole(value, what, None)
    realised = [round(grid.n * fraction) / grid.n for fraction in fractions]
    if not fractions or min(fractions) < 0 or max(realised) >= 1:
        raise ValueError(f"expected hidden fractions that leave a patch, got {fractions}")
    if len(set(realised)) < len(realised):
        raise ValueError(
            f"expected fractions that hide different numbers of the {grid.n} patches, "
            f"got {fractions}"
        )
    if against == "complement" and not all(realised):
        raise ValueError(
            "expected fractions that hide a patch, because the complement shows what is hidden, "
            f"got {fractions}; leave out those at 0"
        )
    if repeats < 1 or (batch_size is not None and batch_size < 1) or cka_batch < FEWEST:
        raise ValueError(
            f"expected at least 1 repeat, 1 image at once and {FEWEST} in a batch of CKA, "
            f"got {repeats}, {batch_size} and {cka_batch}"
        )
    if readouts is None:
        readouts = [r for r in readouts_of(model) if not (fill is None and r == "visible")]
    networks: dict[Pairing, nn.Module | None] = {"value": model}
    if untrained is not None:
        networks["untrained"] = untrained
    networks["pixels"] = None
    total = _counted(images, names, count) if only is None or count is None else count
    sizes = batch_sizes(total, cka_batch)
    which = range(len(sizes)) if only is None else list(only)
    if any(not 0 <= b < len(sizes) for b in which):
        raise ValueError(f"expected numbers of {len(sizes)} batches, got {list(which)}")
    sizes = [sizes[b] for b in which]

    def measured() -> Iterator[BatchRows]:
        given = zip(which, _batches(images, names, sizes), strict=True)
        for b, (batch_names, images_NCHW) in given:
            visible_RNFP = torch.stack(
                [random_drop(grid.n, fractions, batch_names, seed, r) for r in range(repeats)]
            )
            others_N = _derangement(len(images_NCHW), seed, b)
            # Left before the rows are given, or their reader would be within it.
            with torch.inference_mode(), ExitStack() as stack:
                ready, *_ = [
                    stack.enter_context(running(network, precision))
                    for network in networks.values()
                    if network is not None
                ]
                reading = _Reading(
                    networks, ready, grid, fill, layers, readouts, batch_size, precision
                )
                places, values_PRNM, terms_PR4 = _measured(
                    reading, images_NCHW, visible_RNFP, others_N, realised, against
                )
            yield _checked(tuple(batch_names), places, values_PRNM, terms_PR4)

    return measured()


def summarised(batches: Iterable[BatchRows], level: float = 0.95) -> pd.DataFrame:
    """Means, intervals and baselines, from rows; those of one batch at a time are in memory.

    Args:
        batches: of one measurement, all of them, in order.
        level: coverage of the intervals.

    Returns:
        One row per layer, readout, ratio, metric and statistic: those columns, ``value`` (mean over
        repeats), ``low`` and ``high`` (an interval over batches for CKA and over images for other
        means; NaN for quantiles, and where nothing varies), ``mask_sd`` (standard deviation of the
        value over repeats, NaN for a single one), ``images``, ``batch`` (images of a batch, which
        retrieval chooses from; some may have one less), ``batches`` (how many), and the same
        measure of the baselines ``untrained``, ``pixels`` and ``permuted``. With nothing hidden CKA
        and cosines are known: their intervals have no width.

    Raises:
        ValueError: without batches, or for those of other places or numbers of repeats.
    """
    import pandas as pd

    level_of_interval(level)
    measured, found = Moments(), Moments()
    totals_PRM: NDArray[np.float64] | float = 0.0
    totals_SPRM: NDArray[np.float64] | float = 0.0  # of quantiles within batches
    terms: list[NDArray[np.float64]] = []
    places: tuple[Place, ...] = ()
    for rows in batches:
        places = places or rows.places
        values_PRNM = rows.values_PRNM.astype(np.float64)
        P, R, N, _ = values_PRNM.shape
        if rows.places != places or (terms and terms[0].shape[1] != R):
            raise ValueError("expected batches of one measurement, got other places or repeats")
        own_P = [place[0] == "value" for place in places]
        own_NPM = values_PRNM[own_P].mean(axis=1).swapaxes(0, 1)
        measured.update(own_NPM[..., : len(PER_IMAGE)])
        found.update(own_NPM[..., len(PER_IMAGE) :])
        totals_PRM = totals_PRM + N * values_PRNM.mean(axis=2)
        every_PRNM = values_PRNM[..., : len(PER_IMAGE)]
        totals_SPRM = totals_SPRM + N * np.quantile(every_PRNM, [*STATISTICS.values()], axis=2)
        terms.append(np.dstack([np.full((P, R), float(N)), rows.terms_PR3]))
    if not terms:
        raise ValueError("expected at least one batch, got none")
    terms_PRB4 = np.stack(terms, axis=2)
    means_PRM = np.asarray(totals_PRM) / measured.count
    quantiles_PSRM = np.moveaxis(np.asarray(totals_SPRM) / measured.count, 0, 1)
    ckas = {
        place: [LinearCKA.restored(terms_B4) for terms_B4 in of]
        for place, of in zip(places, terms_PRB4, strict=True)
    }
    values = {
        place: _values(ckas[place], means_RM, quantiles_SRM)
        for place, means_RM, quantiles_SRM in zip(places, means_PRM, quantiles_PSRM, strict=True)
    }
    means, shares = iter(measured.intervals(level)), iter(found.shares(level))
    intervals = {
        place: {
            "cka": cka_interval(ckas[place], level),
            **{metric: _cut(next(means), *BOUNDS[metric]) for metric in PER_IMAGE},
            **{metric: next(shares) for metric in RECALLS},
        }
        for place in places
        if place[0] == "value"
    }
    layers = list(dict.fromkeys(place[1:3] for place in intervals))
    in_order = sorted(intervals, key=lambda place: layers.index(place[1:3]))
    sizes = {
        "images": measured.count,
        "batch": int(terms_PRB4[0, 0, 0, 0]),
        "batches": len(terms),
    }
    return pd.DataFrame(
        [row for place in in_order for row in _rows(values, intervals, place, sizes)]
    )


_Values = dict[tuple[str, str], NDArray[np.float64]]
"""By metric and statistic: the value under each of R masks."""


def _values(
    ckas_R: Sequence[LinearCKA], means_RM: NDArray[np.float64], quantiles_SRM: NDArray[np.float64]
) -> _Values:
    """All values of one place, in the order of the table."""
    means = dict(zip(MEASURES, means_RM.T, strict=True))
    found: _Values = {("cka", "mean"): np.array([cka.value for cka in ckas_R])}
    found |= {(metric, "mean"): means[metric] for metric in PER_IMAGE}
    for statistic, quantiles_RM in zip(STATISTICS, quantiles_SRM, strict=True):
        of = zip(PER_IMAGE, quantiles_RM.T, strict=True)
        found |= {(metric, statistic): values_R for metric, values_R in of}
    return found | {(metric, "mean"): means[metric] for metric in RECALLS}


def _rows(
    values: Mapping[Place, _Values],
    intervals: Mapping[Place, Mapping[str, Interval]],
    place: Place,
    sizes: Mapping[str, int],
) -> Iterator[dict[str, object]]:
    """The rows of one place of the network itself, with its baselines."""
    _, layer, readout, ratio = place
    raw = "visible" if readout == "visible" else "mean"
    beside = {
        "untrained": values.get(("untrained", layer, readout, ratio)),
        "pixels": values["pixels", "pixels", raw, ratio],
        "permuted": values["permuted", layer, readout, ratio],
    }
    for (metric, statistic), values_R in values[place].items():
        value = float(values_R.mean())
        interval = Interval(value, np.nan, np.nan, np.nan)
        if statistic == "mean":
            interval = intervals[place][metric]
            if ratio == 0 and metric not in RECALLS:
                interval = replace(interval, low=value, high=value)  # by definition
        yield {
            "layer": layer,
            "readout": readout,
            "ratio": ratio,
            "metric": metric,
            "statistic": statistic,
            "value": value,
            "low": interval.low,
            "high": interval.high,
            "mask_sd": float(values_R.std(ddof=1)) if len(values_R) > 1 else np.nan,
            **sizes,
            **{
                name: np.nan if of is None else float(of[metric, statistic].mean())
                for name, of in beside.items()
            },
        }


def _cut(interval: Interval, least: float, most: float) -> Interval:
    """An interval within what a measure can be."""
    low, high = np.clip([interval.low, interval.high], least, most).tolist()
    return replace(interval, low=low, high=high)


@dataclass(frozen=True)
class _Reading:
    """How images are occluded and read out.

    Attributes:
        networks: by pairing; None for raw pixels.
        ready: makes images fit networks as they are running.
        fill: None is token drop.
    """

    networks: Mapping[Pairing, nn.Module | None]
    ready: Callable[[Tensor], Tensor]
    grid: PatchGrid
    fill: fills.Fill | None
    layers: Sequence[str] | None
    readouts: Sequence[Readout]
    batch_size: int | None
    precision: Precision

    @property
    def model(self) -> nn.Module:
        """The network that is measured."""
        model = self.networks["value"]
        assert model is not None
        return model

    def parts(self, images_NCHW: Tensor) -> list[slice]:
        """What goes through a network at once."""
        size = self.batch_size or automatic_batch_size(
            self.model,
            images_NCHW[0],
            self.precision,
            images_NCHW.device,
            lambda count: self._layers(self.model, images_NCHW[:1].repeat(count, 1, 1, 1), None),
        )
        N = len(images_NCHW)
        return [slice(k, min(k + size, N)) for k in range(0, N, size)]

    def features(
        self,
        parts: Sequence[slice],
        images_NCHW: Tensor,
        filled: Tensor | None,
        visible_NP: Tensor | None,
    ) -> dict[Pairing, LayerFeatures]:
        """Features of all networks; of whole images if nothing says who is visible."""
        found: dict[Pairing, list[LayerFeatures]] = {pairing: [] for pairing in self.networks}
        for part in parts:
            images_BCHW = images_NCHW[part]
            visible_BP = None if visible_NP is None else visible_NP[part]
            if visible_BP is not None and filled is not None:
                fill = filled if len(filled) == 1 else filled[part]
                images_BCHW = hide(images_BCHW, visible_BP, self.grid, fill)
            for pairing, network in self.networks.items():
                if network is None:
                    found[pairing].append(self._pixels(images_BCHW, visible_BP))
                else:
                    found[pairing].append(self._layers(network, images_BCHW, visible_BP))
        return {
            pairing: {key: torch.cat([part[key] for part in of]) for key in of[0]}
            for pairing, of in found.items()
        }

    def _layers(
        self, network: nn.Module, images_BCHW: Tensor, visible_BP: Tensor | None
    ) -> LayerFeatures:
        return layer_features(
            network,
            self.ready(images_BCHW),
            layers=self.layers,
            readouts=self.readouts,
            players=None if visible_BP is None else self.grid,
            visible_BN=visible_BP,
            token_drop=self.fill is None and visible_BP is not None,
            # Half weights are those of the network as it is running.
            precision="tf32" if self.precision == "tf32" else "model",
        )

    def _pixels(self, images_BCHW: Tensor, visible_BP: Tensor | None) -> LayerFeatures:
        patches_BPD = self.grid.cut(images_BCHW).flatten(2)
        if visible_BP is None:
            visible_BP = torch.ones_like(patches_BPD[..., 0], dtype=torch.bool)
        visible_BD = mean_of_visible(patches_BPD, visible_BP)
        given_BD = visible_BD if self.fill is None else patches_BPD.mean(dim=1)
        return {("pixels", "mean"): given_BD, ("pixels", "visible"): visible_BD}


def _measured(
    reading: _Reading,
    images_NCHW: Tensor,
    visible_RNFP: Tensor,
    others_N: Tensor,
    ratios: Sequence[float],
    against: Against,
) -> tuple[list[Place], Tensor, Tensor]:
    """Places, measures ``(P, R, N, M)`` and ``(P, R, 4)`` of :func:`compared`, of one batch."""
    device = device_of(reading.model)
    # All that a batch needs goes there once.
    images_NCHW, visible_RNFP, others_N = (
        x.to(device) for x in (images_NCHW, visible_RNFP, others_N)
    )
    filled = None if reading.fill is None else reading.fill(images_NCHW)
    read = partial(reading.features, reading.parts(images_NCHW), images_NCHW, filled)
    whole = read(None) if against == "whole" else None
    places: list[Place] = []
    values: list[Tensor] = []
    terms: list[Tensor] = []
    for ratio, visible_RNP in zip(ratios, visible_RNFP.unbind(dim=2), strict=True):
        occluded_R = [read(visible_NP) for visible_NP in visible_RNP]
        if whole is None:
            partners_R = [read(~visible_NP) for visible_NP in visible_RNP]
        else:
            partners_R = [whole] * len(occluded_R)
        for source in reading.networks:
            x_R, y_R = ([of[source] for of in side] for side in (partners_R, occluded_R))
            for keys in _slices(y_R[0], len(y_R)):
                x_PRND, y_PRND = (
                    torch.stack([torch.stack([of[key] for of in of_R]) for key in keys])
                    for of_R in (x_R, y_R)
                )
                found = compared(x_PRND, y_PRND, others_N if source == "value" else None)
                pairings: tuple[Pairing, ...] = (source, "permuted")
                for pairing, (values_PRNM, terms_PR4) in zip(pairings, found, strict=False):
                    places += [(pairing, layer, readout, ratio) for layer, readout in keys]
                    values.append(values_PRNM)
                    terms.append(terms_PR4)
    return places, torch.cat(values).cpu(), torch.cat(terms).cpu()


def _slices(features: LayerFeatures, repeats: int) -> Iterator[list[tuple[str, str]]]:
    """Neighbouring layers and readouts of one width, as many as are computed at once."""
    kind = next(iter(features.values())).device.type
    for (N, width), run in groupby(features, lambda key: tuple(features[key].shape)):
        keys, each = list(run), repeats * N * max(width, N)
        step = max(1, (ON_CPU if kind == "cpu" else AT_ONCE) // each)
        yield from (keys[k : k + step] for k in range(0, len(keys), step))


def _checked(
    names: tuple[str, ...], places: Sequence[Place], values_PRNM: Tensor, terms_PR4: Tensor
) -> BatchRows:
    """The rows of a batch, if all features were finite."""
    finite_P = (terms_PR4[..., 3] == 1).all(dim=1)
    if not finite_P.all():
        _, layer, readout, _ = places[int(finite_P.int().argmin())]
        raise ValueError(f"layer {layer}, {readout}: expected finite features, got NaN or infinity")
    return BatchRows(names, tuple(places), values_PRNM.numpy(), terms_PR4[..., :3].numpy())


def _counted(images: Iterable[Tensor], names: Iterable[str] | None, count: int | None) -> int:
    """How many images there are."""
    known = [] if count is None else [count]
    known += [len(names)] if isinstance(names, Sized) else []
    known += [sum(map(len, images))] if isinstance(images, Sequence) else []
    if not known:
        raise ValueError(
            "expected a count of the images, because they are divided into equal batches and "
            "neither images nor names have a length"
        )
    if len(set(known)) > 1:
        raise ValueError(f"expected as many names as images, got {known[0]} and {known[-1]}")
    return known[0]


def _batches(
    images: Iterable[Tensor], names: Iterable[str] | None, sizes: Sequence[int]
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and images in batches of these sizes, however they came."""
    given = iter(map(str, naturals()) if names is None else names)
    waiting, left, total = torch.empty(0), list(sizes), 0
    for images_BCHW in images:
        if images_BCHW.ndim != 4:
            raise ValueError(f"expected images (B, C, H, W), got {tuple(images_BCHW.shape)}")
        total += len(images_BCHW)
        waiting = torch.cat([waiting, images_BCHW]) if len(waiting) else images_BCHW
        while left and len(waiting) >= left[0]:
            size = left.pop(0)
            batch_names = list(islice(given, size))
            if len(batch_names) != size:
                raise ValueError("expected a name for each image, got fewer names than images")
            yield batch_names, waiting[:size]
            waiting = waiting[size:]
    if left or len(waiting):
        raise ValueError(f"expected {sum(sizes)} images, got {total}")
    if names is not None and next(given, None) is not None:
        raise ValueError("expected a name for each image, got more names than images")


def _derangement(n: int, seed: int, batch: int) -> Tensor:
    """Another image for each image of a batch: the next one in a random order, keyed."""
    order_N = permutation(n, "another image", seed, batch)
    others_N = np.empty_like(order_N)
    others_N[order_N] = np.roll(order_N, -1)
    return torch.from_numpy(others_N)


def _check_networks(model: nn.Module, untrained: nn.Module | None) -> None:
    if untrained is None:
        return
    instance(untrained, nn.Module, "an untrained network")
    trained, fresh = (
        {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for network in (model, untrained)
    )
    for name in sorted(trained.keys() | fresh.keys()):
        if trained.get(name) != fresh.get(name):
            raise ValueError(
                "expected an untrained network of the same architecture: "
                f"{name} is {trained.get(name, 'missing')} in the model and "
                f"{fresh.get(name, 'missing')} in the untrained one"
            )
