"""The page of a comparison: what was found, the scores, their differences, a part for each panel.

Everything on it comes from the tables of the run; see :mod:`a2mim.report.page` for the pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from a2mim.measure.scores import MEANINGS, SHARES, TITLES, each, shown, shown_p, shown_value
from a2mim.report.orders import ORDER_COLUMNS, ORDERS, order_lines
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
from a2mim.runs.folder import counted
from a2mim.runs.table import ENERGY

LEVEL = 0.05
"""Differences with a corrected p below it are called real."""

SAID, NAMED, OPEN = 12, 4, 60
"""The most differences that have a sentence each, networks that are named in the title, and lines
of differences that are not folded."""

CAPTIONS = {
    "scores": "Scores with 95 % intervals over images. Each panel has its own scale.",
    "predictions": "What is left of predictions when random patches are hidden, the same patches "
    "for all networks. Agreement is with the network's own prediction for the whole image. Bands "
    "are 95 % intervals over images.",
    "interactions": "Interaction strength J over the order m (how many other patches are visible), "
    "bias-corrected and normalised to a mean of 1. The same pairs and contexts for all networks; "
    "bands are 95 % intervals over images.",
    "similarity": "Features of images with hidden patches against those of the whole images. An "
    "untrained network and raw pixels are high too, so a line means something only above its own "
    "dashed baselines. CKA, the mean that is subtracted and the images that recall@1 is among are "
    "of batches of {similarity_batch} images. Bands: 95 % intervals, over batches for CKA and over "
    "images for others.",
    "spectrum": "Amplitude of feature maps over frequency relative to their mean, a line for each "
    "map of the residual stream.",
    "pairs": "The strongest pairs of neighbouring patches, as lines between them. At low orders "
    "no other patch is visible, at high orders all are. Orange pairs help each other, blue pairs "
    "repeat or disturb each other. Networks share pairs, contexts and the colour scale.",
    "patches": "What each patch adds for itself: orange speaks for the class (or feature) that "
    "is explained, blue against it. Networks share permutations and the colour scale.",
    "depth": "The right ends of these lines, and the variance of maps over their cells, over "
    "depth. Bands are 95 % intervals over images.",
}

HEADINGS = {
    "predictions": "Predictions under occlusion",
    "interactions": "Interactions",
    "similarity": "Features under occlusion",
    "spectrum": "Spectrum",
}

WITH = {"spectrum": ("spectrum", "depth")}
"""Panels of more than one figure."""


class Compared(Protocol):
    """What a page needs of a comparison; see :class:`a2mim.measure.comparison.Comparison`."""

    folder: Path

    @property
    def plan(self) -> dict[str, Any]: ...  # noqa: D102

    @property
    def titles(self) -> list[str]: ...  # noqa: D102

    @property
    def panels(self) -> list[str]: ...  # noqa: D102

    @property
    def doubts(self) -> list[str]: ...  # noqa: D102

    def titled(self) -> pd.DataFrame: ...  # noqa: D102

    def scores(self) -> pd.DataFrame: ...  # noqa: D102

    def differences(self) -> pd.DataFrame: ...  # noqa: D102

    def same(self, a: str, b: str) -> str: ...  # noqa: D102

    def assumed(self, *titles: str) -> list[str]: ...  # noqa: D102

    def shown_networks(self) -> pd.DataFrame: ...  # noqa: D102

    def reservation(self, a: str, b: str) -> str: ...  # noqa: D102


def html(comparison: Compared) -> str:
    """The page, as one string."""
    sections = [
        Section("Networks", _networks(comparison)),
        Section("Found", bullets(findings(comparison))),
        Section("Scores", _scores(comparison)),
        Section("Differences", _differences(comparison)),
    ]
    for panel, heading in HEADINGS.items():
        if panel in comparison.panels:
            body = "".join(
                figure(comparison.folder / f"{name}.svg", CAPTIONS[name].format(**comparison.plan))
                for name in WITH.get(panel, (panel,))
            )
            if panel == "interactions":
                body += paragraph(_design(comparison))
                body += details("Strength by order", _orders(comparison))
            body += _apart(comparison, panel)
            sections.append(Section(heading, body))
        if panel == "interactions" and (body := _pictures(comparison)):
            sections.append(Section("Single images", body))
    sections.append(Section("How it was made", _made(comparison)))
    return page(_title(comparison), _lead(comparison), sections)


def findings(comparison: Compared) -> list[str]:
    """What was found, in sentences, whichever way it came out."""
    differences = comparison.differences()
    tested = differences[differences["p_holm"].notna()]
    real = tested[tested["p_holm"] < LEVEL]
    sentences = (
        _one_by_one(comparison, real) if len(real) <= SAID else _by_score(comparison, real, tested)
    )
    rest = len(tested) - len(real)
    if rest:
        count = counted(len(tested))
        which = f"The other {counted(rest)}" if len(real) else f"All {count}"
        sentences.append(
            f"{which} of {count} paired differences cannot be told from chance with these images "
            f"(p above {LEVEL:g} after Holm's correction)."
        )
    if len(tested) < len(differences):
        sentences.append(
            f"Not tested: {counted(len(differences) - len(tested))} differences, of scores that "
            "fewer than two images have in both networks, or that differ by the same on all images."
        )
    sentences += comparison.plan["notes"]
    sentences.append(
        "Intervals are over images. They do not cover what another training of a network would "
        "change."
    )
    return sentences


def _one_by_one(comparison: Compared, real: pd.DataFrame) -> list[str]:
    """A sentence for each difference, and after it what else than the networks it may be of."""
    values = _values(comparison)
    sentences = []
    for row in each(real):
        a, b = (row.network, row.minus) if row.value > 0 else (row.minus, row.network)
        value_a, value_b = (shown_value(row.score, values[row.score][name]) for name in (a, b))
        sentences.append(
            f"{_named(row.score)}: {a} {value_a}, {b} {value_b}; difference {_apart_by(row)}, "
            f"p {'< 0.001' if row.p_holm < 0.001 else f'= {shown_p(row.p_holm)}'}."
            + _reserved(comparison, row.network, row.minus)
        )
    return sentences


def _values(comparison: Compared) -> dict[str, dict[str, float]]:
    """Score -> network -> value."""
    values: dict[str, dict[str, float]] = {}
    for row in each(comparison.scores()):
        values.setdefault(row.score, {})[row.network] = row.value
    return values


def _named(score: str) -> str:
    """A score's name at the beginning of a sentence."""
    return TITLES[score][0].upper() + TITLES[score][1:]


def _apart_by(row: Any) -> str:
    """A difference with its interval, as of the larger value minus the smaller one."""
    value, low, high = row.value, row.low, row.high
    if value < 0:
        value, low, high = -value, -high, -low
    return shown(row.score, value, low, high, difference=True)


def _reserved(comparison: Compared, a: str, b: str) -> str:
    """What a difference of two networks rests on, in sentences; or empty."""
    if differ := comparison.same(a, b):
        return f" Both are the same weights: this is a difference {differ}."
    if names := comparison.assumed(a, b):
        return f" It holds only if what is assumed of {joined(names)} is right."
    return ""


def _by_score(comparison: Compared, real: pd.DataFrame, tested: pd.DataFrame) -> list[str]:
    """A sentence for each score: the networks from high to low, and which of them differ."""
    values = _values(comparison)
    sentences = []
    for score in TITLES:
        pairs, of = tested[tested["score"] == score], real[real["score"] == score]
        if of.empty:
            continue
        names = list(dict.fromkeys([*pairs["network"], *pairs["minus"]]))
        names.sort(key=lambda name: -values[score][name])
        ranked = ", ".join(f"{name} {shown_value(score, values[score][name])}" for name in names)
        if len(of) <= NAMED:
            differ = ", ".join(
                f"{row.network if row.value > 0 else row.minus} over "
                f"{row.minus if row.value > 0 else row.network} {_apart_by(row)}"
                for row in each(of)
            )
        else:
            differ = f"{counted(len(of))} of {counted(len(pairs))} pairs (table below)"
        sentences.append(f"{_named(score)}: {ranked}. Beyond chance: {differ}.")
        if same := [f"{a} and {b}" for a, b in _pairs(of) if comparison.same(a, b)]:
            sentences[-1] += f" Not differences of weights: {'; '.join(same)}."
        doubtful = [pair for pair in _pairs(of) if comparison.assumed(*pair)]
        if doubtful:
            concerned = dict.fromkeys(name for pair in doubtful for name in pair)
            sentences[-1] += (
                f" {counted(len(doubtful))} of these hold only if what is assumed of "
                f"{joined(comparison.assumed(*concerned))} is right."
            )
    return sentences


def _pairs(differences: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(differences["network"], differences["minus"], strict=True))


def joined(names: Sequence[str]) -> str:
    """One, one and two, or one, two and three."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _title(comparison: Compared) -> str:
    titles = comparison.titles
    return f"{joined(titles) if len(titles) <= NAMED else f'{len(titles)} networks'} compared"


def _lead(comparison: Compared) -> str:
    images = comparison.plan["images"]
    rows = _rows_of(comparison, "compare")
    dataset = rows["dataset"].iloc[0].removeprefix("folder:")
    measured = _measured_interactions(comparison)
    fewer = f" (interactions: {counted(measured)} of them)" if 0 < measured < images else ""
    return (
        f"{len(comparison.titles)} networks on the same {counted(images)} images of {dataset}"
        f"{fewer}: the same pixels, pairs, contexts and masks."
    )


def _rows_of(comparison: Compared, run: str) -> pd.DataFrame:
    rows = comparison.titled()
    return rows[rows["run"] == run]


def _measured_interactions(comparison: Compared) -> int:
    """Images of the panel of interactions."""
    rows = _rows_of(comparison, "interactions")
    return rows.loc[rows["measure"] == ENERGY, "image"].nunique()


def _design(comparison: Compared) -> str:
    """What interactions were measured on."""
    rows = _rows_of(comparison, "interactions")
    setting = rows["setting"].iloc[0]
    found = re.search(r" pairs=(\d+) .*contexts=(\d+(?:-\d+)?)", setting)
    if not found:
        raise ValueError("expected pairs=P and contexts=K in the setting of interaction rows")
    pairs, contexts = int(found[1]), found[2].replace("-", " to ")
    return (
        f"Measured on {counted(_measured_interactions(comparison))} images, {counted(pairs)} "
        f"{'pair' if pairs == 1 else 'pairs'} of patches in each, and for every pair {contexts} "
        f"contexts at an order{', more where they are noisier' if '-' in found[2] else ''}."
    )


def _networks(comparison: Compared) -> str:
    """How networks see their images, and above it what is not known about them."""
    shows = comparison.shown_networks()
    doubts = bullets(comparison.doubts) if comparison.doubts else ""
    return doubts + table(shows.columns.tolist(), shows.to_numpy().tolist())


def _scores(comparison: Compared) -> str:
    scores = comparison.scores()
    keys = [key for key in TITLES if key in set(scores["score"])]
    cells = {
        (row.network, row.score): Cell(
            shown(row.score, row.value, row.low, row.high).replace(" [", "\n["), row.value
        )
        for row in each(scores)
    }
    lines = [
        [title, *(cells.get((title, key), "–") for key in keys)] for title in comparison.titles
    ]
    meanings = bullets([f"{TITLES[key]}: {MEANINGS[key]}" for key in keys])
    return (
        figure(comparison.folder / "scores.svg", CAPTIONS["scores"])
        + table(["network", *(TITLES[key] for key in keys)], lines, sortable=True)
        + details("What the scores mean", meanings)
    )


def _differences(comparison: Compared) -> str:
    lines = [
        [
            TITLES[row.score],
            row.network,
            row.minus,
            Cell(
                shown(row.score, row.value, row.low, row.high, difference=True),
                100 * row.value if row.score in SHARES else row.value,
            ),
            Cell(shown_p(row.p), row.p),
            Cell(shown_p(row.p_holm), row.p_holm),
            Cell(str(int(row.images)), row.images),
        ]
        for row in each(comparison.differences())
    ]
    columns = ["score", "network", "minus", "difference [95 %]", "p", "p (Holm)", "images"]
    if comparison.doubts:
        columns.insert(4, "but")
        for line, pair in zip(lines, _pairs(comparison.differences()), strict=True):
            line.insert(4, comparison.reservation(*pair))
    note = (
        "Paired over images. Intervals are those of single differences; the last p is corrected "
        "for all lines of this table that have one, but for those where no image differs, which no "
        "test could have told from 0. A dash stands for an interval where all "
        "images differ by the same. There is no difference of scores of maps of other sizes, of "
        "panels that a network is not in, and of similarity beyond untrained where two networks "
        "share the untrained one: it would be that of similarity."
    )
    made = table(columns, lines, sortable=True, note=note)
    return details(f"All {counted(len(lines))} differences", made) if len(lines) > OPEN else made


def _orders(comparison: Compared) -> str:
    """Strengths by order of every network."""
    lines = [
        [str(title), *line]
        for title, mine in _rows_of(comparison, "interactions").groupby("model", sort=False)
        for line in order_lines(mine)
    ]
    return table(["network", *ORDER_COLUMNS], lines, sortable=True, note=ORDERS)


def _pictures(comparison: Compared) -> str:
    """A few images, with pairs and patches of all networks; empty if there are none."""
    body = ""
    for k, name in enumerate(comparison.plan.get("pictured", []), start=1):
        files = {kind: f"picture-{k}-{kind}" for kind in ("pairs", "patches")}
        drawn = [kind for kind, file in files.items() if file in comparison.panels]
        if drawn:
            body += subheading(name)
        for kind in drawn:
            body += figure(comparison.folder / f"{files[kind]}.png", CAPTIONS[kind])
    return body


def _apart(comparison: Compared, panel: str) -> str:
    """Which networks are not in a panel, and why."""
    names: dict[str, list[str]] = {}
    for name, why in comparison.plan["apart"].get(panel, {}).items():
        names.setdefault(why, []).append(name)
    return "".join(paragraph(f"Without {joined(who)}: {why}.") for why, who in names.items())


def _measured_on(ran: Mapping[str, object]) -> str:
    """``images 4, pairs 1``, or a dash."""
    return ", ".join(f"{key} {value}" for key, value in ran.items()) or "–"


def _made(comparison: Compared) -> str:
    label = json.loads((comparison.folder / "config.json").read_text())
    plan = comparison.plan
    lines: list[list[str | Cell]] = [
        [n["title"], n["model"], n["weights"], n["classifier"], n["sha256"][:16]]
        for n in plan["networks"]
    ]
    ran = plan.get("ran", {})
    forwards: list[list[str | Cell]] = [
        [panel, Cell(counted(n), n), _measured_on(ran.get(panel, {}))]
        for panel, n in plan["forwards"].items()
    ]
    notes = [f"{n['title']}: {note}" for n in plan["networks"] for note in n.get("notes", [])]
    versions = ", ".join(f"{name} {version}" for name, version in label["versions"].items())
    return (
        table(["network", "architecture", "weights", "classifier", "sha256 of the weights"], lines)
        + table(["panel", "forwards planned for each network", "measured on"], forwards)
        + (details("Notes on weights", bullets(notes)) if notes else "")
        + details("Settings", preformatted(json.dumps(label["config"], indent=2)))
        + paragraph(
            f"Commit {label['commit']}; {versions}. The table behind everything is rows.csv beside "
            "this page; panels/ keeps the run of each panel with its measurements of single images."
        )
    )
