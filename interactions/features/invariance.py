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
definitions, and changes nothing. What is kept in memory does not grow with the images,
but for four numbers per batch, from which CKA has its interval.

Shapes: N images of a batch, n of them for short, D features, R repeats (masks per image), F
fractions, M measures, C channels, H x W pixels, P players.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import count as naturals
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from interactions import fills
from interactions.features.cka import (
    FEWEST,
    LinearCKA,
    batch_sizes,
    check_pair,
    cka_interval,
    cosine_of,
    too_few,
    without_mean,
)
from interactions.features.moments import Moments
from interactions.keys import permutation, raw_words, torch_seeded
from interactions.networks.inference import Precision, arithmetic, check_precision, device_of
from interactions.networks.layers import (
    LayerFeatures,
    Readout,
    layer_features,
    mean_of_visible,
    readouts_of,
)
from interactions.occlusion.patch_drop import TENTHS, random_drop
from interactions.patches import PatchGrid, hide
from interactions.stats import Interval

if TYPE_CHECKING:
    import pandas as pd

Against = Literal["whole", "complement"]
"""The partner of an occluded image: the whole one, or the one with the other patches visible."""

Pairing = Literal["value", "untrained", "pixels", "permuted"]
"""Whose features were compared: the network's own, or those of a baseline."""

State = Mapping[str, NDArray[Any]]
"""What was measured so far, as arrays for an ``.npz`` file."""

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


@dataclass(frozen=True)
class SimilarityOfImages:
    """What was measured on each image of one batch.

    Attributes:
        images: names of the N images.
        pairing: whose features these are.
        layer: where they were read, ``"pixels"`` for raw pixels.
        readout: how.
        ratio: hidden share of the patches, as realised.
        values_NM: means over repeats, a column for each of :data:`MEASURES`; the recalls are NaN in
            a batch that is left out of retrieval, a cosine where a feature has no length.
    """

    images: tuple[str, ...]
    pairing: Pairing
    layer: str
    readout: str
    ratio: float
    values_NM: NDArray[np.float64]


def per_image(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """The measures :data:`PER_IMAGE` of one batch, in float64.

    Args:
        x_ND: features of whole images, or of other partners.
        y_ND: features of the same images, occluded.

    Returns:
        ``(N, 4)``; NaN where a feature has no length.
    """
    centred = cosine_of(without_mean(x_ND), without_mean(y_ND))
    x_ND, y_ND = x_ND.double(), y_ND.double()
    return torch.stack(
        [
            cosine_of(x_ND, y_ND),
            centred,
            cosine_of(x_ND - x_ND.mean(dim=1, keepdim=True), y_ND - y_ND.mean(dim=1, keepdim=True)),
            (x_ND - y_ND).norm(dim=1) / x_ND.norm(dim=1),
        ],
        dim=1,
    )


def recalls(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """Whether an occluded image finds its partner among those of the batch, by raw cosine.

    Among equally similar images one is drawn, in expectation: a network that says the same of all
    images finds 1 of N.

    Args:
        x_ND: features of whole images, or of other partners: the gallery.
        y_ND: features of the same images, occluded: the queries.

    Returns:
        float64 ``(N, 2)`` for the ks of :data:`RECALLS`: the chance of being among the first k.
    """
    # Features without length are as similar to one as to another.
    x_ND, y_ND = (F.normalize(z_ND.double(), eps=1e-300) for z_ND in (x_ND, y_ND))
    similar_NN = y_ND @ x_ND.mT
    lead_NN = similar_NN - similar_NN.diagonal()[:, None]
    # Sums in another order differ in the last bits, so equal ones are equal to 1e-12.
    ahead_N = (lead_NN > 1e-12).sum(dim=1)
    level_N = (lead_NN.abs() <= 1e-12).sum(dim=1)  # with the right one itself
    chances = [((k - ahead_N).double() / level_N).clamp(0, 1) for k in RECALLS.values()]
    return torch.stack(chances, dim=1)


class Similarity:
    """All measures of occluded images and their partners, one batch after another.

    Args:
        repeats: R, masks per image.

    Attributes:
        ckas: one for each repeat.
        batch: images in the first batch, which retrieval chooses from; 0 before it.
        batches: how many there were.
    """

    def __init__(self, repeats: int = 1) -> None:
        self.ckas = [LinearCKA() for _ in range(repeats)]
        self._images, self._repeats = Moments(), Moments()  # measures per image
        self._found, self._found_repeats = Moments(), Moments()  # recalls
        self._quantiles = Moments()
        self.batch = 0

    def update(
        self, partners_RND: Sequence[Tensor], occluded_RND: Sequence[Tensor]
    ) -> Tensor | None:
        """Add a batch.

        Retrieval leaves out batches whose size is not that of the first to one image, because it is
        easier among fewer. A batch of fewer than 4 images is left out altogether, with a warning.

        Args:
            partners_RND: features of what the images are compared with under each of R masks;
                whole images are the same under all.
            occluded_RND: features of the images under each mask.

        Returns:
            The images' own :data:`MEASURES`, means over repeats: float64 ``(N, M)``, with NaN for
            recalls in a batch that retrieval leaves out; None for a batch left out altogether.

        Raises:
            ValueError: for features that are not paired, not ``(N, D)``, or not finite, or another
                number of repeats.
        """
        R = len(self.ckas)
        if len(partners_RND) != R or len(occluded_RND) != R:
            raise ValueError(
                f"expected {R} repeats, got {len(occluded_RND)} and {len(partners_RND)} of partners"
            )
        pairs = list(zip(partners_RND, occluded_RND, strict=True))
        for x_ND, y_ND in pairs:
            check_pair(x_ND, y_ND)
            if y_ND.shape != x_ND.shape:
                raise ValueError(
                    f"expected occluded features of shape {tuple(x_ND.shape)}, "
                    f"got {tuple(y_ND.shape)}"
                )
        N = len(occluded_RND[0])
        if too_few(N):
            return None
        for cka, (x_ND, y_ND) in zip(self.ckas, pairs, strict=True):
            cka.update(x_ND, y_ND)
        values_NRM = torch.stack([per_image(x_ND, y_ND) for x_ND, y_ND in pairs], dim=1)
        values_NM = values_NRM.mean(dim=1)
        self._images.update(values_NM)
        self._repeats.update(values_NRM)
        at = values_NRM.new_tensor(list(STATISTICS.values()))
        # Quantiles within the batch, averaged over batches by their images.
        self._quantiles.update(values_NRM.quantile(at, dim=0)[None].expand(N, -1, -1, -1))
        self.batch = self.batch or N
        found_NK = values_NM.new_full((N, len(RECALLS)), torch.nan)
        if abs(self.batch - N) <= 1:
            found_NRK = torch.stack([recalls(x_ND, y_ND) for x_ND, y_ND in pairs], dim=1)
            found_NK = found_NRK.mean(dim=1)
            self._found.update(found_NK)
            self._found_repeats.update(found_NRK)
        return torch.cat([values_NM, found_NK], dim=1)

    @property
    def batches(self) -> int:
        """How many batches there were."""
        return len(self.ckas[0].terms_B3)

    @property
    def numbers(self) -> NDArray[np.float64]:
        """All that is known after a first batch, flat."""
        terms = [np.ravel(cka.numbers_B4) for cka in self.ckas]
        moments = [getattr(self, name).numbers for name in _moment_shapes(len(self.ckas))]
        return np.concatenate([[self.batch], *moments, *terms])

    @classmethod
    def restored(cls, numbers: NDArray[np.float64], repeats: int) -> Similarity:
        """The measures with these :attr:`numbers`."""
        similarity = cls(repeats)
        similarity.batch, numbers = int(numbers[0]), numbers[1:]
        for name, shape in _moment_shapes(repeats).items():
            size = 1 + 2 * math.prod(shape)
            setattr(similarity, name, Moments.restored(numbers[:size], shape))
            numbers = numbers[size:]
        similarity.ckas = [LinearCKA.restored(terms) for terms in numbers.reshape(repeats, -1)]
        return similarity

    def rows(self, level: float = 0.95) -> list[dict[str, object]]:
        """The measures so far, means over repeats.

        Returns:
            One row per measure and statistic: ``metric``, ``statistic``, ``value``, ``low`` and
            ``high`` (an interval over batches for CKA and over images for other means; NaN for
            quantiles, and where nothing varies), ``mask_sd`` (standard deviation of the value over
            repeats, NaN for a single one), ``images``.

        Raises:
            ValueError: before the first batch.
        """
        repeats_RM = self._repeats.mean
        found_RK = self._found_repeats.mean
        ckas_R = np.array([cka.value for cka in self.ckas])
        rows = [_row("cka", "mean", cka_interval(self.ckas, level), ckas_R, self._images.count)]
        for metric, interval, values_R in zip(
            PER_IMAGE, self._images.intervals(level), repeats_RM.T, strict=True
        ):
            least, most = BOUNDS[metric]
            low, high = np.clip([interval.low, interval.high], least, most).tolist()
            cut = replace(interval, low=low, high=high)
            rows.append(_row(metric, "mean", cut, values_R, self._images.count))
        for statistic, values_RM in zip(STATISTICS, self._quantiles.mean, strict=True):
            for metric, values_R in zip(PER_IMAGE, values_RM.T, strict=True):
                interval = Interval(float(values_R.mean()), np.nan, np.nan, np.nan)
                rows.append(_row(metric, statistic, interval, values_R, self._images.count))
        for metric, interval, values_R in zip(
            RECALLS, self._found.shares(level), found_RK.T, strict=True
        ):
            rows.append(_row(metric, "mean", interval, values_R, self._found.count))
        return rows


def _moment_shapes(repeats: int) -> dict[str, tuple[int, ...]]:
    """Attributes of :class:`Similarity` that are moments, and of what."""
    M, K, S = len(PER_IMAGE), len(RECALLS), len(STATISTICS)
    return {
        "_images": (M,),
        "_repeats": (repeats, M),
        "_found": (K,),
        "_found_repeats": (repeats, K),
        "_quantiles": (S, repeats, M),
    }


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
    batch_size: int = 32,
    precision: Precision = "float32",
    level: float = 0.95,
    observe: Callable[[SimilarityOfImages], None] | None = None,
    after_batch: Callable[[State], None] | None = None,
    start: State | None = None,
) -> pd.DataFrame:
    """How similar features of occluded images are to those of their partners, layer by layer.

    Each image has its own random masks, drawn by its name: the same for every model, and nested
    over ratios. Its partner is the whole image, read out over all patches whatever is hidden in the
    other, or the complement: the same image with exactly the other patches visible, occluded and
    read out in the same way. Two complements share no patch, as the two views of masked image
    modelling (Kong & Zhang, CVPR 2023), and yet they are not independent of one another:

    - A fill made of the image (its mean, its blur) tells each half of the other.
    - What one lacks the other has. Of a single image under many masks the mean pixels of the halves
      are opposites: their centred cosine is -1, and CKA, which does not see signs, is 1. Read CKA
      beside the centred cosine; the baselines ``untrained`` and ``pixels`` have a share in it too.

    The baselines of a row are the same measure of the same images and masks for

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
        fractions: hidden ones below 1, against the complement above 0; round(P fraction) players
            are hidden. :func:`default_fractions` if left out.
        repeats: masks per image and fraction.
        layers: see :func:`~interactions.networks.layers.layer_features`.
        readouts: by default :func:`~interactions.networks.layers.readouts_of`; for token drop
            without ``"visible"``, which is the mean there.
        names: one per image, the keys of its masks; ``"0"``, ``"1"``, ... if left out.
        count: how many images there are; needed only if neither they nor names are a list.
        seed: the seed of the experiment.
        cka_batch: the most images in a batch of CKA, centred cosine, quantiles and retrieval; see
            :func:`batch_sizes`.
        batch_size: images through the network at once; it changes no number.
        precision: see :data:`~interactions.networks.inference.Precision`.
        level: coverage of the intervals.
        observe: is given the measures of every image, batch by batch, for each pairing, ratio,
            layer and readout; the means in the table are means of these. Nothing of it is kept.
        after_batch: is given all that was measured so far after every batch, to be stored.
        start: what it was given after ``start["batches"]`` batches in an earlier call with the same
            arguments: go on behind them. Images and names are those that it had not seen then.

    Returns:
        One row per layer, readout, ratio (as realised), metric and statistic: those columns,
        ``hiding`` (``"fill"`` or ``"token_drop"``), ``against``, ``value``, ``low``, ``high``,
        ``mask_sd`` and ``images`` as in :meth:`Similarity.rows`, ``batch`` (images of a batch,
        which retrieval chooses from; some may have one less), ``batches`` (how many), and the
        baselines. With nothing hidden CKA and cosines are known: their intervals have no width.

    Raises:
        ValueError: for networks in training mode or of different architectures, ratios or counts
            out of range, names or a count that are not as many as images, fewer than 4 images, or
            features that are not finite.
    """
    import pandas as pd

    token_drop = fill is None
    if against not in ("whole", "complement"):
        raise ValueError(f"expected against whole or complement, got {against!r}")
    check_precision(precision)
    _check_networks(model, untrained)
    fractions = default_fractions(against) if fractions is None else fractions
    if not fractions or not all(f >= 0 and round(grid.n * f) < grid.n for f in fractions):
        raise ValueError(f"expected hidden fractions that leave a patch, got {tuple(fractions)}")
    realised = [round(grid.n * fraction) / grid.n for fraction in fractions]
    if against == "complement" and not all(realised):
        raise ValueError(
            "expected fractions that hide a patch, because the complement shows what is hidden, "
            f"got {tuple(fractions)}; leave out those at 0"
        )
    if repeats < 1 or batch_size < 1 or cka_batch < FEWEST:
        raise ValueError(
            f"expected at least 1 repeat, 1 image at once and {FEWEST} in a batch of CKA, "
            f"got {repeats}, {batch_size} and {cka_batch}"
        )
    if readouts is None:
        readouts = [r for r in readouts_of(model) if not (token_drop and r == "visible")]
    device = device_of(model)
    occlusion = _Occlusion(grid, fill, layers, readouts, batch_size, device, precision)
    networks: dict[Pairing, nn.Module | None] = {"value": model}
    if untrained is not None:
        networks["untrained"] = untrained
    networks["pixels"] = None
    done, seen, measured = (0, 0, {}) if start is None else _unpacked(start, repeats)
    sizes = batch_sizes(seen + _counted(images, names, count), cka_batch)[done:]
    with torch.inference_mode():
        for b, (batch_names, images_NCHW) in enumerate(_batches(images, names, sizes), done):
            visible_RNFP = torch.stack(
                [random_drop(grid.n, fractions, batch_names, seed, r) for r in range(repeats)]
            )
            others_N = _derangement(len(images_NCHW), seed, b).to(device)
            for source, network in networks.items():
                features = partial(occlusion.features, network, images_NCHW)
                for (f, layer, readout), x_RND, y_RND in _pairs(features, visible_RNFP, against):
                    paired: dict[Pairing, list[Tensor]] = {source: x_RND}
                    if source == "value":
                        paired["permuted"] = [x_ND[others_N] for x_ND in x_RND]
                    for pairing, partners_RND in paired.items():
                        key = (pairing, f, layer, readout)
                        similarity = measured.setdefault(key, Similarity(repeats))
                        try:
                            values_NM = similarity.update(partners_RND, y_RND)
                        except ValueError as error:
                            raise ValueError(f"layer {layer}, {readout}: {error}") from error
                        if observe is not None and values_NM is not None:
                            place = (tuple(batch_names), pairing, layer, readout, realised[f])
                            observe(SimilarityOfImages(*place, values_NM.cpu().numpy()))
            seen += len(images_NCHW)
            if after_batch is not None:
                after_batch(_packed(measured, b + 1, seen))
    how = {"hiding": "token_drop" if token_drop else "fill", "against": against}
    return pd.DataFrame(_table(measured, realised, how, level))


_Measured = dict[tuple[Pairing, int, str, str], Similarity]
"""By pairing, index of the ratio, layer and readout."""


def _packed(measured: _Measured, batches: int, images: int) -> State:
    names = ["\t".join(map(str, key)) for key in measured]
    numbers_KD = np.stack([similarity.numbers for similarity in measured.values()])
    return {
        "batches": np.array(batches),
        "images": np.array(images),
        "keys": np.array(names),
        "numbers": numbers_KD,
    }


def _unpacked(state: State, repeats: int) -> tuple[int, int, _Measured]:
    """Batches that are done, their images, and what was measured on them."""
    measured: _Measured = {}
    for name, numbers_D in zip(state["keys"].tolist(), state["numbers"], strict=True):
        pairing, f, layer, readout = name.split("\t")
        measured[pairing, int(f), layer, readout] = Similarity.restored(numbers_D, repeats)
    return int(state["batches"]), int(state["images"]), measured


def _pairs(
    features: Callable[[Tensor | None], LayerFeatures], visible_RNFP: Tensor, against: Against
) -> Iterator[tuple[tuple[int, str, str], list[Tensor], list[Tensor]]]:
    """Index of the ratio, layer and readout; features of partners; those of occluded images."""
    whole = features(None) if against == "whole" else None
    for f, visible_RNP in enumerate(visible_RNFP.unbind(dim=2)):
        occluded = [features(visible_NP) for visible_NP in visible_RNP]
        if whole is None:
            partners = [features(~visible_NP) for visible_NP in visible_RNP]
        else:
            partners = [whole] * len(occluded)
        for key in occluded[0]:
            yield (f, *key), [of[key] for of in partners], [of[key] for of in occluded]


@dataclass(frozen=True)
class _Occlusion:
    """How images are occluded and read out; a fill of None is token drop."""

    grid: PatchGrid
    fill: fills.Fill | None
    layers: Sequence[str] | None
    readouts: Sequence[Readout]
    batch_size: int
    device: torch.device
    precision: Precision

    def features(
        self, network: nn.Module | None, images_NCHW: Tensor, visible_NP: Tensor | None
    ) -> LayerFeatures:
        """Features of images, whole if nothing says who is visible; of pixels without a network."""
        parts = []
        for start in range(0, len(images_NCHW), self.batch_size):
            part = slice(start, start + self.batch_size)
            images_BCHW = images_NCHW[part].to(self.device)
            visible_BP = None if visible_NP is None else visible_NP[part].to(self.device)
            if visible_BP is not None and self.fill is not None:
                images_BCHW = hide(images_BCHW, visible_BP, self.grid, self.fill(images_BCHW))
            if network is None:
                parts.append(self._pixels(images_BCHW, visible_BP))
            else:
                parts.append(self._layers(network, images_BCHW, visible_BP))
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _layers(
        self, network: nn.Module, images_BCHW: Tensor, visible_BP: Tensor | None
    ) -> LayerFeatures:
        with arithmetic(self.precision, self.device):
            return layer_features(
                network,
                images_BCHW,
                layers=self.layers,
                readouts=self.readouts,
                players=None if visible_BP is None else self.grid,
                visible_BN=visible_BP,
                token_drop=self.fill is None and visible_BP is not None,
            )

    def _pixels(self, images_BCHW: Tensor, visible_BP: Tensor | None) -> LayerFeatures:
        patches_BPD = self.grid.cut(images_BCHW).flatten(2)
        if visible_BP is None:
            visible_BP = torch.ones_like(patches_BPD[..., 0], dtype=torch.bool)
        visible_BD = mean_of_visible(patches_BPD, visible_BP)
        given_BD = visible_BD if self.fill is None else patches_BPD.mean(dim=1)
        return {("pixels", "mean"): given_BD, ("pixels", "visible"): visible_BD}


def _table(
    measured: _Measured,
    ratios: Sequence[float],
    how: dict[str, str],
    level: float,
) -> list[dict[str, object]]:
    """The rows of :func:`invariance`, by layer, readout and ratio."""
    rows: list[dict[str, object]] = []
    places = dict.fromkeys(key[2:] for key in measured if key[0] == "value")
    for layer, readout in places:
        for f, ratio in enumerate(ratios):
            raw = "visible" if readout == "visible" else "mean"
            baselines = {
                "untrained": measured.get(("untrained", f, layer, readout)),
                "pixels": measured["pixels", f, "pixels", raw],
                "permuted": measured["permuted", f, layer, readout],
            }
            beside = {
                name: None if similarity is None else similarity.rows(level)
                for name, similarity in baselines.items()
            }
            similarity = measured["value", f, layer, readout]
            place = {"layer": layer, "readout": readout, **how, "ratio": ratio}
            for k, row in enumerate(similarity.rows(level)):
                values = {n: np.nan if r is None else r[k]["value"] for n, r in beside.items()}
                if ratio == 0 and row["statistic"] == "mean" and row["metric"] not in RECALLS:
                    row |= {"low": row["value"], "high": row["value"]}  # by definition
                sizes = {"batch": similarity.batch, "batches": similarity.batches}
                rows.append({**place, **row, **sizes, **values})
    return rows


def _row(
    metric: str, statistic: str, interval: Interval, values_R: NDArray[np.float64], images: int
) -> dict[str, object]:
    return {
        "metric": metric,
        "statistic": statistic,
        "value": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "mask_sd": float(values_R.std(ddof=1)) if len(values_R) > 1 else np.nan,
        "images": images,
    }


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
