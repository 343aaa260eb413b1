import numpy as np
import pytest
from scipy import stats

from interactions.stats import holm, t_interval


def test_t_interval_is_scipys():
    x = np.random.default_rng(0).normal(size=12)
    got = t_interval(x.mean(), x)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert str(got).startswith(f"{x.mean():.3g} [")
    with pytest.raises(ValueError, match="at least 2 images"):
        t_interval(1.0, np.array([1.0]))


def test_excludes_zero():
    assert t_interval(5.0, np.array([-1.0, 1.0, 0.5, -0.5])).excludes_zero
    assert t_interval(-5.0, np.array([-1.0, 1.0, 0.5, -0.5])).excludes_zero
    assert not t_interval(0.1, np.array([-1.0, 1.0, 0.5, -0.5])).excludes_zero


def test_holm_by_hand():
    """Sorted .01 .02 .04: times 3, 2, 1 is .03 .04 .04, and never decreasing."""
    np.testing.assert_allclose(holm([0.04, 0.01, 0.02]), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
