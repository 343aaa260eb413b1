from dataclasses import replace
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import stats

import interactions as ix
from interactions.stats import Interval, holm
from interactions.strength import (
    ESTIMATORS,
    Strength,
    _tested,
    along,
    cross_sign,
    jackknife,
    mean_square,
    plug_in,
    strength,
    two_level,
)

mpl.use("agg")  # no window


def noisy_records(images, pairs, replicates, noise, seed, per_replicate=1):
    """Records whose true interactions are known: Laplace values plus Gaussian context noise."""
    rng = np.random.default_rng(seed)
    truth = rng.laplace(size=(images, pairs, 1, 3))
    contexts = rng.normal(size=(images, pairs, replicates, per_replicate, 3)) * noise
    draws = truth + contexts.mean(axis=3)
    records = [
        ix.Interactions(
            image=str(k),
            n=10,
            pairs_P2=np.zeros((pairs, 2), dtype=np.int64),
            orders_O=np.array([0, 4, 8]),
            replicates_PRO=x,
            per_replicate=per_replicate,
            forwards=1,
        )
        for k, x in enumerate(draws)
    ]
    return records, np.abs(truth).mean(axis=(0, 1, 2))


def test_plug_in_by_loops():
    x = np.random.default_rng(0).normal(size=(5, 4))
    assert plug_in(x) == pytest.approx(np.mean([abs(np.mean(x[p])) for p in range(5)]))


def test_jackknife_by_hand():
    """One pair, two replicates 3 and -1: f = 1, h = (3 + 1) / 2 = 2, so 2 f - h = 0."""
    x = np.array([[3.0, -1.0]])
    assert jackknife(x) == 0
    assert cross_sign(x) == -2  # 3 sign(-1) = -3 and -1 sign(3) = -1
    same = np.full((4, 4), -1.5)
    for estimate in (plug_in, jackknife, two_level, cross_sign):
        assert estimate(same) == pytest.approx(1.5)
    assert mean_square(same) == pytest.approx(2.25)


@pytest.mark.parametrize(
    ("estimate", "R", "message"),
    [
        (jackknife, 3, "divisible by 2 for the jackknife, got 3"),
        (cross_sign, 1, "divisible by 2 for the cross-sign estimate, got 1"),
        (two_level, 6, "divisible by 4 for the two-level jackknife, got 6"),
        (mean_square, 1, "at least 2 replicates for the RMS strength, got 1"),
    ],
)
def test_replicates_that_cannot_be_split(estimate, R, message):
    with pytest.raises(ValueError, match=message):
        estimate(np.zeros((2, R)))


def test_two_level_by_loops():
    x = np.random.default_rng(0).normal(size=(3, 4))
    f = {k: np.mean([plug_in(x[:, list(s)]) for s in combinations(range(4), k)]) for k in (4, 2, 1)}
    assert two_level(x) == pytest.approx(8 / 3 * f[4] - 2 * f[2] + f[1] / 3)


def test_estimators_are_in_the_expected_order_and_the_square_is_unbiased():
    """cross-sign < truth < jackknife < plug-in; two-level nearest; RMS without bias."""
    records, truth = noisy_records(images=400, pairs=50, replicates=8, noise=[0, 2, 3], seed=2)
    S = {name: strength(records, name).S for name in ESTIMATORS}
    for o in (1, 2):
        assert S["cross_sign"][o] < truth[o] < S["jackknife"][o] < S["plug_in"][o]
        assert abs(S["two_level"][o] - truth[o]) < abs(S["jackknife"][o] - truth[o])
    for name in ("jackknife", "plug_in", "two_level", "cross_sign"):
        assert S[name][0] == pytest.approx(truth[0])
    # E I^2 of a Laplace variable of scale 1 is 2
    np.testing.assert_allclose(S["rms"], np.sqrt(2), rtol=0.03)


def test_many_replicates_use_cyclic_halves():
    x = np.random.default_rng(0).normal(size=(3, 10))
    halves = [plug_in(x[:, [(s + k) % 10 for k in range(5)]]) for s in range(10)]
    assert jackknife(x) == pytest.approx(2 * plug_in(x) - np.mean(halves))


def test_jackknife_removes_most_of_the_bias():
    """Context noise as large as the interactions, K = 8: the plug-in is percents too high."""
    records, truth = noisy_records(images=400, pairs=50, replicates=8, noise=[0, 1, 2], seed=0)
    biased = strength(records, "plug_in").S / truth - 1
    corrected = strength(records).S / truth - 1
    assert biased[0] == pytest.approx(0, abs=1e-12)
    assert biased[1] > 0.02
    assert biased[2] > 0.10
    # folded-normal average over the Laplace density, to check the bias itself
    x = np.linspace(-30, 30, 60001)

    def expected_bias(sd):
        folded = sd * np.sqrt(2 / np.pi) * np.exp(-(x**2) / (2 * sd**2)) + x * (
            1 - 2 * stats.norm.cdf(-x / sd)
        )
        return np.trapezoid(folded * 0.5 * np.exp(-np.abs(x)), x) - 1

    for o, noise in ((1, 1), (2, 2)):
        full, half = expected_bias(noise / np.sqrt(8)), expected_bias(noise / np.sqrt(4))
        # 20,000 pairs: the standard error of a relative mean is below 0.01
        assert biased[o] == pytest.approx(full, abs=0.02)
        assert corrected[o] == pytest.approx(2 * full - half, abs=0.02)
        assert abs(2 * full - half) < 0.4 * full


@pytest.mark.parametrize("per_replicate", [1, 2])
def test_rho_is_the_noise_of_one_context_over_the_signal(per_replicate):
    records, _ = noisy_records(300, 50, 4, [0, 1, 2], seed=1, per_replicate=per_replicate)
    expected = np.array([0, 1, 2]) / np.sqrt(2)  # RMS of a Laplace variable of scale 1
    np.testing.assert_allclose(strength(records).rho_O, expected, rtol=0.03, atol=1e-12)


def test_rho_needs_replicates():
    records, _ = noisy_records(2, 3, 1, [0, 1, 2], 0)
    assert np.isnan(strength(records, "plug_in").rho_O).all()


def example(images=30, seed=0, scale=(1, 2, 3)):
    rng = np.random.default_rng(seed)
    return Strength(
        images=tuple(map(str, range(images))),
        n=10,
        orders_O=np.array([0, 4, 8]),
        per_image_IO=rng.gamma(4, size=(images, 3)) * scale,
        rho_O=np.zeros(3),
    )


def test_J_has_mean_one_and_does_not_depend_on_the_scale():
    one = example()
    assert one.J.mean() == pytest.approx(1)
    ten = Strength(one.images, one.n, one.orders_O, 10 * one.per_image_IO, one.rho_O)
    np.testing.assert_allclose(ten.J, one.J)
    np.testing.assert_allclose(ten.J_se, one.J_se)
    np.testing.assert_allclose(one.ratios_O, [0, 0.5, 1])


def test_standard_error_against_leaving_images_out():
    """The delta method agrees with the jackknife over images, which knows nothing of it."""
    one = example(60)
    left_out = []
    for k in range(60):
        rest = np.delete(one.per_image_IO, k, axis=0).mean(axis=0)
        left_out.append(rest / rest.mean())
    left_out = np.array(left_out)
    se = np.sqrt(59 / 60 * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(one.J_se, se, rtol=0.05)
    np.testing.assert_allclose(one.influence_IO.sum(axis=0), 0, atol=1e-9)


def test_intervals_cover():
    """95 % intervals of J over 1,000 sets of 20 images: coverage within a binomial test."""
    truth = np.array([1, 2, 3]) / 2
    hits = np.array(
        [
            [i.low <= t <= i.high for i, t in zip(example(20, s).intervals(), truth, strict=True)]
            for s in range(1000)
        ]
    )
    for covered in hits.sum(axis=0):
        # delta-method intervals of 20 images cover 92-95 %; P(X < 903 | p = .92) is about 0.02
        assert 903 <= covered <= 965


def test_mean_over_orders_and_paired_difference():
    one, two = example(seed=0), example(seed=1, scale=(2, 2, 2))
    middle = one.mean_J(0.4, 0.6)
    assert middle.estimate == pytest.approx(one.J[1])
    assert middle.se == pytest.approx(one.J_se[1])
    assert one.mean_J(0, 1).estimate == pytest.approx(1)
    assert one.mean_J(0, 1).se == pytest.approx(0, abs=1e-12)
    difference = one.minus(two, 0, 0.5)
    assert difference.estimate == pytest.approx((one.J - two.J)[:2].mean())
    assert one.minus(one, 0, 0.5).se == 0
    with pytest.raises(ValueError, match="no measured order from 1 to 3"):
        one.mean_J(0.2, 0.4)
    with pytest.raises(ValueError, match="same images"):
        one.minus(example(31), 0, 1)


@pytest.mark.parametrize("n", [64, 196, 256])
def test_bounds_are_floored_like_orders(n):
    """0.1 of n-2 is the measured point 0.1, whose m/(n-2) is a little below 0.1."""
    orders = np.array(ix.orders_of(ix.PUBLISHED_RATIOS, n))
    one = Strength(("a", "b"), n, orders, np.ones((2, 13)) + np.eye(2, 13), np.zeros(13))
    assert one._inside(0.1, 0.5).tolist() == [False] * 2 + [True] * 5 + [False] * 6
    assert one._inside(0, 0.05).tolist() == [True] * 2 + [False] * 11


def test_without_interactions_J_is_not_a_number():
    games = [ix.toy.DividendGame(9, {frozenset({0}): 2.0}, image=name) for name in "ab"]
    assert np.isnan(ix.strength(ix.measure(games, ix.Design(ix.RandomPairs(3)))).J).all()


def test_pairing_uses_common_images():
    """Two models that differ by a constant factor per order on every image: no error is left."""
    one = example(seed=0)
    other = Strength(one.images, one.n, one.orders_O, one.per_image_IO * 1.7, one.rho_O)
    assert one.minus(other, 0, 0.5).se == pytest.approx(0, abs=1e-12)


def test_uniform_normalisation_is_the_trapezoid_rule():
    one = example()
    even = one.normalised("uniform")
    area = np.trapezoid(even.J, even.ratios_O)
    assert area == pytest.approx(1)
    assert pytest.approx(one.S) == even.S
    with pytest.raises(ValueError, match="one estimator and normalisation"):
        one.minus(even, 0, 1)


@pytest.mark.parametrize("normalise", ["ratios", "uniform"])
@pytest.mark.parametrize("root", [False, True])
def test_every_standard_error_against_leaving_images_out(normalise, root):
    one = replace(example(80), normalise=normalise, root=root)
    J = np.array(
        [
            replace(
                one, images=one.images[1:], per_image_IO=np.delete(one.per_image_IO, k, axis=0)
            ).J
            for k in range(80)
        ]
    )
    se = np.sqrt(79 / 80 * ((J - J.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(one.J_se, se, rtol=0.05)


def test_comparison_at_every_order():
    one, two = example(seed=0), example(seed=1, scale=(1, 2, 4))
    table = one.compare(two)
    np.testing.assert_allclose(table["difference"], one.J - two.J)
    for o, row in table.iterrows():
        u = one.influence_IO[:, o] - two.influence_IO[:, o]
        expected = stats.ttest_1samp(u + row["difference"], 0)
        assert row["p"] == pytest.approx(expected.pvalue)
        assert row["se"] == pytest.approx(u.std(ddof=1) / np.sqrt(30))
    assert (table["p_holm"] >= table["p"]).all()
    same = one.compare(one)
    assert (same["difference"] == 0).all()
    assert (same["p_holm"] == 1).all()


def test_a_difference_that_all_images_share_has_the_p_of_its_sign():
    differences = [Interval(0.5, 0.0, 0.5, 0.5), Interval(0.0, 0.0, 0.0, 0.0)]
    table = _tested({"order": [0, 1]}, differences, images=5)
    assert table["p"].tolist() == [2 * 0.5**5, 1]
    assert table["p_holm"].tolist() == [4 * 0.5**5, 1]


def test_frame():
    frame = example().to_frame()
    assert list(frame) == ["order", "ratio", "S", "J", "J_se", "J_low", "J_high", "rho"]
    assert isinstance(frame, pd.DataFrame)
    assert (frame["J_low"] < frame["J"]).all()


def test_unknown_names():
    records, _ = noisy_records(2, 3, 4, [0, 1, 2], 0)
    with pytest.raises(ValueError, match=r"estimator of jackknife, plug_in, .*, got 'bayes'"):
        strength(records, "bayes")
    with pytest.raises(ValueError, match="'ratios' or 'uniform', got 'area'"):
        strength(records, normalise="area")


def test_bad_records():
    with pytest.raises(ValueError, match="at least one measured image"):
        strength([])
    games = [ix.toy.SizeGame(6, float), ix.toy.SizeGame(7, float, image="seven")]
    records = ix.measure(games, ix.Design(ix.AllPairs(), ratios=(0.0, 0.5)))
    with pytest.raises(ValueError, match="seven has other orders than size game"):
        strength(records)


def vector_records(records, axes, seed=0):
    """Records of vectors: each number x of some records becomes x times one unit vector a pair."""
    rng = np.random.default_rng(seed)
    made = []
    for record in records:
        directions_PD = rng.normal(size=(len(record.pairs_P2), axes))
        directions_PD /= np.linalg.norm(directions_PD, axis=1, keepdims=True)
        vectors = record.replicates_PRO[..., None] * directions_PD[:, None, None]
        made.append(replace(record, replicates_PRO=vectors))
    return made


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_vectors_on_a_line_have_the_strength_of_numbers(estimator):
    records, _ = noisy_records(4, 6, 4, noise=1.0, seed=0)
    numbers, vectors = strength(records, estimator), strength(vector_records(records, 3), estimator)
    np.testing.assert_allclose(vectors.per_image_IO, numbers.per_image_IO, rtol=1e-12)
    np.testing.assert_allclose(vectors.rho_O, numbers.rho_O, rtol=1e-12)


def test_the_square_of_vectors_is_the_u_statistic():
    """Mean over ordered pairs of different replicates of their inner product, by loops."""
    x_PRD = np.random.default_rng(0).normal(size=(3, 5, 4))
    products = [x[r] @ x[s] for x in x_PRD for r in range(5) for s in range(5) if r != s]
    assert mean_square(x_PRD) == pytest.approx(np.mean(products))


def test_the_part_of_a_vector_along_another():
    a, b = np.array([[3.0, 4.0], [1.0, 1.0]]), np.array([[0.0, -2.0], [0.0, 0.0]])
    np.testing.assert_allclose(along(a, b), [-4, 0])
    np.testing.assert_allclose(along(np.array([3.0, 3, 3]), np.array([-1.0, 0, 2])), [-3, 0, 3])


def test_bands():
    records, _ = noisy_records(6, 8, 4, noise=0.5, seed=1)
    measured = strength(records)  # orders 0, 4 and 8 of n - 2 = 8
    bands = measured.bands(middle=(0.25, 0.5))
    assert bands["band"].tolist() == ["low", "middle", "high"]
    assert bands[["first", "last"]].to_numpy().tolist() == [[0, 0], [4, 4], [8, 8]]
    np.testing.assert_allclose(bands["J"], measured.J)
    for band, (low, high) in {0: (0, 0.1), 1: (0.4, 0.5), 2: (0.7, 1)}.items():
        expected = measured.mean_J(low, high)
        assert bands["low"][band] == pytest.approx(expected.low)
        assert bands["high"][band] == pytest.approx(expected.high)
    assert measured.bands(middle=(0, 1))["band"].tolist() == ["middle"]


def test_bands_of_two_models_are_compared_in_pairs():
    one, two = (strength(noisy_records(6, 8, 4, 0.5, seed)[0]) for seed in (1, 2))
    table = one.compare_bands(two, middle=(0.25, 0.5))
    assert table["band"].tolist() == ["low", "middle", "high"]
    expected = one.minus(two, 0.25, 0.5)
    assert table["difference"][1] == pytest.approx(expected.estimate)
    assert table["low"][1] == pytest.approx(expected.low)
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))


def test_it_shows_itself():
    measured = strength(noisy_records(4, 6, 4, 0.5, 0)[0])
    assert "4 images, 10 players" in measured._repr_html_()
    assert repr(measured).startswith("Interaction strength, 4 images, 10 players\n order")
    assert len(repr(measured).splitlines()) == 2 + 3
    assert measured._repr_html_().count("<tr") == 4
    ax = measured.plot(label="a")
    assert ax.get_ylim()[0] <= 0
    before = ax.get_ylim()[1]
    louder = replace(measured, per_image_IO=measured.per_image_IO * np.array([1, 1, 9.0]))
    assert louder.plot(ax, colour="black") is ax
    assert ax.get_ylim()[1] > before
    assert len(ax.get_lines()) == 4  # two curves and their lines at 1
    plt.close(ax.figure)
