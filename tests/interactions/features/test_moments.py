from math import isnan

import numpy as np
import pytest
import torch
from scipy.stats import t

from interactions.features.moments import Moments


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_of_parts_are_those_of_the_whole():
    values = 1e5 + normal(50, 2, 3)
    moments = Moments()
    for part in values.split([7, 1, 42]):
        moments.update(part)
    np.testing.assert_allclose(moments.mean, values.mean(dim=0), rtol=1e-15)
    column = values[:, 1, 2].numpy()
    interval = moments.intervals(0.9)[5]
    assert interval.se == pytest.approx(column.std(ddof=1) / 50**0.5, rel=1e-9)
    assert interval.high - interval.low == pytest.approx(
        2 * t.ppf(0.95, 49) * interval.se, rel=1e-9
    )
    one = Moments()
    one.update(values[:1])
    assert isnan(one.intervals()[0].se)
    with pytest.raises(ValueError, match="at least one image, got none"):
        _ = Moments().mean
