"""The report of a run: what was found, in words, with intervals; from tables only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from a2mim.files import write_whole
from a2mim.messages import UsageError
from a2mim.report.figures import draw_all, named, networks, of
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
from a2mim.runs.folder import is_run
from a2mim.runs.table import occlusion_from, read_table, strength_from
from interactions.orders.strength import MIDDLE
from interactions.stats import Interval, share, share_difference

CAPTIONS = {
    "interaction_curves": (
        "Interaction strength J over the order m (how many other patches are visible). Bands are "
        "95 % intervals over test images. J is normalised to a mean of 1 over the 13 orders."
    ),
    "occlusion_curves": (
        "Test accuracy when a random fraction of the patches is replaced by the mean colour of the "
        "training set, the same masks for all networks. Bands are 95 % intervals over test images."
    ),
    "reconstructions": (
        "Test images, what the network saw (hidden blocks filled with the image's mean colour), "
        "and its completion: predicted pixels at hidden blocks, original pixels elsewhere."
    ),
}


def accuracy(rows: pd.DataFrame) -> pd.Series:
    """Correct or not, by test image."""
    return rows[rows["measure"] == "accuracy"].set_index("image")["value"]


def summary(rows: pd.DataFrame) -> list[dict[str, str]]:
    """One line per network: accuracy, mean J at middle orders, area under the occlusion curve."""
    lines = []
    for model, arms in networks(rows).items():
        for weights in arms:
            mine = of(rows, model, weights)
            correct = accuracy(mine).to_numpy()
            lines.append(
                {
                    "network": named(model),
                    "weights": named(weights),
                    "test accuracy": percent(share(correct)),
                    "J, middle orders": plain(strength_from(mine).mean_J(*MIDDLE)),
                    "accuracy under patch drop": percent(occlusion_from(mine).area()),
                }
            )
    return lines


def summary_table(rows: pd.DataFrame) -> str:
    """:func:`summary` as text."""
    return pd.DataFrame(summary(rows)).to_string(index=False)


def differences(rows: pd.DataFrame, model: str, a: str, b: str) -> dict[str, Interval]:
    """Paired differences a - b of two networks on the same images, pairs, contexts and masks."""
    one, two = of(rows, model, a), of(rows, model, b)
    both = pd.DataFrame({"a": accuracy(one), "b": accuracy(two)})  # by image
    return {
        "test accuracy": share_difference(both["a"], both["b"]),
        "J": strength_from(one).minus(strength_from(two), *MIDDLE),
        "patch drop": occlusion_from(one).area_minus(occlusion_from(two)),
    }


def findings(rows: pd.DataFrame) -> list[str]:
    """What was found, in sentences, whichever way it came out."""
    sentences = []
    for model in networks(rows):
        found = differences(rows, model, "a2mim", "scratch")
        who = f"{named(model)}: with A2MIM pre-training,"
        low, high = (f"{100 * ratio:g} %" for ratio in MIDDLE)
        for what, key, show in (
            ("test accuracy", "test accuracy", points),
            (f"the strength J of middle orders ({low} to {high} of n−2)", "J", signed),
            ("accuracy under random patch drop (area under the curve)", "patch drop", points),
        ):
            interval = found[key]
            if interval.excludes_zero:
                verb = "is higher" if interval.estimate > 0 else "is lower"
            else:
                verb = "shows no difference beyond chance"
            sentences.append(f"{who} {what} {verb}: {show(interval)}.")
    sentences.append(
        "Brackets are 95 % intervals over test images, paired, not corrected for the "
        f"{3 * len(networks(rows))} comparisons. Each network was trained once: they do not cover "
        "what another seed of training would change."
    )
    return sentences


def percent(interval: Interval) -> str:
    """A share with its interval, in percent."""
    return _shown(interval, ".1f", 100, " %")


def points(interval: Interval) -> str:
    """A difference of shares with its interval, in percentage points."""
    return _shown(interval, "+.1f", 100, " points")


def signed(interval: Interval) -> str:
    """A difference with its interval."""
    return _shown(interval, "+.3f")


def plain(interval: Interval) -> str:
    """A number with its interval."""
    return _shown(interval, ".3f")


def _shown(interval: Interval, form: str, scale: int = 1, unit: str = "") -> str:
    """A number with its interval; – where there is no interval."""
    number, *ends = (
        f"{scale * x:{form}}" for x in (interval.estimate, interval.low, interval.high)
    )
    return f"{number}{unit} [{'–' if np.isnan(interval.low) else ', '.join(ends)}]"


def write_report(run: Path, config: Mapping[str, object]) -> None:
    """Write ``report.html``, one file that needs nothing else, from tables and figures."""
    rows = read_table(run / "rows.csv")
    dataset, commit = (
        ", ".join(dict.fromkeys(rows[of].astype(str))) for of in ("dataset", "commit")
    )
    lines = summary(rows)
    found = bullets(findings(rows)) + table(
        list(lines[0]),
        [list(line.values()) for line in lines],
        note="Accuracy under patch drop is the mean over hidden fractions from 0 to 0.9.",
    )
    curves = "".join(
        figure(run / f"{name}.svg", caption)
        for name, caption in CAPTIONS.items()
        if (run / f"{name}.svg").is_file()
    )
    settings = preformatted(json.dumps(dict(config), default=str, indent=2))
    made = paragraph(f"Commit {commit}. Raw measurements: rows.csv beside this page.")
    text = page(
        f"What masked-image pre-training changes: {dataset}",
        f"The A2MIM demo. A small ViT and a small ResNet on {dataset}, each trained from scratch "
        "and, with the same supervised budget, from weights pretrained with A2MIM.",
        [
            Section("Found", found),
            Section("Curves", curves),
            Section(
                "Details",
                details("Interaction strength by order", _orders(rows))
                + details("Settings", settings + made),
            ),
        ],
    )
    write_whole(run / "report.html", text)


ORDERS = (
    "J is that of the RMS strength, the root of the unbiased mean of I²; its interval holds "
    "however noisy contexts are. The published strength, the mean of |I|, is another norm and too "
    "large where contexts vary; the bracket is what that leaves open, and it is unresolved where "
    "the bracket is wider than a tenth. rho is the noise of contexts relative to the interactions."
)
"""What the columns of :func:`order_lines` are."""

ORDER_COLUMNS = ("order m", "J [95 %]", "J, published", "its bracket", "rho")


def order_lines(rows: pd.DataFrame) -> list[list[str | Cell]]:
    """J by order, what published tools report, and rho, of the rows of one network."""
    strength, published = strength_from(rows), strength_from(rows, "plug_in")
    assert published.bracket is not None
    low_O, high_O = published.bracket
    lines: list[list[str | Cell]] = []
    for o, interval in enumerate(strength.intervals()):
        wide = " unresolved" if published.unresolved_O[o] else ""
        lines.append(
            [
                Cell(str(strength.orders_O[o]), float(strength.orders_O[o])),
                Cell(plain(interval), interval.estimate),
                Cell(f"{published.J[o]:.3f}", published.J[o]),
                Cell(f"{low_O[o]:.3f} to {high_O[o]:.3f}{wide}", high_O[o] - low_O[o]),
                Cell(strength.rho_said()[o], strength.rho_O[o]),
            ]
        )
    return lines


def _orders(rows: pd.DataFrame) -> str:
    """A table of orders for every network."""
    parts = [paragraph(ORDERS)]
    for model, arms in networks(rows).items():
        for weights in arms:
            parts.append(subheading(f"{named(model)}, {named(weights)}"))
            parts.append(table(ORDER_COLUMNS, order_lines(of(rows, model, weights))))
    return "".join(parts)


def redraw(run: Path) -> None:
    """Draw the figures and write the report of a finished run again.

    Raises:
        UsageError: if there is no finished run.
    """
    if not is_run(run):
        raise UsageError(
            f"expected a finished run with rows.csv and config.json in {run}; see a2mim demo"
        )
    config = json.loads((run / "config.json").read_text())["config"]
    for name in draw_all(run):
        print(run / f"{name}.png")
    write_report(run, config)
    print(run / "report.html")
