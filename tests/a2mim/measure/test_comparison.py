import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from a2mim.cli import main
from a2mim.measure.comparison import Comparison, shown_differences, shown_scores
from a2mim.messages import UsageError
from a2mim.runs.table import strength_from
from interactions.stats import share, share_difference


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
    test = share_difference(correct[0].sort_index(), correct[1].sort_index())
    assert found["p"] == pytest.approx(test.p)
    assert (found["low"], found["high"]) == pytest.approx((test.low, test.high), abs=1e-6)


def test_areas_are_means_over_images(comparison):
    areas = []
    for k, name in enumerate(comparison.titles):
        table = images_of(comparison, "predictions", k)
        hidden = table.groupby("fraction")["hidden"].mean().to_numpy()
        values = table.pivot(index="image", columns="fraction", values="agreement").to_numpy(float)
        areas.append(np.trapezoid(values, hidden, axis=1) / np.ptp(hidden))
        found = number(comparison.scores(), "agreement_area", network=name)
        expected = share(areas[k])
        assert (found["value"], found["low"], found["high"]) == pytest.approx(
            (areas[k].mean(), expected.low, expected.high), abs=1e-6
        )
    found = number(comparison.differences(), "agreement_area")
    test = stats.ttest_rel(*areas)
    ends = test.confidence_interval(0.95)
    assert found["p"] == pytest.approx(test.pvalue, rel=1e-5)
    expected = max(ends.low, -1), min(ends.high, 1)
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=1e-6)


def test_strengths_are_those_of_the_interactions(comparison):
    rows = comparison.titled().query("run == 'interactions'")
    one, two = (strength_from(rows[rows["model"] == name]) for name in comparison.titles)
    bands = one.bands().set_index("band")
    differences = one.compare_bands(two).set_index("band")
    for band in bands.index:
        found = number(comparison.scores(), f"J_{band}_orders", network=comparison.titles[0])
        expected = bands.loc[band]
        for ours, theirs in (("value", "J"), ("low", "low"), ("high", "high")):
            assert found[ours] == pytest.approx(expected[theirs], abs=1e-6)
        found = number(comparison.differences(), f"J_{band}_orders")
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


@pytest.mark.integration
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
