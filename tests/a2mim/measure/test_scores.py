from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from a2mim.checkpoints.load import LoadReport
from a2mim.measure.scores import (
    TITLES,
    Score,
    _of_similarity,
    comparable,
    difference,
    named_networks,
    shown,
    shown_p,
)
from interactions.stats import holm


def test_holm_goes_over_all_differences(comparison):
    table = comparison.differences()
    assert list(table["score"]) == list(TITLES)
    assert table["p_holm"].to_numpy() == pytest.approx(holm(table["p"].tolist()), abs=1e-7)
    assert (table["p_holm"] >= table["p"]).all()


def of(*values, names="abcdefghijklmnopqrstuvwxyz", **more):
    """A score of the mean of values."""
    values = pd.Series(values, list(names[: len(values)]), dtype=float)
    return Score(values.mean(), np.nan, np.nan, values, **more)


def test_differences_need_the_same_images():
    with pytest.raises(ValueError, match="expected recall of two networks on the same images"):
        difference("recall", of(0, 1, names="xy"), of(0, 1, names="xz"))
    reordered, images = difference("recall", of(0, 1, names="xy"), of(1, 0, names="yx"))
    assert (reordered.estimate, reordered.p, images) == (0, 1, 2)


def test_differences_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 9))
    found, images = difference("similarity", of(*a), of(*b))
    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    assert images == 9
    expected = [(a - b).mean(), low, high, test.pvalue]
    assert [found.estimate, found.low, found.high, found.p] == pytest.approx(expected)


@pytest.mark.parametrize("images", [2, 12])
def test_without_spread_nothing_is_tested(images):
    """Nor where spread is rounding: not all differences are 0.3 in floating point."""
    found, _ = difference("recall", of(*[1.0] * images), of(*[0.75] * images))
    b = np.linspace(0.1, 0.7, images)
    assert images == 2 or ((b + 0.3) - b).std() > 0
    shifted, _ = difference("similarity", of(*(b + 0.3)), of(*b))
    for test, expected in ((found, 0.25), (shifted, 0.3)):
        assert test.estimate == pytest.approx(expected)
        assert np.isnan([test.low, test.high, test.p]).all()
    same, _ = difference("similarity", of(*(b + 0.3 - 0.3)), of(*b))
    assert (same.estimate, same.p) == (0, 1)


def test_accuracies_without_a_discordant_image_are_not_certain_to_be_the_same():
    score = Score(0.5, 0, 1, pd.Series(np.arange(100) < 50, dtype=float))
    found, images = difference("accuracy", score, score)
    assert (found.estimate, found.p, images) == (0, 1, 100)
    assert found.low < 0 < found.high


def test_images_without_a_value_are_left_out():
    a, b = of(1.0, np.nan, 3.0, 5.0), of(0.5, 2.0, np.nan, 1.5)
    found, images = difference("similarity", a, b)
    alone, _ = difference("similarity", of(1.0, 5.0), of(0.5, 1.5))
    assert images == 2
    assert found == alone
    found, images = difference("similarity", a, of(0.5, np.nan, np.nan, np.nan))
    assert images == 1
    assert np.isnan([found.estimate, found.low, found.high, found.p]).all()


def test_baselines_that_are_the_same_leave_no_difference_of_their_own():
    base = of(0.1, 0.2).values_I
    one, two = of(1, 2, baseline_I=base), of(3, 5, baseline_I=base[::-1] + 1e-8)
    assert not comparable(one, two)
    assert comparable(one, of(3, 5, baseline_I=base + np.array([0, 1e-3])))
    assert comparable(of(1, 2), of(3, 5))
    assert not comparable(of(1, 2, setting="cells=4"), of(3, 5, setting="cells=6"))


def similarity_table(cosines, untrained=0.1):
    """Of four images, hidden by 0, 0.5 and 0.9; cosines by image at 0.9."""
    rows = [
        (image, "output", "output", ratio, cosine if ratio == 0.9 else 0.8, 1.0, untrained)
        for image, cosine in zip("abcd", cosines, strict=True)
        for ratio in (0.0, 0.5, 0.9)
    ]
    columns = ["image", "layer", "readout", "ratio", "centred_cosine", "recall@1"]
    return pd.DataFrame(rows, columns=[*columns, "untrained_centred_cosine"])


def test_features_without_a_cosine_make_no_score_of_other_shares():
    """An image that is NaN where much is hidden is not the mean of where little is."""
    scores = _of_similarity(similarity_table([0.2, np.nan, 0.4, 0.6]))
    cosine = scores["similarity"]
    assert cosine.values_I["b"] != cosine.values_I["b"]
    assert cosine.estimate == pytest.approx(np.mean([0.5, 0.6, 0.7]))
    low, high = stats.t.interval(0.95, 2, 0.6, stats.sem([0.5, 0.6, 0.7]))
    assert (cosine.low, cosine.high) == pytest.approx((low, high))
    assert scores["similarity_excess"].estimate == pytest.approx(0.5)
    assert (scores["similarity_excess"].baseline_I == 0.1).all()
    assert scores["recall"].estimate == 1
    wilson = stats.binomtest(4, 4).proportion_ci(method="wilson")  # all images have 1
    assert (scores["recall"].low, scores["recall"].high) == pytest.approx(tuple(wilson))
    dead = _of_similarity(similarity_table([0.2, np.nan, np.nan, np.nan]))["similarity"]
    assert np.isnan([dead.estimate, dead.low, dead.high]).all()


def test_intervals_of_shares_end_where_shares_do():
    scores = _of_similarity(similarity_table([0.5] * 4).assign(**{"recall@1": [1.0] * 11 + [0.0]}))
    assert scores["recall"].estimate < scores["recall"].high < 1
    found, _ = difference("recall", of(1, 1, 1, 0), of(0, 0, 0, 0.5))
    assert found.high == 1


def report(architecture, source):
    return LoadReport(source, "plain", architecture)


def test_titles_are_as_short_as_tells_networks_apart():
    def titles(*pairs):
        networks = named_networks([report(*pair) for pair in pairs])
        assert all(a.title != b.title for a, b in combinations(networks, 2))
        return [network.title for network in networks]

    assert titles(("vit", "a.pth"), ("resnet", "b.pth")) == ["vit", "resnet"]
    assert titles(("vit", "x/a.pth"), ("vit", "x/b.pth")) == ["a", "b"]
    assert titles(("vit", "a.pth"), ("vit", "b.pth"), ("resnet", "a.pth")) == [
        "vit (a)",
        "vit (b)",
        "resnet (a)",
    ]
    assert titles(("vit", "a.pth"), ("vit", "a.safetensors")) == [
        "vit (a.pth)",
        "vit (a.safetensors)",
    ]


def test_numbers_are_shown_with_their_units():
    assert shown("accuracy", 0.5, 0.25, 0.75) == "50.0 % [25.0, 75.0]"
    assert shown("recall", 0.5, -0.25, 0.75, difference=True) == "+50.0 points [-25.0, +75.0]"
    assert shown("J_low_orders", 1.5, 1, 2) == "1.500 [1.000, 2.000]"
    assert shown("recall", 0.25, np.nan, np.nan, difference=True) == "+25.0 points [–]"
    assert shown("recall", np.nan, np.nan, np.nan) == "–"
    assert (shown_p(0.0123), shown_p(np.nan)) == ("0.012", "–")
