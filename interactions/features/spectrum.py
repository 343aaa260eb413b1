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

With s_t the sum of the cells x[i, j] with i + j = t (mod H), F[k, k] is the transform of s, so no
two-dimensional one is computed.

:func:`spectrum_rows` measures: one row per image and map. :func:`summarised` makes means and
intervals of such rows, and :func:`spectrum` is both.

Shapes: B images, E features, H x H cells of a map, K frequencies, C channels, L maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count as naturals
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from interactions.checks import level_of_interval, whole
from interactions.features.moments import Moments
from interactions.inputs import batches_of
from interactions.networks.inference import (
    Precision,
    automatic_batch_size,
    check_eval,
    check_precision,
    device_of,
    running,
)
from interactions.networks.layers import residual_stream, stream_names
from interactions.progress import Bar, until_interrupted

if TYPE_CHECKING:
    import pandas as pd

FLOOR = 1e-6
"""Added to amplitudes before the logarithm, as published."""

FEWEST_CELLS = 3
"""Cells along one side of a map: fewer have one frequency or none."""


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
    # Rows twice side by side, read with a stride that is one too short: the diagonals in columns.
    B, E = maps_BEHH.shape[:2]
    twice_BEHX = torch.cat([_wide(maps_BEHH)] * 2, dim=3).contiguous()
    skewed = twice_BEHX.as_strided((B, E, H, H), (2 * E * H * H, 2 * H * H, 2 * H - 1, 1), H)
    sums_BEH = skewed.sum(dim=2)
    amplitudes_BEK = torch.fft.rfft(sums_BEH)[..., : H - H // 2].abs()
    logs_BK = (amplitudes_BEK + FLOOR).log().mean(dim=1)
    return logs_BK - logs_BK[:, :1]


def variances(maps_BEHH: Tensor) -> Tensor:
    """Unbiased variance over the cells of each image's maps, mean over features: float64 ``(B,)``.

    Raises:
        ValueError: for maps that are not square or have fewer than 3 x 3 cells.
    """
    _side(maps_BEHH)
    return _wide(maps_BEHH).var(dim=(2, 3)).mean(dim=1)


def spectrum(
    model: nn.Module,
    images: Any,
    *,
    layers: Sequence[str] | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
    level: float = 0.95,
    progress: bool = False,
) -> pd.DataFrame:
    """Delta log amplitude and variance of every map of a network's residual stream.

    Arguments are those of :func:`interactions.features.spectrum.spectrum_rows`. Images are also
    pictures (:func:`interactions.prepare`). With ``progress`` there is a bar, and an interrupt ends
    the measurement alone, with a warning: the table of the batches that are done is returned.

    Returns:
        The table of :func:`interactions.features.spectrum.summarised`.

    Raises:
        ValueError: as :func:`interactions.features.spectrum.spectrum_rows`, and without images.
    """
    level_of_interval(level)
    batches, known = batches_of(images, model)
    rows = spectrum_rows(model, batches, layers=layers, batch_size=batch_size, precision=precision)
    with Bar(known, "images", shown=progress) as bar:
        return summarised(until_interrupted(rows, bar, lambda of: of["image"].nunique()), level)


def spectrum_rows(
    model: nn.Module,
    images: Iterable[Tensor],
    *,
    layers: Sequence[str] | None = None,
    names: Iterable[str] | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
) -> Iterator[pd.DataFrame]:
    """Measure every map of a network's residual stream, batch by batch.

    Maps are reduced to some numbers per image as they are computed. Batches change nothing.

    Args:
        model: a timm network or a CNN, in eval mode.
        images: batches ``(B, C, H, W)``, ready for the model.
        layers: which maps, of :func:`~interactions.networks.layers.stream_names`; all if left out.
        names: one per image; ``"0"``, ``"1"``, ... if left out.
        batch_size: images through the network at once; chosen for the device if left out.
        precision: of the network; spectra and variances are computed in float64 in any case.

    Yields:
        For each batch a table of one row per image and map: ``image``, ``layer``, ``index`` (of the
        map in the whole stream), ``maps`` (of the whole stream), ``cells`` (H), ``variance``, and
        ``k1``, ``k2``, ...: Delta at these k; NaN beyond those that a map has.

    Raises:
        ValueError: for a model in training mode or whose stream is not known, layers it does not
            have, or maps that are not finite, not square, too small, or of another size than
            before.
    """
    check_eval(model)
    check_precision(precision)
    if batch_size is not None:
        whole(batch_size, "batch_size")
    stream = stream_names(model)
    layers = stream if layers is None else tuple(layers)
    unknown = [layer for layer in layers if layer not in stream]
    if unknown or not layers:
        raise ValueError(f"expected layers of {', '.join(stream)}, got {unknown or 'none'}")
    sides: dict[str, int] = {}
    found: list[Tensor] = []  # of one forward

    def visit(layer: str, maps_BEHH: Tensor) -> None:
        try:
            side = _side(maps_BEHH)
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
        if sides.setdefault(layer, side) != side:
            raise ValueError(
                f"{layer}: expected maps of {sides[layer]} cells as before, got {side}"
            )
        wide_BEHH = _wide(maps_BEHH)
        found.append(
            torch.cat([variances(wide_BEHH)[:, None], log_amplitudes(wide_BEHH)[:, 1:]], dim=1)
        )

    def measured(images_BCHW: Tensor, size: int) -> Tensor:
        """Variance and Delta of every map in turn, ``(B, ...)``."""
        parts = []
        with (
            torch.inference_mode(),
            running(model, precision) as ready,
            residual_stream(model, visit, layers),
        ):
            for part_BCHW in images_BCHW.split(size):
                model(ready(part_BCHW))
                parts.append(torch.cat(found, dim=1))
                found.clear()
        return torch.cat(parts).cpu()  # the only number that is waited for

    device, given = device_of(model), map(str, naturals()) if names is None else iter(names)
    order = [layer for layer in stream if layer in layers]  # not that of the names

    def rows() -> Iterator[pd.DataFrame]:
        for images_BCHW in images:
            images_BCHW = images_BCHW.to(device)
            some_BCHW = images_BCHW[:1]
            size = batch_size or automatic_batch_size(
                model,
                images_BCHW[0],
                precision,
                device,
                partial(_repeated, measured, some_BCHW),
            )
            numbers = measured(images_BCHW, size)
            yield _frame(numbers, order, sides, stream, list(islice(given, len(images_BCHW))))

    return rows()


def summarised(rows: Iterable[pd.DataFrame], level: float = 0.95) -> pd.DataFrame:
    """Means with intervals over images, from the rows of :func:`spectrum_rows`.

    Returns:
        One row per map and frequency: ``layer``, ``index``, ``depth`` (index / last index of the
        stream), ``cells``, ``measure`` (``"delta log amplitude"``, or ``"variance"`` with one row
        per map and no frequency), ``k``, ``position`` (k / (K - 1), the published axis),
        ``frequency`` (2 k / H, in units of pi per cell), ``value``, ``low`` and ``high`` (an
        interval over images), ``images``.

    Raises:
        ValueError: without rows.
    """
    import pandas as pd

    tables = list(rows)
    if not tables:
        raise ValueError("expected at least one batch of images, got none")
    table = []
    whole = pd.concat(tables, ignore_index=True)
    for layer, of in whole.groupby("layer", sort=False):
        index, maps, H = (int(of[name].iloc[0]) for name in ("index", "maps", "cells"))
        K = H - H // 2
        place = {"layer": layer, "index": index, "depth": index / (maps - 1), "cells": H}
        moments = Moments()
        moments.update(of[["variance", *(f"k{k}" for k in range(1, K))]].to_numpy())
        variance, *deltas = moments.intervals(level)
        # The lowest frequency is what others are relative to.
        numbers = [(0.0, 0.0, 0.0), *((x.estimate, x.low, x.high) for x in deltas)]
        for k, (value, low, high) in enumerate(numbers):
            at = {"measure": "delta log amplitude", "k": k, "position": k / (K - 1)}
            ends = {"frequency": 2 * k / H, "value": value, "low": low, "high": high}
            table.append({**place, **at, **ends, "images": len(of)})
        table.append(
            {
                **place,
                **{"measure": "variance", "k": None, "position": None, "frequency": None},
                **{"value": variance.estimate, "low": variance.low, "high": variance.high},
                "images": len(of),
            }
        )
    return pd.DataFrame(table).astype({"k": "Int64", "position": float, "frequency": float})


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


def _repeated(measured: Callable[[Tensor, int], Tensor], image_1CHW: Tensor, count: int) -> Tensor:
    """What is measured of one image so many times."""
    return measured(image_1CHW.repeat(count, 1, 1, 1), count)


def _frame(
    numbers: Tensor,
    layers: Sequence[str],
    sides: dict[str, int],
    stream: Sequence[str],
    images: Sequence[str],
) -> pd.DataFrame:
    """The rows of a batch, image by image."""
    import pandas as pd

    widths = [sides[layer] - sides[layer] // 2 for layer in layers]
    padded_BLK = np.full((len(numbers), len(layers), max(widths)), np.nan)
    for k, (layer, of) in enumerate(zip(layers, numbers.split(widths, dim=1), strict=True)):
        if not of[:, 0].isfinite().all():  # a variance is finite only where all cells are
            raise ValueError(f"{layer}: expected finite maps, got NaN or infinity")
        padded_BLK[:, k, : widths[k]] = of.numpy()
    columns = ["variance", *(f"k{k}" for k in range(1, max(widths)))]
    places = {
        "image": np.repeat(np.array(images, dtype=object), len(layers)),
        "layer": list(layers) * len(images),
        "index": [stream.index(layer) for layer in layers] * len(images),
        "maps": len(stream),
        "cells": [sides[layer] for layer in layers] * len(images),
    }
    found = pd.DataFrame(padded_BLK.reshape(-1, max(widths)), columns=columns)
    return pd.concat([pd.DataFrame(places), found], axis=1)


def _wide(maps_BEHH: Tensor) -> Tensor:
    """Maps in float64, row by row in memory."""
    return maps_BEHH.to(torch.float64, memory_format=torch.contiguous_format)


def _side(maps_BEHH: Tensor) -> int:
    """Cells along one side of square maps."""
    shape = tuple(maps_BEHH.shape)
    if len(shape) != 4 or shape[2] != shape[3] or shape[2] < FEWEST_CELLS:
        raise ValueError(
            f"expected square maps (B, E, H, H) of at least 3 x 3 cells, got {shape}; "
            "use square, larger images, or leave the layer out"
        )
    return shape[2]
