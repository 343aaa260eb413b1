import numpy as np
import pytest
from scipy import stats

from interactions.stats import (
    correlation,
    degrees_of_freedom,
    effective_images,
    family,
    holm,
    mean,
    mean_difference,
    paired,
    percentiles,
    positive_interval,
    share,
    share_difference,
    sum_of_gaps,
    t_interval,
    two_level,
)


def misses(probability, trials):
    """How many trials may miss, each with this probability, but for 1 in 10,000."""
    return stats.binom.isf(1e-4, trials, probability)


def test_t_interval_is_scipys():
    x = np.random.default_rng(0).normal(size=12)
    got = t_interval(x.mean(), x)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert str(got).startswith(f"{x.mean():.3g} [")
    with pytest.raises(ValueError, match="at least 2 images"):
        t_interval(1.0, np.array([1.0]))


def test_a_constant_has_no_t_interval():
    for x in (np.full(20, 0.3), np.zeros(20)):
        found = mean(x)
        assert (found.estimate, found.se) == (pytest.approx(x[0]), 0)
        assert np.isnan([found.low, found.high]).all()
    noisy = 0.3 + 1e-9 * np.arange(20)
    assert np.isnan(mean(noisy).low)
    assert np.isnan(t_interval(1.0, noisy - 0.3, scale=1.0).low)
    assert t_interval(1.0, noisy - 0.3).se > 0


def test_means_end_where_values_do():
    x = np.array([0.0, 0, 0, 0, 1])
    plain, cut = mean(x), mean(x, low=0, high=1)
    assert plain.low < cut.low == 0
    assert plain.high == cut.high
    assert mean_difference(x, np.zeros(5), bound=0.3).high == 0.3


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


def test_one_image_that_is_all_of_it_has_no_interval():
    """Four images, three with nothing: once J = 1.459 [1.459, 1.459]."""
    sizes = np.array([1, 1e-9, 1e-9, 1e-9])
    x = sizes[:, None] * np.array([[2.0, 1], [1, 1], [1, 3], [1, 1]])
    mean = x.mean(axis=0)
    J = mean / mean.mean()
    influence = (x[:, 0] - J[0] * x.mean(axis=1)) / mean.mean()
    alone = effective_images(x.mean(axis=1))
    assert np.isnan(t_interval(J[0], influence, effective=alone).low)
    assert np.isnan(paired(J[0] - 1, influence, 1.0, effective=alone).p)
    # images that weigh the same are as many as there are
    y = np.random.default_rng(0).normal(size=9)
    assert t_interval(y.mean(), y, effective=9.0) == t_interval(y.mean(), y)
    assert paired(y.mean(), y, 1.0, effective=9.0) == paired(y.mean(), y, 1.0)


@pytest.mark.parametrize("sigma", [1, 3])
def test_ratios_of_skewed_sums_cover(sigma):
    """10 images whose sizes are log-normal: the share of one of five orders in their sum."""
    rng = np.random.default_rng(9)
    profile = np.array([1, 2, 4, 2, 1])
    missed = plain = counted = 0
    for _ in range(1000):
        noise = np.exp(0.5 * rng.normal(size=(10, 5)) - 0.125)
        x = np.exp(sigma * rng.normal(size=(10, 1))) * profile * noise
        mean = x.mean(axis=0)
        J = mean[2] / mean.mean()
        influence = (x[:, 2] - J * x.mean(axis=1)) / mean.mean()
        images = effective_images(x.mean(axis=1))
        found = t_interval(J, influence, effective=images)
        if images < 1.5:
            assert np.isnan(found.low)
            continue
        counted += 1
        missed += not found.low <= 2 <= found.high
        all_images = t_interval(J, influence)
        plain += not all_images.low <= 2 <= all_images.high
    assert missed <= misses(0.07, counted)
    assert plain > 1.5 * missed


def test_constants_are_no_part_of_a_family():
    rng = np.random.default_rng(3)
    tests = [paired(x.mean(), x, 1.0) for x in rng.normal(0.8, 1, size=(3, 10))]
    none = paired(0.0, np.zeros(10), 1.0)
    same = paired(0.5, np.full(10, 0.5), 1.0)
    found = family([none, *tests, same])
    np.testing.assert_array_equal(found[1:4], holm([test.p for test in tests]))
    assert found[0] == 1
    assert np.isnan(found[4])


# --------------------------------------------------------------------------------------------------
# shares


@pytest.mark.parametrize(("right", "count"), [(0, 20), (20, 20), (7, 20), (1, 3), (350, 1000)])
def test_the_share_of_flags_is_wilsons(right, count):
    found = share(np.arange(count) < right)
    wilson = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
    assert found.estimate == right / count
    assert found.low < found.high


def test_shares_of_several_flags():
    """Repeats that agree are one flag; images that agree by chance are not certain."""
    flags = np.repeat(np.arange(20) < 7, 3).reshape(20, 3)
    assert share(flags.mean(axis=1)) == share(flags[:, 0])
    rng = np.random.default_rng(0)
    x = rng.binomial(3, 0.4, 400) / 3
    expected = t_interval(x.mean(), x)  # of many images, none near the bounds
    assert (share(x).low, share(x).high) == pytest.approx((expected.low, expected.high), abs=2e-3)
    same = share(np.full(20, 0.5))
    assert 0 < same.low < 0.47 < 0.53 < same.high < 1
    assert np.isnan(share([0.5, np.nan]).low)
    with pytest.raises(ValueError, match=r"values in \[0, 1\], got 0 to 70"):
        share([0, 70])
    with pytest.raises(ValueError, match="at least 1 image"):
        share([])


@pytest.mark.parametrize("count", [20, 60])
@pytest.mark.parametrize(("a", "b"), [(2, 2), (9, 1)])
def test_shares_cover(count, a, b):
    """Three flags per image, which differ in how hard they are: 95 % miss 1 in 20.

    In 20,000 samples of each the coverage is 0.946 to 0.950; t intervals of (9, 1) cover 0.926.
    """
    rng = np.random.default_rng(1)
    samples = rng.binomial(3, rng.beta(a, b, (500, count))) / 3
    found = [share(x) for x in samples]
    assert sum(not i.low <= a / (a + b) <= i.high for i in found) <= misses(0.055, 500)


def flags(both, first, second, neither):
    """Two flags of paired images, from how many have which."""
    counts = (both, first, second, neither)
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


def test_paired_shares_with_the_likelihood_maximised_by_a_grid():
    """The score (x - y - I d) / sqrt(I (2 q + d (1 - d))) with q from its likelihood."""
    from interactions.stats import CORRECTION, _tango

    q = np.linspace(0, 1, 200_001)
    for x, y, count, d in ((9, 2, 40, 0.1), (0, 5, 12, 0.2), (3, 0, 30, -0.05), (1, 1, 10, 0.5)):
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = [(x, q + d), (y, q), (count - x - y, 1 - 2 * q - d)]
            logs = sum(
                np.where(k > 0, k * np.log(p), np.where(p >= 0, 0, np.nan)) for k, p in parts
            )
        best = q[np.nanargmax(logs)]
        off = max(abs(x - y - count * d) - CORRECTION, 0)
        expected = off / np.sqrt(count * (2 * best + d * (1 - d)))
        assert _tango(x, y, count, d) == pytest.approx(expected, rel=1e-3)


def test_the_score_interval_is_that_of_a_reference(monkeypatch):
    """Without a correction it is Tango's, as the R package contingencytables has it."""
    from interactions import stats as module

    monkeypatch.setattr(module, "CORRECTION", 0)
    found = share_difference(*flags(59, 6, 16, 80))
    # printed by Tango_asymptotic_score_CI_paired_2x2(cavo_2012)
    assert found.estimate == pytest.approx(-0.0621, abs=5e-5)
    assert (found.low, found.high) == pytest.approx((-0.1240, -0.0054), abs=6e-5)


def test_p_of_paired_shares_is_mcnemars():
    found = share_difference(*flags(10, 40, 20, 30))
    assert found.p == pytest.approx(2 * stats.norm.sf(19.5 / np.sqrt(60)))
    assert found.estimate == 0.2
    assert found.se == pytest.approx(np.sqrt((0.6 - 0.04) / 99))
    none = share_difference(*flags(20, 0, 0, 30))
    assert (none.estimate, none.p) == (0, 1)
    assert none.low == -none.high < 0
    all_of_them = share_difference(*flags(0, 30, 0, 0))
    assert all_of_them.high == all_of_them.estimate == 1
    assert all_of_them.p < 1e-6
    # of 3 images, two only right in one: once "+66.7 points [+13.1, +90.3], p = 0.12" in one row
    few = share_difference(*flags(1, 2, 0, 0))
    assert few.low < 0
    assert few.p > 0.05
    with pytest.raises(ValueError, match="paired values of at least 2 images"):
        share_difference([1, 0], [1])


@pytest.mark.parametrize("count", [5, 10, 20, 50])
def test_paired_shares_cover_and_agree(count):
    """By enumeration: all tables of a number of images, whatever shares are discordant."""
    tables = [(x, y) for x in range(count + 1) for y in range(count + 1 - x)]
    if count == 50:  # few of both are what a table of 50 images mostly has
        tables = [(x, y) for x, y in tables if x + y <= 22]
    found = [share_difference(*flags(count - x - y, x, y, 0)) for x, y in tables]
    off = np.array([test.excludes_zero for test in found])
    assert (off == [test.p < 0.05 for test in found]).all()
    low, high = (np.array([getattr(test, end) for test in found]) for end in ("low", "high"))
    rest = [count - x - y for x, y in tables]
    every = np.column_stack([tables, rest])
    shares = (0, 0.02, 0.1, 0.2) if count == 50 else (0, 0.05, 0.2, 0.4, 0.6)
    for first in shares:
        for second in shares:
            if first + second > 1:
                continue
            chance = stats.multinomial.pmf(every, count, [first, second, 1 - first - second])
            d = first - second
            covered = chance[(low <= d + 1e-9) & (d - 1e-9 <= high)].sum()
            assert covered >= 0.95 * chance.sum()
            if d == 0:
                assert chance[off].sum() <= 0.05


# --------------------------------------------------------------------------------------------------
# means, ratios, sums of gaps, correlations


@pytest.mark.parametrize("count", [20, 60])
def test_false_positives_of_paired_means(count):
    """Differences of skewed values, whose mean is the same."""
    rng = np.random.default_rng(5)
    a, b = rng.gamma(0.5, 1, (2, 1000, count))
    p = np.array([mean_difference(x, y).p for x, y in zip(a, b, strict=True)])
    assert (p < 0.05).sum() <= misses(0.05, 1000)
    assert (p < 0.05).sum() >= 20


@pytest.mark.parametrize("off", [0, 0.05, 0.2])
@pytest.mark.parametrize("count", [20, 60])
def test_calibration_errors_cover(count, off):
    """15 bins of confidence, of a model that is calibrated or too confident by 0.05 or 0.2."""
    rng = np.random.default_rng(6)
    missed = 0
    for _ in range(400):
        confidence = rng.uniform(0.25, 1, count)
        gap = confidence - (rng.random(count) < confidence - off)
        parts = np.where(np.ceil(confidence * 15)[:, None] == np.arange(1, 16), gap[:, None], 0)
        found = sum_of_gaps(parts)
        assert found.low <= found.estimate <= found.high
        missed += not found.low <= off <= found.high
    # 0.05 of the bounds; normal tails of bins of one or two images are too light
    assert missed <= misses(0.06, 400)


def test_sums_of_gaps_by_hand():
    """One bin far from 0 has no bias: the t interval of its mean; an empty bin is nothing."""
    rng = np.random.default_rng(7)
    x = rng.normal(-3, 0.1, 30)
    found, expected = sum_of_gaps(np.column_stack([x, 0 * x])), t_interval(x.mean(), x)
    assert found.estimate == pytest.approx(-expected.estimate)
    assert (found.low, found.high) == pytest.approx((-expected.high, -expected.low))
    # at 0 the mean of |noise| is sqrt(2 / pi) of its error
    x = x - x.mean()
    found, expected = sum_of_gaps(np.column_stack([x + 10, x])), t_interval(10.0, 2 * x)
    bias = np.sqrt(2 / np.pi) * x.std(ddof=1) / np.sqrt(30)
    assert found.low == pytest.approx(expected.low - bias)
    assert found.high == pytest.approx(expected.high)


def test_correlations_stay_below_one():
    influence = np.array([0.01, -0.01, 0.02, -0.02])
    found = correlation(0.99, influence)
    plain = t_interval(0.99, influence)
    assert found.se == plain.se
    assert plain.high > 1 > found.high > 0.99 > found.low
    middle = correlation(0.0, influence / 100)
    assert middle.high == pytest.approx(t_interval(0.0, influence / 100).high, rel=1e-4)
    for alone in (correlation(0.5, influence[:1]), correlation(1.0, 0 * influence)):
        assert np.isnan([alone.low, alone.high]).all()
    assert np.isnan(correlation(0.5, influence, units=1.03).low)
    # samples of 30 pairs of a bivariate normal with r = 0.9, in 5 batches
    rng, missed = np.random.default_rng(8), 0
    for x, noise in rng.normal(size=(400, 2, 5, 30)):
        y = 0.9 * x + np.sqrt(1 - 0.81) * noise
        xy, xx, yy = (np.mean(a * b, axis=1) for a, b in ((x, y), (x, x), (y, y)))
        r = xy.mean() / np.sqrt(xx.mean() * yy.mean())
        influence = xy / np.sqrt(xx.mean() * yy.mean()) - r / 2 * (xx / xx.mean() + yy / yy.mean())
        interval = correlation(r, influence)
        missed += not interval.low <= 0.9 <= interval.high
    assert missed <= misses(0.06, 400)


def test_percentiles_hold_the_estimate():
    drawn = np.arange(1, 101.0)
    assert percentiles(50.0, drawn).low == 3
    assert percentiles(50.0, drawn).high == 98
    assert percentiles(0.5, drawn).low == 0.5
    assert percentiles(200.0, drawn).high == 200
    infinite = percentiles(50.0, np.append(drawn, np.inf))
    assert np.isnan(infinite.se)
    assert infinite.high == 99
    assert np.isnan(percentiles(50.0, np.append(drawn, np.nan)).low)


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


def test_a_paired_difference_with_a_bracket():
    x = np.random.default_rng(0).normal(0.5, 1, size=12)
    se, t = x.std(ddof=1) / np.sqrt(12), stats.t.ppf(0.975, 11)
    for low, high, nearest in ((0.4, 2.0, 0.4), (-2.0, -0.7, 0.7), (-0.1, 2.0, 0.0)):
        got = paired((low + high) / 2, x, 1.0, bracket=(low, high))
        assert (got.low, got.high) == pytest.approx((low - t * se, high + t * se))
        assert got.p == pytest.approx(2 * stats.t.sf(nearest / se, 11))
        assert got.excludes_zero == (got.p < 0.05)
    assert paired(0.9, x, 1.0, bracket=(-0.1, 2.0)).p == 1


def test_long_tails_leave_fewer_degrees_of_freedom():
    """Normal numbers have about as many as without their kurtosis, and a spike has next to none."""
    x = np.random.default_rng(0).normal(size=100_000)
    assert degrees_of_freedom(x, np.inf) == pytest.approx(99_999, rel=0.02)
    spike = np.append(np.zeros(99), 1.0)
    p = 0.01  # kurtosis of a flag: (1 - 3 p (1 - p)) / (p (1 - p))
    excess = (1 - 3 * p * (1 - p)) / (p * (1 - p)) - 3
    assert degrees_of_freedom(spike, np.inf) == pytest.approx(2 / (excess / 100 + 2 / 99))
    assert degrees_of_freedom(x, 7.0) == 7
    assert degrees_of_freedom(np.ones(5), 4.0) == 4


def test_no_difference_is_none_of_however_few_effective_images():
    same = paired(0.0, np.zeros(2), 1.0, effective=1.1)
    assert (same.estimate, same.se, same.p) == (0, 0, 1)
    assert np.isnan(paired(0.5, np.array([-0.1, 0.1]), 1.0, effective=1.1).p)


def crossed(rng, seeds, images, seed_sd, image_sd, noise_sd):
    """Values of an arm: its seeds, its images, and both."""
    return (
        seed_sd * rng.normal(size=(seeds, 1))
        + image_sd * rng.normal(size=(1, images))
        + noise_sd * rng.normal(size=(seeds, images))
    )


def check_coverage(found, share):
    """95 % intervals of 0 cover 0.93 to 0.97, or more where seeds are less than half; p agrees."""
    trials, covered = len(found), sum(one.low <= 0 <= one.high for one in found)
    assert trials - covered <= misses(0.07, trials)
    if share >= 0.5:
        assert covered <= trials - stats.binom.ppf(1e-4, trials, 0.03)
    assert sum(one.p < 0.05 for one in found) == trials - covered


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("images", [50, 200])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_two_level_intervals_cover(seeds, images, share):
    """Of the squared error of a difference, seeds are a share; noise is a third of the rest."""
    rng, trials = np.random.default_rng(0), 600
    sds = (share * seeds / 2, (1 - share) * images / 3, (1 - share) * images * seeds / 6)
    found = []
    for _ in range(trials):
        a, b = (crossed(rng, seeds, images, *np.sqrt(sds)) for _ in range(2))
        found.append(two_level(a, b))
    check_coverage(found, share)


def test_two_level_of_one_arm_covers_its_mean():
    rng, trials = np.random.default_rng(1), 600
    found = [two_level(crossed(rng, 3, 50, 0.1, 1, 0.3)) for _ in range(trials)]
    assert trials - sum(one.low <= 0 <= one.high for one in found) <= misses(0.07, trials)


def test_two_level_without_seeds_is_the_paired_interval_over_images():
    """Where seeds agree, images alone are uncertain."""
    a, b = np.random.default_rng(0).exponential(size=(2, 1, 30)).repeat(3, axis=1)
    expected, got = mean_difference(a[0], b[0]), two_level(a, b)
    assert got.estimate == pytest.approx(expected.estimate)
    assert got.se == pytest.approx(expected.se)
    assert got.image_df == pytest.approx(degrees_of_freedom(a[0] - b[0], 29))
    assert got.df == pytest.approx(got.image_df)
    assert got.df < 29  # long tails
    ends = stats.t(got.df, expected.estimate, expected.se).interval(0.95)
    assert (got.low, got.high) == pytest.approx(ends)


def test_two_level_without_images_is_welchs_interval_over_seeds():
    """Where images agree, it is the difference of two samples of seeds."""
    a, b = np.random.default_rng(0).normal(size=(2, 4, 1)).repeat(20, axis=2)
    expected, got = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False), two_level(a, b)
    assert got.p == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_two_level_of_one_seed_has_no_interval():
    found = two_level(np.ones((1, 5)), np.zeros((3, 5)))
    assert found.estimate == 1
    assert np.isnan([found.low, found.high, found.p]).all()


@pytest.mark.parametrize("images", [50, 200])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_two_level_of_one_training_covers_where_trainings_vary_alike(images, share):
    """One training against three, with four further arms of three; shares as above."""
    rng, trials = np.random.default_rng(0), 600
    sds = (share * 3 / 4, (1 - share) * images / 3, (1 - share) * images / 4)
    found = []
    for _ in range(trials):
        a, b, *others = (crossed(rng, seeds, images, *np.sqrt(sds)) for seeds in (1, 3, 3, 3, 3, 3))
        found.append(two_level(a, b, alike=others))
    check_coverage(found, share)


def test_two_level_of_arms_that_vary_alike_is_students_interval_over_seeds():
    """Where images agree; an arm of one training has no spread of its own to give."""
    a, b = np.random.default_rng(0).normal(size=(2, 4, 1)).repeat(20, axis=2)
    expected = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=True)
    got = two_level(a, b, alike=[np.zeros((1, 20))])
    assert got.p == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval()))
    alone = two_level(a[:1], b[:1], alike=[a[1:2]])
    assert np.isnan([alone.low, alone.high, alone.p]).all()


def test_two_level_is_cut_at_bounds_and_refuses_other_images():
    rng = np.random.default_rng(0)
    found = two_level(rng.integers(0, 2, (3, 6)), rng.integers(0, 2, (3, 6)), low=-1, high=1)
    assert -1 <= found.low <= found.high <= 1
    with pytest.raises(ValueError, match="same"):
        two_level(np.ones((3, 6)), np.ones((3, 5)))
    with pytest.raises(ValueError, match="same"):
        two_level(np.ones((3, 6)), np.ones((1, 6)), alike=[np.ones((3, 5))])
    with pytest.raises(ValueError, match="seeds, images"):
        two_level(np.ones(6))
