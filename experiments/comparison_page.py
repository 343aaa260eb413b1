"""The page of a comparison: what was found, the scores, their differences, a part for each panel.

Everything on it comes from the tables of the run; see :mod:`experiments.page` for the pieces.
"""

from __future__ import annotations

import json

from experiments.comparison import MEANINGS, SHARES, TITLES, Comparison, each, shown
from experiments.page import (
    Cell,
    Section,
    bullets,
    details,
    figure,
    page,
    paragraph,
    preformatted,
    table,
)
from experiments.report import noisy_contexts
from experiments.results import strength_from

LEVEL = 0.05
"""Differences with a corrected p below it are called real."""

CAPTIONS = {
    "scores": "Scores with 95 % intervals over images. Each panel has its own scale.",
    "predictions": "What is left of predictions when random patches are hidden, the same patches "
    "for all networks. Agreement is with the network's own prediction for the whole image. Bands "
    "are 95 % intervals over images (bootstrap).",
    "interactions": "Interaction strength J over the order m (how many other patches are visible), "
    "bias-corrected and normalised to a mean of 1. The same pairs and contexts for all networks; "
    "bands are 95 % intervals over images.",
    "similarity": "Features of images with hidden patches against those of the whole images. An "
    "untrained network and raw pixels are high too, so a line means something only above its own "
    "dashed baselines. Bands: 95 % intervals, over batches for CKA and over images for others.",
    "spectrum": "Amplitude of feature maps over frequency relative to their mean, a line for each "
    "map of the residual stream.",
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


def html(comparison: Comparison) -> str:
    """The page, as one string."""
    plan = comparison.plan
    sections = [
        Section("Found", bullets(findings(comparison))),
        Section("Scores", _scores(comparison)),
        Section("Differences", _differences(comparison)),
    ]
    for panel, heading in HEADINGS.items():
        if panel in comparison.panels:
            body = "".join(
                figure(comparison.folder / f"{name}.svg", CAPTIONS[name])
                for name in WITH.get(panel, (panel,))
            )
            if panel == "interactions":
                body += details("Strength by order", _orders(comparison))
            body += _apart(comparison, panel)
            sections.append(Section(heading, body))
    sections.append(Section("How it was made", _made(comparison)))
    dataset = comparison.to_frame()["dataset"].iloc[0]
    names = ", ".join(comparison.titles[:-1]) + f" and {comparison.titles[-1]}"
    return page(
        f"{names} compared",
        f"{len(comparison.titles)} networks on the same {plan['images']} images of {dataset}: the "
        "same pixels, pairs, contexts and masks.",
        sections,
    )


def findings(comparison: Comparison) -> list[str]:
    """What was found, in sentences, whichever way it came out."""
    differences = comparison.differences()
    real = differences[differences["p_holm"] < LEVEL]
    sentences = []
    for row in each(real):
        verb = "higher" if row.value > 0 else "lower"
        sentences.append(
            f"{TITLES[row.score]}: {verb} for {row.network} than for {row.minus}, "
            f"{shown(row.score, row.value, row.low, row.high, difference=True)}."
        )
    rest = len(differences) - len(real)
    if rest:
        kind = "other differences are" if len(real) else "paired differences are"
        sentences.append(
            f"{rest} of {len(differences)} {kind} within what chance gives "
            f"(p above {LEVEL:g} after Holm's correction for all {len(differences)})."
        )
    rows = comparison.titled()
    interactions = rows[rows["run"] == "interactions"]
    sentences += [
        warning
        for title in dict.fromkeys(interactions["model"])
        if (warning := noisy_contexts(interactions, title, ""))
    ]
    sentences += comparison.plan["notes"]
    sentences.append(
        "Intervals are over images. They do not cover what another training of a network would "
        "change."
    )
    return sentences


def _scores(comparison: Comparison) -> str:
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


def _differences(comparison: Comparison) -> str:
    lines = [
        [
            TITLES[row.score],
            row.network,
            row.minus,
            Cell(
                shown(row.score, row.value, row.low, row.high, difference=True),
                100 * row.value if row.score in SHARES else row.value,
            ),
            Cell(f"{row.p:.2g}", row.p),
            Cell(f"{row.p_holm:.2g}", row.p_holm),
            Cell(str(int(row.images)), row.images),
        ]
        for row in each(comparison.differences())
    ]
    columns = ["score", "network", "minus", "difference [95 %]", "p", "p (Holm)", "images"]
    note = (
        "Paired over images. Intervals are those of single differences; the last p is corrected "
        "for all lines of this table. Scores of networks whose maps have other sizes, and of "
        "panels that a network is not in, have no difference."
    )
    return table(columns, lines, sortable=True, note=note)


def _orders(comparison: Comparison) -> str:
    """J by order, the plug-in that published tools report, and rho, for every network."""
    rows = comparison.titled()
    rows = rows[rows["run"] == "interactions"]
    lines: list[list[str | Cell]] = []
    for title, mine in rows.groupby("model", sort=False):
        strength = strength_from(mine)
        plug_in = mine[mine["measure"] == "interaction_strength_plug_in"]
        S = plug_in.groupby("at")["value"].mean().to_numpy()
        lines += [
            [
                str(title),
                Cell(str(m), m),
                Cell(f"{i.estimate:.3f} [{i.low:.3f}, {i.high:.3f}]", i.estimate),
                Cell(f"{J:.3f}", J),
                Cell(f"{rho:.2f}", rho),
            ]
            for m, i, J, rho in zip(
                strength.orders_O, strength.intervals(), S / S.mean(), strength.rho_O, strict=True
            )
        ]
    note = (
        "J is bias-corrected (split jackknife). The plug-in is the published estimate from the "
        "same contexts, too large where contexts vary. rho is the noise of contexts relative to "
        "the interactions: the plug-in needs about 8 rho² contexts for a bias below 5 %, the "
        "jackknife 2 rho²."
    )
    columns = ["network", "order m", "J [95 %]", "J, plug-in", "rho"]
    return table(columns, lines, sortable=True, note=note)


def _apart(comparison: Comparison, panel: str) -> str:
    """Which networks are not in a panel, and why."""
    apart = comparison.plan["apart"].get(panel, {})
    return "".join(paragraph(f"Without {name}: {why}.") for name, why in apart.items())


def _made(comparison: Comparison) -> str:
    label = json.loads((comparison.folder / "config.json").read_text())
    plan = comparison.plan
    lines: list[list[str | Cell]] = [
        [n["title"], n["model"], n["weights"], n["sha256"][:16]] for n in plan["networks"]
    ]
    forwards: list[list[str | Cell]] = [
        [panel, Cell(f"{n:,}".replace(",", " "), n)] for panel, n in plan["forwards"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in label["versions"].items())
    return (
        table(["network", "architecture", "weights", "sha256 of the weights"], lines)
        + table(["panel", "forwards planned for each network"], forwards)
        + details("Settings", preformatted(json.dumps(label["config"], indent=2)))
        + paragraph(
            f"Commit {label['commit']}; {versions}. The table behind everything is rows.csv beside "
            "this page; panels/ keeps the run of each panel with its measurements of single images."
        )
    )
