from dataclasses import replace
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from scipy import stats

import interactions as ix
from experiments.bench.resampling import (
    energies,
    records_of,
    repeated,
    resnet20,
    simulated,
    strength_of,
)
from interactions.orders.estimator import orders_of
from interactions.orders.strength import (
    ESTIMATORS,
    Strength,
    along,
    cross_sign,
    jackknife,
    mean_square,
    plug_in,
    strength,
    two_level,
)
from interactions.stats import holm

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
            orders_O=np.array([0, 4, 6]),
            replicates_PRO=x,
            per_replicate=per_replicate,
            forwards=1,
        )
        for k, x in enumerate(draws)
    ]
    return records, np.abs(truth).mean(axis=(0, 1, 2))


def means(records, estimator):
    """What the estimator makes of each order, over images with as many pairs each."""
    x_PRO = np.concatenate([record.replicates_PRO for record in records])
    return np.array([ESTIMATORS[estimator](x_PRO[..., o]) for o in range(3)])


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
        (cross_sign, 1, "at least 2 replicates for the cross-sign estimate, got 1"),
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


def test_the_cross_sign_estimate_of_an_odd_number_by_loops():
    x = np.random.default_rng(0).normal(size=(4, 3))
    parts = [x[p, r] * np.sign(x[p].sum() - x[p, r]) for p in range(4) for r in range(3)]
    assert cross_sign(x) == pytest.approx(np.mean(parts))


def test_estimators_are_in_the_expected_order_and_the_square_is_unbiased():
    """cross-sign < truth < jackknife < plug-in; two-level nearest; RMS without bias."""
    records, truth = noisy_records(images=400, pairs=50, replicates=8, noise=[0, 2, 3], seed=2)
    S = {name: means(records, name) for name in ESTIMATORS}
    S["rms"] = np.sqrt(S["rms"])
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
    biased, corrected = (means(records, of) / truth - 1 for of in ("plug_in", "jackknife"))
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


def example(images=30, seed=0, scale=(1, 2, 3)):
    rng = np.random.default_rng(seed)
    return Strength(
        images=tuple(map(str, range(images))),
        n=10,
        orders_O=np.array([0, 4, 8]),
        per_image_IO=rng.gamma(4, size=(images, 3)) * scale,
        rho_O=np.zeros(3),
        rho_is_bound_O=np.zeros(3, dtype=bool),
    )


def test_J_has_mean_one_and_does_not_depend_on_the_scale():
    one = example()
    assert one.J.mean() == pytest.approx(1)
    ten = replace(one, per_image_IO=10 * one.per_image_IO)
    np.testing.assert_allclose(ten.J, one.J)
    np.testing.assert_allclose(ten.J_se, one.J_se)
    np.testing.assert_allclose(one.ratios_O, [0, 0.5, 1])


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
    orders = np.array(orders_of(ix.PUBLISHED_RATIOS, n))
    energies_IO = np.ones((2, 13)) + np.eye(2, 13)
    one = Strength(("a", "b"), n, orders, energies_IO, np.zeros(13), np.zeros(13, dtype=bool))
    assert one._inside(0.1, 0.5).tolist() == [False] * 2 + [True] * 5 + [False] * 6
    assert one._inside(0, 0.05).tolist() == [True] * 2 + [False] * 11


def test_uniform_normalisation_is_the_trapezoid_rule():
    one = example()
    even = one.normalised("uniform")
    area = np.trapezoid(even.J, even.ratios_O)
    assert area == pytest.approx(1)
    assert pytest.approx(one.S) == even.S
    with pytest.raises(ValueError, match="one estimator and normalisation"):
        one.minus(even, 0, 1)


def test_comparison_at_every_order():
    one, two = example(seed=0), example(seed=1, scale=(1, 2, 4))
    table = one.compare(two)
    np.testing.assert_allclose(table["difference"], one.J - two.J)
    for o, row in table.iterrows():
        u = one.influence_IO[:, o] - two.influence_IO[:, o]
        images = min(one.effective_images, two.effective_images)
        # what images that weigh differently leave of the variance
        se = u.std(ddof=1) / np.sqrt(30) * np.sqrt((1 - 1 / 30) / (1 - 1 / images))
        assert row["se"] == pytest.approx(se)
        expected = 2 * stats.t.sf(abs(row["difference"]) / se, images - 1)
        assert row["p"] == pytest.approx(expected)
    assert (table["p_holm"] >= table["p"]).all()
    same = one.compare(one)
    assert (same["difference"] == 0).all()
    assert (same["p_holm"] == 1).all()


def test_frame():
    frame = example().to_frame()
    plain = ["order", "ratio", "S", "J", "J_se", "J_low", "J_high", "rho", "rho_is_bound"]
    assert list(frame) == plain
    assert isinstance(frame, pd.DataFrame)
    assert (frame["J_low"] < frame["J"]).all()


def test_unknown_names():
    records, _ = noisy_records(2, 3, 4, [0, 1, 2], 0)
    with pytest.raises(ValueError, match=r"estimator of rms, plug_in, .*, got 'bayes'"):
        strength(records, "bayes")
    with pytest.raises(ValueError, match="'ratios' or 'uniform', got 'area'"):
        strength(records, normalise="area")
    with pytest.raises(ValueError, match="noise floor of at least 0, got -1"):
        strength(records, floor=-1.0)


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
    np.testing.assert_array_equal(vectors.rho_is_bound_O, numbers.rho_is_bound_O)


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
    measured = strength(records)  # orders 0, 4 and 6 of n - 2 = 8
    bands = measured.bands(middle=(0.25, 0.5))
    assert bands["band"].tolist() == ["low", "middle", "high"]
    assert bands[["first", "last"]].to_numpy().tolist() == [[0, 0], [4, 4], [6, 6]]
    np.testing.assert_allclose(bands["J"], measured.J)
    for band, (low, high) in {0: (0, 0.1), 1: (0.4, 0.5), 2: (0.7, 1)}.items():
        expected = measured.mean_J(low, high)
        assert bands["low"][band] == pytest.approx(expected.low)
        assert bands["high"][band] == pytest.approx(expected.high)
    assert measured.bands(middle=(0, 1))["band"].tolist() == ["middle"]


@pytest.mark.parametrize(
    ("n", "named"), [(3, ["low", "high"]), (4, ["low", "middle", "high"]), (2, ["low"])]
)
def test_the_lowest_order_is_low_of_few_players_too(n, named):
    orders = np.arange(n - 1)
    strength = ix.Strength(
        images=("a", "b"),
        n=n,
        orders_O=orders,
        per_image_IO=np.random.default_rng(0).uniform(1, 2, (2, n - 1)),
        rho_O=np.ones(n - 1),
        rho_is_bound_O=np.zeros(n - 1, dtype=bool),
    )
    bands = strength.bands()
    assert bands["band"].tolist() == named
    assert bands["first"].tolist() == bands["last"].tolist() == orders.tolist()


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
    assert repr(measured).startswith("Interaction strength (RMS), 4 images, 10 players\norder")
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


def test_a_single_image_shows_itself_without_intervals():
    one = strength(noisy_records(1, 6, 4, 0.5, 0)[0])
    assert len(repr(one).splitlines()) == 2 + 3
    assert "J_low" not in repr(one)
    assert "one image" in repr(one)
    table = one.to_frame()
    np.testing.assert_array_equal(table["J"], one.J)
    assert np.isnan(table[["J_se", "J_low", "J_high"]]).all(axis=None)
    bands = one.bands()
    first, last = bands.loc[0, ["first", "last"]]
    inside_O = (first <= one.orders_O) & (one.orders_O <= last)
    assert bands.loc[0, "J"] == pytest.approx(one.J[inside_O].mean())
    assert np.isnan(bands[["se", "low", "high"]]).all(axis=None)
    with pytest.raises(ValueError, match="at least 2 images for an interval, got 1"):
        one.compare(one)


@pytest.mark.parametrize("estimator", ["rms", "plug_in"])
def test_a_single_image_is_drawn_without_intervals(estimator):
    one = strength(noisy_records(1, 6, 4, 0.5, 0)[0], estimator)
    ax = one.plot()
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), one.J)
    (said,) = ax.texts
    assert "no interval" in said.get_text()
    one.plot(ax)
    assert len(ax.texts) == 1
    plt.close(ax.figure)


def test_energies_are_unbiased_whatever_the_noise():
    """The mean over 4,000 draws of 4 noisy contexts is I^2, within 4.5 standard errors."""
    rng = np.random.default_rng(3)
    true_P = np.array([0.0, 0.5, -2.0])
    noise = rng.standard_t(4, size=(4000, 3, 4)) * np.array([3.0, 1.0, 10.0])[:, None]
    found = np.array([[mean_square(x_R[None]) for x_R in x_PR] for x_PR in true_P[:, None] + noise])
    se_P = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - true_P**2) < 4.5 * se_P).all()


@pytest.mark.parametrize("normalise", ["ratios", "uniform"])
@pytest.mark.parametrize("estimator", ["rms", "plug_in"])
def test_errors_are_those_of_leaving_images_out(normalise, estimator):
    one = replace(example(20), normalise=normalise, estimator=estimator)
    J_IO = np.array(
        [
            replace(
                one, images=one.images[1:], per_image_IO=np.delete(one.per_image_IO, k, axis=0)
            ).J
            for k in range(20)
        ]
    )
    se_O = np.sqrt(19 / 20 * ((J_IO - J_IO.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(one.J_se, se_O, rtol=1e-10)
    np.testing.assert_allclose(one.influence_IO, 19 * (J_IO.mean(axis=0) - J_IO), atol=1e-12)


def test_an_order_without_signal_leaves_the_others_alone():
    """Its energy is estimated below 0: J is 0 in [0, something], and nothing else is lost."""
    one = example(40, scale=(1, 2, 3))
    zero = replace(one, per_image_IO=one.per_image_IO * [1, 0, 1])
    noise_I = np.random.default_rng(5).normal(size=40)
    noise_I = 0.1 * (noise_I - noise_I.mean()) - 0.002
    lost = replace(one, per_image_IO=one.per_image_IO * [1, 0, 1] + np.outer(noise_I, [0, 1, 0]))
    assert lost.J[1] == 0
    interval = lost.intervals()[1]
    assert interval.low == 0
    assert 0 < interval.high < 0.2  # mean energies of the others: 4 and 12; error of this: 0.016
    np.testing.assert_allclose(lost.J, zero.J)
    for o in (0, 2):
        # The order could have a strength the size of its noise, which J is divided by as well.
        assert zero.J_se[o] < lost.J_se[o] < 2 * zero.J_se[o]
        assert np.isfinite([lost.intervals()[o].low, lost.intervals()[o].high]).all()
    assert np.isfinite(lost.compare(one)[["difference", "se", "low", "high", "p"]]).all(axis=None)


def test_eight_contexts_of_very_noisy_networks_give_numbers():
    """The worst rho of the README three times over: every estimate and end is finite."""
    rng = np.random.default_rng(6)
    zeros = 0
    for _ in range(40):
        measured = strength(records_of(simulated(3.0).draw(rng, 10, 4, 4)))
        zeros += (measured.J == 0).sum()
        frame = measured.to_frame().drop(columns="rho")
        assert np.isfinite(frame.to_numpy(dtype=float)).all()
        assert (frame["J_low"] <= frame["J"]).all()
        assert (frame["J"] <= frame["J_high"] + 1e-12).all()
        assert (frame["J_high"] <= 13).all()
        bands = measured.bands()
        assert np.isfinite(bands[["J", "se", "low", "high"]].to_numpy()).all()
    assert zeros > 40  # it is about orders that are lost in their noise


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_network_against_itself_with_louder_outputs(estimator):
    """Outputs times 1.7, in float32: no difference is found at any order or band."""
    x = simulated(1.0).draw(np.random.default_rng(7), 20, 4, 4).astype(np.float32)
    one, two = (strength(records_of(y.astype(float)), estimator) for y in (x, x * np.float32(1.7)))
    for table in (one.compare(two), one.compare_bands(two)):
        assert (table["p"] == 1).all()
        assert (table["p_holm"] == 1).all()
        assert (table["difference"] == 0).all()


@pytest.mark.parametrize("estimator", ["rms", "plug_in"])
def test_one_image_that_is_all_of_the_strength_says_nothing(estimator):
    energy_IO = np.random.default_rng(8).gamma(2, size=(4, 13))
    energy_IO[1:] *= 1e-9
    orders_O = np.array(orders_of(ix.PUBLISHED_RATIOS, 64))
    bracket = None if estimator == "rms" else np.stack([energy_IO, energy_IO])
    one = Strength(
        tuple("abcd"),
        64,
        orders_O,
        energy_IO,
        np.zeros(13),
        np.zeros(13, dtype=bool),
        estimator=estimator,
        bracket_2IO=bracket,
    )
    assert one.effective_images == pytest.approx(1)
    for interval in one.intervals():
        assert (interval.low, interval.high) == (0, pytest.approx(13))
    other = replace(one, per_image_IO=energy_IO[:, ::-1])
    assert not (one.compare(other)["p"] < 0.9).any()
    # Where all images have one and the same profile there is no spread either.
    same = replace(one, per_image_IO=np.outer([1, 0, 0, 0], energy_IO[0]), bracket_2IO=bracket)
    assert all((i.low, i.high) == (0, pytest.approx(13)) for i in same.intervals())


def test_without_interactions_J_is_not_a_number():
    games = [ix.toy.DividendGame(9, {frozenset({0}): 2.0}, image=name) for name in "ab"]
    none = ix.strength(ix.measure(games, ix.Design(ix.RandomPairs(3))))
    assert np.isnan(none.J).all()
    assert np.isnan([(i.low, i.high) for i in none.intervals()]).all()
    assert np.isnan(none.compare(none)[["difference", "low", "high", "p"]]).all(axis=None)
    assert np.isnan(none.bands()["J"]).all()
    assert "nan" in repr(none)


@pytest.mark.parametrize("per_replicate", [1, 2])
def test_rho_is_the_noise_of_one_context_over_the_signal(per_replicate):
    records, _ = noisy_records(300, 50, 4, [0, 1, 2], seed=1, per_replicate=per_replicate)
    measured = strength(records)
    expected = np.array([0, 1, 2]) / np.sqrt(2)  # RMS of a Laplace variable of scale 1
    np.testing.assert_allclose(measured.rho_O, expected, rtol=0.03, atol=1e-12)
    assert not measured.rho_is_bound_O.any()
    assert measured.rho_said() == [f"{rho:.2f}" for rho in measured.rho_O]


def test_rho_where_noise_hides_the_signal_is_a_lower_bound():
    """True rho is 6 / sqrt(2) = 4.2, and half of the measurements can only bound it."""
    true, wrong, bounds = 6 / np.sqrt(2), 0, 0
    for seed in range(200):
        measured = strength(noisy_records(20, 6, 4, [0, 0.5, 6], seed)[0])
        assert not measured.rho_is_bound_O[:2].any()
        if measured.rho_is_bound_O[2]:
            bounds += 1
            wrong += measured.rho_O[2] > true
            assert measured.rho_said()[2] == f"> {measured.rho_O[2]:.2g}"
    assert 40 < bounds < 160
    assert wrong <= stats.binom.ppf(1 - 1e-4, 200, 0.05)  # one-sided, 95 %


def test_rho_of_a_single_replicate_is_unknown():
    one = strength(noisy_records(2, 3, 1, [0, 1, 2], 0)[0], "plug_in")
    np.testing.assert_array_equal(np.isnan(one.rho_O), [False, True, True])
    assert one.rho_said() == ["0.00", "unknown", "unknown"]
    assert "unknown" in repr(one)
    # Nor is it known how much too large the published strength is.
    assert one.unresolved_O[1:].all()
    assert np.isnan(one.to_frame()["J_high"][1])


def test_rho_of_images_with_different_replicates_and_pairs():
    many, few = (
        noisy_records(150, 40, 8, [0, 1, 2], 1)[0],
        noisy_records(150, 20, 4, [0, 1, 2], 2)[0],
    )
    expected = np.array([0, 1, 2]) / np.sqrt(2)
    np.testing.assert_allclose(strength(many + few).rho_O, expected, rtol=0.05, atol=1e-12)
    np.testing.assert_allclose(strength(few + many).rho_O, expected, rtol=0.05, atol=1e-12)


def test_all_contexts_are_exact_for_every_estimator():
    game = ix.toy.ParityGame(8, {frozenset({0, 1, 2, 3}): 0.5, frozenset({2, 3, 7}): 0.25})
    games = [replace(game, image=name) for name in "ab"]
    ratios = tuple(k / 6 for k in range(7))
    records = ix.measure(games, ix.Design(ix.AllPairs(), ix.AllContexts(), ratios))
    truth_PO = np.array(
        [[game.interaction(i, j, m) for m in range(7)] for i, j in records[0].pairs_P2.tolist()]
    )
    for estimator in ESTIMATORS:
        measured = strength(records, estimator)
        power = 2 if estimator == "rms" else 1
        expected_O = (np.abs(truth_PO) ** power).mean(axis=0) ** (1 / power)
        np.testing.assert_allclose(measured.S, expected_O, atol=1e-12)
        np.testing.assert_array_equal(measured.rho_O, 0)
        assert not measured.unresolved_O.any()


def test_the_floor_is_taken_out_of_the_ends():
    records = records_of(simulated().draw(np.random.default_rng(0), 5, 4, 4))
    plain, less = strength(records), strength(records, floor=0.1)
    difference_IO = plain.per_image_IO - less.per_image_IO
    expected_O = np.zeros(13)
    expected_O[[0, -1]] = 0.1**2
    np.testing.assert_allclose(difference_IO, np.broadcast_to(expected_O, (5, 13)), atol=1e-15)
    # Ends of nothing but rounding have no strength left.
    assert strength(records, floor=1e3).S[[0, -1]].tolist() == [0, 0]


def test_brackets_hold_the_estimate_and_the_truth():
    """3,000 pairs of noise 2.1 times the signal in 8 contexts: the truth is inside, J beside it."""
    records, truth_O = noisy_records(60, 50, 8, [0, 1, 3], seed=3)
    true_J = truth_O / truth_O.mean()
    for estimator in ("plug_in", "jackknife", "two_level", "cross_sign"):
        measured = strength(records, estimator)
        low_O, high_O = measured.bracket
        assert (low_O <= measured.J).all()
        assert (high_O >= measured.J).all()
        assert (low_O < true_J).all()
        assert (true_J < high_O).all()
        for interval, low, high in zip(measured.intervals(), low_O, high_O, strict=True):
            assert interval.low <= low
            assert high <= interval.high
        np.testing.assert_array_equal(measured.unresolved_O, high_O - low_O > 0.1 * measured.J)
        assert measured.unresolved_O.all()  # the denominator is as uncertain as the worst order
        columns = ["J_bracket_low", "J_bracket_high", "unresolved"]
        assert list(measured.to_frame())[-3:] == columns
    quiet = strength(noisy_records(60, 50, 8, [0, 0.1, 0.1], seed=3)[0], "plug_in")
    assert not quiet.unresolved_O.any()
    rms = strength(records)
    assert rms.bracket is None
    assert not rms.unresolved_O.any()


def test_the_bracket_by_hand():
    """One order, the other at its opposite end."""
    small_O, large_O = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0])
    one = replace(
        example(2),
        estimator="plug_in",
        per_image_IO=np.stack([large_O, large_O]),
        bracket_2IO=np.stack([[small_O] * 2, [large_O] * 2]),
    )
    low_O, high_O = one.bracket
    np.testing.assert_allclose(low_O, [3 / 9, 6 / 8, 9 / 7])
    np.testing.assert_allclose(high_O, [3 / 6, 9 / 7, 15 / 8])


def test_differences_of_means_of_absolute_values_include_both_brackets():
    one, two = (
        strength(noisy_records(30, 20, 8, noise, seed)[0], "plug_in")
        for seed, noise in ((1, [0, 1, 3]), (2, [0, 1, 1]))
    )
    table = one.compare(two)
    for o, row in table.iterrows():
        low = one.bracket[0][o] - two.bracket[1][o]
        high = one.bracket[1][o] - two.bracket[0][o]
        assert row["low"] < low <= row["difference"] <= high < row["high"]
        if low <= 0 <= high:
            assert row["p"] == 1
    assert (one.J - two.J)[2] > 0.15  # the bias of the plug-in alone
    assert table["p"][2] == 1


class Wave:
    """Interactions between all players: the sine of a weighted sum."""

    def __init__(self, n, image):
        self.n, self.image = n, image

    def __call__(self, coalitions_KN):
        return torch.sin(coalitions_KN.double() @ torch.arange(1.0, self.n + 1).double())


@pytest.mark.parametrize("name", ["a2mim", "iclr22"])
def test_the_published_strength_is_the_plain_formula_bit_for_bit(name):
    design = ix.protocol(name)
    n = design.pairs.grid.n
    small = replace(
        design,
        pairs=replace(design.pairs, count=3),
        ratios=(0.0, 0.3, 1.0),
        contexts=replace(design.contexts, pairs=replace(design.pairs, count=3), replicates=10),
    )
    records = ix.measure([Wave(n, str(k)) for k in range(2)], small, target=None)
    per_image_IO = np.array(
        [
            [
                np.abs(np.ascontiguousarray(record.replicates_PRO[..., o]).mean(axis=1)).mean()
                for o in range(3)
            ]
            for record in records
        ]
    )
    S_O = per_image_IO.mean(axis=0)
    measured = strength(records, "plug_in")
    np.testing.assert_array_equal(measured.S, S_O)
    np.testing.assert_allclose(measured.J, S_O / S_O.mean(), rtol=1e-15)


def test_the_plug_in_of_odd_replicates_has_a_bracket():
    records = noisy_records(5, 6, 3, 1.0, 0)[0]
    measured = strength(records, "plug_in")
    expected = [plug_in(record.replicates_PRO[:, :, 1]) for record in records]
    np.testing.assert_allclose(measured.per_image_IO[:, 1], expected)
    assert np.isfinite(measured.bracket).all()
    with pytest.raises(ValueError, match="divisible by 2 for the jackknife, got 3"):
        strength(records, "jackknife")


def test_the_energies_of_repeated_measurements_are_those_of_strength():
    """The shortcut that the statistics below take."""
    x = resnet20().draw(np.random.default_rng(0), 5, 12, 4)
    np.testing.assert_allclose(energies(x), strength(records_of(x)).per_image_IO, atol=1e-12)


def within(shares, repeats, low=0.92, high=0.97):
    """Whether shares of repeats can be such of a coverage from ``low`` to ``high``.

    A share whose true value is at a limit fails with a chance of 1 in 10,000; 80 of them, all at a
    limit, with 1 in 125. Seeds are fixed.
    """
    least, most = stats.binom.ppf(1e-4, repeats, low), stats.binom.ppf(1 - 1e-4, repeats, high)
    counts = np.round(np.array(shares) * repeats)
    return bool(((least <= counts) & (counts <= most)).all())


def check(held, source, repeats, *, same, bias):
    assert np.isfinite(held.J_RO).all()
    assert within([*held.J, *held.bands], repeats)
    # Images differ more than a network from itself: intervals of differences may be wider.
    assert within([*held.differences, *held.band_differences], repeats, high=0.98)
    assert np.abs(held.J_RO.mean(axis=0) / source.J_O - 1).max() < bias
    if same:
        assert held.found <= stats.binom.ppf(1 - 1e-4, repeats, 0.06) / repeats
        assert held.found_in_bands <= stats.binom.ppf(1 - 1e-4, repeats, 0.06) / repeats


def long(*values):
    return pytest.param(*values, marks=pytest.mark.integration)


@pytest.mark.parametrize(("replicates", "repeats"), [(4, 100), long(4, 500), long(16, 500)])
def test_real_replicates_are_covered(replicates, repeats):
    """Resampled images, pairs and contexts of a ResNet-20, rho up to 3.5, K = 8 and K = 32."""
    network = resnet20()
    held = repeated(network, network, 53, 6, replicates, repeats)
    check(held, network, repeats, same=True, bias=0.04)


@pytest.mark.parametrize("repeats", [long(500)])
def test_simulated_networks_are_covered(repeats):
    """Two networks of the same J, of which one has half the context noise."""
    loud, quiet = simulated(1.0), simulated(0.5)
    check(repeated(loud, quiet, 53, 12, 4, repeats), loud, repeats, same=True, bias=0.04)


@pytest.mark.parametrize("repeats", [100, long(500)])
def test_a_true_difference_is_covered_and_found(repeats):
    network = simulated(1.0, heavy=True)
    other = replace(network, J_O=network.J_O * np.linspace(1.3, 0.7, 13))
    other = replace(other, J_O=other.J_O / other.J_O.mean())
    held = repeated(network, other, 53, 6, 4, repeats)
    check(held, network, repeats, same=False, bias=0.04)
    assert held.found > 0.3
    assert held.found_in_bands > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "replicates", "heavy"), [(53, 4, False), (53, 16, True), (20, 4, True)]
)
@pytest.mark.parametrize("noise", [1.0, 1.5, 3.0])
def test_many_more_networks_are_covered(noise, heavy, replicates, images):
    """2,000 repeats; where most orders are lost in noise, intervals are on the safe side."""
    loud, quiet = simulated(noise, heavy), simulated(noise / 2, not heavy)
    held = repeated(loud, quiet, images, 12, replicates, 2000)
    assert np.isfinite(held.J_RO).all()
    assert within([*held.J, *held.bands], 2000, high=0.985)
    assert within([*held.differences, *held.band_differences], 2000, high=0.99)
    assert max(held.found, held.found_in_bands) <= stats.binom.ppf(1 - 1e-4, 2000, 0.06) / 2000
    if noise == 1:
        assert np.abs(held.J_RO.mean(axis=0) / loud.J_O - 1).max() < 0.04


def published_strength(x_IPRO):
    """The plug-in and its bracket, of 4 replicates, at once for all images."""
    plug_in_IO = np.abs(x_IPRO.mean(axis=2)).mean(axis=1)
    total_IPO = x_IPRO.sum(axis=2)
    halves = [x_IPRO[:, :, list(half)].mean(axis=2) for half in combinations(range(4), 2)]
    cross_IO = np.mean([(A * np.sign(total_IPO - 2 * A)).mean(axis=1) for A in halves], axis=0)
    plain = strength_of(x_IPRO)
    return replace(
        plain,
        per_image_IO=plug_in_IO,
        estimator="plug_in",
        bracket_2IO=np.stack([cross_IO, plug_in_IO]),
    )


def test_published_intervals_cover_the_published_strength():
    """Means of |I| at rho up to 3.5 in 8 contexts: the bracket makes up for the bias."""
    network, rng = resnet20(), np.random.default_rng(1)
    true_O, inside = network.absolute_J_O, []
    for _ in range(300):
        measured = published_strength(network.draw(rng, 53, 12, 4))
        intervals = measured.intervals()
        inside.append([i.low <= J <= i.high for i, J in zip(intervals, true_O, strict=True)])
    assert within(np.mean(inside, axis=0), 300, high=1)
    x = network.draw(rng, 3, 4, 4)
    one, two = published_strength(x), strength(records_of(x), "plug_in")
    np.testing.assert_allclose(one.per_image_IO, two.per_image_IO)
    # Where all contexts are one, sum and halves differ by rounding.
    np.testing.assert_allclose(one.bracket_2IO, two.bracket_2IO, atol=1e-9)


def test_no_interval_leaves_what_is_possible():
    """One image is nearly all of the strength: J is in [0, 3], a mean of two orders at most 1.5."""
    energies = np.full((4, 3), 1e-3)
    energies[0] = [5.0, 1.0, 3.0]
    one = replace(example(4), per_image_IO=energies)
    other = replace(one, per_image_IO=energies[:, ::-1])
    assert all(interval.low >= 0 and interval.high <= 3 for interval in one.intervals())
    both = one.mean_J(0, 0.5)
    assert both.low >= 0
    assert both.high <= 1.5
    difference = one.minus(other, 0, 0.5)
    assert np.isnan(difference.low) or difference.low >= -1.5
    assert np.isnan(difference.high) or difference.high <= 1.5


@pytest.mark.parametrize("estimator", ["cross_sign", "jackknife", "two_level"])
def test_a_negative_mean_of_lengths_has_an_interval_that_holds_it_and_its_bracket(estimator):
    """Replicates that cancel: corrected estimates of 0 are below 0."""
    records, _ = noisy_records(9, 5, 4, [0, 1, 0], 0)
    rng = np.random.default_rng(0)
    for record in records:
        signs = np.array([1, -1, 1, -1])[None] + 0.01 * rng.normal(size=(5, 4))
        record.replicates_PRO[:, :, 1] = signs
    found = strength(records, estimator)
    assert found.J[1] < 0
    low_O, high_O = found.bracket
    for J, low, high, interval in zip(found.J, low_O, high_O, found.intervals(), strict=True):
        assert interval.low <= min(J, low)
        assert max(J, high) <= interval.high
    band = found.mean_J(0.3, 0.7)
    assert band.low <= band.estimate <= band.high
