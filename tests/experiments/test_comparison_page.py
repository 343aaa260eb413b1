import re

from experiments.comparison import TITLES
from experiments.comparison_page import findings, html


def test_findings_tell_what_is_real_and_what_is_not(comparison):
    sentences = findings(comparison)
    table = comparison.differences()
    real = table[table["p_holm"] < 0.05]
    assert len([s for s in sentences if " than for other, " in s]) == len(real)
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
    sha256 = comparison.plan["networks"][0]["sha256"][:16]
    assert sha256 in text


def test_the_same_tables_give_the_same_page(comparison, tmp_path):
    comparison.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == html(comparison)
    assert (comparison.folder / "compare.html").read_text() == html(comparison)


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
        shown = [float(x) for x in table.locator("tbody td:nth-child(5)").all_inner_texts()]
        assert shown == sorted(shown, reverse=order == "descending")
        assert table.locator("thead th").nth(4).get_attribute("aria-sort") == order
    phone = visit(comparison.folder / "compare.html", width=360)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    phone.emulate_media(media="print")
    assert phone.locator("details pre").first.is_visible()
