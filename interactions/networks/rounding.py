"""How much of what is measured of a network is rounding, and which arithmetic is good enough.

Some images are measured again by the network in float64. Of each quantity q that is reported, such
as a measure at a hidden fraction, a layer's similarity or an amplitude at a frequency,

    floor_q = RMS over images of (x_q as measured - x_q in float64)  /  mean over images of |x_q|

and the floor of an arithmetic is the largest of them: relative to the smallest quantity, where
rounding counts most. The precision "auto" is, on a GPU, the fastest whose floor is below 1 %, and
float32 on a CPU. Interactions, differences of differences, have theirs in
:mod:`interactions.orders.rounding`.

Shapes: Q quantities, I images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from interactions.networks.inference import Fitting, Precision, device_of, fastest_of

T = TypeVar("T")


def in_float64(model: nn.Module) -> nn.Module:
    """A copy of a network in float64; on the CPU where the device has no such numbers."""
    model = deepcopy(model)
    if device_of(model).type not in ("cpu", "cuda"):
        model = model.cpu()
    return model.double()


def relative_floor(found_QI: NDArray[np.floating], exact_QI: NDArray[np.floating]) -> float:
    """The largest error of a quantity, relative to its size; see the top of this module.

    Args:
        found_QI: as measured.
        exact_QI: in float64; what is NaN there is not looked at.
    """
    known_QI = np.isfinite(exact_QI)
    if not np.isfinite(found_QI[known_QI]).all():
        return np.inf
    count_Q = known_QI.sum(axis=1).clip(min=1)
    error_QI = np.where(known_QI, found_QI - exact_QI, 0.0)
    error_Q = np.sqrt((error_QI**2).sum(axis=1) / count_Q)
    size_Q = np.abs(np.where(known_QI, exact_QI, 0.0)).sum(axis=1) / count_Q
    with np.errstate(divide="ignore", invalid="ignore"):
        floor_Q = np.where(error_Q > 0, error_Q / size_Q, 0.0)
    return float(floor_Q.max(initial=0.0))


def fitting(
    measure: Callable[[Sequence[nn.Module], Precision], T],
    networks: Sequence[nn.Module],
    floor: Callable[[T, T], float],
    share: float = 0.01,
) -> Fitting:
    """The fastest arithmetic in which something can be measured of networks.

    Args:
        measure: measures some images by networks, in a precision.
        networks: as they will be measured; copies of them in float64 say what is exact.
        floor: from what was measured and what is exact to the error, as :func:`relative_floor`.
        share: what the error has to be below.
    """
    device = device_of(networks[0])
    if device.type == "cpu":
        return Fitting("float32")
    exact = measure([in_float64(network) for network in networks], "model")
    return fastest_of(lambda one: floor(measure(networks, one), exact), share, device)
