"""What occlusion does to predictions: one raw row for each masked image.

With p the class probabilities of the clean image, q those of the occluded one and y its class:

    correct        argmax q = y                      top5        y among the 5 largest of q
    agreement      argmax q = argmax p               flipped     clean correct, occluded wrong
    confidence     max q                             p_true      q_y
    p_clean        q at argmax p                     drop        p_y - q_y
    nll            -log q_y                          brier       sum (q - onehot y)^2
    kl             sum p log(p / q)                  tv          1/2 sum |p - q|
    js             (KL(p || m) + KL(q || m)) / 2,    m = (p + q) / 2

in natural logarithms, from logits in float64. Of equal logits the first class counts as larger.
Curves, areas, calibration errors and comparisons are made of the rows: see
:mod:`interactions.occlusion.curves`.

Shapes: I images, F fractions, R repeats, K masked images, B images of a batch, C classes or
channels, H x W pixels, N players, L tokens, D features, M measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interactions import fills
from interactions.checks import numbers, players_of, whole
from interactions.games.token_drop import KeepVisible, first_visible
from interactions.inputs import (
    fill_of,
    labels_of,
    logits_of,
    names_of,
    prepare,
)
from interactions.networks.inference import (
    Precision,
    arithmetic,
    automatic_batch_size,
    check_eval,
    check_precision,
    device_of,
    in_batches,
    running,
)
from interactions.networks.masking import made_of, token_grid, with_modules
from interactions.occlusion.masks import OCCLUDERS, TENTHS, Occluder, Scene
from interactions.patches import PatchGrid, Players
from interactions.progress import Bar, interruptible
from interactions.segments import PlayerMap

if TYPE_CHECKING:
    import pandas as pd

Classifier = Callable[[Tensor], Tensor]
"""Images ``(B, C, H, W)`` -> logits ``(B, C)``; a module in eval mode, or any function."""

FLAGS = ("correct", "clean_correct", "top5", "agreement", "flipped")
CLASSES = ("predicted", "clean_predicted")
SIZES = ("confidence", "p_true", "p_clean", "drop", "nll", "brier", "kl", "js", "tv")
MEASURES = (*FLAGS, *CLASSES, *SIZES)
"""What is measured for each masked image: yes or no, classes, and numbers."""

_AT_ONCE, _AT_ONCE_WATCHED = 4096, 256
"""Masked images of one chunk, which are together on the device; fewer where somebody watches."""


class WithProbe(nn.Module):
    """An encoder and a linear classifier, trained on clean images, as one classifier.

    logits = ((encoder(images) - mean) / std) weight^T + bias

    Args:
        encoder: maps images to features ``(B, D)``; the whole is in eval mode if it is.
        weight_CD: of the classifier.
        bias_C: of the classifier.
        mean_D: subtracted from features first; nothing if left out.
        std_D: divides features first; 1 if left out.
    """

    weight_CD: Tensor
    bias_C: Tensor
    mean_D: Tensor
    std_D: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        weight_CD: Tensor,
        bias_C: Tensor,
        mean_D: Tensor | None = None,
        std_D: Tensor | None = None,
    ):
        super().__init__()
        C, D = weight_CD.shape
        mean_D = weight_CD.new_zeros(D) if mean_D is None else mean_D
        std_D = weight_CD.new_ones(D) if std_D is None else std_D
        shapes = [tuple(x.shape) for x in (bias_C, mean_D, std_D)]
        if shapes != [(C,), (D,), (D,)]:
            raise ValueError(f"expected bias ({C},), mean ({D},) and std ({D},), got {shapes}")
        self.encoder = encoder
        for name, value in (
            ("weight_CD", weight_CD),
            ("bias_C", bias_C),
            ("mean_D", mean_D),
            ("std_D", std_D),
        ):
            self.register_buffer(name, value.detach())
        self.train(encoder.training)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        features_BD = self.encoder(images_BCHW)
        D = self.mean_D.shape[0]
        if features_BD.ndim != 2 or features_BD.shape[1] != D:
            raise ValueError(
                f"expected features (B, {D}) of the encoder, got {tuple(features_BD.shape)}"
            )
        features_BD = (features_BD - self.mean_D) / self.std_D
        return nn.functional.linear(features_BD, self.weight_CD, self.bias_C)


@dataclass(frozen=True)
class Variant:
    """Something else that is done to images or to the network: a lesion, a shuffle, a placement.

    Attributes:
        name: what it is, with its settings and seed; stands in the column ``mask``.
        at: its place on the axis, such as the dropped fraction or the number of pieces.
        logits: from images ``(B, C, H, W)`` on the model's device, their names and the repeat to
            logits ``(B, C)``. An image's logits may not depend on the other images of the batch.
    """

    name: str
    at: float
    logits: Callable[[Tensor, tuple[str, ...], int], Tensor]


def occlude(
    model: Classifier,
    images_ICHW: Any,
    labels_I: Any,
    players: Players | Mapping[str, PlayerMap],
    occluder: Occluder | str,
    *,
    fractions: Sequence[float] = TENTHS,
    repeats: int = 1,
    fill: str | fills.Fill | fills.NamedFill | None = fills.zero,
    names: Sequence[str] | None = None,
    saliency_IN: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    progress: bool = False,
) -> pd.DataFrame:
    """Measure predictions on masked images.

    The clean image goes through the model once; masks that hide nothing are not run again. For a
    large data set call it once per batch of the loader and concatenate: masks are keyed by names.

    Args:
        model: a classifier; a module has to be in eval mode, a function gets images on the device
            where they are. Encoders: see :class:`WithProbe`.
        images_ICHW: images ready for the model, or pictures: see
            :func:`interactions.inputs.prepare`.
        labels_I: their classes, or ``"prediction"`` for those that the model gives to whole images.
        players: the regions; for superpixels one map per image name, of one number of players.
        occluder: which are hidden, of :data:`~interactions.occlusion.masks.OCCLUDERS`, also by
            name, or one's own.
        fractions: hidden fractions, ascending.
        repeats: independent masks per image.
        fill: what hidden pixels become, also by name as in :class:`interactions.PatchGame`; None
            leaves the tokens of hidden patches out instead (timm
            ``VisionTransformer`` only), which is another experiment, not another colour.
        names: distinct image names, the keys of their masks; those of files, or ``"0"``, ``"1"``,
            ... if left out.
        saliency_IN: for salient occluders; see :mod:`interactions.occlusion.saliency`.
        seed: the seed of the experiment.
        batch_size: images through the model at once; chosen for the device if left out. It does
            not change the masks.
        precision: of the network.
        progress: show a progress bar. An interrupt then ends the measurement alone, with a warning:
            the rows of the images that are done are returned.

    Returns:
        One row per image, fraction and repeat, in this order: image, fraction (as asked for),
        repeat, hidden (share of the pixels that were hidden; of the tokens that were left out),
        mask (a hash of what was hidden), label, and the measures of
        :mod:`interactions.occlusion.predictions`.

    Raises:
        ValueError: for a model in training mode, labels or names that do not fit the images,
            fractions, players or saliency that do not fit the occluder, or outputs that are not
            finite.
    """
    images_ICHW, labels_I, images = _checked(
        model, images_ICHW, labels_I, names, repeats, batch_size, precision
    )
    if isinstance(occluder, str):
        if occluder not in OCCLUDERS:
            raise ValueError(f"expected an occluder of {', '.join(OCCLUDERS)}, got {occluder!r}")
        occluder = OCCLUDERS[occluder]
    if not callable(occluder):
        raise TypeError(f"expected an occluder, by name or a function, got {occluder!r}")
    fractions = numbers(fractions, "fractions")
    whole(seed, "seed", None)
    filler: fills.Fill | fills.NamedFill | None = fill_of(fill, model)
    if list(fractions) != sorted(set(fractions)):
        raise ValueError(f"expected distinct ascending fractions, got {tuple(fractions)}")
    scene = _players_of_all(players, images, *images_ICHW.shape[2:])
    visible_IFRN = torch.stack(
        [
            occluder(Scene(scene, images, seed, repeat, saliency_IN), fractions)
            for repeat in range(repeats)
        ],
        dim=2,
    )
    shape = visible_IFRN.shape[:3]
    if filler is None:
        _check_droppable(model, images_ICHW, players, visible_IFRN)
    device = _device(model, images_ICHW)
    parts = []
    at_once = _AT_ONCE_WATCHED if progress else _AT_ONCE
    step = max(1, at_once // (shape[1] * shape[2]))
    with (
        Bar(len(images), "images", shown=progress) as bar,
        interruptible(bar),
        torch.inference_mode(),
        _running(model, precision, device) as ready,
    ):
        size = batch_size or _batch_size(model, ready(images_ICHW[:1]), precision, device)
        for start in range(0, len(images), step):
            chunk = slice(start, start + step)
            # Images, masks and fills go to the device once, for all batches.
            whole_BCHW = images_ICHW[chunk].to(device)
            images_BCHW, filled = ready(whole_BCHW), None
            if filler is not None:
                filled = ready(_fill_of(filler, images[chunk])(whole_BCHW))
            clean = _Clean.of(model, images_BCHW, labels_I[chunk], images[chunk], size)
            visible_KN = visible_IFRN[chunk].flatten(0, 2)
            there_KN = visible_KN.to(device)
            outputs = (
                _without_tokens(cast(nn.Module, model), images_BCHW, players, there_KN)
                if filled is None
                else _with_fill(model, images_BCHW, images[chunk], players, there_KN, filled)
            )
            parts.append(_measured(outputs, visible_KN, clean, size, filler is None))
            bar.advance(len(clean.labels_B))
    images = images[: bar.done]
    masks_IFR = _hashes(visible_IFRN[: bar.done], players, images)
    return _rows(torch.cat(parts), images, fractions, masks_IFR, labels_I[: bar.done])


def variant_effects(
    model: Classifier,
    images_ICHW: Any,
    labels_I: Any,
    variants: Sequence[Variant],
    *,
    repeats: int = 1,
    names: Sequence[str] | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
) -> pd.DataFrame:
    """Measure predictions where something else than masking is done.

    A lesion, for example::

        def half(images_BCHW, names, repeat):
            with lesion(model, "blocks.4", 0.5, images=names, repeat=repeat):
                return model(images_BCHW)


        variant_effects(model, images, labels, [Variant("lesion blocks.4", 0.5, half)])

    Args:
        model: gives the clean predictions; as for :func:`occlude`.
        images_ICHW: images ready for the model.
        labels_I: their classes.
        variants: what is done, with distinct ascending places on the axis.
        repeats: how often each is done.
        names: as for :func:`occlude`.
        batch_size: as for :func:`occlude`.
        precision: as for :func:`occlude`.

    Returns:
        Rows as those of :func:`occlude`; ``fraction`` and ``hidden`` are the variant's ``at``.

    Raises:
        ValueError: as for :func:`occlude`.
    """
    images_ICHW, labels_I, images = _checked(
        model, images_ICHW, labels_I, names, repeats, batch_size, precision
    )
    places = [variant.at for variant in variants]
    if not places or places != sorted(set(places)):
        raise ValueError(f"expected variants at distinct ascending places, got {places}")
    device = _device(model, images_ICHW)
    per_variant = []
    with torch.inference_mode(), arithmetic(precision, device):
        size = batch_size or _batch_size(model, images_ICHW[:1].to(device), precision, device)
        clean = _Clean.of(model, images_ICHW, labels_I, images, size)
        for variant in variants:
            for repeat in range(repeats):

                def measures(
                    which_B1: Tensor, variant: Variant = variant, repeat: int = repeat
                ) -> Tensor:
                    which_B = which_B1[:, 0]
                    batch_names = tuple(images[k] for k in which_B.tolist())
                    logits_BC = variant.logits(images_ICHW[which_B].to(device), batch_names, repeat)
                    at_B = torch.full((len(which_B),), variant.at, dtype=torch.float64)
                    return clean.compared(logits_BC, which_B.to(device), at_B.to(device))

                per_variant.append(in_batches(measures, torch.arange(len(images))[:, None], size))
    measures_KM = torch.stack(per_variant, dim=1).flatten(0, 1)
    masks_FR = np.array([[f"{v.name} {repeat}" for repeat in range(repeats)] for v in variants])
    masks_IFR = np.broadcast_to(masks_FR, (len(images), *masks_FR.shape))
    return _rows(measures_KM, images, places, masks_IFR, labels_I)


# --------------------------------------------------------------------------------------------------
# one chunk of images

Outputs = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Which masked images ``(B,)``, and how many players each of them shows, where that is one number
-> logits ``(B, C)`` and hidden shares ``(B,)``, on the device."""


@dataclass(frozen=True)
class _Clean:
    """What the model says of whole images: logits, log probabilities and classes."""

    logits_BC: Tensor
    log_p_BC: Tensor
    predicted_B: Tensor
    labels_B: Tensor

    @classmethod
    def of(
        cls,
        model: Classifier,
        images_BCHW: Tensor,
        labels_B: Tensor,
        names: Sequence[str],
        batch_size: int,
    ) -> _Clean:
        device = _device(model, images_BCHW)
        logits_BC = in_batches(
            lambda which_B1: _two_axes(model(images_BCHW[which_B1[:, 0]].to(device))),
            torch.arange(len(images_BCHW), device=images_BCHW.device)[:, None],
            batch_size,
        ).to(device)
        C = logits_BC.shape[1]
        for name, label in zip(names, labels_B.tolist(), strict=True):
            if not 0 <= label < C:
                raise ValueError(f"image {name}: expected a class from 0 to {C - 1}, got {label}")
        log_p_BC = logits_BC.double().log_softmax(dim=1)
        return cls(logits_BC, log_p_BC, logits_BC.argmax(dim=1), labels_B.to(device))

    def compared(self, logits_BC: Tensor, which_B: Tensor, hidden_B: Tensor) -> Tensor:
        """Finite or not, hidden share and :data:`MEASURES` of occluded images, ``(B, 2 + M)``.

        Args:
            logits_BC: of the occluded images.
            which_B: the clean image of each; on the device.
            hidden_B: hidden shares.
        """
        logits_BC = _two_axes(logits_BC)
        label_B1 = self.labels_B[which_B][:, None]
        clean_B1 = self.predicted_B[which_B][:, None]
        clean_BC = self.logits_BC[which_B]
        finite_B = (logits_BC.isfinite() & clean_BC.isfinite()).all(dim=1)
        logits_BC = logits_BC.double()
        own_B1 = logits_BC.gather(1, label_B1)
        # Equal logits count as argmax does: the first class is the larger one.
        classes_C = torch.arange(logits_BC.shape[1], device=logits_BC.device)
        earlier_BC = (logits_BC == own_B1) & (classes_C < label_B1)
        rank_B = ((logits_BC > own_B1) | earlier_BC).sum(dim=1)
        log_p_BC, log_q_BC = self.log_p_BC[which_B], logits_BC.log_softmax(dim=1)
        p_BC, q_BC = log_p_BC.exp(), log_q_BC.exp()
        log_m_BC = ((p_BC + q_BC) / 2).clamp(min=torch.finfo(torch.float64).tiny).log()
        q_label_B = q_BC.gather(1, label_B1)[:, 0]
        predicted_B = logits_BC.argmax(dim=1)
        correct_B = rank_B == 0
        was_correct_B = clean_B1[:, 0] == label_B1[:, 0]
        js_B = ((p_BC * (log_p_BC - log_m_BC) + q_BC * (log_q_BC - log_m_BC)) / 2).sum(dim=1)
        measures = {
            "finite": finite_B,
            "hidden": hidden_B,
            "correct": correct_B,
            "clean_correct": was_correct_B,
            "top5": rank_B < 5,
            "agreement": predicted_B == clean_B1[:, 0],
            "flipped": was_correct_B & ~correct_B,
            "predicted": predicted_B,
            "clean_predicted": clean_B1[:, 0],
            "confidence": q_BC.amax(dim=1),
            "p_true": q_label_B,
            "p_clean": q_BC.gather(1, clean_B1)[:, 0],
            "drop": p_BC.gather(1, label_B1)[:, 0] - q_label_B,
            "nll": -log_q_BC.gather(1, label_B1)[:, 0],
            "brier": (q_BC * q_BC).sum(dim=1) - 2 * q_label_B + 1,
            # Rounding can leave -1e-17 where both are the same.
            "kl": (p_BC * (log_p_BC - log_q_BC)).sum(dim=1).clamp(min=0),
            "js": js_B.clamp(min=0, max=log(2)),
            "tv": (p_BC - q_BC).abs().sum(dim=1) / 2,
        }
        return torch.stack([measures[name].double() for name in _COLUMNS], dim=1)


_COLUMNS = ("finite", "hidden", *MEASURES)


def _measured(
    outputs: Outputs, visible_KN: Tensor, clean: _Clean, size: int, by_count: bool
) -> Tensor:
    """Measures ``(K, 2 + M)`` of the masked images of a chunk, those of an image one by one.

    Args:
        outputs: runs the network on some of them.
        visible_KN: their masks.
        clean: the whole images.
        size: of batches.
        by_count: whether the masks of one batch have to show as many players.
    """
    per_image = len(visible_KN) // len(clean.logits_BC)
    shown_K = visible_KN.sum(dim=1)
    measures_KM = torch.empty(len(visible_KN), len(_COLUMNS), dtype=torch.float64)

    def measures(which_B1: Tensor, shown: int) -> Tensor:
        logits_BC, hidden_B = outputs(which_B1[:, 0], shown)
        return clean.compared(logits_BC, which_B1[:, 0] // per_image, hidden_B)

    device = clean.logits_BC.device
    whole = shown_K == visible_KN.shape[1]
    which_B = (whole.nonzero()[:, 0] // per_image).to(device)
    nothing_B = torch.zeros(len(which_B), dtype=torch.float64, device=device)
    logits_BC = clean.logits_BC[which_B]
    measures_KM[whole] = clean.compared(logits_BC, which_B, nothing_B).cpu()
    kinds_K = shown_K if by_count else torch.zeros_like(shown_K)
    for kind in kinds_K[~whole].unique().tolist():
        rows_K1 = (~whole & (kinds_K == kind)).nonzero()
        of_kind = partial(measures, shown=kind)
        measures_KM[rows_K1[:, 0]] = in_batches(of_kind, rows_K1.to(device), size)
    return measures_KM


def _fill_of(fill: fills.Fill | fills.NamedFill, names: Sequence[str]) -> fills.Fill:
    return fill.for_images(names) if isinstance(fill, fills.NamedFill) else fill


def _with_fill(
    model: Classifier,
    images_BCHW: Tensor,
    names: Sequence[str],
    players: Players | Mapping[str, PlayerMap],
    visible_KN: Tensor,
    filled: Tensor,
) -> Outputs:
    """The network on images whose hidden pixels are replaced; all is on one device."""
    H, W = images_BCHW.shape[2:]
    per_image = len(visible_KN) // len(images_BCHW)
    maps_BP = None
    if isinstance(players, Mapping):
        maps = [players[name].players_HW.flatten() for name in names]
        maps_BP = torch.stack(maps).to(images_BCHW.device)

    def outputs(which_B: Tensor, shown: int) -> tuple[Tensor, Tensor]:
        image_B, visible_BN = which_B // per_image, visible_KN[which_B]
        if isinstance(players, Mapping):
            assert maps_BP is not None
            visible_B1HW = visible_BN.gather(1, maps_BP[image_B]).reshape(-1, 1, H, W)
        else:
            visible_B1HW = players.pixels(visible_BN, H, W)
        hidden = filled if len(filled) == 1 else filled[image_B]
        logits_BC = model(torch.where(visible_B1HW, images_BCHW[image_B], hidden))
        return logits_BC, (~visible_B1HW).sum(dim=(1, 2, 3)).double() / (H * W)

    return outputs


def _without_tokens(
    model: nn.Module,
    images_BCHW: Tensor,
    players: Players | Mapping[str, PlayerMap],
    visible_KN: Tensor,
) -> Outputs:
    """The network on the tokens of visible patches; a batch has to have one number of them."""
    tokens = token_grid(model, *images_BCHW.shape[2:])
    assert tokens is not None
    assert isinstance(players, PatchGrid)
    keep = KeepVisible(getattr(model, "num_prefix_tokens", 0))
    network = with_modules(model, patch_drop=keep)
    per_image = len(visible_KN) // len(images_BCHW)

    def outputs(which_B: Tensor, shown: int) -> tuple[Tensor, Tensor]:
        visible_BN = visible_KN[which_B]
        kept = shown * (tokens.n // players.n)
        keep.kept_BK = first_visible(players.refine(visible_BN, tokens), kept)
        logits_BC = network(images_BCHW[which_B // per_image])
        return logits_BC, (~visible_BN).sum(dim=1).double() / players.n

    return outputs


# --------------------------------------------------------------------------------------------------
# borders


def _checked(
    model: Classifier,
    images: Any,
    labels: Any,
    names: Sequence[str] | None,
    repeats: int,
    batch_size: int | None,
    precision: Precision,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images, labels and names, once all that measurements share has been checked."""
    if isinstance(model, nn.Module):
        check_eval(model)
    elif not callable(model):
        raise TypeError(f"expected a network or a function, got {model!r}")
    whole(repeats, "repeats")
    if batch_size is not None:
        whole(batch_size, "batch_size")
    check_precision(precision)
    images_ICHW = prepare(images, model)
    if not len(images_ICHW):
        raise ValueError(
            f"expected at least one image, (I, C, H, W), got {tuple(images_ICHW.shape)}"
        )
    names = names_of(names, images, len(images_ICHW))
    if isinstance(labels, str):
        if labels != "prediction":
            raise ValueError(f"expected classes or 'prediction', got {labels!r}")
        device = _device(model, images_ICHW)
        with torch.inference_mode(), _running(model, "float32", device) as ready:
            labels = in_batches(
                lambda which_B1: _two_axes(
                    model(ready(images_ICHW[which_B1[:, 0]].to(device)))
                ).argmax(1),
                torch.arange(len(images_ICHW))[:, None],
                batch_size or 32,
            )
    labels_I = labels_of(labels)
    if len(labels_I) != len(images_ICHW):
        raise ValueError(f"expected {len(images_ICHW)} labels, got {len(labels_I)}")
    return images_ICHW, labels_I, names


def _players_of_all(
    players: Players | Mapping[str, PlayerMap], images: Sequence[str], height: int, width: int
) -> Players:
    """The players of all images, or those of the first one, when all have as many."""
    if not isinstance(players, Mapping):
        players_of(players)
        players.check_image(height, width)
        return players
    for image in images:
        if image not in players:
            raise ValueError(
                f"image {image}: expected a map of its players, got none among {len(players)} "
                "maps; key the maps by the images' names"
            )
        players[image].check_image(height, width)
    counts = sorted({players[image].n for image in images})
    if len(counts) > 1:
        raise ValueError(f"expected maps of one number of players, got {counts}")
    return players[images[0]]


def _check_droppable(
    model: Classifier,
    images_ICHW: Tensor,
    players: Players | Mapping[str, PlayerMap],
    visible_IFRN: Tensor,
) -> None:
    """Raise a ValueError unless the model can leave out the tokens of hidden players."""
    tokens = token_grid(model, *images_ICHW.shape[2:]) if isinstance(model, nn.Module) else None
    if tokens is None or "patch_drop" not in cast(nn.Module, model)._modules:
        raise ValueError(
            "expected a timm VisionTransformer, whose tokens can be dropped, got "
            f"{type(model).__name__}; choose a fill instead of None"
        )
    if not isinstance(players, PatchGrid) or not made_of(players, tokens):
        raise ValueError(
            f"expected players made of whole patches, a grid that divides {tokens.rows} x "
            f"{tokens.cols}, got {players}"
        )
    pooled = getattr(model, "global_pool", None)
    if pooled != "token" and not visible_IFRN.any(dim=-1).all():
        raise ValueError(
            f"expected a visible patch in every mask for global_pool={pooled!r}, got masks that "
            "hide all; leave out the largest fraction"
        )


def _device(model: Classifier, images_ICHW: Tensor) -> torch.device:
    return device_of(model) if isinstance(model, nn.Module) else images_ICHW.device


@contextmanager
def _running(
    model: Classifier, precision: Precision, device: torch.device
) -> Iterator[Callable[[Tensor], Tensor]]:
    """A network in a stated arithmetic, or a function in mixed precision; see :func:`running`."""
    if isinstance(model, nn.Module):
        with running(model, precision) as ready:
            yield ready
    else:
        with arithmetic(precision, device):
            yield lambda images_BCHW: images_BCHW


def _batch_size(
    model: Classifier, image_1CHW: Tensor, precision: Precision, device: torch.device
) -> int:
    return automatic_batch_size(
        cast(nn.Module, model),  # a key of its memory and nothing else; functions serve as well
        image_1CHW[0],
        precision,
        device,
        lambda count: model(image_1CHW.expand(count, -1, -1, -1)),
    )


def _two_axes(outputs: Any) -> Tensor:
    """The logits of a model's outputs."""
    logits_BC = logits_of(outputs)
    if not isinstance(logits_BC, Tensor) or logits_BC.ndim != 2:
        got = tuple(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(outputs).__name__
        raise ValueError(
            f"expected a classifier that gives logits (B, C), got {got}; put a "
            "probe on an encoder (WithProbe)"
        )
    return logits_BC


def _hashes(
    visible_IFRN: Tensor, players: Players | Mapping[str, PlayerMap], images: Sequence[str]
) -> NDArray[np.str_]:
    """A short name of each mask, ``(I, F, R)``: equal where the same regions are hidden."""
    shape = visible_IFRN.shape[:3]
    names = np.empty((shape[0], shape[1] * shape[2]), dtype="U16")
    bits_IKX = np.packbits(visible_IFRN.flatten(1, 2).numpy(), axis=2)
    for i, image in enumerate(images):
        mine = players[image] if isinstance(players, Mapping) else players
        start = blake2b(digest_size=8)
        map_HW = mine.players_HW.cpu().numpy() if isinstance(mine, PlayerMap) else None
        start.update(repr(mine).encode() if map_HW is None else map_HW.tobytes())
        for k, bits in enumerate(bits_IKX[i]):
            digest = start.copy()
            digest.update(bits)
            names[i, k] = digest.hexdigest()
    return names.reshape(shape)


def _rows(
    measures_KM: Tensor,
    images: tuple[str, ...],
    fractions: Sequence[float],
    masks_IFR: NDArray[np.str_],
    labels_I: Tensor,
) -> pd.DataFrame:
    """The table of :func:`occlude`; refuses outputs that are not finite."""
    import pandas as pd

    measured = dict(zip(_COLUMNS, measures_KM.numpy().T, strict=True))
    image_K, fraction_K, repeat_K = (x.ravel() for x in np.indices(masks_IFR.shape))
    finite_K = measured["finite"] == 1
    if not finite_K.all():
        bad = images[image_K[finite_K.argmin()]]
        raise ValueError(f"image {bad}: the model gave outputs that are not finite")
    columns = {
        "image": np.array(images, dtype=object)[image_K],
        "fraction": np.array(fractions, dtype=float)[fraction_K],
        "repeat": repeat_K,
        "hidden": measured["hidden"],
        "mask": masks_IFR.ravel().astype(object),
        "label": labels_I.cpu().numpy()[image_K],
    }
    for name in MEASURES:
        kind = bool if name in FLAGS else np.int64 if name in CLASSES else np.float64
        columns[name] = measured[name].astype(kind)
    return pd.DataFrame(columns)
