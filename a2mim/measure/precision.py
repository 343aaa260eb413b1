"""The precision "auto" of a measurement: chosen once per network, kept and recorded with its run.

On a CPU it is float32. On a GPU it is the fastest arithmetic whose noise floor is below 1 % of the
smallest quantity that is reported (:mod:`interactions.networks.rounding`), measured on the first
:data:`PROBED` images at the smallest, the middle and the largest hidden fraction. Quantities are

    occlusion     the mean of each measure of size (confidence, drop, nll, ..., tv) at a fraction;
                  accuracy and agreement follow from classes, of which less than 1 % may differ
    invariance    what hiding changes, at each layer, readout and fraction, of the network and the
                  untrained one: 1 - cosine, 1 - centred cosine, 1 - pearson, 1 - CKA and relative
                  l2. Similarities near 1 hardly change by rounding, and networks differ in the rest
    spectrum      the mean size of each map's variance, and of Delta log amplitude at each frequency

Shapes: Q quantities, I images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from a2mim.files import write_first
from a2mim.settings.shared import AnyPrecision
from interactions.features.invariance import MEASURES, PER_IMAGE, BatchRows
from interactions.networks.inference import Fitting, Precision
from interactions.networks.rounding import relative_floor
from interactions.occlusion.predictions import CLASSES, SIZES

if TYPE_CHECKING:
    import pandas as pd

PROBED = 8
"""Images by which an arithmetic is chosen."""


def on_device(precision: AnyPrecision, device: str) -> AnyPrecision:
    """What was asked for; on a CPU "auto" is float32."""
    return "float32" if precision == "auto" and device == "cpu" else precision


def ends(fractions: Sequence[float]) -> tuple[float, ...]:
    """The smallest, the middle and the largest fraction that hides something."""
    hidden = sorted(fraction for fraction in fractions if fraction > 0)
    return tuple(sorted({hidden[0], hidden[len(hidden) // 2], hidden[-1]})) if hidden else ()


def settled(
    asked: AnyPrecision, path: Path, title: str, choose: Callable[[], Fitting]
) -> Precision:
    """The arithmetic of a network; of "auto" the one that its run keeps, or that is chosen now.

    Of several processes nobody waits: each chooses, and what is written first holds for all.

    Args:
        asked: the setting.
        path: a file in the folder of the run.
        title: of the network.
        choose: measures noise floors.
    """
    if asked == "auto" and not path.exists():
        chosen = choose()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_first(path, json.dumps(asdict(chosen), indent=1))
        floors = ", ".join(f"{name} {floor:.1e}" for name, floor in chosen.floors.items())
        print(
            f"{title}: {chosen.precision} (noise floors: {floors or 'not measured'}; wanted below "
            f"{chosen.allowed:.1e})"
        )
    return ran_in(asked, path)


def ran_in(asked: AnyPrecision, path: Path) -> Precision:
    """The arithmetic that a network was measured in; see :func:`settled`."""
    if asked != "auto":
        return asked
    precision: Precision = json.loads(path.read_text())["precision"]
    return precision


def floor_of_effects(found: pd.DataFrame, exact: pd.DataFrame) -> float:
    """The noise floor of rows of :func:`interactions.occlusion.predictions.occlude`."""
    differ = [(found[key].to_numpy() != exact[key].to_numpy()).mean() for key in CLASSES]
    return max(relative_floor(_effects(found), _effects(exact)), *map(float, differ))


def floor_of_features(found: BatchRows, exact: BatchRows) -> float:
    """The noise floor of a batch of :func:`interactions.features.invariance.similarity_rows`."""
    return relative_floor(_changes(found), _changes(exact))


def floor_of_spectra(found: pd.DataFrame, exact: pd.DataFrame) -> float:
    """The noise floor of rows of :func:`interactions.features.spectrum.spectrum_rows`."""
    return relative_floor(_amplitudes(found), _amplitudes(exact))


def _effects(rows: pd.DataFrame) -> NDArray[np.float64]:
    """The measures of size of each hidden fraction, ``(Q, I)``."""
    hidden = rows[rows["fraction"] > 0]
    sizes_IKM = hidden[list(SIZES)].to_numpy(float)
    return sizes_IKM.reshape(hidden["image"].nunique(), -1).T


def _changes(rows: BatchRows) -> NDArray[np.float64]:
    """What hiding changes in features, ``(Q, I)``."""
    quantities = []
    for (pairing, *_, ratio), values_RNM, terms_R3 in zip(
        rows.places, rows.values_PRNM, rows.terms_PR3, strict=True
    ):
        if pairing not in ("value", "untrained") or not ratio:
            continue
        for values_NM, (xy, xx, yy) in zip(values_RNM, terms_R3, strict=True):
            of = dict(zip(MEASURES, values_NM.T, strict=True))
            quantities += [
                of[name] if name == "relative l2" else 1 - of[name] for name in PER_IMAGE
            ]
            quantities.append(np.full(len(values_NM), 1 - xy / np.sqrt(xx * yy)))
    return np.stack(quantities)


def _amplitudes(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Variances, and amplitudes at all frequencies, of all maps, ``(Q, I)``."""
    sizes_IQ = rows.filter(regex=r"^(variance|k\d+)$").to_numpy(float)
    return sizes_IQ.reshape(rows["image"].nunique(), -1).T
