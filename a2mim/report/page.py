"""Pages of HTML that need nothing but themselves: from data to strings, in one style.

A page opens without a network, reads on a phone, and prints:

    page(title, lead, [Section("Found", bullets(sentences) + table(columns, lines)), ...])

A ``body`` is HTML, made by these functions; every other string is text and is escaped, control
characters too. The page's content security policy lets nothing be loaded from elsewhere.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path

from a2mim.messages import printable

IMAGE_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
CONTENTS_FROM = 4  # a page of fewer sections has no table of contents


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: text.
        body: HTML.
    """

    heading: str
    body: str

    @property
    def id(self) -> str:
        """The heading as the target of a link: ``Strength by order`` is ``strength-by-order``."""
        return re.sub(r"\W+", "-", self.heading.lower()).strip("-")


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        text: how it is shown; a line break in it is kept on the screen.
        value: what it is sorted by; NaN stands last in either direction.
    """

    text: str
    value: float


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A whole document.

    Args:
        title: text, also the name of the browser's tab.
        lead: text, a sentence or two below the title.
        sections: in their order; from four on, links to them stand on top.

    Raises:
        ValueError: if two sections have the same heading, or one has no letter or digit.
    """
    ids = [section.id for section in sections]
    for section in sections:
        if not section.id or ids.count(section.id) > 1:
            raise ValueError(
                f"expected headings that differ in letters or digits, got {section.heading!r} "
                "beside the others; rename it"
            )
    links = "".join(
        f'<li><a href="#{section.id}">{escape(section.heading)}</a></li>' for section in sections
    )
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
    parts = "".join(
        f'<section id="{section.id}">\n<h2>{escape(section.heading)}</h2>\n'
        f"{section.body}</section>\n"
        for section in sections
    )
    sortable = any(SORTABLE in section.body for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f"{contents if len(sections) >= CONTENTS_FROM else ''}{parts}"
        f"{f'<script>{SORT}</script>' if sortable else ''}</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """Text as HTML: tags are shown, and control characters but ends of lines are written out."""
    return escape_html(printable(text, keep="\n\t"))


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>\n"


def subheading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>\n"


def bullets(texts: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>\n" + "".join(f"<li>{escape(text)}</li>\n" for text in texts) + "</ul>\n"


def preformatted(text: str) -> str:
    """Text with its line breaks and spaces, such as settings or a program's output."""
    return f"<pre>\n{escape(text)}</pre>\n"  # the parser leaves out the first line break


def details(text: str, body: str) -> str:
    """A part that is folded below a line of text; on paper it is open."""
    return f"<details>\n<summary>{escape(text)}</summary>\n{body}</details>\n"


def figure(path: Path, caption: str) -> str:
    """A picture inside the page, with its caption, which also stands for it where none is shown.

    On a phone it scrolls in its box, so that it can be read.

    Args:
        path: an SVG or PNG file.
        caption: text.

    Raises:
        ValueError: if the file's name ends in neither .svg nor .png.
    """
    if path.suffix not in IMAGE_TYPES:
        raise ValueError(f"expected an .svg or .png file, got {path.name}; save the figure as one")
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure>\n<div class="wide"><img src="data:{IMAGE_TYPES[path.suffix]};base64,{data}" '
        f'alt="{escape(caption)}"></div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>\n'
    )


def table(
    columns: Sequence[str],
    lines: Sequence[Sequence[str | Cell]],
    *,
    sortable: bool = False,
    note: str = "",
) -> str:
    """A table. Where it is wider than the screen, it scrolls beside its first column.

    Args:
        columns: headings, text.
        lines: their cells: text, or numbers. A column with a number is one of numbers; text in it,
            such as "", stands for a number that is absent and is sorted to the end.
        sortable: whether a click on a heading sorts by its column, and another one backwards.
        note: text below the table.

    Raises:
        ValueError: if a line has more or fewer cells than there are columns.
    """
    for k, line in enumerate(lines):
        if len(line) != len(columns):
            raise ValueError(f"expected {len(columns)} cells in line {k}, got {len(line)}")
    kinds = [
        ' class="number"' if any(isinstance(line[j], Cell) for line in lines) else ""
        for j in range(len(columns))
    ]
    inside = '<button type="button">{}</button>' if sortable else "{}"
    head = "".join(
        f'<th scope="col"{kind}>{inside.format(escape(name))}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(map(_cell, range(len(line)), line, kinds))}</tr>\n" for line in lines
    )
    return (
        f'<div class="wide">{SORTABLE if sortable else "<table>"}\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
        + (f'<p class="note">{escape(note)}</p>\n' if note else "")
    )


def _cell(j: int, cell: str | Cell, kind: str) -> str:
    """The cell of column j; the first one names the line."""
    text, value = (cell.text, cell.value) if isinstance(cell, Cell) else (cell, math.nan)
    if not math.isnan(value):  # as JavaScript spells it
        kind += f' data-value="{float(value)!r}"'.replace("inf", "Infinity")
    if j == 0:
        return f'<th scope="row"{kind}>{escape(text)}</th>'
    return f"<td{kind}>{escape(text)}</td>"


SORTABLE = '<table class="sortable">'
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light; --ink: #1f2937; --soft: #4b5563; --line: #e5e7eb; --tint: #f6f7f9; }
body { font: 1rem/1.55 system-ui, sans-serif; color: var(--ink); background: #fff;
       max-width: 58rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; letter-spacing: -.01em; margin: .5rem 0; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
h1, h2, h3 { text-wrap: balance; break-after: avoid; }
p, ul { max-width: 46rem; }
ul { padding-left: 1.2rem; }
li { margin: .35rem 0; }
.lead { color: var(--soft); font-size: 1.05rem; margin-top: 0; }
.note, figcaption { color: var(--soft); font-size: .9rem; margin: .5rem 0 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; list-style: none; padding: .6rem 0;
         max-width: none; border-block: 1px solid var(--line); }
nav li { margin: 0; }
a { color: #1d4ed8; text-underline-offset: .2em; }
figure { margin: 1.4rem 0 2rem; break-inside: avoid; }
figcaption { max-width: 46rem; }
img { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; margin: 1rem 0 0; }
table { width: max-content; border-spacing: 0; font-size: .9rem; line-height: 1.4;
        font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; white-space: nowrap; font-weight: normal;
         padding: .4rem 1.4rem .4rem 0; border-bottom: 1px solid var(--line); }
tr > :last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal;
           max-width: 9rem; border-bottom: 2px solid #9ca3af; }
.number { text-align: right; }
td.number { white-space: pre; }
tr > :first-child { position: sticky; left: 0; background: #fff; }
th button { all: unset; cursor: pointer; display: inline-flex; gap: .35em; }
th button:focus-visible { outline: 2px solid #1d4ed8; outline-offset: 2px; }
th button::after { content: "\\2195" / ""; font-weight: normal; color: #9ca3af; }
th[aria-sort] button::after { color: var(--ink); }
th[aria-sort=ascending] button::after { content: "\\2191" / ""; }
th[aria-sort=descending] button::after { content: "\\2193" / ""; }
.number button { flex-direction: row-reverse; }
details { margin: .8rem 0; border-top: 1px solid var(--line); padding-top: .6rem; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--tint); border-radius: .4rem; padding: .8rem; overflow-x: auto;
      font: .85rem/1.5 ui-monospace, monospace; }
@media (max-width: 40rem) {
  h1 { font-size: 1.4rem; }
  tr > :first-child { max-width: 40vw; white-space: normal; border-right: 1px solid var(--line);
                      padding-right: .6rem; }
  tr > :nth-child(2) { padding-left: .6rem; }
  figure img { width: 40rem; max-width: none; }
}
@media print {
  :root { --ink: #000; --soft: #000; --line: #bbb; --tint: #fff; font-size: 10.5pt; }
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; }
  p, ul, figcaption { max-width: none; }
  nav, th button::after { display: none; }
  a { color: inherit; text-decoration: none; }
  img { max-height: 22cm; }
  .wide { overflow: visible; }
  table { width: auto; font-size: 8pt; line-height: 1.3; }
  table:has(th:nth-child(9)) { font-size: 6.5pt; }
  th, td, td.number { white-space: normal; overflow-wrap: normal; padding: .25em 1em .25em 0; }
  tr > :first-child { position: static; max-width: none; }
  tr > :first-child:not(.number) { min-width: 4.5rem; overflow-wrap: anywhere; }
  tr, pre { break-inside: avoid; }
  details::details-content { content-visibility: visible; }
  summary { list-style: none; }
  pre { white-space: pre-wrap; padding: 0; }
}
"""

SORT = """
const words = new Intl.Collator("en", { numeric: true });
document.addEventListener("click", ({ target }) => {
  const head = target.closest(".sortable thead th");
  if (!target.closest("button") || !head) return;
  const body = head.closest("table").tBodies[0], number = head.classList.contains("number");
  const key = ({ cells: { [head.cellIndex]: cell } }) =>
    number ? Number(cell.dataset.value ?? NaN) : cell.textContent;
  const absent = value => value === "" || Number.isNaN(value);
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const order = (a, b) => number ? (a > b) - (a < b) : words.compare(a, b);
  const rows = [...body.rows].map(row => [key(row), row]);
  rows.sort(([a], [b]) => absent(a) - absent(b) || sign * order(a, b));
  body.append(...rows.map(([, row]) => row));
  for (const th of head.parentNode.cells) th.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
});
"""
