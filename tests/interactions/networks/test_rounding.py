import math

import numpy as np
import pytest
import torch
from torch import nn

from interactions.networks import rounding
from interactions.networks.inference import running
from interactions.networks.rounding import fitting, in_float64, relative_floor


def test_the_floor_is_that_of_the_quantity_where_rounding_counts_most():
    exact_QI = np.array([[100.0, -100.0], [1.0, 3.0], [np.nan, np.nan]])
    found_QI = exact_QI + np.array([[1.0, 1.0], [0.3, -0.4], [5.0, 5.0]])
    # 1 of 100; the root of (0.09 + 0.16) / 2 of 2; what is unknown does not count
    assert relative_floor(found_QI, exact_QI) == pytest.approx(math.sqrt(0.125) / 2)
    assert relative_floor(exact_QI[:1], exact_QI[:1]) == 0


def test_what_is_0_has_no_error_and_what_is_lost_an_infinite_one():
    zero_QI = np.zeros((1, 3))
    assert relative_floor(zero_QI, zero_QI) == 0
    assert relative_floor(zero_QI + 1e-9, zero_QI) == math.inf
    assert relative_floor(np.array([[1.0, np.inf]]), np.array([[1.0, 1e6]])) == math.inf
    assert relative_floor(np.empty((0, 3)), np.empty((0, 3))) == 0


def measured(networks, precision):
    with torch.inference_mode(), running(networks[0], precision) as ready:
        return networks[0](ready(torch.linspace(1, 2, 64)[:, None])).double().numpy().T


def test_the_fastest_arithmetic_below_a_share_of_what_is_reported(monkeypatch):
    """Numbers with p bits are off by up to 2^-p of themselves: float16 has 11, bfloat16 8."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    assert fitting(measured, [model], relative_floor).precision == "float32"  # on a CPU
    monkeypatch.setattr(rounding, "device_of", lambda model: torch.device("cuda"))
    found = fitting(measured, [model], relative_floor)
    assert (found.precision, found.allowed) == ("float16", 0.01)
    found = fitting(measured, [model], relative_floor, share=1e-4)
    assert list(found.floors) == ["float16", "bfloat16", "tf32"]
    assert 2**-13 < found.floors["float16"] < 2**-11
    assert 2**-10 < found.floors["bfloat16"] < 2**-8
    assert found.precision == "tf32"  # this CPU has none: products are IEEE
    assert fitting(measured, [model], relative_floor, share=0.0).precision == "float32"
    assert model.weight.dtype == torch.float32


def test_a_copy_is_in_float64():
    model = nn.Linear(2, 2)
    exact = in_float64(model)
    assert (exact.weight.dtype, model.weight.dtype) == (torch.float64, torch.float32)
    assert torch.equal(exact.weight, model.weight.double())
