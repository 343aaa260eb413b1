import numpy as np
import pytest
from scipy import stats

from interactions.stats import (
    effective_images,
    family,
    holm,
    paired,
    positive_interval,
    t_interval,
)


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


def test_a_paired_difference_is_scipys_t_test():
    x = np.random.default_rng(0).normal(0.5, 1, size=12)
    got, expected = paired(x.mean(), x, 1.0), stats.ttest_1samp(x, 0)
    assert got.p == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx(expected.confidence_interval(0.95)[:])
    # the same for influence values, which sum to 0
    centred = paired(x.mean(), x - x.mean(), 1.0)
    assert (centred.p, centred.low) == pytest.approx((got.p, got.low))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_p_and_interval_are_one_inference(level):
    rng = np.random.default_rng(1)
    tests = [paired(x.mean(), x, 1.0, level) for x in rng.normal(0.6, 1, size=(200, 8))]
    inside = [test.excludes_zero for test in tests]
    assert inside == [test.p < 1 - level for test in tests]
    assert 0 < sum(inside) < 200


def test_rounding_is_no_difference():
    """A network against itself whose outputs were multiplied, in float64 or float32."""
    x = np.random.default_rng(2).gamma(2, size=40)
    for y in (x * 1.7 / 1.7, (x.astype(np.float32) * np.float32(1.7)).astype(float) / 1.7):
        d = x - y + 1e-12
        found = paired(d.mean(), d, float(x.max()))
        assert (found.estimate, found.p) == (0, 1)
        assert not found.excludes_zero
    real = 1e-4 * x
    assert paired(real.mean(), real, float(x.max())).p < 1e-6


def test_a_constant_difference_has_no_p():
    """Neither the 2^(1-I) of a sign test, nor a t of rounding."""
    found = paired(0.3, np.full(20, 0.1 + 0.2), 1.0)
    assert found.estimate == 0.3
    assert np.isnan([found.low, found.high, found.p]).all()
    assert not found.excludes_zero
    with pytest.raises(ValueError, match="a scale of at least 0"):
        paired(0.3, np.ones(3), -1.0)
    with pytest.raises(ValueError, match="at least 2 images"):
        paired(0.3, np.ones(1), 1.0)


def test_effective_number_of_images():
    assert effective_images(np.full(7, 1e-200)) == pytest.approx(7)
    assert effective_images(np.array([1.0, 1e-9, 1e-9, 1e-9])) == pytest.approx(1)
    assert effective_images(np.array([3.0, 1.0, -1.0])) == pytest.approx(16 / 10)
    assert effective_images(np.array([0.0, -1.0])) == 0


def test_constants_are_no_part_of_a_family():
    rng = np.random.default_rng(3)
    tests = [paired(x.mean(), x, 1.0) for x in rng.normal(0.8, 1, size=(3, 10))]
    none = paired(0.0, np.zeros(10), 1.0)
    same = paired(0.5, np.full(10, 0.5), 1.0)
    found = family([none, *tests, same])
    np.testing.assert_array_equal(found[1:4], holm([test.p for test in tests]))
    assert found[0] == 1
    assert np.isnan(found[4])


def test_the_interval_of_a_positive_number_is_plain_near_0_and_logarithmic_far_from_it():
    t = stats.t.ppf(0.975, 9)
    # far from 0: log x +- t se / x
    found = positive_interval(1.0, 0.001, 9)
    assert found == pytest.approx((np.exp(-t * 0.001), np.exp(t * 0.001)), rel=1e-5)
    # in between, by the formula
    for x, se in ((1.0, 0.3), (2.0, 1.0)):
        h, slope = np.arcsinh(x / (2 * se)), 1 / np.hypot(x, 2 * se)
        ends = [2 * se * np.sinh(h + sign * t * se * slope) for sign in (-1, 1)]
        assert positive_interval(x, se, 9) == pytest.approx((max(ends[0], 0), ends[1]))
    # around 0: x +- t se to first order, cut at 0
    low, high = positive_interval(0.0, 1.0, 9)
    assert low == 0
    assert high == pytest.approx(2 * np.sinh(t / 2))
    assert positive_interval(-3.0, 1.0, 9) == (0, pytest.approx(high))


def test_the_interval_of_a_positive_number_holds_it_and_follows_its_unit():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, se, df = rng.normal(), rng.gamma(1), rng.uniform(0.5, 60)
        low, high = positive_interval(x, se, df)
        assert 0 <= low <= max(x, 0) <= high
        assert positive_interval(7 * x, 7 * se, df) == pytest.approx((7 * low, 7 * high))
        wider = positive_interval(x, se, df, 0.99)
        assert wider[0] <= low
        assert wider[1] >= high


def test_intervals_of_positive_numbers_without_an_error_or_degrees_of_freedom():
    assert positive_interval(2.0, 0.0, 9) == (2, 2)
    assert positive_interval(-2.0, 0.0, 9) == (0, 0)
    assert positive_interval(2.0, 0.5, 0) == (0, np.inf)
    assert positive_interval(2.0, 0.0, 0) == (0, np.inf)
    assert positive_interval(2.0, np.nan, -1) == (0, np.inf)
    assert positive_interval(2.0, 0.5, 1e-9) == (0, np.inf)
    assert np.isnan(positive_interval(np.nan, 0.5, 9)).all()
    assert np.isnan(positive_interval(2.0, np.nan, 9)).all()


def test_intervals_of_means_of_squares_cover():
    """1,000 means of 30 squares of normal numbers, whose errors grow with them."""
    x = np.random.default_rng(4).normal(size=(1000, 30)) ** 2
    hits = 0
    for row in x:
        low, high = positive_interval(row.mean(), row.std(ddof=1) / np.sqrt(30), 29)
        hits += low <= 1 <= high
    # from 92 to 97 %; a true coverage at a limit fails with a chance of 1 in 10,000
    assert stats.binom.ppf(1e-4, 1000, 0.92) <= hits <= stats.binom.ppf(1 - 1e-4, 1000, 0.97)


def test_a_paired_difference_with_fewer_degrees_of_freedom():
    x = np.random.default_rng(0).normal(0.5, 1, size=12)
    se = x.std(ddof=1) / np.sqrt(12)
    got = paired(x.mean(), x, 1.0, df=3.7)
    assert got.p == pytest.approx(2 * stats.t.sf(x.mean() / se, 3.7))
    half = stats.t.ppf(0.975, 3.7) * se
    assert (got.low, got.high) == pytest.approx((x.mean() - half, x.mean() + half))
    none = paired(x.mean(), x, 1.0, df=0.0)
    assert (none.p, none.low, none.high) == (1, -np.inf, np.inf)


def test_a_paired_difference_with_a_bracket():
    x = np.random.default_rng(0).normal(0.5, 1, size=12)
    se, t = x.std(ddof=1) / np.sqrt(12), stats.t.ppf(0.975, 11)
    for low, high, nearest in ((0.4, 2.0, 0.4), (-2.0, -0.7, 0.7), (-0.1, 2.0, 0.0)):
        got = paired((low + high) / 2, x, 1.0, bracket=(low, high))
        assert (got.low, got.high) == pytest.approx((low - t * se, high + t * se))
        assert got.p == pytest.approx(2 * stats.t.sf(nearest / se, 11))
        assert got.excludes_zero == (got.p < 0.05)
    assert paired(0.9, x, 1.0, bracket=(-0.1, 2.0)).p == 1
