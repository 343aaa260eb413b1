import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from a2mim.messages import UsageError
from a2mim.report.demo import (
    ARMS,
    NETWORKS,
    QUANTITIES,
    arm_of,
    conclude,
    curves,
    redraw,
    verdict,
    verdicts,
)
from a2mim.runs.table import read_table, strength_from, write_table
from interactions.orders.strength import MIDDLE
from interactions.stats import holm, two_level

SETTINGS = {"labels": 10, "count": 8, "pairs": 4, "replicates": 4, "occlusion_images": 8}


def with_values(rows, arm, measure, value):
    """The table with one measure of an arm of both networks replaced."""
    chosen = (rows["weights"] == arm) & (rows["measure"] == measure)
    return rows.assign(value=rows["value"].mask(chosen, value))


def of(found, quantity):
    return found[(found["quantity"] == quantity) & (found["network"] == "vit")].iloc[0]


def test_values_are_those_of_the_table(demo_rows):
    mine = arm_of(demo_rows, "resnet", "a2mim")
    right_SI = QUANTITIES["all"].values(mine)
    assert right_SI.shape == (3, 8)
    accuracy = mine[mine["measure"] == "accuracy"].groupby("seed")["value"].mean()
    np.testing.assert_allclose(right_SI.mean(axis=1), accuracy)
    hidden = mine[(mine["measure"] == "occlusion_accuracy") & (mine["at"] > 0)]
    expected = hidden.groupby("seed")["value"].mean()
    np.testing.assert_allclose(QUANTITIES["occluded"].values(mine).mean(axis=1), expected)
    for seed, values_I in enumerate(QUANTITIES["middle"].values(mine)):
        strength = strength_from(mine[mine["seed"] == seed])
        assert values_I.mean() == pytest.approx(strength.mean_J(*MIDDLE).estimate)


def test_differences_are_over_seeds_and_images(demo_rows):
    found = verdicts(demo_rows)
    assert list(zip(found["network"], found["quantity"], strict=True)) == [
        (network, quantity) for network in NETWORKS for quantity in QUANTITIES
    ]
    arms = [
        QUANTITIES["few"].values(arm_of(demo_rows, "vit", arm, few=True))
        for arm in ("a2mim", "scratch")
    ]
    expected = two_level(*arms)
    line = of(found, "few")
    assert line["difference"] == pytest.approx(expected.estimate)
    assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high))
    assert line["difference"] == pytest.approx(line["a2mim"] - line["scratch"])


def test_a_verdict_is_given_where_the_interval_decides(demo_rows):
    few = [arm_of(demo_rows, "vit", arm, few=True).index[0] for arm in ARMS]
    for better, word in (("a2mim-few", "higher"), ("scratch-few", "lower")):
        rows = with_values(demo_rows, "scratch-few", "accuracy", 0.0)
        rows = with_values(rows, "a2mim-few", "accuracy", 0.0)
        rows = with_values(rows, better, "accuracy", 1.0)
        rows.loc[few, "value"] = 0.5  # without a spread there is no interval
        assert of(verdicts(rows), "few")["verdict"] == word
    rows = with_values(demo_rows, "a2mim-few", "accuracy", 1.0)
    mixed = np.where(rows["image"].str[-1].isin(["0", "5"]), 0.0, 1.0)
    rows = with_values(rows, "scratch-few", "accuracy", pd.Series(mixed, rows.index))
    assert of(verdicts(rows), "few")["verdict"] == "not decided"


def test_verdicts_are_corrected_for_how_many_there_are(demo_rows):
    found = verdicts(demo_rows)
    np.testing.assert_allclose(found["p_holm"], holm(found["p"].tolist()))
    assert verdict(0.1, 0.051) == verdict(-0.1, 1.0) == "not decided"
    assert (verdict(0.1, 0.049), verdict(-0.1, 0.049)) == ("higher", "lower")


def test_curves_show_the_table(demo_rows):
    figure = curves(demo_rows, SETTINGS)
    assert figure.get_suptitle().startswith("3 training seeds; interactions: 8 images, 4 pairs")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        f"{name}: {what}"
        for name in ("ViT", "ResNet")
        for what in ("accuracy", "interactions", "occlusion")
    ]
    line = figure.axes[4].get_lines()[0]
    mine = arm_of(demo_rows, "resnet", "scratch")
    J = [strength_from(one).J for _, one in mine.groupby("seed")]
    np.testing.assert_allclose(line.get_ydata(), np.mean(J, axis=0))
    hidden = figure.axes[5].get_lines()[1]
    rows = arm_of(demo_rows, "resnet", "a2mim")
    rows = rows[rows["measure"] == "occlusion_accuracy"]
    np.testing.assert_allclose(hidden.get_ydata(), rows.groupby("at")["value"].mean())


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag == "img":
            assert dict(attrs)["alt"]


@pytest.fixture(scope="module")
def run(demo_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_table(demo_rows, folder / "rows.csv")
    label = dict.fromkeys(("commit", "versions", "machine"), "?") | {"config": SETTINGS}
    (folder / "config.json").write_text(json.dumps(label))
    return folder, conclude(folder, SETTINGS)


def test_the_page_needs_nothing_but_itself(run):
    folder, said = run
    text = (folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert len(page.links) == 1
    assert page.links[0].startswith("data:image/svg+xml;base64,")
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", text))
    assert str(folder) not in text
    for line in pd.read_csv(folder / "verdicts.csv").to_dict("records"):
        scale, form = (1, ".3f") if line["quantity"] == "middle" else (100, ".1f")
        for shown in (f"{scale * line['scratch']:{form}}", f"{scale * line['low']:+{form}}, "):
            assert shown in text
            assert shown in said


@pytest.mark.integration
def test_all_is_drawn_again_from_the_table_with_the_same_bytes(run, capsys):
    folder, _ = run
    made = {path: path.read_bytes() for path in folder.iterdir() if path.suffix != ".csv"}
    assert {path.name for path in made} == {
        *(f"demo.{kind}" for kind in ("pdf", "png", "svg")),
        *("config.json", "report.html"),
    }
    for path in made:
        if path.name != "config.json":
            path.unlink()
    redraw(folder)
    assert {path: path.read_bytes() for path in made} == made
    assert "report.html" in capsys.readouterr().out


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expected a finished run"):
        redraw(tmp_path)


def test_what_the_verdicts_come_to_is_said(demo_rows, tmp_path):
    few = [arm_of(demo_rows, "vit", arm, few=True).index[0] for arm in ARMS]
    rows = with_values(demo_rows, "scratch-few", "accuracy", 0.0)
    rows = with_values(rows, "a2mim-few", "accuracy", 1.0)
    rows.loc[few, "value"] = 0.5
    for table, said in (
        (demo_rows, "None of these 8 differences can be told from chance"),
        (rows, "Pre-training changes 1 of 8: ViT: accuracy with 10 labels a class (%) (higher, +"),
    ):
        write_table(table, tmp_path / "rows.csv")
        text = conclude(tmp_path, SETTINGS)
        assert said in text
        assert said.replace("+", "") in (tmp_path / "report.html").read_text().replace("+", "")


def test_a_table_that_was_read_says_the_same(run, demo_rows):
    found = verdicts(read_table(run[0] / "rows.csv"))
    pd.testing.assert_frame_equal(found, verdicts(demo_rows))


@pytest.mark.integration
def test_the_page_opens_in_a_browser(run, visit):
    tab = visit(run[0] / "report.html", width=360)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
