import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from a2mim.checkpoints.load import LoadReport
from a2mim.measure import scores as module
from a2mim.measure.comparison import Comparison
from a2mim.measure.scores import TITLES, Network, Score
from a2mim.report.comparison_page import findings, html, joined
from a2mim.runs.table import COLUMNS, write_table


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A finished comparison of scores that are given: title -> score -> values of images."""

    def make(values, apart=None, assumed=(), same=()):
        networks = [
            Network(title, "", title, 10, "0123", LoadReport(title, "plain", title))
            for title in values
        ]
        monkeypatch.setattr(
            module,
            "network_scores",
            lambda rows, panels, network: {
                key: Score(np.mean(x), np.nan, np.nan, pd.Series(x, dtype=float))
                for key, x in values[network.model].items()
            },
        )
        rows = module.scores_and_differences(pd.DataFrame(), tmp_path, networks)
        rows = rows.assign(dataset="photos", seed=0, commit="c")
        write_table(rows[list(COLUMNS)], tmp_path / "rows.csv")
        plan = {
            "networks": [
                network.to_dict() | {"assumed": ["mean 0.5"] if network.title in assumed else []}
                for network in networks
            ],
            "same_weights": [
                {"networks": list(pair), "differ": "of preprocessing", "sentence": "They are one."}
                for pair in same
            ],
            "images": 1200,
            "similarity_batch": 24,
            "forwards": {"predictions": 12000},
            "apart": apart or {},
            "notes": ["Left out: spectrum (no stream)."],
        }
        (tmp_path / "compare.json").write_text(json.dumps(plan))
        label = {"config": {}, "commit": "c", "versions": {}, "machine": ""}
        (tmp_path / "config.json").write_text(json.dumps(label))
        comparison = Comparison(tmp_path)
        comparison.save_figures()
        return comparison

    return make


def values_around(mean):
    """Eight values that differ, so that there is an interval."""
    return [mean + 0.001 * (-1) ** k * (k // 2) for k in range(8)]


def test_real_differences_have_a_sentence_each(made):
    """Two of three networks say the same."""
    shift = np.subtract(values_around(0.5), values_around(0.75)[::-1])
    low, high = stats.ttest_1samp(shift, 0).confidence_interval(0.95)
    found = findings(
        made(
            {
                "one": {"similarity": values_around(0.5)},
                "two": {"similarity": values_around(0.75)[::-1]},
                "three": {"similarity": values_around(0.5)},
            }
        )
    )
    one_and_two, two_and_three, chance, note, _ = found
    for sentence, lower in ((one_and_two, "one"), (two_and_three, "three")):
        assert sentence.startswith(TITLES["similarity"].capitalize())
        assert sentence.index("two 0.750") < sentence.index(f"{lower} 0.500")
        assert f"+0.250 [{-high:+.3f}, {-low:+.3f}], p < 0.001" in sentence
    assert "1 of 3" in chance
    assert note == "Left out: spectrum (no stream)."


def test_many_real_differences_are_a_sentence_for_each_score(made):
    rng = np.random.default_rng(0)
    levels = {"a": 3, "b": 1, "c": 2, "d": 1, "e": 0, "f": 2}
    comparison = made(
        {
            title: {"J_low_orders": level + 0.01 * rng.normal(size=9), "recall": [1, 0] * 4 + [1]}
            for title, level in levels.items()
        }
    )
    found = findings(comparison)
    assert found[0].startswith(TITLES["J_low_orders"])
    names = re.findall(r"\b([a-f]) -?\d\.\d{3}", found[0])
    assert (names[0], names[-1], set(names[1:3]), set(names[3:5])) == (*"ae", {*"cf"}, {*"bd"})
    assert "14 of 15 pairs" in found[0]
    assert found[1].startswith("The other 16 of 30 paired differences cannot be told from chance")
    assert "recall" not in found[0]
    text = html(comparison)
    assert "<h1>6 networks compared</h1>" in text
    assert "6 networks on the same 1 200 images of photos: the same pixels" in text
    assert "12 000" in text


def test_what_differences_rest_on_is_said_beside_them(made):
    comparison = made(
        {
            "one": {"similarity": values_around(0.5)},
            "two": {"similarity": values_around(0.75)[::-1]},
            "three": {"similarity": [*values_around(0.25)[1:], 0.25]},
        },
        assumed=["one", "three"],
        same=[("one", "two")],
    )
    found = findings(comparison)
    one, two, three = (found[k].partition("p < 0.001.")[2] for k in range(3))
    assert one == " Both are the same weights: this is a difference of preprocessing."
    assert two == " It holds only if what is assumed of one and three is right."
    assert three == " It holds only if what is assumed of three is right."
    doubts = ["one: assumed mean 0.5.", "three: assumed mean 0.5.", "They are one."]
    assert comparison.doubts == doubts
    text = html(comparison)
    assert [text.count(f"<li>{doubt}</li>") for doubt in doubts] == [1, 1, 1]
    assert text.index("<h2>Networks</h2>") < text.index(doubts[0]) < text.index("<h2>Found</h2>")
    assert [text.count(f"<td>{but}</td>") for but in ("same weights", "assumed")] == [1, 2]
    shown = str(comparison)
    assert shown.index(doubts[2]) < shown.index(TITLES["similarity"])
    assert [line.split()[-1] for line in shown.splitlines()[-3:]] == ["weights", *["assumed"] * 2]


def test_many_differences_are_counted_with_what_they_rest_on(made):
    levels = {"a": 3, "b": 1, "c": 2, "d": 1, "e": 0, "f": 2}
    rng = np.random.default_rng(0)
    comparison = made(
        {
            title: {"J_low_orders": level + 0.01 * rng.normal(size=9)}
            for title, level in levels.items()
        },
        assumed=["e"],
        same=[("a", "b")],
    )
    assert findings(comparison)[0].endswith(
        "14 of 15 pairs (table below). Not differences of weights: a and b. 5 of these hold only "
        "if what is assumed of e is right."
    )


def test_what_has_no_number_is_a_dash_and_not_chance(made):
    nothing = [np.nan] * 8
    comparison = made(
        {
            "one": {"similarity": nothing, "recall": [1.0] * 8},
            "two": {"similarity": values_around(0.5), "recall": [1.0] * 8},
        }
    )
    table = comparison.differences().set_index("score")
    assert np.isnan(table.loc["similarity", ["value", "p", "p_holm"]].astype(float)).all()
    assert table.loc["similarity", "images"] == 0
    assert table.loc["recall", "p_holm"] == table.loc["recall", "p"] == 1  # a family of one
    found = findings(comparison)
    assert found[0].startswith("All 1 of 1 paired differences cannot be told from chance")
    assert found[1].startswith("Not tested: 1 differences, of scores that fewer than two images")
    assert "nan" not in re.sub('base64,[^"]*', "", html(comparison))
    assert "nan" not in str(comparison)


def test_a_network_without_scores_is_still_a_line(made):
    comparison = made({"one": {"recall": [0, 1]}, "two": {"recall": [1, 1]}, "none": {}})
    assert "none" in str(comparison)
    assert list(comparison.looks) == ["one", "two", "none"]
    assert '<th scope="row">none</th><td class="number">–</td>' in html(comparison)


def test_names_are_joined():
    assert joined(["a"]) == "a"
    assert joined(["a", "b"]) == "a and b"
    assert joined(["a", "b", "c"]) == "a, b and c"


def test_findings_tell_what_is_real_and_what_is_not(comparison):
    sentences = findings(comparison)
    table = comparison.differences()
    real = table[table["p_holm"] < 0.05]
    said = [s for s in sentences if " than for other, " in s]
    assert len(said) == len(real)
    if len(real) < len(table):
        assert any(f"{len(table) - len(real)} of {len(table)} " in s for s in sentences)
    assert sentences[-1].startswith("Intervals are over images.")
    for note in comparison.plan["notes"]:
        assert note in sentences


def test_every_score_and_difference_is_on_the_page(comparison):
    text = html(comparison)
    for title in TITLES.values():
        assert text.count(title) >= 2
    assert text.count('<table class="sortable">') == 3
    assert text.count("data:image/svg+xml;base64,") == 6
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    first = comparison.plan["networks"][0]
    assert f"<td>{first['weights']}</td><td>own</td><td>{first['sha256'][:16]}</td>" in text


def test_the_page_says_what_numbers_were_measured_on(comparison):
    rows = comparison.to_frame().query("measure == 'interaction_energy'")
    images, text = rows["image"].nunique(), html(comparison)
    (pairs,) = set(rows["setting"].str.extract(r"pairs=(\d+)")[0])
    (contexts,) = set(rows["setting"].str.extract(r"contexts=(\S+)$")[0])
    assert f"Measured on {images} images, {pairs} pair" in text
    assert f"for every pair {contexts.replace('-', ' to ')} contexts at an order" in text
    assert (f"(interactions: {images} of them)" in text) == (images < 12)
    ran = comparison.plan["ran"]
    assert ran["interactions"] == {
        "images": images,
        "pairs": pairs,
        "contexts": contexts,
    }
    assert [ran[panel] for panel in ("predictions", "similarity", "spectrum")] == [
        {"images": 12}
    ] * 3
    label = json.loads((comparison.folder / "config.json").read_text())
    assert label["config"]["ran"] == ran
    assert f"<td>images {images}, pairs {pairs}, contexts" in text
    assert f"of batches of {comparison.plan['similarity_batch']} images" in text
    assert "on the same 12 images of photos" in text


def test_networks_that_are_apart_are_named_with_their_reason(comparison, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(comparison.folder, copy)
    plan = comparison.plan | {"apart": {"spectrum": {"one": "no <b> maps", "other": "no <b> maps"}}}
    (copy / "compare.json").write_text(json.dumps(plan))
    assert "<p>Without one and other: no &lt;b&gt; maps.</p>" in html(Comparison(copy))


def test_the_same_tables_give_the_same_page(comparison, tmp_path):
    comparison.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == html(comparison)
    assert (comparison.folder / "compare.html").read_text() == html(comparison)


@pytest.mark.integration
def test_the_page_in_a_browser(comparison, visit):
    """Figures are there, the table can be sorted, a phone is wide enough, paper has it all."""
    tab = visit(comparison.folder / "compare.html")
    widths = tab.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
    assert len(widths) == 6
    assert min(widths) > 0
    table = tab.locator("#differences table")
    heading = table.get_by_role("button", name="p", exact=True)
    for order in ("ascending", "descending"):
        heading.click()
        shown = [float(x) for x in table.locator("tbody td:nth-child(6)").all_inner_texts()]
        assert shown == sorted(shown, reverse=order == "descending")
        assert table.locator("thead th").nth(5).get_attribute("aria-sort") == order
    phone = visit(comparison.folder / "compare.html", width=360)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    phone.emulate_media(media="print")
    assert phone.locator("details pre").first.is_visible()
