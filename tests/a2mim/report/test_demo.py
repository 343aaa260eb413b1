import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from a2mim.messages import UsageError
from a2mim.report.demo import (
    differences,
    findings,
    order_lines,
    plain,
    redraw,
    summary,
    summary_table,
)
from a2mim.report.figures import of
from a2mim.runs.table import occlusion_from, read_table, strength_from
from interactions.stats import FEWEST


@pytest.fixture
def rows(run_folder):
    return read_table(run_folder / "rows.csv")


def shifted(rows, weights, measure, change):
    """The table with one measure of one network changed."""
    rows = rows.copy()
    chosen = (rows["weights"] == weights) & (rows["measure"] == measure)
    rows.loc[chosen, "value"] = change(rows.loc[chosen, "value"])
    return rows


def test_summary_repeats_the_table(rows):
    lines = summary(rows)
    assert [(line["network"], line["weights"]) for line in lines] == [
        ("ViT", "from scratch"),
        ("ViT", "A2MIM-pretrained"),
        ("ResNet", "from scratch"),
        ("ResNet", "A2MIM-pretrained"),
    ]
    first = rows[(rows["model"] == "vit") & (rows["weights"] == "scratch")]
    accuracy = 100 * first[first["measure"] == "accuracy"]["value"].mean()
    assert lines[0]["test accuracy"].startswith(f"{accuracy:.1f} %")
    area = 100 * occlusion_from(first).area().estimate
    assert lines[0]["accuracy under patch drop"].startswith(f"{area:.1f} %")
    assert "ResNet" in summary_table(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value * 0 + 1, "is higher: +100.0 points"),
        (lambda value: value * 0, "shows no difference beyond chance: +0.0 points"),
    ],
)
def test_sentences_say_which_way_it_came_out(rows, change, words):
    rows = shifted(rows, "scratch", "accuracy", lambda value: value * 0)
    rows = shifted(rows, "a2mim", "accuracy", change)
    assert f"ViT: with A2MIM pre-training, test accuracy {words}" in "\n".join(findings(rows))


def test_lower_is_said_too(rows):
    """Of as many images as there are; two, if occluded, are too few to tell anything."""
    occluded = rows["measure"].eq("occlusion_accuracy")
    rows = rows[~occluded | rows["image"].isin(rows.loc[occluded, "image"].unique()[:2])]
    for measure in ("accuracy", "occlusion_accuracy"):
        rows = shifted(rows, "scratch", measure, lambda value: value * 0 + 1)
        rows = shifted(rows, "a2mim", measure, lambda value: value * 0)
    text = "\n".join(findings(rows))
    assert "test accuracy is lower: -100.0 points [-100.0, " in text
    area = "(area under the curve) shows no difference beyond chance: -100.0 points [-100.0, +"
    assert area in text
    assert "Each network was trained once" in text


def test_orders_show_what_the_library_measures(rows):
    mine = of(rows, "vit", "scratch")
    strength, published = strength_from(mine), strength_from(mine, "plug_in")
    lines = order_lines(mine)
    assert [line[0].text for line in lines] == [str(order) for order in strength.orders_O]
    for o, (line, interval) in enumerate(zip(lines, strength.intervals(), strict=True)):
        assert line[1].text == plain(interval)
        assert line[2].text == f"{published.J[o]:.3f}"
        low, high = (end_O[o] for end_O in published.bracket)
        assert line[3].text.startswith(f"{low:.3f} to {high:.3f}")
        assert line[3].text.endswith(" unresolved") == (high - low > 0.1 * published.J[o])
        assert line[4].text == strength.rho_said()[o]


def test_noise_that_hides_interactions_is_a_lower_bound(rows):
    mine = of(rows, "vit", "scratch")
    rho = mine["measure"].str.startswith("interaction_rho")
    for measure, said in (("interaction_rho", "7.12"), ("interaction_rho_at_least", "> 7.1")):
        loud = mine.assign(
            measure=mine["measure"].mask(rho, measure), value=mine["value"].mask(rho, 7.12)
        )
        assert [line[4].text for line in order_lines(loud)] == [said] * 13


def test_differences_are_paired(rows):
    found = differences(rows, "vit", "a2mim", "a2mim")
    assert [found[key].estimate for key in found] == [0, 0, 0]
    assert found["test accuracy"].p == found["patch drop"].p == 1
    assert found["J"].se == 0


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag == "img":
            assert dict(attrs)["alt"]


def test_the_page_needs_nothing_but_itself(run_folder, rows):
    text = (run_folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("img") == 3
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", text))
    for sentence in findings(rows):
        assert sentence.split(":")[0] in text
    assert page.tags.count("table") == 1 + 4
    assert str(run_folder) not in text


@pytest.mark.integration
def test_the_page_opens_in_a_browser(run_folder, visit):
    tab = visit(run_folder / "report.html", width=360)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    orders = tab.locator("details table").first
    assert not orders.is_visible()
    tab.get_by_text("Interaction strength by order").click()
    assert orders.is_visible()


@pytest.mark.integration
def test_redraw_makes_the_same_page_from_tables_alone(run_folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    for made in (*copy.glob("*.svg"), *copy.glob("*.png"), copy / "report.html"):
        made.unlink()
    shutil.rmtree(copy / "weights", ignore_errors=True)  # whatever else a run leaves
    redraw(copy)
    assert (copy / "report.html").read_text() == (run_folder / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(UsageError, match="expected a finished run"):
        redraw(tmp_path)


def test_intervals_are_around_their_estimates_where_there_are_any(rows):
    """J of two images can hang on one of them, and then has none."""
    found = differences(rows, "vit", "a2mim", "scratch")
    one, two = (strength_from(of(rows, "vit", weights)) for weights in ("a2mim", "scratch"))
    if min(one.effective_images, two.effective_images) < FEWEST:
        assert np.isnan([found["J"].low, found["J"].high, found["J"].p]).all()
        found.pop("J")
    assert all(i.low <= i.estimate <= i.high for i in found.values())
