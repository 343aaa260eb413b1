"""Curves, scores and tests against closed forms, scipy and scikit-learn-like loops."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from interactions.occlusion.curves import (
    area,
    by_fraction,
    class_entropy,
    compare,
    compare_scores,
    half,
    mask_variance,
    scores,
)
from interactions.occlusion.predictions import CLASSES, FLAGS, SIZES
from interactions.stats import holm, share

TENTHS = np.arange(10) / 10
SPECIFIED = np.array([80, 79.5, 78.9, 78, 76.5, 74, 70, 62, 48, 20])
"""Section 3.3 of the specification: area 68.5444, .85681 of the clean value."""


def table(correct_IFR, fractions, confidence_IFR=None):
    """Rows of given flags; fraction 0 is the clean image where it is measured, else all correct."""
    correct_IFR = np.asarray(correct_IFR, dtype=bool)
    I, F, R = correct_IFR.shape
    image, fraction, repeat = (x.ravel() for x in np.indices((I, F, R)))
    clean = correct_IFR[:, 0, 0] if fractions[0] == 0 else np.ones(I, dtype=bool)
    rows = {name: np.zeros(I * F * R) for name in (*FLAGS, *CLASSES, *SIZES)}
    correct = correct_IFR.ravel()
    rows |= {
        "image": [f"{k:05}" for k in image],
        "fraction": np.array(fractions)[fraction],
        "hidden": np.array(fractions)[fraction],
        "repeat": repeat,
        "mask": [f"{i}-{f}-{r}" for i, f, r in zip(image, fraction, repeat, strict=True)],
        "correct": correct,
        "clean_correct": clean[image],
        "agreement": correct == clean[image],
        "flipped": clean[image] & ~correct,
        "predicted": np.where(correct, 1, 0),
    }
    if confidence_IFR is not None:
        rows["confidence"] = np.asarray(confidence_IFR, dtype=float).ravel()
    return pd.DataFrame(rows)


def specified(I=1000):
    """Rows whose accuracies are those of the specification."""
    ranks = np.arange(I) / I * 100
    return table((ranks[:, None] < SPECIFIED)[:, :, None], TENTHS)


@pytest.fixture(scope="module")
def random_rows():
    generator = np.random.default_rng(0)
    correct = generator.random((60, 4, 3)) < np.array([0.9, 0.7, 0.5, 0.2])[:, None]
    correct[:, 0] = correct[:, 0, :1]
    return table(correct, (0, 0.2, 0.5, 0.9), generator.random((60, 4, 3)))


def test_the_scores_of_the_specification():
    assert area(TENTHS, SPECIFIED[None])[0] == pytest.approx(68.5444, abs=5e-5)
    found = scores(specified()).set_index("score")["estimate"]
    assert found["clean"] == pytest.approx(0.8)
    assert 100 * found["area"] == pytest.approx(68.5444, abs=5e-5)
    assert found["relative"] == pytest.approx(0.85681, abs=5e-6)
    assert found["half"] == pytest.approx(0.8 + 0.1 * (48 - 40) / (48 - 20))


def test_half_of_the_clean_value():
    x = np.array([0, 0.5, 1])
    curves = np.array([[1, 0.6, 0.2], [1, 0.5, 0.4], [1, 0.9, 0.6], [0, 0, 0], [1, 0.2, 0.8]])
    found = half(x, curves, curves[:, 0])
    np.testing.assert_allclose(found, [0.625, 0.5, np.inf, np.nan, 0.3125])
    later = half(x[1:], curves[:, 1:], curves[:, 0])  # the clean value stands at 0
    np.testing.assert_allclose(later, found)
    rows = table(np.ones((5, 2, 1)), (0, 0.5))
    last = scores(rows).iloc[3]
    assert last["estimate"] == np.inf
    assert np.isnan(last["se"])
    none = scores(table(np.zeros((5, 2, 1)), (0, 0.5)))
    assert none["estimate"].isna().tolist() == [False, False, True, True]


def test_areas_need_a_range():
    for hidden in ([0.5], [0.5, 0.5], [0.5, 0.1]):
        with pytest.raises(ValueError, match="at least 2 growing hidden shares"):
            area(np.array(hidden), np.ones((1, len(hidden))))


def test_measures_of_a_fraction_are_means_over_images_and_repeats(random_rows):
    found = by_fraction(random_rows).set_index(["measure", "fraction"])["estimate"]
    groups = random_rows.groupby("fraction")
    for name in (*FLAGS, *SIZES):
        for fraction, mean in groups[name].mean().items():
            assert found[name, fraction] == pytest.approx(mean)
    for fraction, rows in groups:
        was = rows[rows["clean_correct"]]
        assert found["kept", fraction] == pytest.approx(was["agreement"].mean())
        gap = rows["confidence"].mean() - rows["correct"].mean()
        assert found["overconfidence", fraction] == pytest.approx(gap)
        bins = pd.cut(rows["confidence"], np.linspace(0, 1, 16))
        ece = sum(
            len(inside) * abs(inside["confidence"].mean() - inside["correct"].mean())
            for _, inside in rows.groupby(bins, observed=True)
        ) / len(rows)
        assert found["ece", fraction] == pytest.approx(ece)


def test_calibration_error_of_known_confidence():
    """All of confidence 0.75, of which 0.5 are correct; on the edge of a bin; and above 1."""
    rows = table(np.tile([[[1]], [[0]]], (20, 1, 1)), (0.5,), np.full((40, 1, 1), 0.75))
    for confidence in (0.75, 0.8, 1 + 1e-16):
        rows["confidence"] = confidence
        found = by_fraction(rows).set_index("measure")["estimate"]
        assert found["ece"] == pytest.approx(min(confidence, 1) - 0.5)
    with pytest.raises(ValueError, match="at least 1 bin"):
        by_fraction(rows, bins=0)


def test_intervals_are_those_of_a_binomial():
    """1000 images of accuracy 0.7: a standard error of 1.45 points (specification, 3.3)."""
    rows = table((np.arange(1000) < 700)[:, None, None], (0.5,))
    found = by_fraction(rows).set_index("measure").loc["correct"]
    assert found["estimate"] == pytest.approx(0.7)
    assert found["se"] == pytest.approx(0.0145, abs=5e-5)
    wilson = stats.binomtest(700, 1000).proportion_ci(0.95, "wilson")
    assert (found["low"], found["high"]) == pytest.approx((wilson.low, wilson.high))


def test_every_kind_has_its_own_interval(random_rows):
    found = by_fraction(random_rows).set_index(["measure", "fraction"])
    mine = random_rows[random_rows["fraction"] == 0.5]
    x_I = mine.groupby("image")["confidence"].mean()
    expected = stats.ttest_1samp(x_I, 0).confidence_interval(0.95)
    assert found.loc[("confidence", 0.5), ["low", "high"]].tolist() == pytest.approx(expected[:])
    # the right images are what ``kept`` is a share of
    clean = random_rows[random_rows["fraction"] == 0].groupby("image")["correct"].first()
    kept_I = mine.groupby("image")["agreement"].mean()[clean]
    low, high = found.loc[("kept", 0.5), ["low", "high"]]
    again = share(kept_I)
    assert (low, high) == (again.low, again.high)
    ends = found[["low", "high"]].to_numpy()
    inside = (ends[:, 0] <= found["estimate"]) & (found["estimate"] <= ends[:, 1])
    assert inside[~np.isnan(ends[:, 0])].all()
    assert np.nanmin(found.loc[list(FLAGS), "low"]) >= 0
    assert np.nanmax(found.loc[list(FLAGS), "high"]) <= 1


def test_twenty_wrong_images_are_not_certain_to_be_wrong():
    """And an image that agrees with itself is no finding."""
    rows = table(np.zeros((20, 2, 1)), (0, 0.5))
    found = by_fraction(rows).set_index(["measure", "fraction"])
    wilson = stats.binomtest(0, 20).proportion_ci(0.95, "wilson").high
    for fraction in (0, 0.5):
        low, high = found.loc[("correct", fraction), ["low", "high"]]
        assert low == 0
        assert high == pytest.approx(wilson)
    assert found.loc[("agreement", 0), ["se", "low", "high"]].tolist() == [0, 1, 1]
    assert found.loc[("agreement", 0.5), "low"] == pytest.approx(1 - wilson)


def test_repeats_of_an_image_are_one_observation():
    """Three equal repeats tell no more than one."""
    once = specified(100)
    thrice = pd.concat([once.assign(repeat=r) for r in range(3)])
    pd.testing.assert_frame_equal(scores(once), scores(thrice))


@pytest.mark.integration
def test_intervals_cover_what_they_should():
    """Of 200 samples of 60 images, 95 % intervals miss 10: more than 22 with probability 4e-4."""
    generator = np.random.default_rng(1)
    # areas and relative areas of (0.8, 0.5), where the hard images are the same in both
    true = {"clean": 0.8, "area": 0.65, "relative": 0.65 / 0.8}
    missed = dict.fromkeys(true, 0)
    for _ in range(200):
        easy = generator.random((60, 1, 1))
        correct = generator.random((60, 2, 1)) < np.array([0.8, 0.5])[:, None] + 0.2 * (easy - 0.5)
        found = scores(table(correct, (0, 0.5)), draws=1).set_index("score")
        for score, value in true.items():
            low, high = found.loc[score, ["low", "high"]]
            missed[score] += not low <= value <= high
    assert max(missed.values()) <= 22


def test_rows_may_come_in_any_order(random_rows):
    shuffled = random_rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(scores(shuffled), scores(random_rows))
    pd.testing.assert_frame_equal(by_fraction(shuffled), by_fraction(random_rows))
    other = scores(random_rows, seed=1)
    assert (other["estimate"] == scores(random_rows)["estimate"]).all()
    # only the half point is resampled
    changed = other["se"] != scores(random_rows)["se"]
    assert changed.tolist() == [False, False, False, True]
    agreed = scores(random_rows, "agreement")
    assert agreed["estimate"][0] == 1
    assert agreed["se"][0] == 0


def test_paired_comparison():
    """40 images better in A, 20 in B, 140 equal: McNemar's test, an error in closed form."""
    a, b = np.zeros((200, 2, 1)), np.zeros((200, 2, 1))
    a[:, 0] = b[:, 0] = 1
    a[:40, 1] = b[40:60, 1] = a[60:100, 1] = b[60:100, 1] = 1
    rows_a, rows_b = table(a, (0, 0.5)), table(b, (0, 0.5))
    found = compare(rows_a, rows_b)
    p = 2 * stats.norm.sf((40 - 20 - 0.5) / np.sqrt(40 + 20))
    assert found["p"].tolist() == pytest.approx([1, p])
    assert found["p_holm"].tolist() == pytest.approx([1, p])  # no image differs at 0: one test
    assert found["difference"].tolist() == pytest.approx([0, 0.1])
    assert found[["a", "b"]].to_numpy().tolist() == [[1, 1], [0.4, 0.3]]
    se = np.sqrt((60 / 200 - 0.1**2) / 199)
    assert found["se"].tolist() == pytest.approx([0, se])
    scored = compare_scores(rows_a, rows_b).set_index("score")
    assert scored.loc["area", "difference"] == pytest.approx(0.05)
    assert scored.loc["half", "difference"] == pytest.approx(0.5 * 0.5 / 0.6 - 0.5 * 0.5 / 0.7)
    assert scored.loc["clean", ["difference", "se"]].tolist() == [0, 0]
    assert scored.loc["clean", "low"] == -scored.loc["clean", "high"] < 0
    swapped = compare_scores(rows_b, rows_a).set_index("score")
    assert (swapped["difference"] == -scored["difference"]).all()


@pytest.mark.parametrize("measure", ["correct", "agreement", "nll", "confidence"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_p_and_interval_of_a_row_agree(measure, repeats):
    """Few images, skewed values: where one mean of a sign test and one of a bootstrap parted."""
    generator = np.random.default_rng(2)
    rejected = []
    for _ in range(25):
        shape = (15, 4, repeats)
        flags = [generator.random(shape) < share for share in (0.8, 0.5)]
        sizes = [generator.gamma(0.5, 1 + k / 2, shape) / 4 % 1 for k in (0, 1)]
        tables = [table(f, (0, 0.2, 0.5, 0.9), c) for f, c in zip(flags, sizes, strict=True)]
        for rows, size in zip(tables, sizes, strict=True):
            rows["nll"] = size.ravel() ** 3
        found = compare(*tables, measure)
        off = (found["low"] > 0) | (found["high"] < 0)
        assert (off == (found["p"] < 0.05)).all()
        rejected += off.tolist()
    assert 0 < sum(rejected) < len(rejected)


def test_a_model_against_itself():
    """However its outputs are rounded, and where agreement with itself is no test."""
    generator = np.random.default_rng(3)
    flags = generator.random((30, 3, 1)) < np.array([1, 0.7, 0.4])[:, None]
    rows = table(flags, (0, 0.5, 0.9), generator.random((30, 3, 1)))
    rounded = rows.assign(confidence=rows["confidence"] * 1.7 / 1.7 + 1e-9)
    for measure in ("confidence", "correct", "agreement"):
        found = compare(rows, rounded, measure)
        assert found["difference"].tolist() == [0, 0, 0]
        assert found["p"].tolist() == found["p_holm"].tolist() == [1, 1, 1]
    other = table(generator.random((30, 3, 1)) < np.array([1, 0.3, 0.2])[:, None], (0, 0.5, 0.9))
    found = compare(rows, other, "agreement")
    assert found.loc[0, ["difference", "low", "high", "p", "p_holm"]].tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(found["p_holm"][1:], holm(found["p"][1:]))


def test_calibration_errors_interval_holds_it_and_that_of_a_calibrated_model():
    """Percentiles of a bootstrap lay above both."""
    generator = np.random.default_rng(4)
    confidence = generator.uniform(0.2, 1, (60, 1, 1))
    rows = table(generator.random((60, 1, 1)) < confidence, (0.5,), confidence)
    found = by_fraction(rows).set_index("measure").loc["ece"]
    assert found["low"] == 0 < 0.05 < found["estimate"] < found["high"]


def test_only_the_same_masks_are_compared(random_rows):
    for changed, message in (
        (random_rows[random_rows["image"] != "00003"], "the same images and fractions"),
        (random_rows[random_rows["fraction"] != 0.5], "the same images and fractions"),
        (random_rows[random_rows["repeat"] != 1], "the same masks"),
        (random_rows.assign(mask="other"), "the same masks"),
    ):
        for comparison in (compare, compare_scores):
            with pytest.raises(ValueError, match=message):
                comparison(random_rows, changed)
    with pytest.raises(ValueError, match=r"a measure of correct, .* got 'predicted'"):
        compare(random_rows, random_rows, "predicted")
    with pytest.raises(ValueError, match="'correct' or 'agreement', got 'nll'"):
        scores(random_rows, "nll")


def test_incomplete_rows(random_rows):
    with pytest.raises(ValueError, match="got 719 rows; concatenate each image once"):
        scores(random_rows[1:])
    with pytest.raises(ValueError, match="got 721 rows"):
        scores(pd.concat([random_rows, random_rows[:1]]))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        scores(random_rows[random_rows["image"] == "00000"])
    with pytest.raises(ValueError, match=r"a level in \(0, 1\)"):
        scores(random_rows, level=95)
    with pytest.raises(ValueError, match="at least 1 draw"):
        scores(random_rows, draws=0)


def test_variance_of_masks_and_of_images():
    """Normal parts of variance 4 (images) and 1 (masks), in 3000 images of 4 masks."""
    generator = np.random.default_rng(0)
    rows = table(np.ones((3000, 1, 4)), (0.5,))
    parts = 2 * generator.standard_normal((3000, 1)) + generator.standard_normal((3000, 4))
    rows["nll"] = parts.ravel()
    found = mask_variance(rows, "nll").iloc[0]
    # relative errors sqrt(2 / 3000) and sqrt(2 / 9000), times 4.5
    assert found["images"] == pytest.approx(4, rel=0.13)
    assert found["masks"] == pytest.approx(1, rel=0.07)
    assert found["images"] + found["masks"] / 4 == pytest.approx(parts.mean(axis=1).var(ddof=1))
    with pytest.raises(ValueError, match="at least 2 repeats, got 1"):
        mask_variance(rows[rows["repeat"] == 0])


def test_entropy_of_predictions():
    rows = table(np.ones((4, 2, 2)), (0, 0.5))
    rows["predicted"] = np.where(rows["fraction"] == 0, rows["image"].astype(int), 7)
    assert class_entropy(rows)["entropy"].tolist() == pytest.approx([np.log(4), 0])
