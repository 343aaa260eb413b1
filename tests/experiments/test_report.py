import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments.figures import of
from experiments.report import (
    differences,
    findings,
    noisy_contexts,
    redraw,
    summary,
    summary_table,
)
from experiments.results import occlusion_from, read_table
from experiments.runs import UsageError


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
    """Of as many images as there are; two are occluded, which are too few to tell anything."""
    for measure in ("accuracy", "occlusion_accuracy"):
        rows = shifted(rows, "scratch", measure, lambda value: value * 0 + 1)
        rows = shifted(rows, "a2mim", measure, lambda value: value * 0)
    text = "\n".join(findings(rows))
    assert "test accuracy is lower: -100.0 points [-100.0, " in text
    area = "(area under the curve) shows no difference beyond chance: -100.0 points [-100.0, +"
    assert area in text
    assert "Each network was trained once" in text


def test_noisy_contexts_are_said(rows):
    quiet = rows.copy()
    quiet.loc[quiet["measure"] == "interaction_rho", "value"] = 1.9  # 2 rho^2 = 7.2 < 8
    assert noisy_contexts(quiet, "vit", "scratch") is None
    loud = quiet.copy()
    chosen = (loud["measure"] == "interaction_rho") & (loud["at"].between(0.15, 0.35))
    loud.loc[chosen & (loud["weights"] == "a2mim"), "value"] = 3.0
    text = "\n".join(findings(loud))
    assert "ViT, A2MIM-pretrained: contexts are noisy at order 12, 18. The 8 per pair" in text
    assert "about 18 would be needed" in text
    assert "ViT, from scratch: contexts" not in text
    loud.loc[chosen, "value"] = np.nan
    assert "many more would be needed" in noisy_contexts(loud, "vit", "scratch")
    alone = of(loud, "vit", "scratch").assign(model="scratch", weights="")
    assert noisy_contexts(alone, "scratch", "").startswith("scratch: contexts")  # a title


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


def test_the_page_opens_in_a_browser(run_folder, visit):
    tab = visit(run_folder / "report.html", width=360)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    orders = tab.locator("details table").first
    assert not orders.is_visible()
    tab.get_by_text("Interaction strength by order").click()
    assert orders.is_visible()


def test_redraw_makes_the_same_page_from_tables_alone(run_folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    for made in (*copy.glob("*.svg"), *copy.glob("*.png"), copy / "report.html"):
        made.unlink()
    shutil.rmtree(copy / "weights")
    redraw(copy)
    assert (copy / "report.html").read_text() == (run_folder / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(UsageError, match="expected a finished run"):
        redraw(tmp_path)


def test_intervals_are_ordered(rows):
    found = differences(rows, "vit", "a2mim", "scratch").values()
    assert all(i.low <= i.estimate <= i.high for i in found)
