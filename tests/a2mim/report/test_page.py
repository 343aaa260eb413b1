import math
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from a2mim.report.page import (
    Cell,
    Section,
    bullets,
    details,
    figure,
    page,
    paragraph,
    preformatted,
    subheading,
    table,
)

EVIL = "<b>\"a\" & 'b'</b>"
SAFE = "&lt;b&gt;&quot;a&quot; &amp; &#x27;b&#x27;&lt;/b&gt;"
VALUES = (9.0, math.nan, 100.0, -1.0, math.inf, 9.0, -math.inf, 1e-7)
NAMES = ("net18", "net101", "net50", "", "e", "F", "g", "h")
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 3" width="900" height="300">'
    '<path d="M0 0h9v3z"/></svg>'
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a.svg").write_text(SVG)
    Image.new("RGB", (900, 300), "gray").save(folder / "b.png")
    return folder / "a.svg", folder / "b.png"


@pytest.fixture(scope="module")
def document(pictures, tmp_path_factory):
    """A page with one of everything, much of it too wide."""
    one = table(
        ["name", "n", "value"],
        [
            [name, Cell(str(k), k), Cell(f"{v:.1f}", v)]
            for k, (name, v) in enumerate(zip(NAMES, VALUES, strict=True))
        ],
        sortable=True,
    )
    wide = table(
        ["network", *(f"measure {k}" for k in range(9))],
        [["a_very_long_name" * 3, *(Cell("0.123 [0.101, 0.145]", 0.123) for _ in range(9))]],
        note="below",
    )
    text = page(
        "A page",
        "about/" * 30,
        [
            Section("Sort", one),
            Section("A wide one", wide),
            Section("Pictures", "".join(figure(path, path.name) for path in pictures)),
            Section("Folded", details("More", paragraph("inside") + preformatted("long " * 99))),
        ],
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text)
    return path


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "made",
    [
        page(EVIL, EVIL, [Section(EVIL, "")]),
        page("", "", [Section(f"{EVIL} {k}", "") for k in range(4)]),
        paragraph(EVIL),
        subheading(EVIL),
        bullets([EVIL, EVIL]),
        preformatted(EVIL),
        details(EVIL, paragraph(EVIL)),
        table([EVIL], [[EVIL], [Cell(EVIL, 1)]], sortable=True, note=EVIL),
    ],
)
def test_text_is_escaped(made):
    assert SAFE in made
    assert "<b>" not in made
    assert EVIL in Reader(made).text


def test_control_characters_are_written_out():
    """An escape sequence, an order of writing, bytes that are no text; lines stay lines."""
    hostile = "a\x1b[31m\u202e\udcff\0<b>\nb"
    shown = "a\\x1b[31m\\u202e\\udcff\\x00<b>\nb"
    for made in (paragraph(hostile), bullets([hostile]), table([hostile], [[hostile]])):
        assert shown in Reader(made).text
        assert made.encode("utf-8")
        assert not set("\x1b\u202e\0") & set(made)


def test_pictures_are_inside(pictures):
    for path, kind in zip(pictures, ("svg+xml", "png"), strict=True):
        (image,) = (attrs for tag, attrs in Reader(figure(path, EVIL)).tags if tag == "img")
        assert image["src"].startswith(f"data:image/{kind};base64,")
        assert image["alt"] == EVIL
    with pytest.raises(ValueError, match=r"expected an \.svg or \.png file, got c\.jpg; save"):
        figure(pictures[0].with_name("c.jpg"), "")


def test_nothing_refers_to_the_outside(document):
    for _, attrs in Reader(document.read_text()).tags:
        for key in ("src", "href"):
            assert attrs.get(key, "#").startswith(("#", "data:"))


def test_contents_are_for_long_pages():
    sections = [Section(f"Part {k}: A–Ω & more", "") for k in range(4)]
    assert "<nav" not in page("", "", sections[:3])
    tags = Reader(page("", "", sections)).tags
    targets = [attrs["id"] for tag, attrs in tags if tag == "section"]
    assert targets == [f"part-{k}-a-ω-more" for k in range(4)]
    assert [attrs["href"] for tag, attrs in tags if tag == "a"] == [f"#{id}" for id in targets]


@pytest.mark.parametrize("headings", [["One?", "two", "one!"], ["–"]])
def test_headings_have_to_differ(headings):
    with pytest.raises(ValueError, match="expected headings that differ in letters or digits, got"):
        page("", "", [Section(heading, "") for heading in headings])


def test_cells_carry_their_numbers():
    values = [np.float64(0.1), np.int64(3), math.inf, -math.inf, math.nan, 1e300]
    made = table(["x", "y"], [["inf", Cell("nan", value)] for value in values] + [["inf", "–"]])
    cells = [attrs for tag, attrs in Reader(made).tags if tag == "td"]
    assert [cell.get("data-value") for cell in cells] == [
        *("0.1", "3.0", "Infinity", "-Infinity", None, "1e+300", None)
    ]
    assert all(cell["class"] == "number" for cell in cells)
    heads = [attrs for tag, attrs in Reader(made).tags if tag == "th"]
    assert [head.get("class") for head in heads] == [None, "number"] + [None] * 7


def test_lines_have_all_cells():
    with pytest.raises(ValueError, match="expected 2 cells in line 1, got 1"):
        table(["a", "b"], [["1", "2"], ["3"]])
    assert "<tbody>\n</tbody>" in table(["a", "b"], [])


def test_only_a_page_with_a_sortable_table_has_a_script():
    made = {
        sortable: page(
            "", "", [Section(str(k), table(["a"], [], sortable=sortable)) for k in (1, 2)]
        )
        for sortable in (False, True)
    }
    assert "<script" not in made[False]
    assert "<button" not in made[False]
    assert made[True].count("<script") == 1


def column(tab, name):
    """The texts of a sortable column as they stand."""
    k = ("name", "n", "value").index(name) + 1
    return tab.locator(f".sortable tbody tr > :nth-child({k})").all_inner_texts()


def directions(tab):
    return [th.get_attribute("aria-sort") for th in tab.locator(".sortable thead th").all()]


@pytest.mark.integration
def test_a_click_sorts(visit, document):
    tab = visit(document)
    assert directions(tab) == [None] * 3
    tab.get_by_role("button", name="value").click()
    assert directions(tab) == [None, None, "ascending"]
    assert column(tab, "value") == ["-inf", "-1.0", "0.0", "9.0", "9.0", "100.0", "inf", "nan"]
    assert column(tab, "n") == ["6", "3", "7", "0", "5", "2", "4", "1"]  # 0 before 5: stable
    tab.get_by_role("button", name="value").click()
    assert directions(tab) == [None, None, "descending"]
    assert column(tab, "n") == ["4", "2", "0", "5", "7", "3", "6", "1"]  # as before, NaN last


@pytest.mark.integration
def test_the_keyboard_sorts(visit, document):
    tab = visit(document)
    tab.get_by_role("button", name="name").focus()
    tab.keyboard.press("Enter")
    assert directions(tab) == ["ascending", None, None]
    assert column(tab, "name") == ["e", "F", "g", "h", "net18", "net50", "net101", ""]
    tab.keyboard.press("Space")
    assert column(tab, "name") == ["net101", "net50", "net18", "h", "g", "F", "e", ""]
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert directions(tab) == [None, "ascending", None]
    assert column(tab, "n") == [str(k) for k in range(8)]


@pytest.mark.integration
def test_it_reads_on_a_phone(visit, document):
    tab = visit(document, width=360)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    images = "[...document.images].map(i => [i.width, i.closest('.wide').clientWidth])"
    assert all(width >= 600 and box <= 360 for width, box in tab.evaluate(images))  # it scrolls
    box = tab.locator(".wide").nth(1)
    assert box.evaluate("box => box.scrollWidth > 2 * box.clientWidth")
    name, cell = box.locator("tbody th"), box.locator("td").first
    before = name.bounding_box()
    assert before["width"] < 180
    box.evaluate("box => box.scrollLeft = 500")
    assert name.bounding_box() == before
    assert cell.bounding_box()["x"] < 0


@pytest.mark.integration
def test_all_of_it_is_printed(visit, document):
    tab = visit(document, width=680)  # A4 without margins
    inside = tab.get_by_text("inside")
    assert not inside.is_visible()
    tab.emulate_media(media="print")
    assert inside.is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 680
    clipped = "[...document.querySelectorAll('.wide, pre')].filter(e => e.scrollWidth > 680).length"
    assert tab.evaluate(clipped) == 0
    assert not tab.locator("nav").is_visible()
    assert (
        tab.locator("td").first.evaluate("cell => getComputedStyle(cell).color") == "rgb(0, 0, 0)"
    )


@pytest.mark.integration
def test_the_policy_stops_what_a_body_would_load(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page("", "", [Section("a", '<img src="http://127.0.0.1:9/a.png">')]))
    tab = browser.new_page()
    failed = []
    tab.on("requestfailed", lambda request: failed.append(request.failure))
    with tab.expect_console_message(lambda message: "Content Security Policy" in message.text):
        tab.goto(path.as_uri())
    assert failed == ["csp"]
    tab.close()
