import shutil
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from a2mim.convert import LoadReport
from experiments.cli import main
from experiments.comparison import (
    TITLES,
    Comparison,
    Score,
    difference,
    named_networks,
    shown,
    shown_differences,
    shown_scores,
)
from experiments.results import strength_from
from experiments.runs import UsageError
from interactions.strength import holm


def images_of(comparison, panel, number):
    (path,) = (comparison.folder / "panels" / panel / "images").glob(f"{number:02d}-*")
    return pd.read_csv(path, dtype={"image": str})


def number(table, score, **where):
    rows = table[table["score"] == score]
    for key, value in where.items():
        rows = rows[rows[key] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_accuracy_and_its_test(comparison):
    """From the tables of single images, with scipy."""
    correct = [
        images_of(comparison, "predictions", k).query("fraction == 0").set_index("image")["correct"]
        for k in (0, 1)
    ]
    for k, name in enumerate(comparison.titles):
        found = number(comparison.scores(), "accuracy", network=name)
        test = stats.binomtest(int(correct[k].sum()), 12)
        wilson = test.proportion_ci(method="wilson")
        assert found["value"] == pytest.approx(correct[k].mean(), abs=1e-7)
        assert (found["low"], found["high"]) == pytest.approx(tuple(wilson), abs=1e-6)
        assert found["images"] == 12
    found = number(comparison.differences(), "accuracy")
    assert found["value"] == pytest.approx(correct[0].mean() - correct[1].mean(), abs=1e-7)
    a, b = int((correct[0] > correct[1]).sum()), int((correct[1] > correct[0]).sum())
    assert found["p"] == pytest.approx(stats.binomtest(a, a + b).pvalue if a + b else 1)


def test_areas_are_means_over_images(comparison):
    areas = []
    for k, name in enumerate(comparison.titles):
        table = images_of(comparison, "predictions", k)
        hidden = table.groupby("fraction")["hidden"].mean().to_numpy()
        values = table.pivot(index="image", columns="fraction", values="agreement").to_numpy(float)
        areas.append(np.trapezoid(values, hidden, axis=1) / np.ptp(hidden))
        found = number(comparison.scores(), "agreement_area", network=name)
        low, high = stats.t.interval(0.95, 11, areas[k].mean(), stats.sem(areas[k]))
        assert (found["value"], found["low"], found["high"]) == pytest.approx(
            (areas[k].mean(), low, high), abs=1e-6
        )
    found = number(comparison.differences(), "agreement_area")
    test = stats.ttest_rel(*areas)
    ends = test.confidence_interval(0.95)
    assert found["p"] == pytest.approx(test.pvalue, rel=1e-5)
    assert (found["low"], found["high"]) == pytest.approx((ends.low, ends.high), abs=1e-6)


def test_strengths_are_those_of_the_interactions(comparison):
    rows = comparison.titled().query("run == 'interactions'")
    one, two = (strength_from(rows[rows["model"] == name]) for name in comparison.titles)
    bands = one.bands().set_index("band")
    differences = one.compare_bands(two).set_index("band")
    for band in bands.index:
        found = number(comparison.scores(), f"J_{band}", network=comparison.titles[0])
        expected = bands.loc[band]
        for ours, theirs in (("value", "J"), ("low", "low"), ("high", "high")):
            assert found[ours] == pytest.approx(expected[theirs], abs=1e-6)
        found = number(comparison.differences(), f"J_{band}")
        for ours, theirs in (("value", "difference"), ("low", "low"), ("p", "p")):
            assert found[ours] == pytest.approx(differences.loc[band, theirs], rel=1e-4, abs=1e-6)


def test_similarity_beyond_untrained(comparison):
    for k, name in enumerate(comparison.titles):
        table = images_of(comparison, "similarity", k).query("ratio > 0 and readout == 'output'")
        excess = table["centred_cosine"] - table["untrained_centred_cosine"]
        found = number(comparison.scores(), "similarity_excess", network=name)
        assert found["value"] == pytest.approx(excess.mean(), abs=1e-6)
        found = number(comparison.scores(), "recall", network=name)
        assert found["value"] == pytest.approx(table["recall@1"].mean(), abs=1e-6)


def test_spectrum_of_the_last_map(comparison):
    rows = comparison.titled().query("measure == 'spectrum_delta_log_amplitude'")
    for name in comparison.titles:
        mine = rows[rows["model"] == name]
        last = mine[mine["setting"] == mine["setting"].iloc[-1]]
        found = number(comparison.scores(), "high_frequency", network=name)
        assert found["value"] == pytest.approx(last["value"].iloc[-1], abs=1e-6)


def test_holm_goes_over_all_differences(comparison):
    table = comparison.differences()
    assert list(table["score"]) == list(TITLES)
    assert table["p_holm"].to_numpy() == pytest.approx(holm(table["p"].tolist()), abs=1e-7)
    assert (table["p_holm"] >= table["p"]).all()


def test_differences_need_the_same_images():
    a = Score(0.5, 0, 1, pd.Series([0.0, 1.0], ["x", "y"]))
    b = Score(0.5, 0, 1, pd.Series([0.0, 1.0], ["x", "z"]))
    with pytest.raises(ValueError, match="expected recall of two networks on the same images"):
        difference("recall", a, b)
    same, images = difference("recall", a, a)
    assert (same[""], same["_p"], images) == (0, 1, 2)
    reordered = Score(0.5, 0, 1, pd.Series([1.0, 0.0], ["y", "x"]))
    assert difference("recall", a, reordered)[0]["_p"] == 1


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


def test_what_a_person_sees(comparison):
    assert comparison.titles == ["one", "other"]
    assert comparison.panels == [
        "scores",
        "predictions",
        "interactions",
        "similarity",
        "spectrum",
        "depth",
    ]
    text = str(comparison)
    for table in (shown_scores(comparison), shown_differences(comparison)):
        assert table.to_string(index=False) in text
    assert "<table" in comparison._repr_html_()
    assert repr(comparison).startswith("Comparison of one, other in ")
    for panel in comparison.panels:
        assert comparison.plot(panel).axes
    with pytest.raises(
        ValueError, match=r"expected a panel of scores, predictions, .* got 'pears'"
    ):
        comparison.plot("pears")


def test_numbers_are_shown_with_their_units():
    assert shown("accuracy", 0.5, 0.25, 0.75) == "50.0 % [25.0, 75.0]"
    assert shown("recall", 0.5, -0.25, 0.75, difference=True) == "+50.0 points [-25.0, +75.0]"
    assert shown("J_low", 1.5, 1, 2) == "1.500 [1.000, 2.000]"


def test_a_finished_comparison_is_drawn_again_to_the_same_bytes(comparison, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(comparison.folder, copy)
    for name in ("scores.svg", "compare.html"):
        (copy / name).unlink()
    main(["figures", str(copy)])
    for name in ("scores.svg", "spectrum.svg", "compare.html"):
        assert (copy / name).read_bytes() == (comparison.folder / name).read_bytes()
    assert capsys.readouterr().out == f"page: {copy / 'compare.html'}\n"


def test_a_folder_without_a_comparison_is_one_line(tmp_path, comparison):
    with pytest.raises(UsageError, match="expected a finished comparison in"):
        Comparison(tmp_path)
    with pytest.raises(UsageError, match="expected a finished comparison in"):
        Comparison(comparison.folder / "panels" / "spectrum")
