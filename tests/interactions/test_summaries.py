"""Curves, scores and tests against closed forms, scipy and scikit-learn-like loops."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from interactions.effects import CLASSES, FLAGS, SIZES
from interactions.summaries import (
    area,
    by_fraction,
    class_entropy,
    compare,
    compare_scores,
    half,
    mask_variance,
    scores,
)

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
    found = by_fraction(random_rows, draws=50).set_index(["measure", "fraction"])["estimate"]
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
        found = by_fraction(rows, draws=10).set_index("measure")["estimate"]
        assert found["ece"] == pytest.approx(min(confidence, 1) - 0.5)
    with pytest.raises(ValueError, match="at least 1 bin"):
        by_fraction(rows, bins=0)


def test_intervals_are_those_of_a_binomial():
    """1000 images of accuracy 0.7: a standard error of 1.45 points (specification, 3.3)."""
    rows = table((np.arange(1000) < 700)[:, None, None], (0.5,))
    found = by_fraction(rows, draws=2000).set_index("measure").loc["correct"]
    assert found["estimate"] == pytest.approx(0.7)
    # The standard error of 2000 draws is known to 1 / sqrt(4000) = 1.6 %; 4.5 times that.
    assert found["se"] == pytest.approx(0.0145, rel=0.07)
    assert found["low"] == pytest.approx(0.7 - 1.96 * 0.0145, abs=0.004)
    assert found["high"] == pytest.approx(0.7 + 1.96 * 0.0145, abs=0.004)


def test_repeats_of_an_image_are_one_observation():
    """Three equal repeats tell no more than one."""
    once = specified(100)
    thrice = pd.concat([once.assign(repeat=r) for r in range(3)])
    pd.testing.assert_frame_equal(scores(once), scores(thrice))


def test_intervals_cover_what_they_should():
    """Of 200 samples of 80 images, 95 % intervals miss 10: more than 22 with probability 4e-4."""
    generator = np.random.default_rng(1)
    true = 0.5 * 0.8 + 0.5 * 0.5  # the area of (0.8, 0.5)
    missed = 0
    for sample in range(200):
        correct = generator.random((80, 2, 1)) < np.array([0.8, 0.5])[:, None]
        found = scores(table(correct, (0, 0.5)), draws=200, seed=sample).iloc[1]
        missed += not found["low"] <= true <= found["high"]
    assert missed <= 22


def test_rows_may_come_in_any_order(random_rows):
    shuffled = random_rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(scores(shuffled), scores(random_rows))
    pd.testing.assert_frame_equal(by_fraction(shuffled, draws=9), by_fraction(random_rows, draws=9))
    other = scores(random_rows, seed=1)
    assert (other["estimate"] == scores(random_rows)["estimate"]).all()
    assert (other["se"] != scores(random_rows)["se"]).any()
    agreed = scores(random_rows, "agreement")
    assert agreed["estimate"][0] == 1
    assert agreed["se"][0] == 0


def test_paired_comparison():
    """40 images better in A, 20 in B, 140 equal: McNemar's exact test, an error in closed form."""
    a, b = np.zeros((200, 2, 1)), np.zeros((200, 2, 1))
    a[:, 0] = b[:, 0] = 1
    a[:40, 1] = b[40:60, 1] = a[60:100, 1] = b[60:100, 1] = 1
    rows_a, rows_b = table(a, (0, 0.5)), table(b, (0, 0.5))
    found = compare(rows_a, rows_b, draws=2000)
    assert found["higher_a"].tolist() == [0, 40]
    assert found["higher_b"].tolist() == [0, 20]
    assert found["p"].tolist() == [1, binomtest(40, 60).pvalue]
    assert found["p_holm"].tolist() == [1, 2 * binomtest(40, 60).pvalue]
    assert found["difference"].tolist() == pytest.approx([0, 0.1])
    assert found[["a", "b"]].to_numpy().tolist() == [[1, 1], [0.4, 0.3]]
    se = np.sqrt((60 / 200 - 0.1**2) / 200)
    assert found["se"][1] == pytest.approx(se, rel=0.07)
    scored = compare_scores(rows_a, rows_b).set_index("score")
    assert scored.loc["area", "difference"] == pytest.approx(0.05)
    assert scored.loc["half", "difference"] == pytest.approx(0.5 * 0.5 / 0.6 - 0.5 * 0.5 / 0.7)
    assert scored.loc["clean", ["difference", "se", "low", "high"]].tolist() == [0, 0, 0, 0]
    swapped = compare_scores(rows_b, rows_a).set_index("score")
    assert (swapped["difference"] == -scored["difference"]).all()


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
