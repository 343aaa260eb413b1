"""Which frequencies feature maps hold, layer by layer (Park & Kim, ICLR 2022, figure 2).

For a map x (H, H) of one image and one feature, with F its discrete Fourier transform,

    A_k     = log(|F[k, k]| + 1e-6),    k = 0 ... K - 1,    K = H - floor(H / 2)
    Delta_k = A_k - A_0

averaged over images and features (a mean of logarithms), and the unbiased variance of x over its
cells, averaged likewise. Low-pass layers have a low Delta at high k. Of an even H the last k is
H / 2 - 1, one below the Nyquist frequency, as in the published tool.

That tool draws Delta over k / (K - 1), labelled 0 to pi; the true frequency is 2 pi k / H, so that
the right ends of curves are 0.86 pi for 7 x 7 cells and 0.96 pi for 56 x 56. Both are given here.
The tool also rebuilt every block without its layer scales and relative positions; here the maps are
those of the residual stream itself (:func:`~interactions.networks.layers.residual_stream`).

Shapes: B images, E features, H x H cells of a map, K frequencies, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interactions.features.invariance import State
from interactions.features.moments import Moments
from interactions.networks.inference import arithmetic, device_of
from interactions.networks.layers import residual_stream, stream_names

if TYPE_CHECKING:
    import pandas as pd

FLOOR = 1e-6
"""Added to amplitudes before the logarithm, as published."""

FEWEST_CELLS = 3
"""Cells along one side of a map: fewer have one frequency or none."""


@dataclass(frozen=True)
class SpectrumOfImages:
    """What was measured on one map of each image of one batch.

    Attributes:
        layer: the map.
        cells: H, along one of its sides.
        deltas_BK: Delta log amplitude, as :func:`log_amplitudes` gives it.
        variances_B: as :func:`variances` gives them.
    """

    layer: str
    cells: int
    deltas_BK: NDArray[np.float64]
    variances_B: NDArray[np.float64]


def log_amplitudes(maps_BEHH: Tensor) -> Tensor:
    """Delta log amplitude of each image's maps along the diagonal, in float64.

    Args:
        maps_BEHH: square maps of at least 3 x 3 cells.

    Returns:
        ``(B, K)``, means over features; the first column is 0.

    Raises:
        ValueError: for maps of another shape.
    """
    H = _side(maps_BEHH)
    K = H - H // 2
    # Only F[k, k] is wanted, so the second transform is done at one frequency per column.
    columns_BEHK = torch.fft.rfft(maps_BEHH.double())[..., :K]
    steps = torch.arange(H, dtype=torch.float64, device=maps_BEHH.device)
    turns_HK = torch.outer(steps, steps[:K]) / H
    diagonal_BEK = (columns_BEHK * torch.exp(-2j * torch.pi * turns_HK)).sum(dim=2)
    logs_BK = (diagonal_BEK.abs() + FLOOR).log().mean(dim=1)
    return logs_BK - logs_BK[:, :1]


def variances(maps_BEHH: Tensor) -> Tensor:
    """Unbiased variance over the cells of each image's maps, mean over features: float64 ``(B,)``.

    Raises:
        ValueError: for maps that are not square or have fewer than 3 x 3 cells.
    """
    _side(maps_BEHH)
    return maps_BEHH.double().var(dim=(2, 3)).mean(dim=1)


def spectrum(
    model: nn.Module,
    images: Iterable[Tensor],
    *,
    layers: Sequence[str] | None = None,
    level: float = 0.95,
    observe: Callable[[SpectrumOfImages], None] | None = None,
    after_batch: Callable[[State], None] | None = None,
    start: State | None = None,
) -> pd.DataFrame:
    """Delta log amplitude and variance of every map of a network's residual stream.

    Maps are reduced to some numbers per image as they are computed, and those to running means;
    nothing grows with the images, and their batches change nothing.

    Args:
        model: a timm ViT (also BEiT, EVA, DeiT) or Swin, or a CNN, in eval mode.
        images: batches ``(B, C, H, W)``, ready for the model.
        layers: which maps, of :func:`~interactions.networks.layers.stream_names`; all if left out.
        level: coverage of the intervals.
        observe: is given the numbers of every image, once for each batch and map; the values in the
            table are their means. Nothing of it is kept.
        after_batch: is given all that was measured so far after every batch, to be stored.
        start: what it was given after ``start["images"]`` images in an earlier call with the same
            arguments: go on behind them, with the images that it had not seen then.

    Returns:
        One row per map and frequency: ``layer``, ``index`` (of the map in the whole stream),
        ``depth`` (index / last index), ``cells`` (H), ``measure`` (``"delta log amplitude"``, or
        ``"variance"`` with one row per map and no frequency), ``k``, ``position`` (k / (K - 1), the
        published axis), ``frequency`` (2 k / H, in units of pi per cell), ``value``, ``low`` and
        ``high`` (an interval over images), ``images``.

    Raises:
        ValueError: for a model in training mode or whose stream is not known, layers it does not
            have, no images, or maps that are not finite, not square, too small, or of another size
            than before.
    """
    import pandas as pd

    if model.training:
        raise ValueError("expected a model in eval mode, got one in training mode")
    names = stream_names(model)
    layers = names if layers is None else tuple(layers)
    unknown = [layer for layer in layers if layer not in names]
    if unknown or not layers:
        raise ValueError(f"expected layers of {', '.join(names)}, got {unknown or 'none'}")
    sides: dict[str, int] = {}
    moments = {layer: (Moments(), Moments()) for layer in layers}
    if start is not None:
        for number, layer in enumerate(layers):
            side, of_variance, of_deltas = np.split(start[f"map {number}"], [1, 4])
            sides[layer] = int(side[0])
            shape = (sides[layer] - sides[layer] // 2,)
            moments[layer] = Moments.restored(of_deltas, shape), Moments.restored(of_variance, ())

    def visit(layer: str, maps_BEHH: Tensor) -> None:
        try:
            side = _side(maps_BEHH)
            if sides.setdefault(layer, side) != side:
                raise ValueError(f"expected maps of {sides[layer]} cells as before, got {side}")
            if not maps_BEHH.isfinite().all():
                raise ValueError("expected finite maps, got NaN or infinity")
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
        deltas, spread = moments[layer]
        deltas_BK, variances_B = log_amplitudes(maps_BEHH), variances(maps_BEHH)
        deltas.update(deltas_BK)
        spread.update(variances_B)
        if observe is not None:
            numbers = deltas_BK.cpu().numpy(), variances_B.cpu().numpy()
            observe(SpectrumOfImages(layer, side, *numbers))

    device = device_of(model)
    stream = residual_stream(model, visit, layers)
    with torch.inference_mode(), arithmetic("float32", device), stream:
        for images_BCHW in images:
            model(images_BCHW.to(device))
            if after_batch is not None:
                after_batch(_packed(sides, moments))
    if not sides:
        raise ValueError("expected at least one batch of images, got none")
    rows = []
    for layer, (deltas, spread) in moments.items():
        H, index = sides[layer], names.index(layer)
        K = H - H // 2
        place = {"layer": layer, "index": index, "depth": index / (len(names) - 1), "cells": H}
        found = [("delta log amplitude", k, i) for k, i in enumerate(deltas.intervals(level))]
        for measure, k, interval in [*found, ("variance", None, spread.intervals(level)[0])]:
            rows.append(
                {
                    **place,
                    "measure": measure,
                    "k": k,
                    "position": None if k is None else k / (K - 1),
                    "frequency": None if k is None else 2 * k / H,
                    "value": interval.estimate,
                    # The lowest frequency is what others are relative to.
                    "low": interval.estimate if k == 0 else interval.low,
                    "high": interval.estimate if k == 0 else interval.high,
                    "images": spread.count,
                }
            )
    return pd.DataFrame(rows).astype({"k": "Int64", "position": float, "frequency": float})


def too_small(model: nn.Module, images_BCHW: Tensor) -> dict[str, int]:
    """Maps of the residual stream that have too few cells for a spectrum.

    Args:
        model: in eval mode.
        images_BCHW: of the size that will be measured.

    Returns:
        Name of the map -> cells along one side, fewer than 3.

    Raises:
        ValueError: for a network whose stream is not known.
    """
    found: dict[str, int] = {}

    def visit(layer: str, maps_BEHH: Tensor) -> None:
        if maps_BEHH.ndim == 4 and (side := min(maps_BEHH.shape[2:])) < FEWEST_CELLS:
            found[layer] = side

    with torch.inference_mode(), residual_stream(model, visit, stream_names(model)):
        model(images_BCHW.to(device_of(model)))
    return found


def _packed(sides: Mapping[str, int], moments: Mapping[str, tuple[Moments, Moments]]) -> State:
    state = {"images": np.array(next(iter(moments.values()))[0].count)}
    for k, (layer, (deltas, spread)) in enumerate(moments.items()):
        state[f"map {k}"] = np.concatenate([[sides[layer]], spread.numbers, deltas.numbers])
    return state


def _side(maps_BEHH: Tensor) -> int:
    """Cells along one side of square maps."""
    shape = tuple(maps_BEHH.shape)
    if len(shape) != 4 or shape[2] != shape[3] or shape[2] < FEWEST_CELLS:
        raise ValueError(
            f"expected square maps (B, E, H, H) of at least 3 x 3 cells, got {shape}; "
            "use square, larger images, or leave the layer out"
        )
    return shape[2]
