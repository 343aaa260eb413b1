"""What came out of a demo: verdicts over training seeds and images, a figure, one page.

A value of a network and image is whether the image is classified correctly, the mean of that over
hidden fractions, or J of the middle orders plus the image's influence on it. Means and differences
of these have the intervals of :func:`interactions.stats.two_level`, over seeds and images; a
difference is called higher or lower where p < 0.05 after Holm's correction for all of them, and
else not decided.

Shapes: S training seeds, I images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from a2mim.files import write_whole
from a2mim.messages import UsageError
from a2mim.report.figures import figures_of_pictures, named, save
from a2mim.report.page import (
    Section,
    bullets,
    details,
    figure,
    page,
    paragraph,
    preformatted,
    table,
)
from a2mim.runs.folder import is_run
from a2mim.runs.table import ENERGY, read_table, strength_from
from interactions import plots
from interactions.orders.strength import MIDDLE, Strength, bands_of
from interactions.stats import Interval, TwoLevel, holm, two_level

NETWORKS = ("vit", "resnet")
ARMS = ("scratch", "a2mim")
LABELS = {"scratch": "from scratch", "a2mim": "pre-trained"}
COLOURS = dict(zip(ARMS, (plots.COLOURS[0], plots.COLOURS[2]), strict=True))
FIGURE = "demo"
WORDS = ("higher", "lower")

CAPTION = (
    "Grey: from scratch; orange: pre-trained with A2MIM, then trained in the same way. Left: test "
    "accuracy; small dots are training seeds. Middle: interaction strength J over the order m, the "
    "number of other patches that are visible, normalised to a mean of 1 over the orders. Right: "
    "accuracy when random patches are hidden, the same ones for all networks. Middle and right "
    "with all labels."
)
MEASURED = (
    "{seeds} training seeds; interactions: {count} images, {pairs} pairs each, {replicates} "
    "contexts, RMS strength (root of the unbiased mean of I²); occlusion: {occlusion_images} "
    "images; bars and bands: 95 % intervals over seeds and images"
)
PREDICTED = (
    "What A2MIM learns from: images; what a network sees of them; what it predicts; its prediction "
    "at hidden places."
)


@dataclass(frozen=True)
class Quantity:
    """Something that pre-training may change.

    Attributes:
        title: in a table.
        values: rows and the name of an arm -> ``(S, I)``.
        few: whether it is of the networks with few labels.
        percent: whether it is a share.
    """

    title: str
    values: Callable[[pd.DataFrame], np.ndarray]
    few: bool = False
    percent: bool = True

    def over(self, values_SI: np.ndarray) -> TwoLevel:
        """The mean over seeds and images, within its bounds."""
        return two_level(values_SI, low=0, high=1 if self.percent else np.inf)

    def number(self, value: float, sign: str = "") -> str:
        """A value as it is read."""
        return f"{100 * value:{sign}.1f}" if self.percent else f"{value:{sign}.3f}"

    def said(self, change: Interval) -> str:
        """A difference with its interval, if it has one."""
        ends = [self.number(end, "+") for end in (change.low, change.high)]
        interval = "–" if np.isnan(change.low) else ", ".join(ends)
        return f"{self.number(change.estimate, '+')} [{interval}]"


def right_SI(rows: pd.DataFrame) -> np.ndarray:
    """Whether test images are classified correctly."""
    found = rows[rows["measure"] == "accuracy"]
    return found.pivot(index="seed", columns="image", values="value").to_numpy(dtype=float)


def occluded_SI(rows: pd.DataFrame) -> np.ndarray:
    """The mean of that over hidden fractions above 0."""
    found = rows[(rows["measure"] == "occlusion_accuracy") & (rows["at"] > 0)]
    means = found.groupby(["seed", "image"])["value"].mean().unstack("image")
    return means.to_numpy(dtype=float)


def J_SIO(rows: pd.DataFrame) -> tuple[np.ndarray, Strength]:
    """J with the influence of each image, and one of the strengths."""
    strengths = [strength_from(of) for _, of in rows[rows["measure"] == ENERGY].groupby("seed")]
    return np.stack([s.J + s.influence_IO for s in strengths]), strengths[0]


def middle_SI(rows: pd.DataFrame) -> np.ndarray:
    """J of the middle orders."""
    values_SIO, strength = J_SIO(rows)
    return values_SIO[..., bands_of(strength.orders_O, strength.n)["middle"]].mean(axis=-1)


QUANTITIES = {
    "few": Quantity("accuracy with {labels} labels a class (%)", right_SI, few=True),
    "all": Quantity("accuracy with all labels (%)", right_SI),
    "middle": Quantity(
        "J of middle orders",
        middle_SI,
        percent=False,
    ),
    "occluded": Quantity("accuracy with patches hidden (%)", occluded_SI),
}
"""What is compared; all but the first with all labels."""


def arm_of(rows: pd.DataFrame, network: str, arm: str, *, few: bool = False) -> pd.DataFrame:
    """The rows of all seeds of one way to train."""
    name = f"{arm}-few" if few else arm
    return rows[(rows["model"] == network) & (rows["weights"] == name)]


def verdict(difference: float, p: float) -> str:
    """Which way a difference went, if that is decided."""
    return WORDS[difference < 0] if p < 0.05 else "not decided"


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each network and quantity: both arms, their difference, and the verdict."""
    lines = []
    for network in NETWORKS:
        for key, quantity in QUANTITIES.items():
            values = {
                arm: quantity.values(arm_of(rows, network, arm, few=quantity.few)) for arm in ARMS
            }
            difference = two_level(values["a2mim"], values["scratch"])
            lines.append(
                {
                    "network": network,
                    "quantity": key,
                    **{
                        f"{arm}{end}": getattr(found, field)
                        for arm, found in ((arm, quantity.over(values[arm])) for arm in ARMS)
                        for end, field in (("", "estimate"), ("_low", "low"), ("_high", "high"))
                    },
                    "difference": difference.estimate,
                    "low": difference.low,
                    "high": difference.high,
                    "p": difference.p,
                }
            )
    found = pd.DataFrame(lines)
    found["p_holm"] = holm(found["p"].tolist())
    found["verdict"] = list(map(verdict, found["difference"], found["p_holm"]))
    return found


def _lines(found: pd.DataFrame, labels: int) -> list[list[str]]:
    """The verdicts as they are read, with :data:`COLUMNS`."""
    lines = []
    for row in found.to_dict("records"):
        quantity = QUANTITIES[row["quantity"]]
        change = Interval(row["difference"], np.nan, row["low"], row["high"])
        title = f"{named(row['network'])}: {quantity.title.format(labels=labels)}"
        arms = [quantity.number(row[arm]) for arm in ARMS]
        lines.append([title, *arms, quantity.said(change), row["verdict"]])
    return lines


def _in_words(lines: list[list[str]], seeds: int) -> str:
    """What the verdicts come to."""
    decided = [f"{what} ({word}, {change})" for what, *_, change, word in lines if word in WORDS]
    if decided:
        found = f"Pre-training changes {len(decided)} of {len(lines)}: {'; '.join(decided)}."
    else:
        found = (
            f"None of these {len(lines)} differences can be told from chance where all of them "
            "are tested."
        )
    if len(decided) < len(lines):
        found += (
            f" Not decided is not equal: with {seeds} trainings a difference as large as the ends "
            "of its interval is possible."
        )
    return found


COLUMNS = ("", *LABELS.values(), "difference [95 %]", "pre-training makes it")


def curves(rows: pd.DataFrame, settings: Mapping[str, Any]) -> Figure:
    """Accuracy, J over orders and accuracy under occlusion: a line of panels a network."""
    drawn = Figure(figsize=(10.6, 6.4), layout="constrained")
    axes = drawn.subplots(2, 3, sharex="col", sharey="col")
    for row, (line, network) in enumerate(zip(axes, NETWORKS, strict=True)):
        _accuracy(line[0], rows, network, settings["labels"])
        for arm in ARMS:
            mine = arm_of(rows, network, arm)
            look: dict[str, Any] = {"label": LABELS[arm], "colour": COLOURS[arm]}
            J, strength = J_SIO(mine)
            plots.strength_curve(line[1], strength.ratios_O, _over(J), **look)
            if not row:
                plots.orders_axis(line[1], strength.n)
            hidden = mine[mine["measure"] == "occlusion_accuracy"]
            correct = {
                float(str(at)): same.pivot(index="seed", columns="image", values="value")
                for at, same in hidden.groupby("at")
            }
            shares = [two_level(x.to_numpy(dtype=float), low=0, high=1) for x in correct.values()]
            plots.curve(line[2], list(correct), shares, **look)
        line[2].set(xlabel="hidden share of the image", ylabel="test accuracy", ylim=(0, 1.02))
        for ax, what in zip(line, ("accuracy", "interactions", "occlusion"), strict=True):
            ax.set_title(f"{named(network)}: {what}")
            if not row:
                ax.set_xlabel("")
    axes[0, 2].legend(loc="lower left")
    of = {**settings, "seeds": rows["seed"].nunique()}
    plots.caption(axes[0, 0], MEASURED.format(**of))
    return drawn


def _over(values_SIO: np.ndarray) -> list[TwoLevel]:
    return [two_level(values_SIO[..., o], low=0) for o in range(values_SIO.shape[-1])]


def _accuracy(ax: Axes, rows: pd.DataFrame, network: str, labels: int) -> None:
    """Accuracy with few and with all labels, both arms, each seed a dot."""
    for k, few in enumerate((True, False)):
        for shift, arm in zip((-0.14, 0.14), ARMS, strict=True):
            values_SI = right_SI(arm_of(rows, network, arm, few=few))
            found = two_level(values_SI, low=0, high=1)
            x, colour = k + shift, COLOURS[arm]
            ax.plot([x, x], [found.low, found.high], color=colour)
            ax.plot(x, found.estimate, "o", color=colour, markersize=7)
            ax.plot([x + 0.07] * len(values_SI), values_SI.mean(axis=1), ".", color=colour)
    ax.set_xticks([0, 1], [f"{labels} labels\na class", "all labels"])
    ax.set(xlim=(-0.5, 1.5), ylabel="test accuracy")


def conclude(run: Path, settings: Mapping[str, Any]) -> str:
    """Write verdicts, figure and page of a run folder from its table; returns what was found."""
    rows = read_table(run / "rows.csv")
    found = verdicts(rows)
    labels = int(settings["labels"])
    text = found.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_whole(run / "verdicts.csv", text)
    save({FIGURE: partial(curves, rows, settings), **figures_of_pictures(run)}, run)
    lines = _lines(found, labels)
    write_whole(run / "report.html", _page(run, rows, lines, settings))
    told = pd.DataFrame(lines, columns=list(COLUMNS)).to_string(index=False)
    return f"{told}\n\n{_in_words(lines, rows['seed'].nunique())}"


def _page(
    run: Path, rows: pd.DataFrame, lines: list[list[str]], settings: Mapping[str, Any]
) -> str:
    """One file that needs nothing else."""
    seeds = rows["seed"].nunique()
    note = (
        f"Means of {seeds} trainings, and their differences with 95 % intervals over training "
        f"seeds and test images. Middle orders: {100 * MIDDLE[0]:g} to {100 * MIDDLE[1]:g} % of "
        f"n−2. A verdict is given where p < 0.05 after Holm's correction for the {len(lines)} "
        "comparisons; all numbers are in verdicts.csv."
    )
    pictures = run / "reconstructions.png"
    (commit,) = rows["commit"].unique()[:1]
    about = paragraph(f"Commit {commit}. All measurements: rows.csv beside this page.")
    recipe = [
        "Images: the handwritten digits of scikit-learn, 8 x 8 values; every other one tests, so "
        "that all writers are in both halves.",
        "Networks: a ViT of 16 patches and a ResNet, from the same initial weights in both ways.",
        "Pre-trained: A2MIM on the training images without labels. Then, and from scratch: the "
        "same training with labels.",
    ]
    return page(
        "What masked pre-training changes: handwritten digits",
        "A network that first learns to fill in hidden parts of images: does it classify better, "
        "do its patches interact otherwise, does it stand hidden patches better?",
        [
            Section("Found", paragraph(_in_words(lines, seeds)) + table(COLUMNS, lines, note=note)),
            Section("Curves", figure(run / f"{FIGURE}.svg", CAPTION)),
            Section(
                "How",
                bullets(recipe)
                + (figure(pictures, PREDICTED) if pictures.is_file() else "")
                + details("Settings", preformatted(json.dumps(dict(settings), indent=2)) + about),
            ),
        ],
    )


def redraw(run: Path) -> None:
    """Draw the figure and write verdicts and page of a finished run again.

    Raises:
        UsageError: if there is no finished run.
    """
    if not is_run(run):
        raise UsageError(
            f"expected a finished run with rows.csv and config.json in {run}; see a2mim demo"
        )
    print(conclude(run, json.loads((run / "config.json").read_text())["config"]))
    for name in (f"{FIGURE}.png", "report.html"):
        print(run / name)
